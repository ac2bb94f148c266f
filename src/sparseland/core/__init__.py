"""The seven words: pattern, criterion, allocation, schedule, growth, flow and mask. They speak of any tensor.

Everything is loaded on first use: `sparseland.core.errors` needs no torch, and so neither does the engine's runtime.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

_NAMES = {
    **dict.fromkeys(
        ("ER", "ERK", "LAMP", "Allocation", "ERKPlus", "Global", "Ratios", "Uniform", "UniformPlus"), "allocation"
    ),
    **dict.fromkeys(
        (
            "SNIP",
            "Criterion",
            "Gradient",
            "GraSP",
            "Magnitude",
            "Movement",
            "Random",
            "Reversed",
            "Stats",
            "SynFlow",
            "Taylor",
        ),
        "criterion",
    ),
    **dict.fromkeys(
        (
            "SRSTE",
            "Bidirectional",
            "Fading",
            "Flow",
            "Frozen",
            "Hard",
            "Penalised",
            "Product",
            "Shrinking",
            "StraightThrough",
        ),
        "flow",
    ),
    **dict.fromkeys(("GrowGradient", "GrowMomentum", "GrowNone", "GrowRandom", "GrowScore", "Growth"), "growth"),
    **dict.fromkeys(("MaskSet",), "mask"),
    **dict.fromkeys(("NM", "Block", "Column", "Kernel", "Pattern", "Row", "Unstructured", "pattern"), "pattern"),
    **dict.fromkeys(
        ("Constant", "Cosine", "Cubic", "Linear", "MultiCycle", "OneShot", "Quartic", "Schedule", "Steps"), "schedule"
    ),
    **dict.fromkeys(("indices", "kept", "select", "select_many"), "selection"),
    **dict.fromkeys(("Word",), "word"),
}

if TYPE_CHECKING:
    from .allocation import ER, ERK, LAMP, Allocation, ERKPlus, Global, Ratios, Uniform, UniformPlus
    from .criterion import (
        SNIP,
        Criterion,
        Gradient,
        GraSP,
        Magnitude,
        Movement,
        Random,
        Reversed,
        Stats,
        SynFlow,
        Taylor,
    )
    from .flow import SRSTE, Bidirectional, Fading, Flow, Frozen, Hard, Penalised, Product, Shrinking, StraightThrough
    from .growth import GrowGradient, GrowMomentum, GrowNone, GrowRandom, GrowScore, Growth
    from .mask import MaskSet
    from .pattern import NM, Block, Column, Kernel, Pattern, Row, Unstructured, pattern
    from .schedule import Constant, Cosine, Cubic, Linear, MultiCycle, OneShot, Quartic, Schedule, Steps
    from .selection import indices, kept, select, select_many
    from .word import Word

__all__ = [
    "ER",
    "ERK",
    "LAMP",
    "NM",
    "SNIP",
    "SRSTE",
    "Allocation",
    "Bidirectional",
    "Block",
    "Column",
    "Constant",
    "Cosine",
    "Criterion",
    "Cubic",
    "ERKPlus",
    "Fading",
    "Flow",
    "Frozen",
    "Global",
    "GraSP",
    "Gradient",
    "GrowGradient",
    "GrowMomentum",
    "GrowNone",
    "GrowRandom",
    "GrowScore",
    "Growth",
    "Hard",
    "Kernel",
    "Linear",
    "Magnitude",
    "MaskSet",
    "Movement",
    "MultiCycle",
    "OneShot",
    "Pattern",
    "Penalised",
    "Product",
    "Quartic",
    "Random",
    "Ratios",
    "Reversed",
    "Row",
    "Schedule",
    "Shrinking",
    "Stats",
    "Steps",
    "StraightThrough",
    "SynFlow",
    "Taylor",
    "Uniform",
    "UniformPlus",
    "Unstructured",
    "Word",
    "indices",
    "kept",
    "pattern",
    "select",
    "select_many",
]


def _load() -> None:
    """All words at once: who asks for one has torch."""
    for name, module in _NAMES.items():
        globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        _load()
        return globals()[name]
    raise AttributeError(f"module 'sparseland.core' has no attribute {name!r}; possible: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)


class _Core(ModuleType):
    """Importing the module ``core.pattern`` would put it where the function of that name belongs."""

    @property
    def pattern(self) -> Any:
        _load()
        return globals()["pattern"]

    @pattern.setter
    def pattern(self, module: ModuleType) -> None:
        return


sys.modules[__name__].__class__ = _Core
