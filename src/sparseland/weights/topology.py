"""One topology step on named tensors: prune to a budget, exchange a share. Pure functions; no modules, no optimizer.

SET, RigL, GraNet, gradual pruning, one-shot pruning and magnitude-ranked N:M masks are this step with other words.
All tensors are in the canonical layout (out, in, taps …) and whole (gathered), the same on every rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.criterion import Criterion, Stats
from ..core.growth import GrowNone, GrowScore
from ..core.selection import check_scores, count, kept

if TYPE_CHECKING:
    from .method import Method

Tensors = Mapping[str, Tensor]
Reduce = Callable[[Tensor], Tensor]


def scores_of(criterion: Criterion, weights: Tensors, stats: Mapping[str, Stats], reduce: Reduce) -> dict[str, Tensor]:
    """Finite scores of every tensor, averaged over ranks."""
    return {
        n: check_scores(reduce(_real(criterion(w, stats[n]))), f"{criterion} scores of {n!r}")
        for n, w in weights.items()
    }


def _real(scores: Tensor) -> Tensor:
    """Scores of half precision as float32; those of float64 stay (products of many weights leave float32's range)."""
    return scores if scores.dtype == torch.float64 else scores.float()


def prune_to(
    method: Method,
    weights: Tensors,
    masks: Tensors,
    stats: Mapping[str, Stats],
    sparsity: float,
    *,
    first: bool = False,
    total: int | None = None,
    reduce: Reduce = lambda t: t,
) -> dict[str, Tensor]:
    """Masks at ``sparsity`` over these tensors.

    Only what is alive competes unless dead coordinates still hold values (``flow.ranks_dead``). A budget above what is
    alive grows by the method's growth, and changes nothing if nothing may come back.

    Args:
        first: use the method's ``initial`` criterion and allocation (the mask at step 0).
        total: exact number of non-zeros, instead of the one ``sparsity`` gives.
    """
    criterion = (method.initial if first else None) or method.criterion
    allocation = (method.initial_allocation if first else None) or method.allocation
    pattern, relaxed = method.pattern, method.relaxed(sparsity)
    size, living = sum(w.numel() for w in weights.values()), sum(count(m) for m in masks.values())
    budget = kept(size, sparsity) if total is None else total
    limited = not method.flow.ranks_dead and living < size
    if limited and budget > living and isinstance(method.growth, GrowNone):
        return dict(masks)
    scores = scores_of(criterion, weights, stats, reduce)
    ranking = scores
    if getattr(allocation, "criterion", None) is not None:
        ranking = scores_of(allocation.criterion, weights, stats, reduce)  # type: ignore[attr-defined]
    room = {n: count(m) if relaxed else count(pattern.candidates(scores[n], m)) for n, m in masks.items()}  # type: ignore[arg-type]
    alive = masks if limited and budget <= sum(room.values()) else None
    shapes = {n: tuple(w.shape) for n, w in weights.items()}
    counts = allocation(shapes, sparsity, pattern=pattern, scores=ranking, relaxed=relaxed, total=budget, alive=alive)
    out = {}
    for n, mask in masks.items():
        if not limited:
            out[n] = pattern.project(scores[n], counts[n], relaxed=relaxed, name=n)
            continue
        out[n] = pattern.project(scores[n], min(counts[n], room[n]), among=mask, relaxed=relaxed, name=n)
        if counts[n] > room[n]:
            nothing = isinstance(method.growth, GrowNone)  # an N:M group ran short: fill it by score
            wishes = scores[n] if nothing else reduce(method.growth.scores(weights[n], stats[n]).float())
            out[n] = pattern.project(wishes, counts[n], keep=out[n], relaxed=relaxed, name=n)
    return out


def exchange(
    method: Method,
    weights: Tensors,
    masks: Tensors,
    stats: Mapping[str, Stats],
    share: float,
    *,
    relaxed: bool = False,
    reduce: Reduce = lambda t: t,
) -> dict[str, Tensor]:
    """Drop ceil(share * living atoms) of each tensor by the criterion and grow as many; counts do not change.

    A coordinate dropped and chosen again at once keeps its value. Growth "score" follows the criterion: the share is
    that of the swaps between the masks at hand and the highest scores.
    """
    out = {}
    for n, mask in masks.items():
        if isinstance(method.growth, GrowScore):
            out[n] = _towards(method, scores_of(method.criterion, {n: weights[n]}, stats, reduce)[n], mask, share, n)
            continue
        step, living = method.pattern.step(weights[n].shape), count(mask)
        atoms = Decimal(repr(float(share))) * (living // step)  # decimal: 0.07 of 100 is 7, not 7.000000000000001
        drop = min(math.ceil(atoms) * step, living)
        if drop == 0:
            out[n] = mask
            continue
        scores = scores_of(method.criterion, {n: weights[n]}, stats, reduce)[n]
        left = method.pattern.project(scores, living - drop, among=mask, relaxed=relaxed, name=n)
        wishes = reduce(method.growth.scores(weights[n], stats[n]).float())
        check_scores(wishes, f"{method.growth} growth scores of {n!r}")
        out[n] = method.pattern.project(wishes, living, keep=left, relaxed=relaxed, name=n)
    return out


def _towards(method: Method, scores: Tensor, mask: Tensor, share: float, name: str) -> Tensor:
    """The mask with ceil(share N) of the N swaps that lead to the highest scores; the clearest swaps first."""
    pattern, step, living = method.pattern, method.pattern.step(scores.shape), count(mask)
    wanted = pattern.project(scores, living, name=name)
    swaps = count(wanted & ~mask) // step
    allowed = math.ceil(Decimal(repr(float(share))) * swaps)
    if allowed >= swaps:
        return wanted
    left = pattern.project(scores, living - allowed * step, among=mask, name=name)
    return pattern.project(scores, living, keep=left, name=name)
