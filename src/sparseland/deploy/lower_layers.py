"""Layers with weights: what a kernel must compute, which kernels can, and how each is written into a program."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..core.errors import SparselandError
from ..kernels.grouping import Packed, pack_rows
from .lower_view import Array

ACTS = ("none", "clamp", "hardswish", "hardsigmoid", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")
LANES = 16
GROUPS = (1, 2, 4)  # rows that share their indices


@dataclass(frozen=True)
class Choice:
    """A kernel for a layer.

    Parameters:
        kernel: "gemm" or "spmm" (1x1 convolutions and linears), "conv" (k x k), "fc" (one pixel).
        sparse: skips zeros.
        G: output rows that share their indices; 0 for dense kernels.
        form: of dense kernels: 0, lanes are pixels; 1, lanes are outputs; 2, lanes are pixels and the loop is unrolled
            into machine code.
        chunk: lanes worked on at once; 0: the kernel's own.
        reason: why this one.
        seconds: measured or modelled time of it.
        rivals: the same of the others, by their names.
        crossover: sparsity from which the best sparse kernel is faster; None where unknown.

    >>> Choice("spmm", True, G=2).name, Choice("gemm", False).name
    ('spmm G=2', 'gemm')
    """

    kernel: str
    sparse: bool
    G: int = 0
    form: int = 0
    chunk: int = 0
    reason: str = ""
    seconds: float | None = None
    rivals: dict[str, float] = field(default_factory=dict, hash=False, compare=False)
    crossover: float | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        words = [("sparse " if self.sparse and self.kernel != "spmm" else "") + self.kernel]
        words += [f"G={self.G}"] * (self.G > 0) + ["by outputs"] * (self.form == 1) + ["as code"] * (self.form == 2)
        return " ".join(words + [f"{self.chunk} lanes"] * (self.chunk > 0))


@dataclass(frozen=True, eq=False)
class Layer:
    """y = act(W x + bias + residual) over tiles or vectors.

    Parameters:
        kind: "pointwise", "conv" or "fc".
        name: of the node.
        weight: [O, C / groups · kh · kw].
        bias: [O].
        n, c, h, w, rows: of the input; ``out`` is (O, H, W, rows) of the output.
        window: (kh, kw, sh, sw, top, left, bottom, right, dh, dw, groups) of a convolution.
        act, lo, hi: number of the activation and its bounds.
        scaled: a factor per channel is applied to the input as it is read.
        residual: something is added before the activation.
        source: where a convolution reads: "tiles", or plain memory, "NCHW" or "NHWC".
        store: of packed weights, by name and G.
    """

    kind: str
    name: str
    weight: Array
    bias: Array
    n: int
    c: int
    h: int
    w: int
    rows: int
    out: tuple[int, int, int, int]
    window: tuple[int, ...] = ()
    act: int = 0
    lo: float = -math.inf
    hi: float = math.inf
    scaled: bool = False
    residual: bool = False
    source: str = "tiles"
    store: dict[tuple[str, int], Packed] = field(default_factory=dict, repr=False)

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 for others."""
        return self.window[10] if self.window else 1

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense layer."""
        return int(self.n * self.out[1] * self.out[2] * self.weight.size)

    @cached_property
    def nonzeros(self) -> int:
        """Weights that are not zero."""
        return int(np.count_nonzero(self.weight))

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return 1 - self.nonzeros / max(self.weight.size, 1)

    def packed(self, G: int) -> Packed:
        """The weight in groups of G rows, made once for all layers with the same ``store``."""
        key = (self.name, G)
        if key not in self.store:
            self.store[key] = pack_rows(self.weight, G, parts=self.groups)
        return self.store[key]

    def shape_key(self) -> str:
        """All that a time depends on, but for the zeros."""
        o, h, w, rows = self.out
        return (
            f"{self.kind} {self.n}x{self.c}x{self.h}x{self.w} R{self.rows} -> {o}x{h}x{w} R{rows} "
            f"{','.join(map(str, self.window))} {ACTS[self.act]}{'+s' * self.scaled}{'+r' * self.residual}"
            f"{'' if self.source == 'tiles' else ' ' + self.source}"
        )


Chooser = Callable[[Layer], Choice]


def emit(program: Any, layer: Layer, choice: Choice, x: int, y: int, residual: int = -1, scale: int = -1) -> None:
    """Write the op into a program."""
    tail = (layer.act,)
    floats = (layer.lo, layer.hi)
    if layer.kind == "fc":
        blobs = _csr(layer) if choice.sparse else [layer.bias, layer.weight]
        program.op("fc", [x, residual], [y], ints=tail, floats=floats, blobs=blobs)
    elif layer.kind == "pointwise":
        kind, extra = ("spmm", choice.G) if choice.sparse else ("gemm", choice.form)
        blobs = [layer.bias, *_blocks(layer.packed(choice.G))] if choice.sparse else [layer.bias, layer.weight]
        program.op(kind, [x, residual, scale], [y], ints=(*tail, extra, choice.chunk), floats=floats, blobs=blobs)
    elif layer.kind == "conv":
        blobs = [layer.bias, *_blocks(layer.packed(choice.G))] if choice.sparse else [layer.bias, layer.weight]
        ints = (*layer.window, *tail, choice.G if choice.sparse else -choice.form, choice.chunk)
        program.op(
            "first_conv" if layer.source == "NHWC" else "conv",
            [x, residual],
            [y],
            ints=ints,
            floats=floats,
            blobs=blobs,
        )
    else:
        raise SparselandError(f"layers are pointwise, conv or fc; {layer.name!r} is {layer.kind!r}")


def _blocks(packed: Packed) -> list[Array]:
    return [packed.rows, packed.counts, packed.index, packed.values]


def _csr(layer: Layer) -> list[Array]:
    """bias, row pointers, columns and values."""
    row, column = np.nonzero(layer.weight)
    starts = np.zeros(layer.weight.shape[0] + 1, np.uint32)
    starts[1:] = np.cumsum(np.bincount(row, minlength=layer.weight.shape[0]))
    kind = np.uint16 if layer.weight.shape[1] <= 65535 else np.uint32
    return [layer.bias, starts, column.astype(kind), np.ascontiguousarray(layer.weight[row, column])]


def best_rows(h: int, w: int) -> int:
    """Rows per band: 64 to 112 lanes where the image allows, with the fewest vectors.

    A band of v vectors costs v + 1 (its indices are read again), with at most 7 vectors unless one row is wider.

    >>> [best_rows(size, size) for size in (112, 56, 28, 14, 7)], best_rows(128, 1)
    ([1, 2, 4, 8, 7], 64)
    """
    most = max(1, 7 * LANES // w)

    def cost(rows: int) -> tuple[float, int]:
        full, rest = divmod(h, rows)
        bands = [rows] * full + [rest] * (rest > 0)
        return sum(math.ceil(r * w / LANES) + 1 for r in bands), -rows

    if w == 1:
        most = min(most, h) if h < 64 else most
        options = range(min(64, h), most + 1, 1 if h <= most else LANES)
        return min(options, key=lambda rows: (cost(rows)[0], abs(rows - 64)))
    return min(range(1, min(most, h) + 1), key=cost)
