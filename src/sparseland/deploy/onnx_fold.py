"""Arithmetic of ONNX on constants: shapes, indices and masks that exporters compute inside the graph, by NumPy.

Only what is known when a file is read is computed here, and nothing larger than `MOST` numbers, so that a small file
cannot ask for all of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import SparselandError
from .graph import Array

MOST = 1 << 27  # numbers in one folded constant
# ONNX's numbers for types, as far as constants of networks have them.
TYPES: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64,
}  # fmt: skip
Attrs = Mapping[str, Any]
Xs = Sequence["Array | None"]


def fold(op: str, attrs: Attrs, xs: Xs, outputs: int) -> list[Array] | None:
    """The outputs of an op on constants (None: an optional input is absent); None for an op that is not folded.

    Raises:
        SparselandError: the result would have more than `MOST` numbers.

    >>> [one.tolist() for one in fold("Concat", {"axis": 0}, [np.array([1, 2]), np.array([3])], 1)]
    [[1, 2, 3]]
    """
    if op == "Split":
        x = given(xs, 0)
        axis = int(attrs.get("axis", 0)) % x.ndim
        return np.split(x, np.cumsum(split_sizes(attrs, xs, x.shape[axis], outputs))[:-1], axis)
    if op not in FOLD:
        return None
    made = np.asarray(FOLD[op](attrs, xs))
    small(made.shape)  # what doubles step by step is stopped here, what is large at once before it is made
    return [made]


def given(xs: Xs, i: int) -> Array:
    """Input number ``i``.

    Raises:
        SparselandError: it is absent.
    """
    x = xs[i] if i < len(xs) else None
    if x is None:
        raise SparselandError(f"input {i} is absent")
    return x


def integers(xs: Xs, i: int, default: Sequence[int] | None = None) -> list[int]:
    """Input number ``i`` as a list of integers; ``default`` where it is absent and has one."""
    if default is not None and (i >= len(xs) or xs[i] is None):
        return list(default)
    return [int(value) for value in given(xs, i).reshape(-1)]


def split_sizes(attrs: Attrs, xs: Xs, size: int, outputs: int) -> list[int]:
    """How long the pieces of a Split are, in all versions of the op.

    >>> split_sizes({}, [np.zeros(7)], 7, 3), split_sizes({"split": [2, 5]}, [np.zeros(7)], 7, 2)
    ([3, 3, 1], [2, 5])
    """
    if "split" in attrs:
        return [int(one) for one in attrs["split"]]
    if len(xs) > 1 and xs[1] is not None:
        return integers(xs, 1)
    piece = -(-size // outputs)
    return [min(piece, size - i * piece) for i in range(outputs)]


def new_shape(shape: Sequence[int], wanted: Sequence[int], allowzero: bool = False) -> tuple[int, ...]:
    """The shape a Reshape makes: 0 keeps an axis (unless ``allowzero``), -1 is what is left.

    Raises:
        SparselandError: the numbers of elements differ.

    >>> new_shape((2, 3, 4), (0, -1))
    (2, 12)
    """
    made = [shape[i] if n == 0 and not allowzero and i < len(shape) else int(n) for i, n in enumerate(wanted)]
    total = math.prod(shape)
    if made.count(-1) == 1:
        rest = -math.prod(made)
        made[made.index(-1)] = total // rest if rest > 0 else 0
    if math.prod(made) != total or min(made, default=0) < 0:
        raise SparselandError(f"{tuple(shape)} cannot be reshaped to {tuple(wanted)}")
    return tuple(made)


def ranges(shape: Sequence[int], attrs: Attrs, xs: Xs) -> list[tuple[int, int, int, int]]:
    """What a Slice asks for, in all versions of the op: (axis, start, stop, step), within the shape.

    >>> ranges((4, 9), {"starts": [-3], "ends": [99], "axes": [1]}, [None])
    [(1, 6, 9, 1)]
    """
    starts = list(attrs["starts"]) if "starts" in attrs else integers(xs, 1)
    ends = list(attrs["ends"]) if "ends" in attrs else integers(xs, 2)
    axes = list(attrs["axes"]) if "axes" in attrs else integers(xs, 3, range(len(starts)))
    steps = integers(xs, 4, [1] * len(starts))
    found = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -len(shape) <= axis < len(shape) or step == 0:
            raise SparselandError(f"axis {axis}, step {step} of a slice of {tuple(shape)}")
        axis %= len(shape)
        found.append((axis, *slice(int(start), int(end), int(step)).indices(shape[axis])))
    return found


def small(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, if a constant may have it.

    Raises:
        SparselandError: more than `MOST` numbers.
    """
    if math.prod(shape) > MOST or min(shape, default=1) < 0:
        raise SparselandError(
            f"a constant of shape {tuple(shape)}; computed from constants are at most {MOST:,} numbers"
        )
    return tuple(int(n) for n in shape)


def _constant_of_shape(attrs: Attrs, xs: Xs) -> Array:
    value = np.asarray(attrs.get("value", np.zeros(1, np.float32))).reshape(-1)[0]
    return np.full(small(integers(xs, 0)), value)


def _expand(attrs: Attrs, xs: Xs) -> Array:
    x = given(xs, 0)
    shape = small(np.broadcast_shapes(x.shape, small(integers(xs, 1))))
    return np.ascontiguousarray(np.broadcast_to(x, shape))


def _range(attrs: Attrs, xs: Xs) -> Array:
    start, stop, step = (given(xs, i).reshape(-1)[0] for i in range(3))
    small((max(0, math.ceil((float(stop) - float(start)) / float(step))),))
    return np.arange(start, stop, step, dtype=given(xs, 0).dtype)


def _tile(attrs: Attrs, xs: Xs) -> Array:
    x, times = given(xs, 0), integers(xs, 1)
    small([n * t for n, t in zip(x.shape, times, strict=True)])
    return np.tile(x, times)


def _slice(attrs: Attrs, xs: Xs) -> Array:
    x = given(xs, 0)
    for axis, start, stop, step in ranges(x.shape, attrs, xs):
        x = np.take(x, np.arange(start, stop, step), axis)
    return x


def _squeeze(attrs: Attrs, xs: Xs) -> Array:
    return given(xs, 0).reshape(squeezed(given(xs, 0).shape, attrs, xs))


def squeezed(shape: Sequence[int], attrs: Attrs, xs: Xs) -> tuple[int, ...]:
    """The shape without the axes that a Squeeze names, or without all axes of one element."""
    axes = list(attrs["axes"]) if "axes" in attrs else integers(xs, 1, [i for i, n in enumerate(shape) if n == 1])
    gone = {axis % len(shape) for axis in axes}
    return tuple(n for i, n in enumerate(shape) if i not in gone)


def unsqueezed(shape: Sequence[int], attrs: Attrs, xs: Xs) -> tuple[int, ...]:
    """The shape with the axes of one element that an Unsqueeze names (they count in the result).

    >>> unsqueezed((5,), {"axes": [0, -1]}, [])
    (1, 5, 1)
    """
    axes = list(attrs["axes"]) if "axes" in attrs else integers(xs, 1)
    total = len(shape) + len(axes)
    new = {axis % total for axis in axes}
    old = iter(shape)
    return tuple(1 if i in new else next(old) for i in range(total))


def flattened(shape: Sequence[int], axis: int) -> tuple[int, int]:
    """The two axes that a Flatten leaves."""
    axis = axis + len(shape) if axis < 0 else axis
    return math.prod(shape[:axis]), math.prod(shape[axis:])


def _cast(attrs: Attrs, xs: Xs) -> Array:
    if attrs.get("to") not in TYPES:
        raise SparselandError(f"a cast to ONNX type {attrs.get('to')}; possible: {sorted(TYPES)}")
    return given(xs, 0).astype(TYPES[attrs["to"]])


def _divide(attrs: Attrs, xs: Xs) -> Array:
    a, b = given(xs, 0), given(xs, 1)
    # Integers are cut toward zero, as in C.
    return np.asarray(a / b if a.dtype.kind == "f" else np.trunc(a / b).astype(a.dtype))


def _reduce(function: Callable[..., Any]) -> Callable[[Attrs, Xs], Array]:
    def reduce(attrs: Attrs, xs: Xs) -> Array:
        x = given(xs, 0)
        axes = list(attrs["axes"]) if "axes" in attrs else integers(xs, 1, range(x.ndim))
        return np.asarray(function(x, axis=tuple(axes), keepdims=bool(attrs.get("keepdims", 1)))).astype(x.dtype)

    return reduce


def _trilu(attrs: Attrs, xs: Xs) -> Array:
    k = integers(xs, 1, [0])[0]
    return np.triu(given(xs, 0), k) if attrs.get("upper", 1) else np.tril(given(xs, 0), k)


def _shape(attrs: Attrs, xs: Xs) -> Array:
    shape = given(xs, 0).shape
    return np.array(shape[attrs.get("start", 0) : attrs.get("end", len(shape))], np.int64)


def _of(function: Callable[..., Any]) -> Callable[[Attrs, Xs], Array]:
    """A NumPy function of all the inputs, which are broadcast together."""

    def call(attrs: Attrs, xs: Xs) -> Array:
        given_all = [given(xs, i) for i in range(len(xs))]
        small(np.broadcast_shapes(*(x.shape for x in given_all)))
        return np.asarray(function(*given_all))

    return call


def _matmul(attrs: Attrs, xs: Xs) -> Array:
    a, b = given(xs, 0), given(xs, 1)
    small((a.size // max(1, a.shape[-1]), b.size // max(1, b.shape[-2] if b.ndim > 1 else b.size)))
    return np.asarray(a @ b)


def _gather(attrs: Attrs, xs: Xs) -> Array:
    x, index, axis = given(xs, 0), given(xs, 1).astype(np.int64), int(attrs.get("axis", 0))
    small((x.size // max(1, x.shape[axis]), index.size))
    return np.take(x, index, axis)


FOLD: dict[str, Callable[[Attrs, Xs], Array]] = {
    "Add": _of(np.add), "Sub": _of(np.subtract), "Mul": _of(np.multiply), "Div": _divide, "Neg": _of(np.negative),
    "Pow": lambda attrs, xs: np.power(given(xs, 0), given(xs, 1)).astype(given(xs, 0).dtype),
    "Sqrt": _of(np.sqrt), "Exp": _of(np.exp), "Sin": _of(np.sin), "Cos": _of(np.cos), "Abs": _of(np.abs),
    "Floor": _of(np.floor), "Ceil": _of(np.ceil), "MatMul": _matmul, "Mod": _of(np.mod),
    "Min": _of(lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs))),
    "Max": _of(lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs))),
    "Reciprocal": lambda attrs, xs: 1 / given(xs, 0),
    "Equal": _of(np.equal), "Less": _of(np.less), "LessOrEqual": _of(np.less_equal), "Greater": _of(np.greater),
    "GreaterOrEqual": _of(np.greater_equal), "And": _of(np.logical_and), "Or": _of(np.logical_or),
    "Not": _of(np.logical_not), "Where": _of(np.where), "IsNaN": _of(np.isnan),
    "Cast": _cast, "Identity": lambda attrs, xs: given(xs, 0), "Dropout": lambda attrs, xs: given(xs, 0),
    "Shape": _shape, "Size": lambda attrs, xs: np.array(given(xs, 0).size, np.int64),
    "Gather": _gather,
    "GatherElements": lambda attrs, xs: np.take_along_axis(given(xs, 0), given(xs, 1), int(attrs.get("axis", 0))),
    "Concat": lambda attrs, xs: np.concatenate([given(xs, i) for i in range(len(xs))], int(attrs["axis"])),
    "ConstantOfShape": _constant_of_shape, "Expand": _expand, "Range": _range, "Tile": _tile, "Slice": _slice,
    "Squeeze": _squeeze, "Unsqueeze": lambda attrs, xs: given(xs, 0).reshape(unsqueezed(given(xs, 0).shape, attrs, xs)),
    "Reshape": lambda attrs, xs: given(xs, 0).reshape(
        new_shape(given(xs, 0).shape, integers(xs, 1), bool(attrs.get("allowzero", 0)))
    ),
    "Flatten": lambda attrs, xs: given(xs, 0).reshape(flattened(given(xs, 0).shape, int(attrs.get("axis", 1)))),
    "Transpose": lambda attrs, xs: np.transpose(given(xs, 0), attrs.get("perm")),
    "ReduceProd": _reduce(np.prod), "ReduceSum": _reduce(np.sum), "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(np.max), "ReduceMin": _reduce(np.min), "Trilu": _trilu,
}  # fmt: skip
