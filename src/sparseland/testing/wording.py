"""Promises about the method as a value: dict, JSON and repr give it back; it is frozen and hashable."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import sparseland.core as core

from ..core.word import Word
from ..weights.method import Method
from .report import CheckFailed, expect
from .run import Case


def round_trip(case: Case) -> str:
    """Method -> dict -> JSON -> Method and Method -> repr -> Method are the identity; equal methods hash equal."""
    method = case.method
    family: Any = type(method)
    _same(method, family.from_dict(method.to_dict()), "from_dict(to_dict())")
    text = json.dumps(method.to_dict())
    _same(method, family.from_dict(json.loads(text)), f"JSON {text}")
    known = {name: getattr(core, name) for name in core.__all__} | {"Method": Method}
    known |= {type(word).__name__: type(word) for word in words(method)}
    _same(method, rebuilt(repr(method), known), f"repr {method!r}")
    _python(method, known)
    _same(method, method.replace(), "replace()")
    _frozen(method)
    resolved = case.resolved
    _same(resolved, resolved.resolve(case.task.steps), f"resolve({case.task.steps}) once more")
    _same(resolved, family.from_dict(resolved.to_dict()), "from_dict(to_dict()) once resolved")
    return f"{len(text)} characters of JSON"


def _same(method: Method, other: object, how: str) -> None:
    expect(type(other) is type(method) and other == method, f"{how} gives {other!r}, not {method!r}")
    expect(hash(other) == hash(method), f"{how} gives an equal method with another hash")


def _python(method: Method, known: Mapping[str, Any]) -> None:
    """``to_python`` imports every name it uses and assigns the method."""
    tree = ast.parse(method.to_python())
    imported = {a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assigned = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    used = {
        node.func.id for node in ast.walk(assigned) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    ours = {name for name in used if name in core.__all__ or name == "Method"}
    expect(ours <= imported, f"to_python() uses {sorted(ours - imported)} without importing them")
    _same(method, rebuilt(ast.unparse(assigned), known), "to_python()")


def _frozen(method: Method) -> None:
    for word in words(method):
        for f in dataclasses.fields(word):  # type: ignore[arg-type]
            try:
                setattr(word, f.name, getattr(word, f.name))
            except dataclasses.FrozenInstanceError:
                continue
            raise CheckFailed(f"{type(word).__name__}.{f.name} can be assigned to: words are frozen")


def words(word: Word) -> Iterator[Word]:
    """A word and all words inside it."""
    yield word
    for f in dataclasses.fields(word):  # type: ignore[arg-type]
        value = getattr(word, f.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Word):
                yield from words(inner)


def rebuilt(text: str, names: Mapping[str, Any]) -> Any:
    """The value that a repr describes: calls of ``names``, numbers, strings, lists and tuples; nothing else runs.

    >>> rebuilt("Cubic(0.9, end=10)", {"Cubic": core.Cubic})
    Cubic(value=0.9, end=10)
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            keywords = {k.arg: value(k.value) for k in node.keywords if k.arg}
            return names[node.func.id](*map(value, node.args), **keywords)
        if isinstance(node, (ast.Tuple, ast.List)):
            return (tuple if isinstance(node, ast.Tuple) else list)(map(value, node.elts))
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise CheckFailed(f"repr is not Python that rebuilds the method: {ast.unparse(node)!r} in {text}") from None

    return value(ast.parse(text, mode="eval").body)
