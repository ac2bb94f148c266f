"""Rules for operations that move numbers or gather them: views, slices, padding, pooling, means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node as FxNode

from .capture_build import Builder, Unsupported

Arguments = dict[str, Any]


def only_float(b: Builder, *nodes: Any) -> None:
    """Raise unless all are float32 tensors (a tuple counts by its first)."""
    for node in nodes:
        value = node.meta.get("val") if isinstance(node, FxNode) else None
        value = value[0] if isinstance(value, tuple | list) and value else value
        if getattr(value, "dtype", None) != torch.float32:
            raise Unsupported("numbers other than float32")


def same(b: Builder, node: FxNode, a: Arguments) -> str:
    """A call that changes nothing here: another layout in memory, dropout while evaluating."""
    x = a["self"] if "self" in a else a["input"]
    if x.meta["val"].dtype != node.meta["val"].dtype or b.shape(x) != b.shape(node) or a.get("train"):
        raise Unsupported("another type or shape")
    return b.tensor(x)


def reshape(b: Builder, node: FxNode, a: Arguments) -> str:
    """The same numbers in the same order."""
    x = a["self"]
    only_float(b, node, x)
    return b.emit("reshape", [b.tensor(x)], b.shape(node), node.name, {"shape": b.shape(node)})


def transpose(b: Builder, node: FxNode, a: Arguments) -> str:
    """permute, transpose, t, movedim: where each axis goes is read off a small example."""
    x = a["self"]
    only_float(b, node, x)
    dims = len(b.shape(x))
    example = torch.empty(tuple(range(1, dims + 1)))  # axis i has i + 1 entries
    assert callable(node.target)
    moved = node.target(example, *node.args[1:], **node.kwargs)
    perm = tuple(int(n) - 1 for n in moved.shape)
    return b.emit("transpose", [b.tensor(x)], b.shape(node), node.name, {"perm": perm})


def concat(b: Builder, node: FxNode, a: Arguments) -> str:
    """Side by side along an axis that exists."""
    parts = [one for one in a["tensors"] if math.prod(b.shape(one))]
    only_float(b, node, *parts)
    axis = int(a["dim"]) % len(b.shape(node))
    return b.emit("concat", [b.tensor(one) for one in parts], b.shape(node), node.name, {"axis": axis})


def stack(b: Builder, node: FxNode, a: Arguments) -> str:
    """Side by side along a new axis."""
    parts = list(a["tensors"])
    only_float(b, node, *parts)
    axis = int(a["dim"]) % len(b.shape(node))
    shape = list(b.shape(node))
    shape[axis] = 1
    inputs = [b.emit("reshape", [b.tensor(one)], shape, f"{node.name}.part", {"shape": tuple(shape)}) for one in parts]
    return b.emit("concat", inputs, b.shape(node), node.name, {"axis": axis})


def cut(b: Builder, x: FxNode, axis: int, start: int, stop: int, wanted: str) -> str:
    """Entries start to stop of one axis."""
    shape = list(b.shape(x))
    if (start, stop) == (0, shape[axis]):
        return b.tensor(x)
    shape[axis] = stop - start
    return b.emit("slice", [b.tensor(x)], shape, wanted, {"axis": axis, "start": start, "stop": stop})


def slice_(b: Builder, node: FxNode, a: Arguments) -> str:
    """x[start:stop:step]; of an image, every step-th row or column is a pool of one pixel."""
    x, axis = a["self"], int(a["dim"]) % len(b.shape(a["self"]))
    only_float(b, node, x)
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(b.shape(x)[axis])
    if step == 1:
        return cut(b, x, axis, start, max(start, stop), node.name)
    if len(b.shape(x)) != 4 or axis < 2:
        return _every(b, node, x, axis, slice(start, stop, step))
    name = cut(b, x, axis, start, stop, f"{node.name}.part")
    stride = (step, 1) if axis == 2 else (1, step)
    return _pool(b, node, "max_pool", name, (1, 1), stride, (0, 0, 0, 0), 0)


def _every(b: Builder, node: FxNode, x: FxNode, axis: int, part: slice) -> str:
    """x[start::step] of an axis of n · step: the axis as n × step, and one of each step."""
    shape = list(b.shape(x))
    if shape[axis] % part.step or part.start >= part.step or part.stop < shape[axis] - part.step + part.start + 1:
        raise Unsupported("a slice with steps that do not divide the axis")
    apart = (*shape[:axis], shape[axis] // part.step, part.step, *shape[axis + 1 :])
    name = b.emit("reshape", [b.tensor(x)], apart, f"{node.name}.apart", {"shape": apart})
    one = (*apart[: axis + 1], 1, *apart[axis + 2 :])
    attrs = {"axis": axis + 1, "start": part.start, "stop": part.start + 1}
    name = b.emit("slice", [name], one, f"{node.name}.part", attrs)
    return b.emit("reshape", [name], b.shape(node), node.name, {"shape": b.shape(node)})


def roll(b: Builder, node: FxNode, a: Arguments) -> str:
    """The end of an axis comes first: two slices, side by side; axis after axis."""
    x = a["self"]
    only_float(b, node, x)
    if not a["dims"]:
        raise Unsupported("a roll of all numbers")
    name, shape = b.tensor(x), b.shape(x)
    for shift, dim in zip(a["shifts"], a["dims"], strict=True):
        axis = int(dim) % len(shape)
        at = -int(shift) % shape[axis]
        if at:
            parts = []
            for start, stop in ((at, shape[axis]), (0, at)):
                part = (*shape[:axis], stop - start, *shape[axis + 1 :])
                attrs = {"axis": axis, "start": start, "stop": stop}
                parts.append(b.emit("slice", [name], part, f"{node.name}.part", attrs))
            name = b.emit("concat", parts, shape, node.name, {"axis": axis})
    return name


def select(b: Builder, node: FxNode, a: Arguments) -> str:
    """x[..., i, ...]."""
    x, axis = a["self"], int(a["dim"]) % len(b.shape(a["self"]))
    only_float(b, node, x)
    index = int(a["index"]) % b.shape(x)[axis]
    name = cut(b, x, axis, index, index + 1, f"{node.name}.part")
    return b.emit("reshape", [name], b.shape(node), node.name, {"shape": b.shape(node)})


def narrow(b: Builder, node: FxNode, a: Arguments) -> str:
    """x[..., start : start + length, ...]."""
    only_float(b, node, a["self"])
    start, axis = int(a["start"]), int(a["dim"]) % len(b.shape(node))
    return cut(b, a["self"], axis, start, start + int(a["length"]), node.name)


def split(b: Builder, node: FxNode, a: Arguments) -> list[str]:
    """split and chunk, into pieces as long as those torch made."""
    x, axis = a["self"], int(a["dim"]) % len(b.shape(a["self"]))
    only_float(b, x)
    names, start = [], 0
    for i, piece in enumerate(node.meta["val"]):
        stop = start + int(piece.shape[axis])
        names.append(cut(b, x, axis, start, stop, f"{node.name}.{i}"))
        start = stop
    return names


def unbind(b: Builder, node: FxNode, a: Arguments) -> list[str]:
    """All entries of an axis."""
    x, axis = a["self"], int(a["dim"]) % len(b.shape(a["self"]))
    only_float(b, x)
    shape = tuple(n for i, n in enumerate(b.shape(x)) if i != axis)
    return [
        b.emit("reshape", [cut(b, x, axis, i, i + 1, f"{node.name}.part")], shape, f"{node.name}.{i}", {"shape": shape})
        for i in range(b.shape(x)[axis])
    ]


def pad(b: Builder, node: FxNode, a: Arguments) -> str:
    """Zeros around images; zero channels are a concat."""
    x = a["self"]
    only_float(b, node, x)
    sides = [*a["pad"], *[0] * (8 - len(a["pad"]))]  # left, right, top, bottom, front, back of the channels, …
    if len(b.shape(x)) != 4 or a.get("mode", "constant") != "constant" or a.get("value") or min(sides) < 0:
        raise Unsupported("padding of other than images with zeros")
    if any(sides[6:]):
        raise Unsupported("padding of the batch")
    left, right, top, bottom, front, back = sides[:6]
    name = b.tensor(x)
    if front or back:
        count, channels, *size = b.shape(x)
        around = [
            (n, b.constant_tensor(torch.zeros(count, n, *size), f"{node.name}.zeros")) for n in (front, back) if n
        ]
        inputs = [around[0][1], name] if front else [name]
        inputs += [around[-1][1]] if back else []
        shape = (count, channels + front + back, *size)
        name = b.emit("concat", inputs, shape, node.name, {"axis": 1})
        if not any(sides[:4]):
            return name
    return b.emit("pad", [name], b.shape(node), node.name, {"padding": (top, left, bottom, right)})


def _two(value: Any, default: Any = None) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if not value:
        return _two(default)
    return int(value[0]), int(value[-1])


def _pool(
    b: Builder,
    node: FxNode,
    op: str,
    name: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, ...],
    count: int,
) -> str:
    attrs = {"kernel": kernel, "stride": stride, "padding": tuple(padding), "count_include_pad": count}
    return b.emit(op, [name], _image(node), node.name, attrs)


def _image(node: FxNode) -> tuple[int, ...]:
    value = node.meta["val"]
    value = value[0] if isinstance(value, tuple | list) else value
    return tuple(int(n) for n in value.shape)


def pool(op: str) -> Callable[[Builder, FxNode, Arguments], str | list[str]]:
    """A rule for max or average pooling."""

    def rule(b: Builder, node: FxNode, a: Arguments) -> str | list[str]:
        x = a["self"]
        only_float(b, node, x)
        kernel = _two(a["kernel_size"])
        stride, padding = _two(a["stride"], kernel), _two(a["padding"])
        if len(b.shape(x)) != 4 or _two(a.get("dilation", 1)) != (1, 1):
            raise Unsupported("pooling with dilation, or not of images")
        shape = _image(node)
        # With ceil_mode the last window hangs over the edge: that is padding too.
        over = [
            max(0, (shape[2 + i] - 1) * stride[i] + kernel[i] - (b.shape(x)[2 + i] + 2 * padding[i])) for i in (0, 1)
        ]
        count = int(bool(a.get("count_include_pad", False)))
        if (divisor := a.get("divisor_override")) is not None and divisor != kernel[0] * kernel[1]:
            raise Unsupported("an average with another divisor")
        count = 1 if divisor is not None else count
        if count and any(over) and divisor is None:
            if any(padding):
                raise Unsupported("an average that counts half of its padding")
            count = 0  # what hangs over is never counted
        sides = (padding[0], padding[1], padding[0] + over[0], padding[1] + over[1])
        name = _pool(b, node, op, b.tensor(x), kernel, stride, sides, count)
        return [name, name] if isinstance(node.meta["val"], tuple | list) else name

    return rule


def adaptive(op: str) -> Callable[[Builder, FxNode, Arguments], str | list[str]]:
    """A rule for pooling to a given size, where windows are equal."""

    def rule(b: Builder, node: FxNode, a: Arguments) -> str | list[str]:
        x = a["self"]
        only_float(b, node, x)
        size, shape = b.shape(x)[2:], _image(node)
        if len(b.shape(x)) != 4 or any(n % m for n, m in zip(size, shape[2:], strict=True)):
            raise Unsupported("pooling with windows of different sizes")
        if op == "avg_pool" and shape[2:] == (1, 1):
            return b.emit("mean", [b.tensor(x)], shape, node.name, {"axes": (2, 3), "keepdim": 1})
        kernel = (size[0] // shape[2], size[1] // shape[3])
        name = _pool(b, node, op, b.tensor(x), kernel, kernel, (0, 0, 0, 0), 0)
        return [name, name] if isinstance(node.meta["val"], tuple | list) else name

    return rule


def mean(b: Builder, node: FxNode, a: Arguments) -> str:
    """Over some axes, or all."""
    x, dims = a["self"], a.get("dim")
    only_float(b, node, x)
    count = len(b.shape(x))
    axes = tuple(sorted(int(axis) % count for axis in (dims or range(count))))
    return b.emit("mean", [b.tensor(x)], b.shape(node), node.name, {"axes": axes, "keepdim": int(a.get("keepdim", 0))})


def mean_of_line(b: Builder, node: FxNode, a: Arguments) -> str:
    """Pooling of [N, C, L] to one number per channel."""
    if b.shape(node)[-1] != 1:
        raise Unsupported("pooling of a line")
    only_float(b, node)
    axes = (len(b.shape(node)) - 1,)
    return b.emit("mean", [b.tensor(a["self"])], b.shape(node), node.name, {"axes": axes, "keepdim": 1})


def amax(b: Builder, node: FxNode, a: Arguments) -> str:
    """The largest number of each channel of an image."""
    x = a["self"]
    only_float(b, node, x)
    if len(b.shape(x)) != 4 or sorted(axis % 4 for axis in a["dim"]) != [2, 3]:
        raise Unsupported("a maximum of other than images")
    shape = (*b.shape(x)[:2], 1, 1)
    attrs = {"kernel": b.shape(x)[2:], "stride": (1, 1), "padding": (0, 0, 0, 0), "count_include_pad": 0}
    name = b.emit("max_pool", [b.tensor(x)], shape, f"{node.name}.part", attrs)
    return b.emit("reshape", [name], b.shape(node), node.name, {"shape": b.shape(node)})


_SAME = ("dropout", "feature_dropout", "clone", "contiguous", "alias", "detach", "lift_fresh_copy", "expand", "to")
_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze")
_MOVES = ("permute", "transpose", "t", "movedim", "numpy_T", "mT", "swapaxes")
SHAPE_RULES: dict[str, Callable[[Builder, FxNode, Arguments], str | list[str]]] = {
    **{f"aten.{name}.default": same for name in (*_SAME, "_to_copy", "native_dropout")},
    **{f"aten.{name}.{kind}": reshape for name in _VIEWS for kind in ("default", "dim", "dims", "using_ints", "int")},
    **{f"aten.{name}.{kind}": transpose for name in _MOVES for kind in ("default", "int", "intlist")},
    "aten.cat.default": concat,
    "aten.stack.default": stack,
    "aten.slice.Tensor": slice_,
    "aten.select.int": select,
    "aten.narrow.default": narrow,
    **{f"aten.{name}": split for name in ("split.Tensor", "split_with_sizes.default", "chunk.default", "split.sizes")},
    "aten.unbind.int": unbind,
    **dict.fromkeys(("aten.pad.default", "aten.constant_pad_nd.default"), pad),
    **dict.fromkeys(("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default"), pool("max_pool")),
    "aten.avg_pool2d.default": pool("avg_pool"),
    "aten.adaptive_avg_pool2d.default": adaptive("avg_pool"),
    "aten._adaptive_avg_pool2d.default": adaptive("avg_pool"),
    "aten.adaptive_max_pool2d.default": adaptive("max_pool"),
    "aten.adaptive_avg_pool1d.default": mean_of_line,
    "aten.roll.default": roll,
    "aten.mean.dim": mean,
    "aten.mean.default": mean,
    "aten.amax.default": amax,
}
