"""What may feed a stream of activations: tensors, arrays, iterables, functions, models, folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...core.errors import SparselandError

Block = Tensor | tuple[Tensor, Tensor]  # [n, d], or x and the gradient g of the same shape
ROWS = 8192  # of a block cut from a tensor


@runtime_checkable
class Source(Protocol):
    """Blocks of activations in a fixed order: what `ActivationStream` reads and, to resume, reads again."""

    @property
    def repeats(self) -> bool:
        """Whether a second epoch, or a second reading of this one, is possible."""
        ...

    def blocks(self, epoch: int, start: int) -> Iterator[Block]:
        """The blocks of an epoch from number ``start`` on."""
        ...


class _Rows:
    """A tensor [..., d], or a pair of them."""

    repeats = True

    def __init__(self, x: Tensor, g: Tensor | None) -> None:
        self.x, self.g = flat(x, "activations"), None if g is None else flat(g, "gradients")
        if self.g is not None and self.g.shape != self.x.shape:
            raise SparselandError(f"activations are {tuple(x.shape)}, their gradients {tuple(g.shape)}")  # type: ignore[union-attr]

    def blocks(self, epoch: int, start: int) -> Iterator[Block]:
        for first in range(start * ROWS, len(self.x), ROWS):
            part = slice(first, first + ROWS)
            yield self.x[part] if self.g is None else (self.x[part], self.g[part])


class _Items:
    """What an iterable, or an iterable made anew by a function, yields."""

    def __init__(self, make: Callable[[], Iterable[Any]], repeats: bool) -> None:
        self.make, self.repeats = make, repeats

    def blocks(self, epoch: int, start: int) -> Iterator[Block]:
        for number, item in enumerate(self.make()):
            if number >= start:
                yield block_of(item, number)


def as_source(data: Any) -> Source:
    """A `Source` of anything that holds activations.

    Parameters:
        data: a tensor or NumPy array [..., d]; a pair (x, g) of tensors; an iterable of them; a function without
            arguments that makes such an iterable (so it can be read again); or a Source (`ModelActivations`,
            `StoredActivations`, your own class with ``repeats`` and ``blocks``).

    Raises:
        TypeError: none of these.

    >>> [tuple(b.shape) for b in as_source(torch.zeros(2, 5, 3)).blocks(0, 0)]
    [(10, 3)]
    >>> as_source(iter([torch.zeros(1, 3)])).repeats
    False
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(_like_array(item) for item in data):
        return _Rows(_tensor(data[0]), _tensor(data[1]))
    if _like_array(data):
        return _Rows(_tensor(data), None)
    if callable(data):
        return _Items(data, True)
    if isinstance(data, Iterator):
        return _Items(lambda: data, False)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        return _Items(lambda: data, True)
    raise TypeError(
        f"activations are a tensor, an array, a pair (x, g), an iterable of them, a function that makes one, or a "
        f"Source; not {type(data).__name__}"
    )


def _like_array(item: Any) -> bool:
    return isinstance(item, Tensor) or (hasattr(item, "__array_interface__") and hasattr(item, "dtype"))


def _tensor(item: Any) -> Tensor:
    return item if isinstance(item, Tensor) else torch.as_tensor(item)


def flat(x: Tensor, name: str) -> Tensor:
    """``x`` [..., d] as [n, d]; other than real floating numbers and single vectors are refused."""
    if not x.is_floating_point():
        raise TypeError(f"{name} are floating-point numbers, not {x.dtype}")
    if x.ndim < 2 or x.shape[-1] == 0:
        raise SparselandError(f"{name} are [..., d] with at least two axes and d >= 1; got {tuple(x.shape)}")
    return x.detach().reshape(-1, x.shape[-1])


def block_of(item: Any, number: int) -> Block:
    """What a source yielded, as [n, d] or a pair.

    Raises:
        TypeError, SparselandError: it is no tensor, or x and g differ in shape.
    """
    if isinstance(item, (tuple, list)) and len(item) == 2 and all(_like_array(part) for part in item):
        x, g = (flat(_tensor(part), f"block {number}") for part in item)
        if x.shape != g.shape:
            raise SparselandError(f"block {number}: activations are {tuple(x.shape)}, gradients {tuple(g.shape)}")
        return x, g
    if isinstance(item, (tuple, list)) and len(item) == 1 and _like_array(item[0]):
        item = item[0]  # a TensorDataset's
    if not _like_array(item):
        raise TypeError(
            f"block {number} of the activations is {type(item).__name__}; a tensor or a pair (x, g) is read"
        )
    return flat(_tensor(item), f"block {number}")
