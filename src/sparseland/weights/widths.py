"""From densities of layers to channel counts: a narrower dense net with the parameters that a sparse one would have.

A net is a list of `Edge`s, weights from one group of channels to another. Channels that are added, or that pass a
depthwise convolution, share one *group*; ends that cannot change (the image, the classes) belong to none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.allocation import Allocation, Shapes
from ..core.errors import InfeasibleBudget, RecipeError, nearest

RULES = ("sqrt", "chain", "least-squares")
Widths = dict[str, int]


@dataclass(frozen=True)
class Edge:
    """A weight (out, in, taps): the groups of its outputs and inputs (None: fixed).

    depthwise: one input a channel, so that its size is linear in the width of the group, which others decide.
    """

    name: str
    out: str | None
    into: str | None
    depthwise: bool = False


def check_density(p: float, expand: bool = False) -> None:
    """Raise InfeasibleBudget unless p is in (0, 1], or > 0 where the net may grow."""
    if isinstance(p, bool) or not isinstance(p, int | float) or not p > 0 or (p > 1 and not expand):
        raise InfeasibleBudget(
            f"density {p!r}; possible: above 0, up to 1 (or more, with expand=True: channels may be added)"
        )


@dataclass(frozen=True, repr=False)
class EqualCount(Allocation):
    """Every tensor that is not full keeps the same number of weights: d_l = min(1, κ / n_l).

    It maximises Σ log d_l under Σ d_l n_l ≤ d Σ n_l. For a chain, the mean of SynFlow's objective over random weights
    and masks is proportional to Π d_l, so this is where SynFlow's densities go, without any score. For a budget of
    FLOPs give the FLOPs of the layers instead of their sizes.

    >>> EqualCount()({"a": (10,), "b": (10, 10), "c": (10, 100)}, 0.9)
    {'a': 10, 'b': 51, 'c': 50}
    """

    kind: ClassVar[str] = "equal-count"

    def raw(self, shapes: Shapes) -> dict[str, float]:
        return {n: 1 / math.prod(s) for n, s in shapes.items()}


def real_widths(
    edges: Sequence[Edge],
    sizes: Mapping[str, int],
    densities: Mapping[str, float],
    rule: str = "sqrt",
    *,
    ridge: float = 0.1,
) -> dict[str, float]:
    """Channel counts (not rounded) of every group, for these densities of the edges' weights.

    Equation: "sqrt": c = C √p, the mean of the logs over the layers that write to a group. "chain": c_l = p_l C_l
    C_{l-1} / c_{l-1}, front to back; it matches every count and oscillates. "least-squares": minimise
    Σ (log c_l + log c_{l-1} - log p_l C_l C_{l-1})² + ridge Σ (log c - log C √p)².

    Raises:
        RecipeError: an unknown rule.

    >>> edges = [Edge("fc1", "a", None), Edge("fc2", None, "a")]
    >>> real_widths(edges, {"a": 10}, {"fc1": 0.25, "fc2": 0.5})
    {'a': 5.0}
    """
    if rule not in RULES:
        raise RecipeError(f"widths by rule {rule!r}: {nearest(rule, RULES)}")
    writers = {g: [e for e in edges if e.out == g and not e.depthwise] for g in sizes}
    logs = {g: _mean([math.log(densities[e.name]) for e in es if e.name in densities]) for g, es in writers.items()}
    root = {g: sizes[g] * math.exp(logs[g] / 2) for g in sizes}
    if rule == "sqrt":
        return root
    if rule == "chain":
        return _chain(edges, sizes, densities)
    return _least_squares(edges, sizes, densities, root, ridge)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _chain(edges: Sequence[Edge], sizes: Mapping[str, int], densities: Mapping[str, float]) -> dict[str, float]:
    widths: dict[str, float] = {}
    for group in sizes:  # in network order
        wished = []
        for e in edges:
            if e.out != group or e.name not in densities:
                continue
            share = widths[e.into] / sizes[e.into] if e.into in widths and not e.depthwise else 1.0
            wished.append(math.log(sizes[group] * densities[e.name] / share))
        widths[group] = math.exp(_mean(wished)) if wished else float(sizes[group])
    return widths


def _least_squares(
    edges: Sequence[Edge],
    sizes: Mapping[str, int],
    densities: Mapping[str, float],
    root: Mapping[str, float],
    ridge: float,
) -> dict[str, float]:
    column = {g: i for i, g in enumerate(sizes)}
    rows, wished = [], []
    for e in edges:
        if e.name not in densities or (e.out is None and e.into is None):
            continue
        row = torch.zeros(len(column), dtype=torch.float64)
        for group in (e.out,) if e.depthwise else (e.out, e.into):
            if group is not None:
                row[column[group]] += 1
        rows.append(row)
        wished.append(math.log(densities[e.name]))
    pull = [math.log(root[g] / sizes[g]) for g in column]
    eye = ridge**0.5 * torch.eye(len(column), dtype=torch.float64)
    left = torch.cat([torch.stack(rows), eye]) if rows else eye
    right = torch.tensor([*wished, *(ridge**0.5 * v for v in pull)], dtype=torch.float64)
    solved = torch.linalg.lstsq(left, right[:, None]).solution[:, 0].tolist()
    return {g: sizes[g] * math.exp(solved[i]) for g, i in column.items()}


def fit_widths(
    wished: Mapping[str, float],
    sizes: Mapping[str, int],
    budget: float,
    cost: Callable[[Widths], int],
    *,
    least: int = 1,
    round_to: int | Mapping[str, int] = 1,
    expand: bool = False,
) -> Widths:
    """One factor on all wished widths, so that ``cost`` of the rounded ones comes as near to the budget as can be.

    After the bisection single groups are moved by one step while that brings the cost nearer.

    Parameters:
        cost: of whole widths, rising with each of them. least: smallest width. round_to: widths are multiples of it
            (of a group's own number where a mapping is given). expand: a width may pass its size.

    Raises:
        InfeasibleBudget: the narrowest net costs more than the budget; the message says how much.

    >>> fit_widths({"a": 3.0, "b": 30.0}, {"a": 10, "b": 100}, 550, lambda w: 5 * w["a"] + w["a"] * w["b"])
    {'a': 7, 'b': 74}
    """
    step = {g: round_to if isinstance(round_to, int) else round_to.get(g, 1) for g in sizes}
    floor = {g: min(max(1, -(-least // step[g])) * step[g], sizes[g]) for g in sizes}
    minimum = cost(floor)
    if minimum > budget:
        raise InfeasibleBudget(
            f"the narrowest net (at least {least} channels a layer) costs {minimum:,}; the budget is {round(budget):,}"
        )

    def whole(factor: float) -> Widths:
        out = {}
        for g, size in sizes.items():
            width = max(floor[g], round(factor * wished[g] / step[g]) * step[g])
            out[g] = width if expand else min(width, size)
        return out

    low, high = 0.0, 1.0
    while cost(whole(high)) < budget and high < 1e6:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(whole(middle)) <= budget else (low, middle)
    return _polish(whole(low), sizes, floor, step, budget, cost, expand)


def _polish(
    widths: Widths,
    sizes: Mapping[str, int],
    floor: Widths,
    step: Mapping[str, int],
    budget: float,
    cost: Callable[[Widths], int],
    expand: bool,
) -> Widths:
    """Move one group by one step while that brings the cost nearer to the budget (at most one step a group)."""
    best, moved = abs(cost(widths) - budget), set[str]()
    while best > 0:
        tries = {}
        for g in sizes.keys() - moved:
            for width in (widths[g] + step[g], widths[g] - step[g]):
                if floor[g] <= width and (expand or width <= sizes[g]):
                    tries[g, width] = abs(cost(widths | {g: width}) - budget)
        if not tries or min(tries.values()) >= best:
            break
        (g, width), best = min(tries.items(), key=lambda item: (item[1], item[0]))
        widths = widths | {g: width}
        moved.add(g)
    return widths
