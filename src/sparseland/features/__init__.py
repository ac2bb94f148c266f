"""Sparse codes of activations and of data: autoencoders and probabilistic sparse coding. Loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {
    "sae": "sae",
}
_NAMES = {
    **dict.fromkeys(("SAEConfig",), "sae.config"),
    **dict.fromkeys(("SparseAutoencoder",), "sae.model"),
    **dict.fromkeys(("TrainResult", "train"), "sae.train"),
    **dict.fromkeys(("load", "save"), "sae.saelens"),
}

if TYPE_CHECKING:
    from . import sae
    from .sae.config import SAEConfig
    from .sae.model import SparseAutoencoder
    from .sae.saelens import load, save
    from .sae.train import TrainResult, train

__all__ = [
    "SAEConfig",
    "SparseAutoencoder",
    "TrainResult",
    "load",
    "sae",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'sparseland.features' has no attribute {name!r}; possible: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
