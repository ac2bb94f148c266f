"""Where factories register themselves by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..method import Method

F = TypeVar("F", bound=Callable[..., Method])
registry: dict[str, Callable[..., Method]] = {}


def register(name: str) -> Callable[[F], F]:
    """Class or function decorator: make a factory known as ``name`` to recipes, the CLI and the contract suite."""

    def keep(factory: F) -> F:
        if name in registry and registry[name].__module__ != factory.__module__:
            raise ValueError(f"two methods are called {name!r}: {registry[name].__module__} and {factory.__module__}")
        registry[name] = factory
        return factory

    return keep
