"""Numbers that remember where they come from: a size read from a tensor, an attribute of a module, or reckoned of both.

While a network is traced its modules' integers and the shapes of tensors are `Number`s: ints like any other, whose sums
and products know their terms. A view to ``(b, n, self.heads, -1)`` then says which attribute holds the heads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .axes import Axis, Dim, width


@dataclass(frozen=True)
class Place:
    """Where an integer lives: attribute ``name`` of the module ``path``, its entry ``index`` if it is a tuple.

    >>> str(Place("layers.0", "normalized_shape", 0))
    'layers.0.normalized_shape[0]'
    """

    path: str
    name: str
    index: int | None = None

    def __str__(self) -> str:
        entry = "" if self.index is None else f"[{self.index}]"
        return f"{self.path}.{self.name}{entry}" if self.path else f"{self.name}{entry}"

    def write(self, model: nn.Module, value: int) -> None:
        """Give the attribute another value."""
        module = model.get_submodule(self.path)
        if self.index is not None:
            old = getattr(module, self.name)
            whole = [value if i == self.index else entry for i, entry in enumerate(old)]
            setattr(module, self.name, type(old)(whole))
        else:
            setattr(module, self.name, value)


Source = Axis | Place | tuple[Callable[..., int], tuple[Any, ...]]


@dataclass
class Notes:
    """What the network does with its numbers beside shapes.

    ``spent``: those that become part of a value. ``compared``: (axis, attribute) that were found equal, as in
    ``assert x.shape[1] == self.channels``: they must stay so.
    """

    spent: list[Number] = field(default_factory=list)
    compared: list[tuple[Axis, Place]] = field(default_factory=list)


class Number(int):
    """An int with its source: an axis (its size), a place (an attribute), or an operation on numbers.

    >>> heads = Number(4, Place("", "heads"))
    >>> (heads * 8).value({}, {Place("", "heads"): 3})
    24
    """

    source: Source
    notes: Notes

    def __new__(cls, value: int, source: Source, notes: Notes | None = None) -> Number:
        number = super().__new__(cls, value)
        number.source = source
        number.notes = Notes() if notes is None else notes
        return number

    def __eq__(self, other: object) -> bool:
        same = int(self) == (int(other) if isinstance(other, int) else other)
        if same and isinstance(other, Number):
            for one, two in ((self.source, other.source), (other.source, self.source)):
                if isinstance(two, Place) and not isinstance(one, Place | tuple):
                    self.notes.compared.append((one, two))
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def value(self, widths: Mapping[Dim, int], attributes: Mapping[Place, int]) -> int:
        """What it will be when dims have these widths and attributes these values."""
        if isinstance(self.source, Place):
            return attributes.get(self.source, int(self))
        if isinstance(self.source, tuple):
            function, terms = self.source
            return function(*(t.value(widths, attributes) if isinstance(t, Number) else t for t in terms))
        return width(self.source, widths)

    def leaves(self) -> Iterator[Number]:
        """The numbers that it is reckoned of."""
        if isinstance(self.source, tuple):
            for term in self.source[1]:
                if isinstance(term, Number):
                    yield from term.leaves()
        else:
            yield self

    def _fraction(self) -> None:
        """It becomes part of a value, not of a shape: its source must not change."""
        self.notes.spent.extend(self.leaves())

    def __float__(self) -> float:
        self._fraction()
        return float(int(self))

    def __truediv__(self, other: Any) -> Any:
        self._fraction()
        return int(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        self._fraction()
        return other / int(self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        self._fraction()
        return pow(int(self), other, modulo)

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __copy__(self) -> int:
        return int(self)


def _arithmetic(name: str) -> None:
    function = getattr(operator, name)

    def forward(self: Number, other: Any) -> Any:
        plain = int(other) if isinstance(other, int) else other
        result = function(int(self), plain)
        return Number(result, (function, (self, other)), self.notes) if type(result) is int else result

    def backward(self: Number, other: Any) -> Any:
        result = function(other, int(self))
        return Number(result, (function, (other, self)), self.notes) if type(result) is int else result

    setattr(Number, f"__{name}__", forward)
    setattr(Number, f"__r{name}__", backward)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _arithmetic(_name)


def _negative(self: Number) -> Number:
    return Number(-int(self), (operator.neg, (self,)), self.notes)


Number.__neg__ = _negative  # type: ignore[method-assign, assignment]


@contextmanager
def remembering(model: nn.Module, notes: Notes) -> Iterator[None]:
    """While it lasts, integers that modules hold are Numbers; afterwards everything is as it was."""
    before: list[tuple[nn.Module, str, Any]] = []
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if type(value) is int:
                before.append((module, name, value))
                module.__dict__[name] = Number(value, Place(path, name), notes)
            elif type(value) in (tuple, list) and value and all(type(entry) is int for entry in value):
                before.append((module, name, value))
                entries = [Number(entry, Place(path, name, i), notes) for i, entry in enumerate(value)]
                module.__dict__[name] = type(value)(entries)
    try:
        yield
    finally:
        for module, name, value in before:
            module.__dict__[name] = value
