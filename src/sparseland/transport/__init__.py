"""Sparse optimal transport: one front door, `solve`, and the solvers behind it.

    result = sl.transport.solve(a, b, M, reg=0.1, reg_type="sparsity_constrained", max_nz=4)
    result.plan, result.value, result.status

Names follow POT where POT has them. Everything is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "Problem": "problem",
    "OTResult": "result",
}

if TYPE_CHECKING:
    from .problem import Problem
    from .result import OTResult

__all__ = ["OTResult", "Problem"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'sparseland.transport' has no attribute {name!r}; possible: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
