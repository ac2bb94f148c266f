"""The ends of a program: which value goes into which plain tensor of the engine, and how it lies there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..core.errors import SparselandError
from .lower_view import Array, Atom, View, from_memory, memory_order, to_memory

MASKED = -1e30  # added to scores that a mask forbids: exp is 0, and a row of them is no NaN
DTYPES = {"float32": np.float32, "int64": np.int64, "bool": np.bool_}


@dataclass(frozen=True)
class Port:
    """An input or output: the value outside, and the plain tensor that the engine takes or gives.

    Parameters:
        name, shape, dtype: of the value.
        size: (N, C, H, W) of the engine's tensor.
        view: how the value's dimensions lie in it.
        interleaved: its memory is ordered N, H, W, C.
        place: number of the engine's input or output (several values may be views of one).
        mask: true and false become 0 and −1e30, and missing rows are repeated.

    >>> from sparseland.deploy.lower_view import tokens
    >>> port = Port("x", (1, 3, 2), "float32", (1, 2, 3, 1), tokens(1, 2, 3), True, 0)
    >>> x = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    >>> bool((port.leave(port.enter(x)) == x).all()), Port.read(port.plain()) == port
    (True, True)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: tuple[int, int, int, int]
    view: View
    interleaved: bool
    place: int
    mask: bool = False

    def check(self, given: Any) -> None:
        """Whether an array is what this input takes.

        Raises:
            SparselandError: another shape or type, or no array.
        """
        if not isinstance(given, np.ndarray):
            raise SparselandError(f"input {self.name!r} must be a NumPy array; got {type(given).__name__}")
        if given.shape != self.shape or given.dtype != DTYPES[self.dtype]:
            raise SparselandError(
                f"input {self.name!r} must be {self.dtype} {list(self.shape)}; got {given.dtype} {list(given.shape)}"
            )

    def enter(self, given: Array) -> Array:
        """A value as the engine takes it, C-contiguous."""
        if self.mask:
            return widened(given, self.size[2:])
        if self._in_order:
            return np.ascontiguousarray(given)
        return np.ascontiguousarray(to_memory(given, self.view, self.size, self.interleaved))

    def leave(self, made: Array) -> Array:
        """What the engine gives as the value."""
        if self._in_order:
            return made.reshape(self.shape)
        return from_memory(made, self.view, self.size, self.interleaved, self.shape)

    @cached_property
    def _in_order(self) -> bool:
        """Whether the value lies in memory as it is written: nothing need move."""
        _, places = memory_order(self.view, self.size, self.interleaved)
        return places == sorted(places)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        view = [[[atom.axis, atom.stride, atom.size] for atom in dim] for dim in self.view]
        return {
            "name": self.name, "shape": list(self.shape), "dtype": self.dtype, "size": list(self.size), "view": view,
            "interleaved": self.interleaved, "place": self.place, "mask": self.mask,
        }  # fmt: skip

    @staticmethod
    def read(found: Mapping[str, Any]) -> Port:
        """The way back.

        Raises:
            SparselandError: something is missing, or sizes that do not fit each other.
        """
        try:
            view = tuple(tuple(Atom(str(a), int(s), int(n)) for a, s, n in dim) for dim in found["view"])
            n, c, h, w = (int(one) for one in found["size"])
            port = Port(
                str(found["name"]), tuple(int(one) for one in found["shape"]), str(found["dtype"]), (n, c, h, w), view,
                bool(found["interleaved"]), int(found["place"]), bool(found["mask"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise SparselandError(f"not a sparseland engine file: an input or output is damaged ({error!r})") from None
        port._check()
        return port

    def _check(self) -> None:
        held = {"N": self.size[0], "C": self.size[1], "P": self.size[2] * self.size[3]}
        atoms = [atom for dim in self.view for atom in dim]
        whole = all(atom.axis in held and atom.stride > 0 and atom.size > 1 for atom in atoms)
        sizes = [math.prod(atom.size for atom in dim) for dim in self.view]
        if self.dtype not in DTYPES or not whole or self.place < 0 or min((*self.size, *self.shape), default=1) < 1:
            raise SparselandError(f"not a sparseland engine file: input or output {self.name!r} is damaged")
        covered = all(
            math.prod(atom.size for atom in atoms if atom.axis == axis) == size for axis, size in held.items()
        )
        if not self.mask and (sizes != list(self.shape) or not covered):
            raise SparselandError(f"not a sparseland engine file: the shape of {self.name!r} does not fit")


def widened(mask: Array, lengths: tuple[int, int]) -> Array:
    """A mask as the numbers that are added to the scores, [N or 1, heads or 1, Lq, Lk].

    >>> widened(np.array([[True, False]]), (2, 2)).tolist() == [[[[0.0, np.float32(-1e30)]] * 2]]
    True
    """
    if mask.dtype == np.int64:  # the tokens that count, [N, Lk]
        mask = (mask != 0)[:, None, None, :]
    if mask.dtype == np.bool_:
        mask = np.where(mask, np.float32(0), np.float32(MASKED))
    mask = np.maximum(mask.astype(np.float32), np.float32(MASKED))
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    return np.ascontiguousarray(np.broadcast_to(mask, (*mask.shape[:2], *lengths)))
