"""Sparse codes of activations and of data: autoencoders and probabilistic sparse coding. Loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {
    "activations": "activations",
    "attribution": "attribution",
    "dashboard": "dashboard",
    "metrics": "metrics",
    "splice": "splice",
    "steering": "steering",
    "prosper": "prosper",
    "sae": "sae",
}
_NAMES = {
    **dict.fromkeys(("BSC", "DSC", "GSC", "MCA", "MMCA", "TSC"), "prosper"),
    **dict.fromkeys(("SAEConfig",), "sae.config"),
    **dict.fromkeys(("SparseAutoencoder",), "sae.model"),
    **dict.fromkeys(("TrainResult", "train"), "sae.train"),
    **dict.fromkeys(("load", "save"), "sae.saelens"),
    **dict.fromkeys(("ActivationStream", "ModelActivations", "StoredActivations", "store"), "activations"),
    **dict.fromkeys(("activation_gradients",), "activations.gradients"),
    **dict.fromkeys(("Metrics", "evaluate"), "metrics"),
    **dict.fromkeys(("output_similarity", "recovered"), "splice"),
    **dict.fromkeys(("logit_influence", "steer"), "steering"),
    **dict.fromkeys(("attribute", "faithfulness"), "attribution"),
    **dict.fromkeys(("write_dashboard",), "dashboard"),
}

if TYPE_CHECKING:
    from . import activations, attribution, dashboard, metrics, prosper, sae, splice, steering
    from .activations import ActivationStream, ModelActivations, StoredActivations, activation_gradients, store
    from .attribution import attribute, faithfulness
    from .dashboard import write_dashboard
    from .metrics import Metrics, evaluate
    from .prosper import BSC, DSC, GSC, MCA, MMCA, TSC
    from .sae.config import SAEConfig
    from .sae.model import SparseAutoencoder
    from .sae.saelens import load, save
    from .sae.train import TrainResult, train
    from .splice import output_similarity, recovered
    from .steering import logit_influence, steer

__all__ = [
    "BSC",
    "DSC",
    "GSC",
    "MCA",
    "MMCA",
    "TSC",
    "ActivationStream",
    "Metrics",
    "ModelActivations",
    "SAEConfig",
    "SparseAutoencoder",
    "StoredActivations",
    "TrainResult",
    "activation_gradients",
    "activations",
    "attribute",
    "attribution",
    "dashboard",
    "evaluate",
    "faithfulness",
    "load",
    "logit_influence",
    "metrics",
    "output_similarity",
    "prosper",
    "recovered",
    "sae",
    "save",
    "splice",
    "steer",
    "steering",
    "store",
    "train",
    "write_dashboard",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'sparseland.features' has no attribute {name!r}; possible: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
