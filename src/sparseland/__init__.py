"""sparseland: sparsity for machine learning, end to end.

    sp = sl.methods.GraNet(sparsity=0.9, end=30_000).attach(model, optimizer)   # decide and train; the loop stays yours
    sp.finalize_()                                                               # plain modules, zeros in place

The seven words live in `core`, what trains in `weights`, named methods in `methods`. Everything is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "account": "account",
    "advisor": "advisor",
    "core": "core",
    "weights": "weights",
    "methods": "weights.methods",
    "data": "data",
    "zoo": "zoo",
    "train": "train",
    "recipes": "recipes",
    "reports": "reports",
    "deploy": "deploy",
    "testing": "testing",
    "papers": "papers",
    "pixels": "pixels",
    "features": "features",
    "transport": "transport",
}
_NAMES = {
    "prune_": "weights.oneshot",
    "keep_zeros": "weights.oneshot",
    "Method": "weights.method",
    "Sparsifier": "weights.sparsifier",
    "MaskSet": "core.mask",
    "pattern": "core.pattern",
    "select": "core.selection",
}

if TYPE_CHECKING:
    from . import (
        account,
        advisor,
        core,
        data,
        deploy,
        features,
        papers,
        pixels,
        recipes,
        reports,
        testing,
        train,
        transport,
        weights,
        zoo,
    )
    from .core.mask import MaskSet
    from .core.pattern import pattern
    from .core.selection import select
    from .weights import methods
    from .weights.method import Method
    from .weights.oneshot import keep_zeros, prune_
    from .weights.sparsifier import Sparsifier

__all__ = [
    "MaskSet",
    "Method",
    "Sparsifier",
    "account",
    "advisor",
    "core",
    "data",
    "deploy",
    "features",
    "keep_zeros",
    "methods",
    "papers",
    "pattern",
    "pixels",
    "prune_",
    "recipes",
    "reports",
    "select",
    "testing",
    "train",
    "transport",
    "weights",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'sparseland' has no attribute {name!r}; possible: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
