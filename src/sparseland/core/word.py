"""The base of the seven words: frozen, printable, comparable, lossless to and from plain data.

A word is a frozen dataclass. ``kind`` is the name it is found by in dicts, YAML and short strings:
``Cubic(final=0.9, end=1000)`` is ``{"kind": "cubic", "final": 0.9, "end": 1000}``. Only plain data leaves or
enters; nothing read from a file is ever executed.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, ClassVar, TypeVar, get_type_hints

from .errors import RecipeError, nearest

W = TypeVar("W", bound="Word")


class Word:
    """A frozen value with a registry per family (pattern, criterion, allocation, schedule, growth, flow).

    A direct subclass opens a family; a dataclass below it that sets ``kind`` enters it. Raises RecipeError from
    `from_dict` for an unknown kind, an unknown field or a value of the wrong type.
    """

    kind: ClassVar[str] = ""
    family: ClassVar[type[Word]]
    registry: ClassVar[dict[str, type[Word]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Word in cls.__bases__:
            cls.family, cls.registry = cls, {}
        if "kind" in cls.__dict__ and cls.kind:
            cls.registry[cls.kind] = cls

    def replace(self: W, **changes: Any) -> W:
        """Return a copy with some fields changed; unknown names are refused."""
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in changes:
            if name not in names:
                raise RecipeError(f"{type(self).__name__} has no field {name!r}; {nearest(name, names)}")
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def __repr__(self) -> str:
        """Python that rebuilds the word; fields at their default are left out."""
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            factory = field.default_factory
            default = factory() if factory is not dataclasses.MISSING else field.default
            if default is dataclasses.MISSING or value != default or type(value) is not type(default):
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def plain(self) -> Any:
        """How the word is written inside another one: its bare kind if it has no fields, else its dict."""
        return self.to_dict() if dataclasses.fields(self) else self.kind  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` turns back into an equal word; every field is written."""
        out: dict[str, Any] = {"kind": self.kind} if self.kind else {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            out[field.name] = _plain(getattr(self, field.name))
        return out

    @classmethod
    def from_dict(cls: type[W], data: Any) -> W:
        """Rebuild a word from `to_dict`'s data, from a bare kind (``"magnitude"``), or return a word as it is."""
        if isinstance(data, Word):
            if not isinstance(data, cls):
                raise RecipeError(f"{data!r} is a {type(data).family.__name__}, not a {cls.__name__}")
            return data
        if isinstance(data, str):
            data = {"kind": data}
        if not isinstance(data, dict):
            raise RecipeError(f"a {cls.__name__} is a name or a mapping, not {data!r}; {nearest(data, cls.registry)}")
        fields = dict(data)
        kind = fields.pop("kind", cls.kind)
        if kind not in cls.registry:
            raise RecipeError(f"unknown {cls.__name__.lower()} {kind!r}: {nearest(kind, cls.registry)}")
        found = cls.registry[kind]
        known = {f.name: f for f in dataclasses.fields(found)}  # type: ignore[arg-type]
        for name in fields:
            if name not in known:
                raise RecipeError(f"{kind!r} has no field {name!r}: {nearest(name, known)}")
        hints = get_type_hints(found)
        values = {name: _typed(f"{kind}.{name}", value, hints[name]) for name, value in fields.items()}
        try:
            return found(**values)  # type: ignore[return-value]
        except TypeError as error:
            raise RecipeError(f"{kind!r}: {error}; fields: {', '.join(known)}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Word):
        return value.plain()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise RecipeError(f"{value!r} cannot be written as plain data (words hold numbers, strings, lists and words)")


def _typed(where: str, value: Any, hint: Any) -> Any:
    """Check a plain value against an annotation, and rebuild words and tuples inside it."""
    options = getattr(hint, "__args__", None) if _is_union(hint) else (hint,)
    reasons: list[RecipeError] = []
    for option in options or ():
        try:
            matched, result = _match(where, value, option)
        except RecipeError as error:
            reasons.append(error)
            continue
        if matched:
            return result
    if reasons:
        raise reasons[0]
    raise RecipeError(f"{where} is {value!r}, expected {getattr(hint, '__name__', hint)}")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _match(where: str, value: Any, hint: Any) -> tuple[bool, Any]:
    if hint is type(None):
        return value is None, None
    if hint is bool:
        return isinstance(value, bool), value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value), float(value) if number else value
    if hint is str:
        return isinstance(value, str), value
    origin = getattr(hint, "__origin__", None)
    if origin is tuple:
        inner = hint.__args__[0]
        return isinstance(value, (list, tuple)), (
            tuple(_typed(where, item, inner) for item in value) if isinstance(value, (list, tuple)) else value
        )
    if isinstance(hint, type) and issubclass(hint, Word):
        if value is None or isinstance(value, bool):
            return False, value
        return True, hint.from_dict(value)
    return False, value
