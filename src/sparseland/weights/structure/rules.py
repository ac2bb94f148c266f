"""What each operation of torch does to axes, part one: views, pointwise operations, and what is not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .axes import Axis, Cat, Dim, Prod, cat, cut, factor, fixed, free, lock, prod, resolve, unify, why
from .numbers import Number
from .tape import DERIVED, Call, Origin, Tape, tensors_of

Rule = Callable[[Tape, Call], None]
RULES: dict[str, Rule] = {}
CREATING = frozenset(
    (
        *("zeros", "ones", "full", "empty", "rand", "randn", "randint", "arange", "eye", "linspace", "tensor"),
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "scalar_tensor"),
    )
)


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a function for operations, by their names in ``torch.ops.aten``."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[name] = function
        return function

    return register


def at(dim: int, ndim: int) -> int:
    """A dimension counted from the front."""
    return dim % max(ndim, 1)


@rule("(unknown)")
def unknown(tape: Tape, call: Call) -> None:
    """An operation without a rule: nothing that it touches can be removed."""
    inputs = [axis for tensor in tensors_of(list(call.args.values())) for axis in tape.axes(tensor)]
    tape.barrier(inputs, call, "an operation that is not followed")
    for tensor in tensors_of([call.out]):
        tape.put(tensor, [fixed(size, f"{call.node}: an operation that is not followed") for size in tensor.shape])


@rule("(pointwise) where dropout native_dropout _prelu_kernel prelu masked_fill copy hardswish hardsigmoid hardtanh "
      "relu6 leaky_relu elu celu selu silu gelu softplus softshrink hardshrink mish threshold log_sigmoid_forward "
      "rrelu rrelu_with_noise clamp_min clamp_max fake_quantize_per_tensor_affine")  # fmt: skip
def pointwise(tape: Tape, call: Call) -> None:
    """Entry by entry, broadcast: axes that meet are one."""
    inputs = list(tensors_of(list(call.args.values())))
    outs = list(tensors_of([call.out]))
    axes: list[Axis] = []
    for i in range(1, outs[0].ndim + 1):
        meeting = [(t, t.ndim - i) for t in inputs if t.ndim >= i and t.shape[-i] == outs[0].shape[-i]]
        found = [tape.axes(t)[k] for t, k in meeting]
        for other in found[1:]:
            unify(found[0], other)
        axes.insert(0, found[0] if found else fixed(outs[0].shape[-i]))
    adds = call.name.rstrip("_") in ("add", "sub", "rsub", "copy", "where", "masked_fill")
    for tensor in inputs:
        tape.role(tensor, "bias" if adds else "norm")
    if tape.scope is not None:
        for value in list(tape.scope[1][0]) + list(tape.scope[1][1].values()):
            if isinstance(value, Number):  # a size that becomes part of a value
                tape.notes.spent.extend(value.leaves())
    for out in outs:
        tape.put(out, axes)


@rule("clone detach alias _to_copy contiguous lift_fresh lift to positive _conj bernoulli fill zero empty_like "
      "zeros_like ones_like full_like rand_like randn_like nan_to_num uniform normal view_as_real_copy")  # fmt: skip
def same(tape: Tape, call: Call) -> None:
    """The result has the axes of the first tensor."""
    source = next(tensors_of(list(call.args.values())))
    if tuple(call.out.shape) != tuple(source.shape):
        return unknown(tape, call)
    tape.put(call.out, tape.axes(source), tape.origins(source))


@rule("permute transpose t movedim swapaxes transpose_copy permute_copy t_copy numpy_T mT")
def permute(tape: Tape, call: Call) -> None:
    """Axes in another order."""
    x: Tensor = call["self"]
    order = list(range(x.ndim))
    if "dims" in call.args:
        order = [at(d, x.ndim) for d in call["dims"]]
    elif x.ndim > 1:
        i, j = (at(call.args.get(k, d), x.ndim) for k, d in (("dim0", 0), ("dim1", 1)))
        order[i], order[j] = order[j], order[i]
    tape.put(call.out, [tape.axes(x)[d] for d in order], [tape.origins(x)[d] for d in order])


@rule("view _unsafe_view reshape _reshape_alias unsqueeze squeeze unflatten flatten view_copy _reshape_copy")
def view(tape: Tape, call: Call) -> None:
    """Axes are put together and cut, in the order of memory."""
    x: Tensor = call["self"]
    sizes = list(call.out.shape)
    stated = tape.written(sizes) if "size" in call.args else [None] * len(sizes)
    axes, origins = reshaped(tape, call, tape.axes(x), tape.origins(x), sizes)
    tape.put(call.out, axes, origins)
    for axis, number in zip(axes, stated, strict=True):
        if axis.size > 1:
            tape.require(axis, number, call)


def reshaped(
    tape: Tape, call: Call, axes: Sequence[Axis], origins: Sequence[Origin], sizes: Sequence[int]
) -> tuple[list[Axis], list[Origin]]:
    """The axes after a view to these sizes: runs with equal products are put together, then cut."""
    result: list[Axis] = []
    came: list[Origin] = []
    i = j = 0
    while j < len(sizes):
        if sizes[j] == 1:
            result.append(fixed(1))
            came.append(None)
            j += 1
            continue
        while i < len(axes) and axes[i].size == 1:
            i += 1
        begin, first = i, j
        have, want = axes[i].size if i < len(axes) else 0, sizes[j]
        i, j = i + 1, j + 1
        while have != want and have and want:
            if have < want:
                have *= axes[i].size
                i += 1
            else:
                want *= sizes[j]
                j += 1
        run = list(axes[begin:i])
        if have == 0 or want == 0:
            return [fixed(s) for s in sizes], [None] * len(sizes)
        if len(run) == 1 and j - first == 1:
            result.append(run[0])
            came.append(origins[begin])
            continue
        found = factor(prod(run), sizes[first:j])
        if found is None:
            tape.barrier(run, call, f"a view to {list(sizes)} across the borders of its parts")
            found = [fixed(s, why(prod(run))) for s in sizes[first:j]]
        result += found
        came += [None] * (j - first)
    return result, came


@rule("expand broadcast_to expand_copy")
def expand(tape: Tape, call: Call) -> None:
    """Axes of size one are repeated; the copies stay."""
    x: Tensor = call["self"]
    new = call.out.ndim - x.ndim
    axes: list[Axis] = [fixed(s, "copies of one") for s in call.out.shape[:new]]
    origins: list[Origin] = [None] * new
    for axis, origin, size in zip(tape.axes(x), tape.origins(x), call.out.shape[new:], strict=True):
        axes.append(axis if axis.size == size else fixed(size, "copies of one"))
        origins.append(origin if axis.size == size else None)
    for axis, number in zip(axes, tape.written(list(call.out.shape)), strict=True):
        if axis.size > 1:
            tape.require(axis, number, call)
    tape.put(call.out, axes, origins)


@rule("repeat")
def repeat(tape: Tape, call: Call) -> None:
    """An axis as several copies of itself, one after the other."""
    x: Tensor = call["self"]
    new = len(call["repeats"]) - x.ndim
    axes: list[Axis] = [fixed(n, "copies of one") for n in call["repeats"][:new]]
    for axis, times in zip(tape.axes(x), call["repeats"][new:], strict=True):
        axes.append(axis if times == 1 else prod([fixed(times, "copies of one"), axis]))
    tape.put(call.out, axes)


@rule("cat concatenate concat")
def concatenate(tape: Tape, call: Call) -> None:
    """One after the other along one axis; all other axes are one."""
    tensors = [t for t in call["tensors"] if t.numel() or t.ndim > 1]
    dim = at(call.args.get("dim", 0), call.out.ndim)
    axes = list(tape.axes(tensors[0]))
    for tensor in tensors[1:]:
        for i, axis in enumerate(tape.axes(tensor)):
            if i != dim:
                unify(axes[i], axis)
    axes[dim] = cat([tape.axes(t)[dim] for t in tensors])
    tape.put(call.out, axes)


@rule("stack")
def stack(tape: Tape, call: Call) -> None:
    """A new axis; all others are one."""
    axes = list(tape.axes(call["tensors"][0]))
    for tensor in call["tensors"][1:]:
        for one, other in zip(axes, tape.axes(tensor), strict=True):
            unify(one, other)
    axes.insert(at(call.args.get("dim", 0), call.out.ndim), fixed(len(call["tensors"]), "tensors that are stacked"))
    tape.put(call.out, axes)


@rule("select unbind")
def select(tape: Tape, call: Call) -> None:
    """One position of an axis, or each: the axis stays."""
    x: Tensor = call["self"]
    dim = at(call.args.get("dim", 0), x.ndim)
    axes = tape.axes(x)
    tape.hold([axes[dim]], "single positions of the axis are taken")
    for out in tensors_of([call.out]):
        tape.put(out, [axis for i, axis in enumerate(axes) if i != dim])


@rule("split split_with_sizes split_copy split_with_sizes_copy chunk unsafe_split unsafe_chunk unsafe_split_with_sizes")
def split(tape: Tape, call: Call) -> None:
    """An axis in pieces. Equal pieces of a stated number lose the same units; others go their own ways."""
    x: Tensor = call["self"]
    dim = at(call.args.get("dim", 0), x.ndim)
    sizes = [int(out.shape[dim]) for out in call.out]
    axis = tape.axes(x)[dim]
    stated = call.args.get("split_size", call.args.get("split_sizes"))
    numbers = tape.written(stated if isinstance(stated, (list, tuple)) else [int(stated or 0)])
    for out, piece in zip(call.out, _pieces(tape, call, axis, sizes, numbers), strict=True):
        axes = list(tape.axes(x))
        axes[dim] = piece
        tape.put(out, axes)


def _pieces(tape: Tape, call: Call, axis: Axis, sizes: list[int], numbers: Sequence[int | None]) -> list[Axis]:
    if len(sizes) == 1 or not free(axis):
        return [axis] if len(sizes) == 1 else [fixed(s, why(axis)) for s in sizes]
    if len(numbers) == 1 and len(set(sizes)) == 1:  # a number of chunks, or one size for all
        found = factor(axis, [len(sizes), sizes[0]])
        if found is not None:
            lock(found[0], "pieces of a split")
            tape.require(found[1], numbers[0], call)
            return [found[1]] * len(sizes)
    elif len(numbers) == len(sizes) and (found := _cuts(axis, sizes)) is not None:
        for piece, number in zip(found, numbers, strict=True):
            tape.require(piece, number, call)
        return found
    tape.barrier([axis], call, f"a split into {sizes} that would not follow")
    return [fixed(s, why(axis)) for s in sizes]


def _cuts(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    pieces: list[Axis] = []
    rest = axis
    for size in sizes[:-1]:
        two = cut(rest, size)
        if two is None:
            return None
        pieces.append(two[0])
        rest = resolve(two[1])
    return [*pieces, rest]


@rule("glu")
def glu(tape: Tape, call: Call) -> None:
    """Half an axis gates the other half: both lose the same units."""
    axes = list(tape.axes(call["self"]))
    dim = at(call.args.get("dim", -1), len(axes))
    axes[dim] = _pieces(tape, call, axes[dim], [axes[dim].size // 2] * 2, [None])[0]
    tape.put(call.out, axes)


@rule("slice narrow slice_copy")
def slices(tape: Tape, call: Call) -> None:
    """A stretch of an axis: its borders must be attributes or shapes if anything is to be removed."""
    x: Tensor = call["self"]
    dim = at(call.args.get("dim", 0), x.ndim)
    axes, size, left = list(tape.axes(x)), x.shape[dim], call.out.shape[dim]
    if left == size:
        return tape.put(call.out, axes, tape.origins(x))
    axis = axes[dim]
    start = call.args.get("start") or 0
    start = min(max(start + size if start < 0 else start, 0), size)
    if free(axis) and call.args.get("step", 1) == 1 and left:
        axes[dim] = _stretch(tape, call, axis, start, start + left)
    else:
        tape.hold([axis], "a part of the axis is taken")
        axes[dim] = fixed(left, why(axis))
    tape.put(call.out, axes)


def _stretch(tape: Tape, call: Call, axis: Axis, start: int, end: int) -> Axis:
    numbers = tape.written([start, end])
    if any(n is None and border not in (0, axis.size) for n, border in zip(numbers, (start, end), strict=True)):
        tape.barrier([axis], call, f"the borders {start}:{end} of a slice are not known as sizes")
        return fixed(end - start, why(axis))
    found = _cuts(axis, [n for n in (start, end - start, axis.size - end) if n])
    if found is None:
        tape.barrier([axis], call, f"a slice {start}:{end} across the borders of its parts")
        return fixed(end - start, why(axis))
    before = found[: 1 if start else 0]
    middle = found[len(before)]
    if start:
        tape.require(before[0], numbers[0], call)
    if end < axis.size or numbers[1] is not None:
        tape.require(cat([*before, middle]), numbers[1], call)
    return middle


@rule("constant_pad_nd")
def pad(tape: Tape, call: Call) -> None:
    """Positions of a constant before and after; on an axis of channels they are units of their own."""
    x: Tensor = call["self"]
    axes = list(tape.axes(x))
    amounts = list(call["pad"])
    numbers = tape.written(amounts)
    for k in range(len(amounts) // 2):
        dim = x.ndim - 1 - k
        before, after = amounts[2 * k], amounts[2 * k + 1]
        if not before and not after:
            continue
        if not free(axes[dim]) or min(before, after) < 0:
            tape.hold([axes[dim]], "the axis is padded")
            axes[dim] = fixed(call.out.shape[dim], "a padded axis")
            continue
        parts: list[Axis] = []
        for amount, number in ((before, numbers[2 * k]), (after, numbers[2 * k + 1])):
            piece = Dim(amount, tape.path[-1] if tape.path else "", tags={"zero"})
            if amount:
                tape.require(piece, number, call)
            parts.append(piece)
        axes[dim] = cat([parts[0], axes[dim], parts[1]])
    tape.put(call.out, axes)


@rule("index index_select gather roll flip take_along_dim scatter scatter_add index_add index_copy index_put "
      "slice_scatter select_scatter tril triu cumsum cumprod sort topk argsort")  # fmt: skip
def rearranged(tape: Tape, call: Call) -> None:
    """Positions in another order: the axes along which it happens stay, the others go through."""
    x: Tensor = call["self"]
    axes = tape.axes(x)
    touched = _touched(call, x.ndim)
    through = call.name in ("index_select", "roll", "flip", "cumsum", "cumprod", "sort", "argsort", "topk")
    if call.name == "index" and len(touched) == 1 and isinstance(call.out, Tensor):
        tape.hold([axes[touched[0]]], "the axis is indexed")
        extra = call.out.ndim - x.ndim + 1
        middle: list[Any] = [fixed(s) for s in call.out.shape[touched[0] : touched[0] + extra]]
        return tape.put(call.out, [*axes[: touched[0]], *middle, *axes[touched[0] + 1 :]])
    if not through:
        if any(free(axis) for axis in axes):
            return unknown(tape, call)
        touched = list(range(x.ndim))
    tape.hold([axes[d] for d in touched], f"positions of the axis are rearranged by {call.name}")
    for out in tensors_of([call.out]):
        new = [fixed(s) if d in touched else axes[d] for d, s in enumerate(out.shape)] if out.ndim == x.ndim else None
        tape.put(out, new or [fixed(s) for s in out.shape])


def _touched(call: Call, ndim: int) -> list[int]:
    if call.name == "index":
        return [d for d, index in enumerate(call["indices"]) if index is not None]
    dim = call.args.get("dims", call.args.get("dim"))
    if call.name in ("tril", "triu"):
        return [ndim - 2, ndim - 1]
    listed = dim if isinstance(dim, (list, tuple)) else [dim]
    return [at(d, ndim) for d in listed if d is not None] or list(range(ndim))


@rule("view_as_complex view_as_real")
def pairs(tape: Tape, call: Call) -> None:
    """The last axis holds real and imaginary parts, or comes to do so."""
    axes = list(tape.axes(call["self"]))
    if call.name == "view_as_real":
        return tape.put(call.out, [*axes, fixed(2, "real and imaginary parts")])
    tape.hold([axes[-1]], "real and imaginary parts")
    tape.put(call.out, axes[:-1])


@rule("arange full zeros ones empty rand randn scalar_tensor new_zeros new_ones new_full new_empty empty_strided "
      "new_empty_strided eye linspace tensor _local_scalar_dense item equal is_nonzero randint randperm")  # fmt: skip
def made(tape: Tape, call: Call) -> None:
    """A new tensor: an axis whose size was read from another tensor is that axis.

    What torch makes for itself inside another operation follows that operation's inputs.
    """
    inside = tape.scope is not None and tape.scope[0] not in CREATING and tape.scope[0] not in DERIVED
    for out in tensors_of([call.out]):
        if inside:
            tape.put(out, [Dim(s, tags={"zero"}) if s > 1 else fixed(s) for s in out.shape])
            continue
        numbers = tape.written(list(out.shape))
        axes: list[Axis] = []
        for size, number in zip(out.shape, numbers, strict=True):
            if isinstance(number, Number) and isinstance(number.source, Dim | Cat | Prod):
                axes.append(number.source)
            elif isinstance(number, Number):
                piece = Dim(size, tape.path[-1] if tape.path else "", tags={"zero"})
                tape.require(piece, number, call)
                axes.append(piece)
            else:
                axes.append(fixed(size))
        tape.put(out, axes)
