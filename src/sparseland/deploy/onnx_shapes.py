"""What the ONNX ops become that move numbers without computing: shapes, slices, tables, padding, masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.errors import SparselandError
from .graph import Array
from .onnx_draft import Draft, Item, Rule, binary, known, wants
from .onnx_fold import flattened, integers, new_shape, ranges, small, split_sizes, squeezed, unsqueezed

LOWEST = float(np.finfo(np.float32).min)
FAR = -1e3  # what is below this, added to a score, hides a key from a softmax


def reshape(find: Callable[[tuple[int, ...], Item, list[Array | None]], tuple[int, ...]]) -> Rule:
    """A rule for an op that only changes the shape."""

    def rule(draft: Draft, item: Item) -> None:
        x = draft.given(item, 0)
        draft.put(item, "reshape", [x], {"shape": find(draft.shape(x), item, known(draft, item))})

    return rule


def transpose(draft: Draft, item: Item) -> None:
    """Transpose; without a permutation the axes are reversed."""
    x = draft.given(item, 0)
    perm = item.attrs.get("perm", range(len(draft.shape(x)))[::-1])
    draft.put(item, "transpose", [x], {"perm": tuple(int(axis) for axis in perm)})


def concat(draft: Draft, item: Item) -> None:
    """Concat."""
    xs = [draft.tensor(item, i) for i in range(len(item.inputs))]
    draft.put(item, "concat", xs, {"axis": int(item.attrs["axis"]) % len(draft.shape(xs[0]))})


def cut(draft: Draft, item: Item) -> None:
    """Slice -> slice; every n-th row or column of an image is a pooling with a window of one pixel."""
    x = draft.given(item, 0)
    constants = known(draft, item)
    if any(name and constants[i] is None for i, name in enumerate(item.inputs[1:], 1)):
        raise SparselandError("the bounds are computed while the network runs; possible: constants")
    todo = [one for one in ranges(draft.shape(x), item.attrs, constants) if one[1:] != (0, draft.shape(x)[one[0]], 1)]
    for i, (axis, start, stop, step) in enumerate(todo):
        final = i == len(todo) - 1
        whole = (start, stop) == (0, draft.shape(x)[axis])
        if step < 1 or (step > 1 and (axis not in (2, 3) or len(draft.shape(x)) != 4)) or stop <= start:
            raise SparselandError(f"from {start} to {stop} by {step} on axis {axis}; steps are possible on images only")
        if step == 1 or not whole:
            to = None if final and step == 1 else draft.between(item, f"slice{axis}")
            x = draft.put(item, "slice", [x], {"axis": axis, "start": start, "stop": stop}, output=to)
        if step > 1:
            stride = (step, 1) if axis == 2 else (1, step)
            attrs = {"kernel": (1, 1), "stride": stride, "padding": (0, 0, 0, 0), "count_include_pad": 0}
            x = draft.put(item, "max_pool", [x], attrs, output=None if final else draft.between(item, f"step{axis}"))
    if not todo:
        draft.same[item.outputs[0]] = x


def split(draft: Draft, item: Item) -> None:
    """Split -> one slice for each piece."""
    x = draft.given(item, 0)
    axis = int(item.attrs.get("axis", 0)) % len(draft.shape(x))
    sizes = split_sizes(item.attrs, known(draft, item), draft.shape(x)[axis], len(item.outputs))
    start = 0
    for output, size in zip(item.outputs, sizes, strict=True):
        if output:
            draft.put(item, "slice", [x], {"axis": axis, "start": start, "stop": start + size}, output=output)
        start += size


def gather(draft: Draft, item: Item) -> None:
    """Gather: rows of a constant table -> embedding; constant neighbours of a tensor -> slice."""
    table, index = draft.constant(item, 0), draft.constant(item, 1)
    axis = int(item.attrs.get("axis", 0))
    if index is None:
        if table is None or table.ndim != 2 or axis % table.ndim != 0:
            raise SparselandError(
                "a table is constant, has two axes and is read along the first, or the index is constant"
            )
        ids = draft.given(item, 1)
        if draft.values[ids].dtype != "int64":
            raise SparselandError(f"{ids!r} is of type {draft.values[ids].dtype}; possible: int64")
        draft.put(item, "embedding", [ids], {}, {"weight": draft.weight(item, 0)})
        return
    x = draft.given(item, 0)
    shape = draft.shape(x)
    axis %= len(shape)
    flat = [int(i) + shape[axis] * (int(i) < 0) for i in index.reshape(-1)]
    if not flat or flat != list(range(flat[0], flat[0] + len(flat))) or not 0 <= flat[0] <= shape[axis] - len(flat):
        raise SparselandError(f"reads the entries {flat[:8]} of axis {axis} of {shape}; possible: neighbours")
    attrs = {"axis": axis, "start": flat[0], "stop": flat[0] + len(flat)}
    wanted = (*shape[:axis], *index.shape, *shape[axis + 1 :])
    if len(flat) < shape[axis]:
        x = draft.put(item, "slice", [x], attrs, output=draft.between(item, "slice"))
    draft.put(item, "reshape", [x], {"shape": wanted})


def pad(draft: Draft, item: Item) -> None:
    """Pad with zeros: images by rows and columns -> pad, along any one axis -> concat."""
    wants(item, "mode", "constant", "constant")
    constants = known(draft, item)
    pads = list(item.attrs["pads"]) if "pads" in item.attrs else integers(constants, 1)
    value = (
        float(item.attrs.get("value", 0.0))
        if len(constants) < 3 or constants[2] is None
        else float(constants[2].reshape(-1)[0])
    )
    x = draft.tensor(item, 0)
    shape = draft.shape(x)
    axes = integers(constants, 3, range(len(shape)))
    ends = {axis % len(shape): (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    ends = {axis: both for axis, both in ends.items() if any(both)}
    if value or any(n < 0 for both in ends.values() for n in both):
        raise SparselandError(f"pads by {pads} with {value}; possible: zeros, and no negative numbers")
    if not ends:
        draft.same[item.outputs[0]] = x
    elif len(shape) == 4 and ends.keys() <= {2, 3}:
        (top, bottom), (left, right) = (ends.get(axis, (0, 0)) for axis in (2, 3))
        draft.put(item, "pad", [x], {"padding": (top, left, bottom, right)})
    elif len(ends) == 1:
        axis, (before, after) = next(iter(ends.items()))
        parts = [x]
        for n, at in ((before, 0), (after, 2)):
            if n:
                zeros = np.zeros(small((*shape[:axis], n, *shape[axis + 1 :])), np.float32)
                name = draft.put(item, "constant", [], {}, {"value": zeros}, output=draft.between(item, f"zeros{at}"))
                parts.insert(0 if at == 0 else len(parts), name)
        draft.put(item, "concat", parts, {"axis": axis})
    else:
        raise SparselandError(
            f"pads the axes {sorted(ends)} of {shape}; possible: rows and columns of images, or one axis"
        )


def identity(draft: Draft, item: Item) -> None:
    """Identity, and Dropout as at inference."""
    draft.same[item.outputs[0]] = draft.given(item, 0)


def cast(draft: Draft, item: Item) -> None:
    """Cast: nothing between equal types; a mask of integers 0 and 1 becomes the floats 0 and 1."""
    x = draft.given(item, 0)
    to = {1: "float32", 6: "int64", 7: "int64", 9: "bool"}.get(int(item.attrs["to"]))
    found = draft.values[x].dtype
    if to == found or (found == "float32" and to == "bool"):  # a bool inside a draft is a float 0 or 1
        draft.same[item.outputs[0]] = x
    elif found == "int64" and to in ("float32", "bool"):
        table = np.array([[0.0], [1.0]])
        rows = draft.put(item, "embedding", [x], {}, {"weight": table}, output=draft.between(item, "rows"))
        draft.put(item, "reshape", [rows], {"shape": draft.shape(x)})
    else:
        raise SparselandError(f"from {found} to ONNX type {item.attrs['to']}; possible: masks of 0 and 1 to floats")


def expand(draft: Draft, item: Item) -> None:
    """Expand: nothing where the shape is reached, else an addition of zeros."""
    x = draft.tensor(item, 0)
    shape = np.broadcast_shapes(draft.shape(x), tuple(integers(known(draft, item), 1)))
    if shape == draft.shape(x):
        draft.same[item.outputs[0]] = x
    else:
        binary(draft, item, "add", x, np.zeros(small(shape), np.float32), final=True)


def both(draft: Draft, item: Item) -> None:
    """And of masks of 0 and 1 -> mul; a constant mask of ones adds nothing."""
    constants = known(draft, item)
    for i in (0, 1):
        constant = constants[i]
        if constant is not None and constant.all():
            x = draft.tensor(item, 1 - i)
            if np.broadcast_shapes(constant.shape, draft.shape(x)) == draft.shape(x):
                draft.same[item.outputs[0]] = x
                return
    draft.put(item, "mul", [draft.tensor(item, 0), draft.tensor(item, 1)])


def where(draft: Draft, item: Item) -> None:
    """Where by a mask of 0 and 1 between two numbers; and the guard against a softmax of a row without a key."""
    a, b = draft.constant(item, 1), draft.constant(item, 2)
    condition = draft.given(item, 0)
    maker = next((node for node in draft.nodes if condition in node.outputs), None)
    if maker is not None and maker.op == "isnan" and maker.inputs[0] == draft.given(item, 2):
        draft.same[item.outputs[0]] = draft.given(item, 2)
    elif b is not None and b.size == 1 and float(b.reshape(-1)[0]) < FAR and draft.constant(item, 0) is not None:
        mask = np.where(draft.constants[condition], 0.0, LOWEST)
        binary(draft, item, "add", draft.tensor(item, 1), mask, final=True)
    elif a is not None and b is not None and a.size == b.size == 1:
        high, low = (max(float(one.reshape(-1)[0]), LOWEST) for one in (a, b))
        draft.put(item, "affine", [draft.tensor(item, 0)], {"a": high - low, "b": low})
    else:
        raise SparselandError("chooses between tensors; possible: between two numbers, by a mask")


SHAPES: dict[str, Rule] = {
    "Reshape": reshape(lambda s, item, xs: new_shape(s, integers(xs, 1), bool(item.attrs.get("allowzero", 0)))),
    "Flatten": reshape(lambda s, item, xs: flattened(s, int(item.attrs.get("axis", 1)))),
    "Squeeze": reshape(lambda s, item, xs: squeezed(s, item.attrs, xs)),
    "Unsqueeze": reshape(lambda s, item, xs: unsqueezed(s, item.attrs, xs)),
    "Transpose": transpose, "Concat": concat, "Slice": cut, "Split": split, "Gather": gather, "Pad": pad,
    "Identity": identity, "Dropout": identity, "Cast": cast, "Expand": expand, "And": both, "Where": where,
}  # fmt: skip
