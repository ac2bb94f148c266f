"""Named methods, one file each: a factory returns the composition. ``build("granet", sparsity=0.9, end=1000)``.

Importing this package imports every file in it; ``@register`` puts the factory into `registry`.
"""

from __future__ import annotations

import inspect
from typing import Any

from ...core.errors import RecipeError, nearest
from ..method import Method
from ._registry import register, registry
from .bip import BiP, bip
from .dense import Dense
from .gmp import GMP
from .granet import GraNet
from .grasp import GraSP
from .greg import GReg
from .imp import IMP, imp
from .issp import ISSP
from .jackpots import Jackpots, jackpots
from .l1_then_prune import SparseThenPrune, sparse_then_prune
from .lamp import LAMP
from .magnitude import Magnitude
from .masksparsity import MaskSparsity, masksparsity
from .movement import Movement
from .precropping import PreCropping, precropping
from .random_pruning import RandomPruning
from .random_search import RandomSearch, random_search
from .reprune import RePrune, reprune
from .rigl import RigL
from .set import SET
from .slimming import GroupLasso, Slimming, group_lasso, slimming
from .sms import SMS, sms
from .snip import SNIP
from .sr_ste import SRSTE
from .synflow import SynFlow
from .turbo_vbi import TurboVBI, turbo_vbi

__all__ = [
    "GMP",
    "IMP",
    "ISSP",
    "LAMP",
    "SET",
    "SMS",
    "SNIP",
    "SRSTE",
    "BiP",
    "Dense",
    "GReg",
    "GraNet",
    "GraSP",
    "GroupLasso",
    "Jackpots",
    "Magnitude",
    "MaskSparsity",
    "Movement",
    "PreCropping",
    "RandomPruning",
    "RandomSearch",
    "RePrune",
    "RigL",
    "Slimming",
    "SparseThenPrune",
    "SynFlow",
    "TurboVBI",
    "bip",
    "build",
    "group_lasso",
    "imp",
    "jackpots",
    "masksparsity",
    "precropping",
    "random_search",
    "register",
    "registry",
    "reprune",
    "slimming",
    "sms",
    "sparse_then_prune",
    "turbo_vbi",
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
