"""The guards: each protects a comparison from one way of being unfair. `GUARDS` lists them by name.

>>> sorted(GUARDS)[:3], GUARDS["UnequalBudget"].level
(['AverageHides', 'CopiedNumber', 'CostScope'], 'refuse')
"""

from __future__ import annotations

from . import baselines, claims, fairness, outcomes
from .registry import GUARDS, Guard, find, guard

__all__ = ["GUARDS", "Guard", "baselines", "claims", "fairness", "find", "guard", "outcomes"]
