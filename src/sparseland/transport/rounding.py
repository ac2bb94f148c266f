"""A plan that meets its marginals exactly, from one that nearly does."""

from __future__ import annotations

import torch
from torch import Tensor

from .problem import Problem, TransportError


def round_plan(plan: Tensor, a: Tensor, b: Tensor, *, fill: str = "outer") -> Tensor:
    """The nearby plan [..., n, m] >= 0 with row sums ``a`` [..., n] and column sums ``b`` [..., m].

        T' = diag(min(a / T1, 1)) T;  T'' = T' diag(min(b / T'^T 1, 1));  T'' + what is missing

    What is missing is put back as an outer product (dense: every entry may become > 0), or by the north-west corner
    rule (at most n + m - 1 entries more). **Either may exceed k non-zeros per column**: that is why no solver rounds
    unless it is asked to. <T, M> grows by at most 2 max|M| times the l1 error of the marginals (arXiv 1705.09634).

    Args:
        plan: [..., n, m], >= 0, dense.
        fill: "outer" or "corner".

    Raises:
        TransportError: an unknown ``fill``, a negative entry, or shapes and totals that do not fit.

    >>> plan = torch.tensor([[0.5, 0.0], [0.0, 0.4]], dtype=torch.float64)
    >>> a = b = torch.tensor([0.5, 0.5], dtype=torch.float64)
    >>> round_plan(plan, a, b).sum(-1).tolist()
    [0.5, 0.5]
    """
    if fill not in ("outer", "corner"):
        raise TransportError(f"fill is 'outer' or 'corner'; got {fill!r}")
    problem = Problem(a, b, plan)  # the same shapes, types and totals are asked of a plan as of a cost
    if bool((plan < 0).any()):
        raise TransportError(f"a plan has no negative entries; the lowest is {float(plan.min()):g}")
    a, b, plan = problem.a, problem.b, problem.M
    plan = plan * _shrink(a, plan.sum(-1))[..., None]
    plan = plan * _shrink(b, plan.sum(-2))[..., None, :]
    left, right = (a - plan.sum(-1)).clamp(min=0), (b - plan.sum(-2)).clamp(min=0)
    total = right.sum(-1, keepdim=True)
    if fill == "outer":
        return plan + left[..., None] * (right / torch.where(total > 0, total, 1))[..., None, :]
    return plan + _corner(left, right)


def _shrink(wanted: Tensor, held: Tensor) -> Tensor:
    return torch.where(held > wanted, wanted / torch.where(held > 0, held, 1), 1)


def _corner(left: Tensor, right: Tensor) -> Tensor:
    """North-west corner rule: the overlaps of the intervals that the two cumulated masses cut."""
    ends, stops = left.cumsum(-1), right.cumsum(-1)
    upper = torch.minimum(ends[..., :, None], stops[..., None, :])
    lower = torch.maximum((ends - left)[..., :, None], (stops - right)[..., None, :])
    return (upper - lower).clamp(min=0)
