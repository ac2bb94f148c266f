"""A depthwise convolution done together with the 1x1 convolution behind it: the numbers of the two one by one."""

from __future__ import annotations

import numpy as np
import pytest

from sparseland.deploy.program import Program
from sparseland.kernels import available

pytestmark = pytest.mark.skipif(not available(), reason="the engine is not built")


def program(channels: int, side: int, stride: int, rows: int, *, apart: bool, sparse: bool) -> bytes:
    """x -> depthwise 3x3 -> 1x1 (+ residual) -> y; ``apart``: something else reads what lies between."""
    random = np.random.default_rng(channels + side)
    out, outputs = side // stride, 24
    p = Program()
    x = p.input((1, channels, side, side), "plain")
    tiles = p.tensor((1, channels, side, side), rows=min(rows * stride, side))
    p.op("pack", [x], [tiles], [0])
    between = p.tensor((1, channels, out, out), rows=rows)
    y = p.tensor((1, outputs, out, out), rows=rows)
    window = [3, 3, stride, stride, 1, 1, 1, 1, 1, 1]
    weights = [random.standard_normal(s).astype("f4") for s in ((channels,), (channels, 9), (outputs,))]
    matrix = random.standard_normal((outputs, channels)).astype("f4") * (random.random((outputs, channels)) < 0.3)
    p.op("dwconv", [tiles], [between], [*window, 1], [0.0, 6.0], weights[:2])
    if sparse:
        lines = [np.flatnonzero(row) for row in matrix]
        blobs = [weights[2], np.arange(outputs, dtype="u4"), np.array([len(line) for line in lines], "u4"),
                 np.concatenate(lines).astype("u2"), matrix[matrix != 0].astype("f4")]  # fmt: skip
        p.op("spmm", [between, -1, -1], [y], [1, 1, 0], [0.0, 6.0], blobs)
    else:
        p.op("gemm", [between, -1, -1], [y], [1, 0, 0], [0.0, 6.0], [weights[2], matrix.astype("f4")])
    for tensor, wide in ((y, outputs), *([(between, channels)] if apart else [])):
        plain = p.tensor((1, wide, out, out), "plain")
        p.op("unpack", [tensor], [plain], [0])
        p.output(plain)
    return p.to_bytes({})


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(
    ("channels", "side", "stride", "rows"), [(32, 112, 1, 1), (64, 56, 1, 2), (48, 57, 1, 3), (24, 112, 2, 2)]
)
def test_together_as_one_by_one(channels: int, side: int, stride: int, rows: int, sparse: bool) -> None:
    from sparseland.kernels import native

    x = np.random.default_rng(0).standard_normal((1, channels, side, side)).astype("f4")
    joined = native().Engine(program(channels, side, stride, rows, apart=False, sparse=sparse), 2)
    apart = native().Engine(program(channels, side, stride, rows, apart=True, sparse=sparse), 2)
    together, alone = joined.run([x])[0], apart.run([x])[0]
    assert np.array_equal(together, alone)
    assert joined.joined == [False, True, False, False]
    assert not any(apart.joined)
    assert together.std() > 0


def tiles_op(p: Program, kind: str, x: int, size: tuple[int, int, int], rows: int, stride: int = 1) -> int:
    """One more op of a chain behind the tensor x: a 3x3 convolution, depthwise or not, or a sparse or dense 1x1 one."""
    random = np.random.default_rng(len(p.ops))
    channels, outputs = p.places[x].shape[1], size[0]
    y = p.tensor((1, *size), rows=rows)
    bias, floats = random.standard_normal(outputs).astype("f4"), [0.0, 6.0]
    window = [3, 3, stride, stride, 1, 1, 1, 1, 1, 1]
    weight = random.standard_normal((outputs, channels)).astype("f4") * (random.random((outputs, channels)) < 0.4)
    if kind == "dwconv":
        p.op(kind, [x], [y], [*window, 1], floats, [bias, random.standard_normal((channels, 9)).astype("f4")])
    elif kind == "conv":
        full = random.standard_normal((outputs, channels * 9)).astype("f4")
        p.op(kind, [x, -1], [y], [*window, 1, 1, 0, 128], floats, [bias, full])
    elif kind == "gemm":
        p.op(kind, [x, -1, -1], [y], [1, 2, 0], floats, [bias, weight.astype("f4")])
    else:
        lines = [np.flatnonzero(row) for row in weight]
        counts = np.array([len(line) for line in lines], "u4")
        index, values = np.concatenate(lines).astype("u2"), weight[weight != 0].astype("f4")
        p.op(kind, [x, -1, -1], [y], [1, 1, 0], floats, [bias, np.arange(outputs, dtype="u4"), counts, index, values])
    return y


def chain(kinds: list[str], *, apart: bool, side: int) -> bytes:
    """Ops one after another; every other depthwise one halves the image. ``apart``: all tensors are returned."""
    p = Program()
    x = p.input((1, 3, side, side), "plain")
    at = p.tensor((1, 3, side, side), rows=1)
    p.op("pack", [x], [at], [0])
    made, channels, halves = [], 3, 0
    for kind in kinds:
        stride = 1 + (kind == "dwconv" and halves % 2)
        halves += kind == "dwconv"
        side, channels = -(-side // stride), channels if kind == "dwconv" else 48 + 16 * len(made)
        at = tiles_op(p, kind, at, (channels, side, side), max(1, 112 // side), stride)
        made.append(at)
    for tensor in made if apart else made[-1:]:
        plain = p.tensor(p.places[tensor].shape, "plain")
        p.op("unpack", [tensor], [plain], [0])
        p.output(plain)
    return p.to_bytes({})


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("side", [112, 117])
@pytest.mark.parametrize(
    "kinds",
    [
        ["conv", "dwconv", "spmm", "dwconv", "spmm"], ["gemm", "dwconv", "gemm"], ["spmm", "dwconv"],
        ["gemm", "gemm", "dwconv", "dwconv", "spmm", "dwconv", "gemm"],
    ],
)  # fmt: skip
def test_chains_as_one_by_one(kinds: list[str], side: int, threads: int) -> None:
    from sparseland.kernels import native

    x = np.random.default_rng(1).standard_normal((1, 3, side, side)).astype("f4")
    joined = native().Engine(chain(kinds, apart=False, side=side), threads)
    apart = native().Engine(chain(kinds, apart=True, side=side), threads)
    assert np.array_equal(joined.run([x])[0], apart.run([x])[len(kinds) - 1])
    assert not any(apart.joined)
    # What lies before a window is joined to it where it is large, for so few threads.
    windows = [i for i, kind in enumerate(kinds) if i and kind == "dwconv"]
    assert threads > 2 or any(joined.joined[i] for i in windows)
