"""Sparse optimal transport: one front door, `solve`, and the solvers behind it.

    result = sl.transport.solve(a, b, M, reg=0.1, reg_type="sparsity_constrained", max_nz=4)
    result.plan, result.value, result.status

Names follow POT where POT has them. What has the name of its file is imported here at once, the rest on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .sinkhorn import sinkhorn
from .solve import solve

_NAMES = {
    "Problem": "problem",
    "TransportError": "problem",
    "OTResult": "result",
    "KSparse": "regularisers",
    "NegEntropy": "regularisers",
    "SquaredL2": "regularisers",
    "project_sparse_simplex": "regularisers",
    "top_k_relu": "regularisers",
    "Routing": "router",
    "route": "router",
    "round_plan": "rounding",
    "smooth_ot": "solve",
    "SparseHessian": "hessian",
    "gaussian_problem": "problems",
    "grid_cost": "problems",
    "image_problem": "problems",
    "random_assignment": "problems",
    "sns": "newton",
    "sparsify": "hessian",
}

if TYPE_CHECKING:
    from .hessian import SparseHessian, sparsify
    from .newton import sns
    from .problem import Problem, TransportError
    from .problems import gaussian_problem, grid_cost, image_problem, random_assignment
    from .regularisers import KSparse, NegEntropy, SquaredL2, project_sparse_simplex, top_k_relu
    from .result import OTResult
    from .rounding import round_plan
    from .router import Routing, route
    from .solve import smooth_ot

__all__ = [
    "KSparse",
    "NegEntropy",
    "OTResult",
    "Problem",
    "Routing",
    "SparseHessian",
    "SquaredL2",
    "TransportError",
    "gaussian_problem",
    "grid_cost",
    "image_problem",
    "project_sparse_simplex",
    "random_assignment",
    "round_plan",
    "route",
    "sinkhorn",
    "smooth_ot",
    "sns",
    "solve",
    "sparsify",
    "top_k_relu",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'sparseland.transport' has no attribute {name!r}; possible: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
