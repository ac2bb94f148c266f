"""Named methods, one file each: a factory returns the composition. ``build("granet", sparsity=0.9, end=1000)``.

Importing this package imports every file in it; ``@register`` puts the factory into `registry`.
"""

from __future__ import annotations

import inspect
from typing import Any

from ...core.errors import RecipeError, nearest
from ..method import Method
from ._registry import register, registry
from .dense import Dense
from .gmp import GMP
from .granet import GraNet
from .grasp import GraSP
from .imp import IMP, imp
from .lamp import LAMP
from .magnitude import Magnitude
from .movement import Movement
from .random_pruning import RandomPruning
from .rigl import RigL
from .set import SET
from .snip import SNIP
from .sr_ste import SRSTE
from .synflow import SynFlow

__all__ = [
    "GMP",
    "IMP",
    "LAMP",
    "SET",
    "SNIP",
    "SRSTE",
    "Dense",
    "GraNet",
    "GraSP",
    "Magnitude",
    "Movement",
    "RandomPruning",
    "RigL",
    "SynFlow",
    "build",
    "imp",
    "register",
    "registry",
]


def build(name: str, /, **hyper: Any) -> Method:
    """The method registered as ``name``, made with these hyperparameters; RecipeError names what exists.

    >>> build("rigl", sparsity=0.9, end=1000).target_sparsity
    0.9
    """
    if name not in registry:
        raise RecipeError(f"unknown method {name!r}: {nearest(name, registry)}")
    known = inspect.signature(registry[name]).parameters
    for key in hyper:
        if key not in known:
            raise RecipeError(f"method {name!r} has no hyperparameter {key!r}: {nearest(key, known)}")
    try:
        return registry[name](**hyper)
    except TypeError as error:
        raise RecipeError(f"method {name!r}: {error}; hyperparameters: {', '.join(known)}") from None
