"""The word *growth*: what comes back. Dead coordinates are scored and the best n revive, at the value zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .criterion import Gradient, Random, Stats
from .errors import InfeasibleBudget
from .pattern import Pattern, Unstructured
from .selection import count
from .word import Word


class Growth(Word):
    """``growth(mask, weight, stats, n)`` returns ``mask`` with ``n`` more ones."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        """How much each coordinate wants to live; only those that are dead are compared."""
        raise TypeError(f"{type(self).__name__} must define its scores")

    def __call__(
        self,
        mask: Tensor,
        weight: Tensor,
        stats: Stats,
        n: int,
        pattern: Pattern | None = None,
        *,
        relaxed: bool = False,
    ) -> Tensor:
        """The mask with exactly ``n`` more living coordinates, valid under ``pattern``.

        >>> import torch
        >>> mask = torch.tensor([True, False, False])
        >>> GrowGradient()(mask, torch.zeros(3), Stats(grad=torch.tensor([9., 1., -2.])), 1).tolist()
        [True, False, True]
        """
        if n < 0:
            raise InfeasibleBudget(f"cannot grow {n} coordinates; possible: 0 or more")
        if n == 0:
            return mask
        return (pattern or Unstructured()).project(
            self.scores(weight, stats), count(mask) + n, keep=mask, relaxed=relaxed
        )

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, repr=False)
class GrowNone(Growth):
    """Nothing comes back."""

    kind: ClassVar[str] = "none"

    def __call__(
        self,
        mask: Tensor,
        weight: Tensor,
        stats: Stats,
        n: int,
        pattern: Pattern | None = None,
        *,
        relaxed: bool = False,
    ) -> Tensor:
        return mask


@dataclass(frozen=True, repr=False)
class GrowRandom(Growth):
    """Uniformly at random (SET, arXiv 1707.04780)."""

    kind: ClassVar[str] = "random"

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        return Random()(weight, stats)


@dataclass(frozen=True, repr=False)
class GrowGradient(Growth):
    """Where |dL/dw| is largest (RigL, arXiv 1911.11134)."""

    kind: ClassVar[str] = "gradient"
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        return Gradient()(weight, stats)


@dataclass(frozen=True, repr=False)
class GrowMomentum(Growth):
    """Where the moving average of the dense gradient is largest (SNFS, arXiv 1907.04840)."""

    kind: ClassVar[str] = "momentum"
    needs: ClassVar[frozenset[str]] = frozenset({"momentum"})

    def scores(self, weight: Tensor, stats: Stats) -> Tensor:
        return stats.need("momentum", self.kind).abs()


@dataclass(frozen=True, repr=False)
class GrowScore(Growth):
    """Where the method's own criterion is highest; the share exchanged is that of the swaps which its ranking asks for.

    A share of 1 follows the ranking at once, a smaller one restricts the swaps of each step (arXiv 2104.08700).
    """

    kind: ClassVar[str] = "score"
