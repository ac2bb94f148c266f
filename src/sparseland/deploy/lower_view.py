"""How the axes of a tensor lie in the engine's memory, so that reshapes and transposes cost nothing.

The engine knows three axes: N (images), C (channels) and P (pixels or tokens, P = H · W in row order). A dimension of
a tensor is a list of *atoms*, outermost first; an atom is ``size`` steps of ``stride`` along one of the three.
``[N, C, H, W]`` is ``((N), (C), (P of stride W), (P of stride 1))``; its heads, its flattened tokens and its
channels-last form are the same atoms in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import SparselandError

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]


class NotLowered(SparselandError):
    """The engine has no way to compute a node; the text is the reason, ``node`` its name."""

    def __init__(self, text: str, node: str | None = None) -> None:
        super().__init__(text)
        self.node = node


class Atom(NamedTuple):
    """``size`` > 1 steps of ``stride`` along an axis, "N", "C" or "P"."""

    axis: str
    stride: int
    size: int


Dim = tuple[Atom, ...]
View = tuple[Dim, ...]


def merged(atoms: Iterable[Atom]) -> Dim:
    """Neighbours that go on where the other ends become one atom.

    >>> merged([Atom("C", 4, 3), Atom("C", 1, 4)])
    (Atom(axis='C', stride=1, size=12),)
    """
    out: list[Atom] = []
    for atom in atoms:
        if out and out[-1].axis == atom.axis and out[-1].stride == atom.stride * atom.size:
            out[-1] = Atom(atom.axis, atom.stride, atom.size * out[-1].size)
        elif atom.size > 1:
            out.append(atom)
    return tuple(out)


def whole(axis: str, size: int) -> Dim:
    """A dimension that is all of an axis."""
    return merged([Atom(axis, 1, size)])


def image(n: int, c: int, h: int, w: int) -> View:
    """[N, C, H, W]."""
    return whole("N", n), whole("C", c), merged([Atom("P", w, h)]), whole("P", w)


def tokens(n: int, c: int, p: int) -> View:
    """[N, P, C]."""
    return whole("N", n), whole("P", p), whole("C", c)


def heads(n: int, c: int, p: int, count: int) -> View:
    """[N, heads, P, C / heads]."""
    return whole("N", n), merged([Atom("C", c // count, count)]), whole("P", p), whole("C", c // count)


def reshaped(view: View, shape: Sequence[int]) -> View:
    """The view of another shape with the same elements in the same order.

    Raises:
        NotLowered: an atom would have to be cut where it does not divide.

    >>> reshaped(image(1, 8, 7, 7), (1, 8, 49)) == (whole("N", 1), whole("C", 8), whole("P", 49))
    True
    """
    left = [atom for dim in view for atom in dim][::-1]
    out = []
    for size in shape:
        dim: list[Atom] = []
        need = int(size)
        while need > 1:
            if not left:
                raise NotLowered(f"reshape to {tuple(shape)} does not keep the number of elements")
            atom = left.pop()
            if need % atom.size == 0:
                dim.append(atom)
                need //= atom.size
            elif atom.size % need == 0:
                inner = atom.size // need
                dim.append(Atom(atom.axis, atom.stride * inner, need))
                left.append(Atom(atom.axis, atom.stride, inner))
                need = 1
            else:
                raise NotLowered(f"reshape to {tuple(shape)} cuts an axis of {atom.size} into parts that do not divide")
        out.append(merged(dim))
    return tuple(out)


def transposed(view: View, perm: Sequence[int]) -> View:
    """The view after a permutation of the dimensions."""
    return tuple(view[i] for i in perm)


@dataclass(frozen=True)
class Held:
    """A value of the graph as a tensor of a program.

    Parameters:
        tensor: its number in the program.
        layout: "tiles", "plain" or "ids".
        size: (N, C, H, W) of the tensor.
        view: the dimensions of the value, in atoms of N, C and P = H · W.
        interleaved: plain memory is ordered N, H, W, C instead of N, C, H, W.
        rows: of a band, for tiles.
    """

    tensor: int
    layout: str
    size: tuple[int, int, int, int]
    view: View
    interleaved: bool = False
    rows: int = 1

    @property
    def pixels(self) -> int:
        """P = H · W."""
        return self.size[2] * self.size[3]

    @property
    def is_vector(self) -> bool:
        """Plain with one pixel: [N, C]."""
        return self.layout == "plain" and self.pixels == 1

    def seen(self, view: View) -> Held:
        """The same memory under another view."""
        return replace(self, view=view)

    def channel_axis(self) -> int | None:
        """The dimension that is all channels; None where they are cut or mixed with something."""
        if self.size[1] == 1:
            return None
        full = whole("C", self.size[1])
        return next((i for i, dim in enumerate(self.view) if dim == full), None)

    def as_image(self) -> tuple[int, int] | None:
        """(H, W) if the view is [N, C, H, W] of any H and W with H · W = P; else None."""
        n, c = self.size[:2]
        if len(self.view) != 4:
            return None
        w = math.prod(atom.size for atom in self.view[3])
        return (self.pixels // w, w) if self.view == image(n, c, self.pixels // w, w) else None

    def as_heads(self) -> int | None:
        """The number of heads if the view is [N, heads, P, d]; else None."""
        if len(self.view) != 4:
            return None
        n, c = self.size[:2]
        count = math.prod(atom.size for atom in self.view[1])
        return count if c % count == 0 and self.view == heads(n, c, self.pixels, count) else None


def memory_order(view: View, size: Sequence[int], interleaved: bool) -> tuple[list[int], list[int]]:
    """(Sizes of all atoms in the order of memory, for each atom of the view its place among them)."""
    _, c, h, w = size
    strides = {"N": c * h * w, "C": 1 if interleaved else h * w, "P": c if interleaved else 1}
    flat = [atom for dim in view for atom in dim]
    steps = [atom.stride * strides[atom.axis] for atom in flat]
    order = sorted(range(len(flat)), key=lambda i: -steps[i])
    return [flat[i].size for i in order], [order.index(i) for i in range(len(flat))]


def to_memory(array: Array, view: View, size: Sequence[int], interleaved: bool) -> Array:
    """A value in the order in which the engine's plain tensor holds it.

    >>> x = np.arange(6.0).reshape(1, 3, 2)  # [N, P, C]
    >>> to_memory(x, tokens(1, 2, 3), (1, 2, 3, 1), False).ravel().tolist()
    [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
    """
    _, places = memory_order(view, size, interleaved)
    cut = array.reshape([atom.size for dim in view for atom in dim])
    back = sorted(range(len(places)), key=lambda i: places[i])
    return cut.transpose(back).reshape(tuple(size))


def from_memory(array: Array, view: View, size: Sequence[int], interleaved: bool, shape: Sequence[int]) -> Array:
    """The way back from the engine's plain tensor to the value.

    >>> view = tokens(1, 2, 3)
    >>> x = np.arange(6.0).reshape(1, 3, 2)
    >>> bool((from_memory(to_memory(x, view, (1, 2, 3, 1), False), view, (1, 2, 3, 1), False, x.shape) == x).all())
    True
    """
    sizes, places = memory_order(view, size, interleaved)
    return array.reshape(sizes).transpose(places).reshape(tuple(shape))
