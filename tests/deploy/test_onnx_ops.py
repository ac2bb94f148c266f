"""Each ONNX op that is read, against ONNX Runtime on a graph of a few nodes; and what is refused, in which words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.deploy.fuse import fuse
from sparseland.deploy.graph_twin import run
from sparseland.deploy.onnx_read import from_onnx
from sparseland.deploy.onnx_write import to_onnx

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

IMAGE, TOKENS, HEADS = "float[2,4,6,7] x", "float[2,5,8] x", "float[2,3,5,4] x"


def model(inputs: str, body: str, weights: dict[str, Any] | None = None, opset: int = 17, rank: int = 4) -> Any:
    """A model from ONNX's text form; a weight is a shape (random numbers) or a list of numbers."""
    axes = ",".join("abcdef"[:rank])
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => (float[{axes}] y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, value in (weights or {}).items():
        array = rng.standard_normal(value).astype("f") if isinstance(value, tuple) else np.array(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.abs(array) if name == "var" else array, name))
    return made


def save(made: Any, place: Path) -> Path:
    path = place / "m.onnx"
    onnx.save(made, path)
    return path


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options)


def inputs_of(running: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {}
    for one in running.get_inputs():
        floats = rng.standard_normal(one.shape).astype("f")
        found[one.name] = floats if "float" in one.type else rng.integers(0, 2, one.shape)
    return found


def agree(path: Path, rank: int | None = None) -> Any:
    """Read, compare twin, fused twin and what is written back with ONNX Runtime; the graph."""
    graph = from_onnx(path)
    running = session(path)
    given = inputs_of(running)
    expected = running.run(None, given)
    back = session(to_onnx(graph, path.with_name("back.onnx")))
    tensors = [torch.from_numpy(given[name]) for name in graph.inputs]
    answers = [
        [one.numpy() for one in run(graph, tensors)],
        [one.numpy() for one in run(fuse(graph), tensors)],
        back.run(None, dict(zip([one.name for one in back.get_inputs()], given.values(), strict=True))),
    ]
    for answer in answers:
        for one, other in zip(answer, expected, strict=True):
            assert one.shape == other.shape
            assert np.abs(one - other).max() <= 1e-4 * max(np.abs(other).max(), 1e-6)
    return graph


OPS = [
    ("conv", IMAGE, "y = Conv<kernel_shape=[3,3],pads=[1,0,2,1],strides=[2,1]>(x, w, b)",
     {"w": (6, 4, 3, 3), "b": (6,)}),
    ("conv grouped", IMAGE, "y = Conv<group=2,dilations=[2,1]>(x, w)", {"w": (6, 2, 2, 3)}),
    ("conv same", IMAGE, 'y = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w)', {"w": (4, 4, 3, 3)}),
    ("conv same lower", IMAGE, 'y = Conv<auto_pad="SAME_LOWER",strides=[2,3]>(x, w)', {"w": (4, 4, 4, 2)}),
    ("batch norm", IMAGE, "y = BatchNormalization<epsilon=0.01>(x, s, b, m, var)",
     {"s": (4,), "b": (4,), "m": (4,), "var": (4,)}),
    ("clip", IMAGE, "y = Clip(x, lo, hi)", {"lo": [-0.5], "hi": [0.25]}),
    ("clip above", IMAGE, "y = Clip(x, , hi)", {"hi": [0.25]}),
    ("hard sigmoid", IMAGE, "y = HardSigmoid<alpha=0.3,beta=0.4>(x)", {}),
    ("hard swish", IMAGE, "y = HardSwish(x)", {}),
    ("hard swish in pieces", IMAGE, "a = HardSigmoid<alpha=0.16666667,beta=0.5>(x) y = Mul(a, x)", {}),
    ("silu", IMAGE, "a = Sigmoid(x) y = Mul(x, a)", {}),
    ("tanh and neg", IMAGE, "a = Tanh(x) y = Neg(a)", {}),
    ("add per channel", IMAGE, "y = Add(b, x)", {"b": (4, 1, 1)}),
    ("mul per channel", IMAGE, "y = Mul(x, b)", {"b": (1, 4, 1, 1)}),
    ("sub from a number", IMAGE, "y = Sub(one, x)", {"one": [1.0]}),
    ("sub from a table", IMAGE, "y = Sub(w, x)", {"w": (4, 6, 7)}),
    ("mul by a table", IMAGE, "y = Mul(x, w)", {"w": (2, 4, 6, 7)}),
    ("div", IMAGE, "y = Div(x, b)", {"b": [4.0]}),
    ("enlarging add", "float[4,1,1] x", "y = Add(x, w)", {"w": (1, 4, 2, 3)}),
    ("max pool", IMAGE, "y = MaxPool<kernel_shape=[3,2],strides=[2,2],pads=[1,0,1,1]>(x)", {}),
    ("average pool", IMAGE, "y = AveragePool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(x)", {}),
    ("average pool with its padding", IMAGE,
     "y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(x)", {}),
    ("global average", IMAGE, "y = GlobalAveragePool(x)", {}),
    ("mean", IMAGE, "y = ReduceMean<axes=[1],keepdims=1>(x)", {}),
    ("flatten", IMAGE, "a = Flatten<axis=2>(x) y = Reshape(a, s)", {"s": [2, 2, -1, 7]}),
    ("squeeze", "float[2,1,3,1] x", "a = Squeeze(x, axis) y = Unsqueeze(a, front)", {"axis": [1], "front": [0]}),
    ("transpose", IMAGE, "y = Transpose<perm=[0,2,3,1]>(x)", {}),
    ("slice", IMAGE, "y = Slice(x, s, e, a)", {"s": [1, -3], "e": [3, 99], "a": [1, 3]}),
    ("every second pixel", IMAGE, "y = Slice(x, s, e, a, t)",
     {"s": [0, 1], "e": [99, 99], "a": [2, 3], "t": [2, 3]}),
    ("split", IMAGE, "a, b = Split<axis=1>(x, n) y = Concat<axis=1>(b, a)", {"n": [1, 3]}),
    ("gather one", IMAGE, "a = Gather<axis=1>(x, i) y = Unsqueeze(a, f)", {"i": 2, "f": [1]}),
    ("gather neighbours", IMAGE, "y = Gather<axis=-1>(x, i)", {"i": [2, 3, 4]}),
    ("gather the last", IMAGE, "y = Gather<axis=2>(x, i)", {"i": [-1]}),
    ("pad pixels", IMAGE, "y = Pad(x, p)", {"p": [0, 0, 1, 2, 0, 0, 3, 0]}),
    ("pad channels", IMAGE, "y = Pad(x, p)", {"p": [0, 2, 0, 0, 0, 1, 0, 0]}),
    ("pad nothing", IMAGE, "a = Pad(x, p) y = Relu(a)", {"p": [0, 0, 0, 0, 0, 0, 0, 0]}),
    ("expand", "float[2,4,1,7] x", "y = Expand(x, s)", {"s": [1, 3, 1]}),
    ("softmax of the middle", IMAGE, "y = Softmax<axis=1>(x)", {}),
    ("computed shapes", IMAGE,
     "s = Shape(x) n = Gather(s, zero) m = Unsqueeze(n, front) c = Concat<axis=0>(m, rest) a = Reshape(x, c) "
     "y = Unsqueeze(a, back)", {"zero": 0, "front": [0], "rest": [-1, 7], "back": [1]}),
    ("attention", HEADS,
     "t = Transpose<perm=[0,1,3,2]>(x) a = MatMul(x, t) b = Div(a, two) c = Softmax<axis=-1>(b) y = MatMul(c, x)",
     {"two": [2.0]}),
    ("attention with a table", HEADS,
     "t = Transpose<perm=[0,1,3,2]>(x) a = MatMul(x, t) b = Add(w, a) c = Softmax<axis=-1>(b) y = MatMul(c, x)",
     {"w": (1, 3, 5, 5)}),
    ("attention behind a constant mask", HEADS,
     "t = Transpose<perm=[0,1,3,2]>(x) a = MatMul(x, t) b = Where(keep, a, low) c = Softmax<axis=-1>(b) "
     "y = MatMul(c, x)",
     {"keep": np.tri(5, dtype=bool), "low": [-1e9]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "inputs", "body", "weights"), OPS, ids=[one[0] for one in OPS])
def test_images(tmp_path: Path, name: str, inputs: str, body: str, weights: dict[str, Any]) -> None:
    agree(save(model(inputs, body, weights), tmp_path))


NORM = (
    "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) p = Pow(c, two) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) "
    "r = Sqrt(e)"
)
TOKEN_OPS = [
    ("linear", "a = MatMul(x, w) y = Add(b, a)", {"w": (8, 6), "b": (6,)}, ["linear"]),
    ("layer norm", "y = LayerNormalization<axis=-1,epsilon=0.1>(x, s, b)", {"s": (8,), "b": (8,)}, ["layer_norm"]),
    ("layer norm in pieces", NORM + " d = Div(c, r) f = Mul(d, s) y = Add(f, b)",
     {"two": [2.0], "eps": [0.1], "s": (8,), "b": (8,)}, ["layer_norm"]),
    ("rms norm in pieces",
     "p = Mul(x, x) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) r = Sqrt(e) i = Div(one, r) d = Mul(x, i) "
     "y = Mul(s, d)",
     {"one": [1.0], "eps": [0.1], "s": (8,)}, ["rms_norm"]),
    ("rms norm by a power",
     "p = Pow(x, two) v = ReduceMean<axes=[-1]>(p) e = Add(v, eps) i = Pow(e, half) d = Mul(x, i) y = Mul(s, d)",
     {"two": [2.0], "half": [-0.5], "eps": [0.1], "s": (8,)}, ["rms_norm"]),
    ("gelu", "a = Div(x, r) e = Erf(a) g = Add(e, one) h = Mul(x, g) y = Mul(h, half)",
     {"r": [2**0.5], "one": [1.0], "half": [0.5]}, ["act"]),
    ("gelu with the half first", "a = Mul(x, r) e = Erf(a) g = Add(one, e) h = Mul(half, x) y = Mul(h, g)",
     {"r": [0.5**0.5], "one": [1.0], "half": [0.5]}, ["act"]),
    ("gelu by tanh",
     "p = Pow(x, three) q = Mul(p, k) s = Add(x, q) t = Mul(s, r) u = Tanh(t) g = Add(u, one) h = Mul(x, half) "
     "y = Mul(h, g)",
     {"three": [3.0], "k": [0.044715], "r": [(2 / np.pi) ** 0.5], "one": [1.0], "half": [0.5]}, ["act"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "weights", "ops"), TOKEN_OPS, ids=[one[0] for one in TOKEN_OPS])
def test_tokens(tmp_path: Path, name: str, body: str, weights: dict[str, Any], ops: list[str]) -> None:
    graph = agree(save(model(TOKENS, body, weights, rank=3), tmp_path))
    assert [node.op for node in graph.nodes] == ops


def test_gemm_in_all_its_forms(tmp_path: Path) -> None:
    for body in ("y = Gemm<transB=1>(x, w, b)", "y = Gemm<alpha=0.5,beta=2.0,transB=1>(x, w, b)"):
        agree(save(model("float[3,8] x", body, {"w": (5, 8), "b": (5,)}, rank=2), tmp_path))
    agree(save(model("float[3,8] x", "y = Gemm(x, w)", {"w": (8, 5)}, rank=2), tmp_path))


@pytest.mark.parametrize("opset", [11, 12])
def test_older_operator_sets(tmp_path: Path, opset: int) -> None:
    body = "a = Unsqueeze<axes=[0]>(x) b = Clip(a, lo, hi) c = Squeeze<axes=[0]>(b) y = Softmax<axis=2>(c)"
    agree(save(model(TOKENS, body, {"lo": [-1.0], "hi": [1.0]}, opset, rank=3), tmp_path))


def test_ids_and_a_mask(tmp_path: Path) -> None:
    """Embeddings, and the mask of an older BERT: (1 - mask) · a large negative number, added to the scores."""
    body = (
        "e = Gather(table, ids) f = Cast<to=1>(mask) g = Unsqueeze(f, axes) o = Sub(one, g) h = Mul(o, low) "
        "q = Unsqueeze(e, one_axis) t = Transpose<perm=[0,1,3,2]>(q) s = MatMul(q, t) m = Add(s, h) "
        "w = Softmax<axis=-1>(m) y = MatMul(w, q)"
    )
    weights = {"table": (2, 4), "axes": [1, 2], "one": [1.0], "low": [-1e4], "one_axis": [1]}
    made = model("int64[2,5] ids, int64[2,5] mask", body, weights)
    graph = agree(save(made, tmp_path))
    assert [node.op for node in graph.nodes].count("attention") == 1
    ids = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(IndexError):
        run(graph, [ids, ids + 7])  # no mask of 0 and 1


def test_an_open_batch_is_set(tmp_path: Path) -> None:
    path = save(model("float[N,4,6,7] x", "s = Shape(x) y = Reshape(x, s)", {}), tmp_path)
    assert [from_onnx(path, batch=n).values["x"].shape[0] for n in (1, 3)] == [1, 3]
    assert from_onnx(path).values["x"].shape[0] == 1
    path = save(model("float[N,L,8] x", "y = Relu(x)", {}, rank=3), tmp_path)
    assert from_onnx(path, shapes={"x": (2, 9, 8)}).values["x"].shape == (2, 9, 8)
    with pytest.raises(SparselandError, match=r"'x' is \(1, 'L', 8\).*fixed sizes: shapes=\{'x': \(1, 128, 8\)\}"):
        from_onnx(path)
    with pytest.raises(SparselandError, match="no input is named 'z': possible: x"):
        from_onnx(path, shapes={"x": (2, 9, 8), "z": (1,)})
    with pytest.raises(SparselandError, match=r"is \(2, 4, 6, 7\) in the file; got batch=3"):
        from_onnx(save(model(IMAGE, "y = Relu(x)"), tmp_path), batch=3)


REFUSED = [
    (IMAGE, "y = Det(x)", {}, r"Det 'y': the op is not supported. .*Conv.*MatMul"),
    (IMAGE, "y = InstanceNormalization(x, s, b)", {"s": (4,), "b": (4,)}, "did you mean|BatchNormalization"),
    (IMAGE, "y = Conv(x, x)", {}, r"input 1 \('x'\) must be a constant of floats; it is computed"),
    (IMAGE, "y = Conv(x, w)", {"w": (6, 3, 3, 3)}, "Conv 'y'"),
    (IMAGE, "y = Conv(x, nothing)", {}, "reads 'nothing', which nothing before it makes"),
    (IMAGE, "y = Reshape(x, s)", {"s": [5, -1]}, r"\(2, 4, 6, 7\) cannot be reshaped to \(5, -1\)"),
    (IMAGE, "y = MaxPool<kernel_shape=[2,2],strides=[4,4],ceil_mode=1>(x)", {}, "ceil_mode is 1"),
    (IMAGE, 'y = Pad<mode="reflect">(x, p)', {"p": [0] * 8}, "mode is 'reflect'; possible: 'constant'"),
    (IMAGE, "y = Erf(x)", {}, r"erf 'y' stands alone .*GELU"),
    (IMAGE, "y = MatMul(x, z)", {}, "reads 'z'"),
    ("float[2,4,6,6] x", "y = MatMul(x, x)", {}, "matmul 'y' stands alone .*attention"),
    (IMAGE, "y = Slice(x, s, e, a, t)", {"s": [9], "e": [0], "a": [3], "t": [-1]}, "by -1 on axis 3"),
    (IMAGE, "y = Gather<axis=1>(x, i)", {"i": [3, 0]}, r"entries \[3, 0\] of axis 1"),
    (IMAGE, "y = Cast<to=7>(x)", {}, "from float32 to ONNX type 7"),
    (IMAGE, "s = ConstantOfShape(n) y = Add(x, s)", {"n": [1 << 20, 1 << 20]}, "at most 134,217,728 numbers"),
    (IMAGE, "y = BatchNormalization<training_mode=1>(x, s, s, s, s)", {"s": (4,)}, "training_mode is 1"),
    ("float16[2,3] x", "y = Cast<to=1>(x)", {}, "input 'x' is of ONNX type 10"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "body", "weights", "message"), REFUSED)
def test_what_is_refused(tmp_path: Path, inputs: str, body: str, weights: dict[str, Any], message: str) -> None:
    path = save(model(inputs, body, weights), tmp_path)
    with pytest.raises(SparselandError, match=message):
        from_onnx(path)


def test_other_domains_and_versions(tmp_path: Path) -> None:
    made = model(IMAGE, "y = Relu(x)")
    made.graph.node[0].domain = "com.example"
    with pytest.raises(SparselandError, match=r"of the domain 'com\.example'; possible: standard ONNX"):
        from_onnx(save(made, tmp_path))
    made = model(IMAGE, "y = Relu(x)")
    made.opset_import[0].version = 99
    with pytest.raises(SparselandError, match="opset 99; possible: 7 to"):
        from_onnx(save(made, tmp_path))


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no ONNX file at"):
        from_onnx(tmp_path / "absent.onnx")
    whole = save(model(IMAGE, "y = Conv(x, w)", {"w": (6, 4, 3, 3)}), tmp_path).read_bytes()
    path = tmp_path / "cut.onnx"
    rng = np.random.default_rng(0)
    for i in range(300):
        data = bytearray(whole)
        if i % 3 == 0:
            data = data[: rng.integers(len(data))]
        for at in rng.integers(0, max(len(data), 1), 1 + i % 4):
            if len(data):
                data[at] = rng.integers(256)
        path.write_bytes(bytes(data))
        with contextlib.suppress(SparselandError, DataNotFound):  # any other exception fails the test
            from_onnx(path)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    made = model(IMAGE, "y = Conv(x, w)", {"w": (64, 4, 3, 3)})
    path = folder / "m.onnx"
    onnx.save(made, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    agree(path)
    (tmp_path / "secret.bin").write_bytes(bytes(64 * 4 * 9 * 4))
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), ""):
        _relocate(path, folder / "bad.onnx", location)
        with pytest.raises(SparselandError, match="outside the file's folder"):
            from_onnx(folder / "bad.onnx")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    _relocate(path, folder / "bad.onnx", "link.bin")
    with pytest.raises(SparselandError, match="outside the file's folder"):
        from_onnx(folder / "bad.onnx")
    _relocate(path, folder / "bad.onnx", "absent.bin")
    with pytest.raises(DataNotFound, match="keeps 'w' in 'absent.bin', which is missing"):
        from_onnx(folder / "bad.onnx")
    (folder / "short.bin").write_bytes(b"1234")
    _relocate(path, folder / "bad.onnx", "short.bin")
    with pytest.raises(SparselandError, match="reaches past the end of 'short.bin'"):
        from_onnx(folder / "bad.onnx")


def _relocate(path: Path, to: Path, location: str) -> None:
    made = onnx.load(path, load_external_data=False)
    for entry in made.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    to.write_bytes(made.SerializeToString())
