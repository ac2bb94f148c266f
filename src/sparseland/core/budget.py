"""Exact integer budgets over several tensors: bounds, proportional shares, global rankings, and the last few units.

With atoms of one coordinate every total is reached. With larger atoms the total is a sum of atom sizes; `settle` finds
the fewest atoms to add or take away that bring it exactly to the budget, or as near as the sizes allow.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InfeasibleBudget
from .pattern import Pattern
from .selection import count, select_many

Shapes = Mapping[str, Sequence[int]]
SEARCH = 200_000  # residuals looked at before settling for the nearest


@dataclass
class Bounds:
    """Per tensor: smallest and largest count, and the size of an atom."""

    low: dict[str, int]
    high: dict[str, int]
    step: dict[str, int]
    relaxed: bool = False
    alive: Mapping[str, Tensor] | None = None

    @classmethod
    def of(
        cls, shapes: Shapes, pattern: Pattern, relaxed: bool = False, alive: Mapping[str, Tensor] | None = None
    ) -> Bounds:
        """Bounds that a pattern and the living coordinates put on tensors of these shapes."""
        step = {n: pattern.step(s) for n, s in shapes.items()}
        high = {n: math.prod(s) if relaxed else pattern.capacity(s) for n, s in shapes.items()}
        if alive is not None:
            high = {n: min(h, count(alive[n])) for n, h in high.items()}
        return cls({n: min(step[n], high[n]) for n in shapes}, high, step, relaxed, alive)

    def check(self, budget: int, who: str, pattern: Pattern) -> None:
        """Raise InfeasibleBudget if the tensors cannot hold ``budget`` non-zeros."""
        least, most = sum(self.low.values()), sum(self.high.values())
        if budget > most:
            raise InfeasibleBudget(
                f"{who} asks for {budget:,} non-zeros; pattern {pattern} keeps at most {most:,} (raise the sparsity)"
            )
        if budget < least:
            raise InfeasibleBudget(
                f"{who} asks for {budget:,} non-zeros, but {len(self.low)} tensors must keep at least one atom each: "
                f"{least:,} (lower the sparsity, or ignore some tensors)"
            )


def waterfill(shapes: Shapes, raw: Mapping[str, float], budget: int, bounds: Bounds) -> dict[str, int]:
    """Counts for densities min(cap, eps * raw), eps solved so that they fill the budget (the dense-layer fix-point).

    >>> from sparseland.core import Unstructured
    >>> shapes = {"a": (2, 2), "b": (10, 10)}
    >>> waterfill(shapes, {"a": 9.0, "b": 1.0}, 24, Bounds.of(shapes, Unstructured()))
    {'a': 4, 'b': 20}
    """
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    full: set[str] = set()
    while True:
        free = [n for n in shapes if n not in full]
        left = budget - sum(bounds.high[n] for n in full)
        weight = sum(raw[n] * sizes[n] for n in free)
        eps = left / weight if weight > 0 else 0.0
        over = {n for n in free if eps * raw[n] * sizes[n] > bounds.high[n]}
        if not over:
            break
        full |= over
    wanted = {n: float(bounds.high[n]) if n in full else eps * raw[n] * sizes[n] for n in shapes}
    return apportion(wanted, budget, bounds)


def apportion(wanted: Mapping[str, float], budget: int, bounds: Bounds) -> dict[str, int]:
    """Round counts to multiples of each atom inside the bounds, adding up to the budget (largest remainders first).

    >>> from sparseland.core import Unstructured
    >>> apportion({"a": 1.5, "b": 2.5}, 4, Bounds.of({"a": (4,), "b": (4,)}, Unstructured()))
    {'a': 2, 'b': 2}
    """
    low, high, step = bounds.low, bounds.high, bounds.step
    counts = {n: min(max(int(w // step[n]) * step[n], low[n]), high[n]) for n, w in wanted.items()}
    return settle(counts, budget, bounds, lambda n, sign: sign * (wanted[n] - counts[n]) / step[n])


def settle(counts: dict[str, int], budget: int, bounds: Bounds, desire: Callable[[str, int], float]) -> dict[str, int]:
    """Add (sign +1) or take away (-1) as few atoms as bring the sum to ``budget``, the most desired first; in place.

    >>> bounds = Bounds({"a": 4, "b": 6}, {"a": 40, "b": 60}, {"a": 4, "b": 6})
    >>> settle({"a": 8, "b": 12}, 22, bounds, lambda name, sign: 0.0)  # 2 more: one atom of 6 in, one of 4 out
    {'a': 4, 'b': 18}
    """
    step = bounds.step

    def move(size: int, sign: int, only: bool) -> bool:
        able = [n for n in counts if _room(counts, bounds, n, sign) and (step[n] == size or not only)]
        if able:
            best = max(able, key=lambda n: desire(n, sign))  # the first of equals
            counts[best] += sign * step[best]
        return bool(able)

    while abs(rest := budget - sum(counts.values())) >= 2 * max(step.values()):  # any atom brings it nearer
        if not move(0, 1 if rest > 0 else -1, only=False):
            return counts
    for size in _way(budget - sum(counts.values()), counts, bounds):
        move(abs(size), 1 if size > 0 else -1, only=True)
    return counts


def _room(counts: Mapping[str, int], bounds: Bounds, name: str, sign: int) -> int:
    """How many atoms can be added to (or taken from) a tensor."""
    left = bounds.high[name] - counts[name] if sign > 0 else counts[name] - bounds.low[name]
    return max(left, 0) // bounds.step[name]


def _way(rest: int, counts: Mapping[str, int], bounds: Bounds) -> list[int]:
    """The fewest signed atom sizes that add up to ``rest``, or to what is nearest to it."""
    free = {
        sign * size: sum(_room(counts, bounds, n, sign) for n in counts if bounds.step[n] == size)
        for size in sorted(set(bounds.step.values()), reverse=True)
        for sign in (1, -1)
    }
    came: dict[int, tuple[int, ...]] = {rest: ()}
    queue, nearest = deque([rest]), rest
    while queue and nearest and len(came) < SEARCH:
        here = queue.popleft()
        if abs(here) < abs(nearest):
            nearest = here
        for move, room in free.items():
            there = here - move
            if abs(there) <= 2 * max(bounds.step.values()) and there not in came and came[here].count(move) < room:
                came[there] = (*came[here], move)
                queue.append(there)
    return list(came[nearest])


def global_counts(scores: Mapping[str, Tensor], budget: int, pattern: Pattern, bounds: Bounds) -> dict[str, int]:
    """Counts per tensor when all atoms compete in one ranking (each tensor's best atom is safe)."""
    ranked, among = {}, {}
    for name, values in scores.items():
        alive = None if bounds.alive is None else bounds.alive[name]
        allowed = alive if bounds.relaxed else pattern.candidates(values.detach(), alive)
        pooled = pattern.pool(values.detach())
        pooled = pooled.to(pooled.dtype if pooled.is_floating_point() else torch.float64, copy=True).contiguous()
        allowed = torch.ones_like(pooled, dtype=torch.bool) if allowed is None else pattern.pool(allowed) == 1
        if bool(allowed.any()):
            pooled.view(-1)[pooled.masked_fill(~allowed, -torch.inf).argmax()] = torch.inf
        ranked[name], among[name] = pooled.masked_fill(~allowed, -torch.inf), allowed
    if len(set(bounds.step.values())) == 1:
        step = next(iter(bounds.step.values()))
        masks = select_many(ranked, budget // step, among=among, checked=True)
        return {n: count(m) * step for n, m in masks.items()}
    return _mixed_counts(ranked, budget, bounds)


def _mixed_counts(ranked: Mapping[str, Tensor], budget: int, bounds: Bounds) -> dict[str, int]:
    """Atoms of different sizes: the best-scoring prefix that fits, then `settle` by score."""
    ordered = {n: s.reshape(-1).cpu().sort(descending=True, stable=True).values for n, s in ranked.items()}
    names = list(ranked)
    owner = torch.cat([torch.full((ordered[n].numel(),), i) for i, n in enumerate(names)])
    sizes = torch.tensor([bounds.step[n] for n in names])[owner]
    order = torch.cat([ordered[n] for n in names]).sort(descending=True, stable=True).indices
    prefix = count(sizes[order].cumsum(0) <= budget)
    taken = torch.bincount(owner[order[:prefix]], minlength=len(names))
    counts = {n: int(taken[i]) * bounds.step[n] for i, n in enumerate(names)}

    def desire(name: str, sign: int) -> float:
        atom = counts[name] // bounds.step[name] - (sign < 0)  # the next one to come, or the last one taken
        return sign * float(ordered[name][atom])

    return settle(counts, budget, bounds, desire)
