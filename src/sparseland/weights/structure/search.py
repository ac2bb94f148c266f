"""From scores and a budget to what stays: the fewest of the lowest-scored units go that bring the cost down to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import InfeasibleBudget, ScoreError, SparselandError, TargetError, nearest

if TYPE_CHECKING:
    from .graph import Graph

SCOPES = ("global", "layer")


def choose(
    graph: Graph,
    scores: Mapping[str, Tensor],
    budgets: Mapping[str, float | None],
    scope: str,
    round_to: int,
    min_units: int,
) -> dict[str, Tensor]:
    """{group: which units stay}: those with the lowest scores go until the budget holds."""
    asked = {name: share for name, share in budgets.items() if share is not None}
    if len(asked) != 1:
        raise SparselandError(f"give one of flops=, params= and ratio=; got {', '.join(asked) or 'none'}")
    ((what, share),) = asked.items()
    if not 0 < share <= 1:
        raise InfeasibleBudget(f"{what}={share!r} is the share that remains; possible: above 0, up to 1")
    if scope not in SCOPES:
        raise SparselandError(f"unknown scope {scope!r}: {nearest(scope, SCOPES)}")
    if round_to < 1 or min_units < 1:
        raise SparselandError(f"round_to and min_units are at least 1; got {round_to} and {min_units}")
    values = _checked(graph, scores)
    least = {name: _rounded(min(min_units, v.numel()), v.numel(), round_to) for name, v in values.items()}
    ranks = {name: v.argsort(stable=True).argsort() for name, v in values.items()}
    if what == "ratio" and scope == "layer":
        widths = {n: max(_rounded(round(v.numel() * share), v.numel(), round_to), least[n]) for n, v in values.items()}
        return {name: ranks[name] >= v.numel() - widths[name] for name, v in values.items()}
    names = list(values)
    ranked = [values[n].double() if scope == "global" else (ranks[n] + 1).double() / ranks[n].numel() for n in names]
    owner = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([v.numel() for v in ranked]))
    order = owner[torch.cat(ranked).sort(stable=True).indices] if names else owner

    def at(removed: int) -> dict[str, int]:
        gone = torch.bincount(order[:removed], minlength=len(names)).tolist()
        sizes = {n: v.numel() for n, v in values.items()}
        return {n: max(_rounded(sizes[n] - gone[i], sizes[n], round_to), least[n]) for i, n in enumerate(names)}

    removed = _fewest(graph, at, what, share, int(order.numel()))
    widths = at(removed)
    return {name: ranks[name] >= v.numel() - widths[name] for name, v in values.items()}


def _checked(graph: Graph, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    values = {}
    for name, given in scores.items():
        group, value = graph[name], torch.as_tensor(given).detach().cpu()
        if not group.prunable:
            raise TargetError(f"units of {name!r} cannot go: {group.why}")
        if value.shape != (group.size,):
            raise ScoreError(f"group {name!r} has {group.size} units; its scores have shape {tuple(value.shape)}")
        if not bool(torch.isfinite(value.double()).all()):
            raise ScoreError(f"scores of group {name!r} hold NaN or infinity")
        values[name] = value
    return values


def _rounded(width: int, size: int, to: int) -> int:
    """Up to the next multiple, at most the whole group."""
    return min(-(-width // to) * to, size)


def _fewest(graph: Graph, at: object, what: str, share: float, most: int) -> int:
    """The smallest number of removed units at which the cost is within the budget."""
    widths = at
    assert callable(widths)

    def cost(removed: int) -> int:
        if what == "ratio":
            return sum(widths(removed).values())
        result: int = getattr(graph, what)(widths(removed))
        return result

    whole = cost(0)
    target = share * whole
    if cost(most) > target * (1 + 1e-12):
        raise InfeasibleBudget(
            f"{what}={share:g} cannot be reached: with the fewest units {what} is {cost(most):,} of {whole:,} "
            f"({cost(most) / max(whole, 1):.1%}); lower min_units or round_to, or let more groups go"
        )
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if cost(middle) <= target * (1 + 1e-12):
            high = middle
        else:
            low = middle + 1
    return low
