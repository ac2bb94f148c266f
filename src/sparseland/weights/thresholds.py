"""Counts that follow from the scores alone, and one answer out of several layers' wishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.allocation import Allocation, Shapes
from ..core.errors import MaskMismatch, RecipeError, nearest
from ..core.pattern import Pattern, Unstructured

VOTES = ("vote", "and", "or", "majority")


class Thresholded(Allocation):
    """The scores of each tensor say how many survive in it; the sparsity is what comes out, not what goes in.

    At least one atom of the pattern survives in each tensor (the best one), and no more than it can hold.
    """

    scored: ClassVar[bool] = True

    def survivors(self, scores: Tensor) -> int:
        """How many of these scores (any shape, ≥ 0) are kept."""
        raise TypeError(f"{type(self).__name__} must say how many survive")

    def __call__(
        self,
        shapes: Shapes,
        sparsity: float,
        *,
        pattern: Pattern | None = None,
        scores: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> dict[str, int]:
        if scores is None:
            raise RecipeError(f"allocation {self} reads scores, but none were given")
        pattern = pattern or Unstructured()
        return {
            n: max(pattern.step(shape), pattern.reachable(shape, self.survivors(scores[n])))
            for n, shape in shapes.items()
        }


@dataclass(frozen=True, repr=False)
class Above(Thresholded):
    """Keep what scores above ``threshold``, tensor by tensor.

    >>> Above(0.01)({"bn": (3,)}, 0.5, scores={"bn": torch.tensor([0.5, 0.001, 0.02])})
    {'bn': 2}
    """

    kind: ClassVar[str] = "above"
    threshold: float = 0.01

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise RecipeError(f"above.threshold is {self.threshold!r}; possible: a number ≥ 0")

    def survivors(self, scores: Tensor) -> int:
        return int((scores > self.threshold).sum())


@dataclass(frozen=True, repr=False)
class Energy(Thresholded):
    """Drop the smallest scores that together hold no more than the share ``drop`` of Σ s² ("optimal thresholding").

    Equation: with s ascending, τ = midpoint of the two neighbours at which Σ_{j ≤ i} s_j² / Σ s² first exceeds
    ``drop``; keep s > τ (arXiv 2201.06776's code). If the largest score is below ``dead``, one of them survives.

    >>> s = torch.tensor([1.0, 0.001, 0.9, 0.002])
    >>> round(Energy().threshold(s), 4), Energy()({"bn": (4,)}, 0.5, scores={"bn": s})
    (0.451, {'bn': 2})
    """

    kind: ClassVar[str] = "energy"
    drop: float = 1e-4
    dead: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.drop < 1 or not self.dead >= 0:
            raise RecipeError(f"energy.drop is {self.drop!r} (possible: in (0, 1)), dead {self.dead!r} (a number ≥ 0)")

    def threshold(self, scores: Tensor) -> float:
        """τ; infinite where nothing is worth keeping, below zero where all is."""
        s = scores.detach().double().abs().flatten().sort().values
        if float(s[-1]) < self.dead:
            return float("inf")
        first = int(((s**2).cumsum(0) / (s**2).sum() > self.drop).nonzero()[0])
        return -1.0 if first == 0 else float(s[first - 1].float() + s[first].float()) / 2

    def survivors(self, scores: Tensor) -> int:
        return int((scores > self.threshold(scores)).sum())


def merge_votes(keeps: Sequence[Tensor], rule: str = "vote") -> Tensor:
    """One keep-mask for layers whose channels are added, out of the masks that each of them wishes.

    Equation: v_i = number of layers that want channel i gone. "vote" removes {i: v_i ≥ q} for the largest q that
    removes at least as many channels as the most modest layer wants (arXiv 2201.06776's code; where layers disagree
    that may be many more); "and" removes v_i = all, "or" v_i ≥ 1, "majority" v_i > half.

    Parameters:
        keeps: bool tensors (channels,), True = keep, of one length.

    Raises:
        MaskMismatch: not bool, or of several lengths. RecipeError: an unknown rule.

    >>> a, b = torch.tensor([True, False, False, True]), torch.tensor([True, False, True, False])
    >>> merge_votes([a, b]).tolist(), merge_votes([a, b], "and").tolist(), merge_votes([a, b], "or").tolist()
    ([True, False, False, False], [True, False, True, True], [True, False, False, False])
    """
    if rule not in VOTES:
        raise RecipeError(f"votes are merged by {rule!r}: {nearest(rule, VOTES)}")
    lengths = sorted({len(k) for k in keeps})
    if len(lengths) != 1 or any(k.dtype != torch.bool or k.ndim != 1 for k in keeps):
        kinds = sorted({str(k.dtype) for k in keeps})
        raise MaskMismatch(f"votes are bool tensors of one length; got lengths {lengths} and {', '.join(kinds)}")
    wishes = torch.stack([~k for k in keeps])  # (layers, channels)
    votes, layers = wishes.sum(0), len(keeps)
    if rule == "vote":
        modest = int(wishes.sum(1).min())
        needed = next(q for q in range(layers, -1, -1) if int((votes >= q).sum()) >= modest) if modest else layers
        return votes < needed
    return votes < {"and": layers, "or": 1, "majority": layers // 2 + 1}[rule]
