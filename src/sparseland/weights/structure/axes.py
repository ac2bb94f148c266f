"""Axes of tensors as small expressions: what must be removed together is one `Dim`, found by joining and cutting.

An axis is a `Dim` (n units in a row), a `Cat` (axes one after the other: concatenation, padding) or a `Prod` (an axis
of axes, outer first: what a view makes of (heads, head_dim)). Two axes that an operation ties together are joined, and
cut where their borders lie apart; what cannot be removed is locked, with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

COPIES = 64  # a product is written out as a concatenation of at most so many copies


@dataclass(eq=False)
class Dim:
    """A row of ``size`` units that are removed one by one, everywhere at once.

    ``locked``: why not; empty if they may. ``made``: what it became when it was joined or cut.
    """

    size: int
    born: str = ""
    locked: str = ""
    made: Axis | None = None
    tags: set[str] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class Cat:
    """Axes one after the other."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Sum of the sizes."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, eq=False)
class Prod:
    """Every combination of positions, the last axis fastest."""

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Product of the sizes."""
        return math.prod(part.size for part in self.parts)


Axis = Dim | Cat | Prod


def fixed(size: int, why: str = "not a dimension of parameters") -> Dim:
    """A row of units that stay.

    >>> fixed(3).locked
    'not a dimension of parameters'
    """
    return Dim(size, locked=why)


def cat(parts: Sequence[Axis]) -> Axis:
    """One after the other; nothing is wrapped twice, empty parts fall away."""
    flat: list[Axis] = []
    for part in parts:
        flat += part.parts if isinstance(part, Cat) else [part]
    flat = [part for part in flat if part.size] or flat[:1]
    return flat[0] if len(flat) == 1 else Cat(tuple(flat))


def prod(parts: Sequence[Axis]) -> Axis:
    """A product; axes of size one fall away, and a concatenation at the outside is written out."""
    flat: list[Axis] = []
    for part in parts:
        flat += part.parts if isinstance(part, Prod) else [part]
    flat = [part for part in flat if part.size != 1] or flat[:1]
    if len(flat) == 1:
        return flat[0]
    if isinstance(flat[0], Cat):
        return cat([prod([part, *flat[1:]]) for part in flat[0].parts])
    return Prod(tuple(flat))


def resolve(axis: Axis) -> Axis:
    """The axis in terms of what its dims have become.

    >>> a, b = Dim(4), Dim(4)
    >>> unify(a, b)
    >>> resolve(a) is resolve(b)
    True
    """
    if isinstance(axis, Dim):
        if axis.made is None:
            return axis
        axis.made = resolve(axis.made)
        return axis.made
    parts = [resolve(part) for part in axis.parts]
    if all(new is old for new, old in zip(parts, axis.parts, strict=True)) and not isinstance(parts[0], Cat):
        return axis
    return cat(parts) if isinstance(axis, Cat) else prod(parts)


def dims(axis: Axis) -> Iterator[Dim]:
    """The dims of an axis, in order, each as often as it occurs."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        yield axis
    else:
        for part in axis.parts:
            yield from dims(part)


def free(axis: Axis) -> bool:
    """Whether any of it may be removed."""
    return any(not dim.locked for dim in dims(axis))


def why(axis: Axis) -> str:
    """The first reason why something of it stays."""
    return next((dim.locked for dim in dims(axis) if dim.locked), "")


def lock(axis: Axis, reason: str) -> bool:
    """Nothing of the axis may be removed; whether that is new."""
    found = [dim for dim in dims(axis) if not dim.locked]
    for dim in found:
        dim.locked = reason
    return bool(found)


def width(axis: Axis, widths: Mapping[Dim, int]) -> int:
    """Positions that are left when dims have these widths.

    >>> heads = Dim(4)
    >>> width(prod([heads, fixed(8)]), {heads: 3})
    24
    """
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return widths.get(axis, axis.size)
    sizes = [width(part, widths) for part in axis.parts]
    return sum(sizes) if isinstance(axis, Cat) else math.prod(sizes)


def kept(axis: Axis, keep: Mapping[Dim, Tensor]) -> Tensor:
    """Which positions are left: a bool tensor as long as the axis."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return keep[axis] if axis in keep else torch.ones(axis.size, dtype=torch.bool)
    parts = [kept(part, keep) for part in axis.parts]
    if isinstance(axis, Cat):
        return torch.cat(parts)
    result = parts[0]
    for part in parts[1:]:
        result = (result[:, None] & part[None, :]).reshape(-1)
    return result


def units(axis: Axis, dim: Dim) -> Tensor:
    """Which unit of ``dim`` each position belongs to; -1 for none."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return torch.arange(axis.size) if axis is dim else torch.full((axis.size,), -1)
    parts = [units(part, dim) for part in axis.parts]
    if isinstance(axis, Cat):
        return torch.cat(parts)
    result = parts[0]
    for part in parts[1:]:
        result = torch.maximum(result[:, None], part[None, :]).reshape(-1)
    return result


# ------------------------------------------------------------------------------------------------- joining and cutting
def unify(one: Axis, two: Axis) -> None:
    """From here on the two axes are one: what is removed of one is removed of the other.

    >>> a, b, whole = Dim(2), Dim(3), Dim(5)
    >>> unify(cat([a, b]), whole)
    >>> [dim.size for dim in dims(whole)]
    [2, 3]
    """
    one, two = resolve(one), resolve(two)
    if one is two:
        return
    if one.size != two.size:
        _lock_both(one, two, f"sizes {one.size} and {two.size} meet")
    elif not free(one):
        lock(two, why(one))
    elif not free(two):
        lock(one, why(two))
    elif isinstance(two, Dim) and not isinstance(one, Dim):
        _define(two, one)
    elif isinstance(one, Dim):
        _define(one, two)
    elif isinstance(one, Cat) or isinstance(two, Cat):
        _unify_cats(one, two)
    else:
        _unify_products(one, two)


def _lock_both(one: Axis, two: Axis, reason: str) -> None:
    lock(one, reason)
    lock(two, reason)


def _define(dim: Dim, as_what: Axis) -> None:
    if isinstance(as_what, Dim):
        as_what.tags |= dim.tags
        as_what.born = min(as_what.born, dim.born, key=lambda name: name == "")
        dim.made = as_what
    elif any(inner is dim for inner in dims(as_what)):
        lock(as_what, "an axis is tied to a part of itself")
    else:
        for inner in dims(as_what):
            inner.tags |= dim.tags
            inner.born = inner.born or dim.born
        dim.made = as_what


def _unify_cats(one: Axis, two: Axis) -> None:
    left, right = _written_out(one), _written_out(two)
    if left is None or right is None:
        return _lock_both(one, two, "a product axis meets a concatenation that does not follow its borders")
    rest_one, rest_two = cat(left), cat(right)
    while True:
        rest_one, rest_two = resolve(rest_one), resolve(rest_two)
        first_one = rest_one.parts[0] if isinstance(rest_one, Cat) else rest_one
        first_two = rest_two.parts[0] if isinstance(rest_two, Cat) else rest_two
        size = min(first_one.size, first_two.size)
        if size == rest_one.size:
            return unify(rest_one, rest_two)
        cut_one, cut_two = cut(rest_one, size), cut(rest_two, size)
        if cut_one is None or cut_two is None:
            return _lock_both(one, two, "borders that cannot be cut meet")
        unify(cut_one[0], cut_two[0])
        rest_one, rest_two = cut_one[1], cut_two[1]


def _written_out(axis: Axis) -> list[Axis] | None:
    """A product as a concatenation of copies; its outer axis then stays."""
    axis = resolve(axis)
    if not isinstance(axis, Prod):
        return list(axis.parts) if isinstance(axis, Cat) else [axis]
    if axis.parts[0].size > COPIES:
        return None
    lock(axis.parts[0], "the axis is a concatenation elsewhere")
    return [prod(axis.parts[1:])] * axis.parts[0].size


def cut(axis: Axis, at: int) -> tuple[Axis, Axis] | None:
    """The first ``at`` positions and the rest; None where a product has no border there.

    >>> whole = Dim(5)
    >>> [part.size for part in cut(whole, 2)], [dim.size for dim in dims(whole)]
    ([2, 3], [2, 3])
    """
    axis = resolve(axis)
    if isinstance(axis, Dim):
        first, second = _piece(axis, at), _piece(axis, axis.size - at)
        axis.made = Cat((first, second))
        return first, second
    if isinstance(axis, Prod):
        outer, inner = axis.parts[0], prod(axis.parts[1:])
        halves = cut(outer, at // inner.size) if at % inner.size == 0 else None
        return halves and (prod([halves[0], inner]), prod([halves[1], inner]))
    before: list[Axis] = []
    for i, part in enumerate(axis.parts):
        if at == part.size:
            return cat([*before, part]), cat(axis.parts[i + 1 :])
        if at < part.size:
            halves = cut(part, at)
            return halves and (cat([*before, halves[0]]), cat([halves[1], *axis.parts[i + 1 :]]))
        before.append(part)
        at -= part.size
    return None


def _piece(dim: Dim, size: int) -> Dim:
    return Dim(size, dim.born, dim.locked or ("a single unit" if size == 1 else ""), tags=set(dim.tags))


def _unify_products(one: Axis, two: Axis) -> None:
    assert isinstance(one, Prod) and isinstance(two, Prod)
    sizes = _borders([part.size for part in one.parts], [part.size for part in two.parts])
    left = factor(one, sizes) if sizes else None
    right = factor(two, sizes) if sizes else None
    if left is None or right is None:
        return _lock_both(one, two, "products with other borders meet")
    for a, b in zip(left, right, strict=True):
        unify(a, b)


def _borders(one: Sequence[int], two: Sequence[int]) -> list[int] | None:
    """Sizes of the finest product that both are products of, outer first."""
    left, right, sizes = list(one), list(two), list[int]()
    while left and right:
        a, b = left.pop(0), right.pop(0)
        small, large, rest = (a, b, right) if a <= b else (b, a, left)
        if large % small:
            return None
        sizes.append(small)
        if large > small:
            rest.insert(0, large // small)
    return sizes


def factor(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """The axis as a product of axes of these sizes, outer first; None (and all is locked) if it has no such borders.

    >>> whole = Dim(6)
    >>> heads, inner = factor(whole, [2, 3])
    >>> list(dims(whole)) == [heads, inner], heads.size, inner.size
    (True, 2, 3)
    """
    axis = resolve(axis)
    if not free(axis):
        return [fixed(size, why(axis)) for size in sizes]
    found = _factors(axis, sizes)
    if found is None:
        lock(axis, "a view cuts the axis across the borders of its parts")
    return found


def _factors(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    waiting: list[Axis] = list(axis.parts) if isinstance(axis, Prod) else [axis]
    result: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        need = size
        while need > 1:
            if not waiting:
                return None
            part = resolve(waiting.pop(0))
            if part.size > need and part.size % need == 0:
                halves = _halves(part, need)
                if halves is None:
                    return None
                part = halves[0]
                waiting.insert(0, halves[1])
            if need % part.size:
                return None
            taken.append(part)
            need //= part.size
        result.append(prod(taken) if taken else fixed(1))
    return result


def _halves(axis: Axis, outer: int) -> tuple[Axis, Axis] | None:
    """The axis as (outer, rest)."""
    rest = axis.size // outer
    if isinstance(axis, Dim):
        first, second = _piece(axis, outer), _piece(axis, rest)
        axis.made = prod([first, second])
        return first, second
    if isinstance(axis, Prod):
        found = factor(axis, [outer, rest])
        return None if found is None else (found[0], found[1])
    if all(part.size % rest == 0 for part in axis.parts):
        pairs = [factor(part, [part.size // rest, rest]) for part in axis.parts]
        whole = [pair for pair in pairs if pair is not None]
        if len(whole) < len(pairs):
            return None
        for _, inner in whole[1:]:
            unify(whole[0][1], inner)
        return cat([outside for outside, _ in whole]), whole[0][1]
    pieces, left = list[Axis](), resolve(axis)
    for _ in range(outer - 1):
        two = cut(left, rest)
        if two is None:
            return None
        pieces.append(two[0])
        left = resolve(two[1])
    for piece in pieces:
        unify(piece, left)
    return fixed(outer, "the axis is a concatenation elsewhere"), left
