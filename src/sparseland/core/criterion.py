"""The word *criterion*: what a coordinate is worth. Higher scores are kept.

A criterion is a pure function ``(weight, stats) -> scores`` of the weight's shape. What it needs beyond the weight is
listed in ``needs`` and stands in `Stats`; whoever owns the model (``weights/statistics``) fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .errors import ScoreError
from .word import Word


@dataclass
class Stats:
    """What is known about one tensor when it is scored; all tensors have its shape.

    grad: dL/dw of the current batch(es). hessian_grad: H g. synflow: dR/d|w| with R = 1^T (prod |W|) 1.
    movement: accumulated -w g. taylor: accumulated (w g)^2. momentum: moving average of the dense gradient.
    score, velocity: trained scores of the weights and their momentum.
    generator: a CPU generator shared by all ranks.
    """

    grad: Tensor | None = None
    hessian_grad: Tensor | None = None
    synflow: Tensor | None = None
    movement: Tensor | None = None
    taylor: Tensor | None = None
    momentum: Tensor | None = None
    score: Tensor | None = None
    velocity: Tensor | None = None
    generator: torch.Generator | None = None

    def need(self, name: str, who: str) -> Tensor:
        """The statistic ``name``, or a ScoreError that says who wanted it."""
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ScoreError(f"{who} needs the statistic {name!r}, which was not measured (no backward pass yet?)")
        return value


class Criterion(Word):
    """``criterion(weight, stats)`` returns scores of the weight's shape; see `needs` for the statistics it reads."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        """Scores (higher = keep) with the shape of ``weight``."""
        raise TypeError(f"{type(self).__name__} must define its scores")

    def requires(self) -> frozenset[str]:
        """Statistics needed, those of inner criteria included."""
        return self.needs

    def resolve(self, steps: int | None) -> Criterion:
        """Turn fractions of the run into steps."""
        return self

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, repr=False)
class Magnitude(Criterion):
    """|w|.

    >>> Magnitude()(torch.tensor([-2., 1.]), Stats()).tolist()
    [2.0, 1.0]
    """

    kind: ClassVar[str] = "magnitude"

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return weight.abs()


@dataclass(frozen=True, repr=False)
class Random(Criterion):
    """Uniform in [0, 1) from the shared generator: the control every other criterion must beat (arXiv 2202.02643)."""

    kind: ClassVar[str] = "random"

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        if stats.generator is None:
            raise ScoreError("random scores need a generator, so that every rank and every resume draws the same")
        return torch.rand(weight.shape, generator=stats.generator).to(weight.device)


@dataclass(frozen=True, repr=False)
class Gradient(Criterion):
    """|dL/dw|: how fast the loss reacts to the coordinate."""

    kind: ClassVar[str] = "gradient"
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return stats.need("grad", self.kind).abs()


@dataclass(frozen=True, repr=False)
class SNIP(Criterion):
    """|w dL/dw|: connection sensitivity (arXiv 1810.02340).

    >>> SNIP()(torch.tensor([2., 1.]), Stats(grad=torch.tensor([-1., 3.]))).tolist()
    [2.0, 3.0]
    """

    kind: ClassVar[str] = "snip"
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return (weight * stats.need("grad", self.kind)).abs()


@dataclass(frozen=True, repr=False)
class GraSP(Criterion):
    """w (Hg): removing w changes the gradient norm g^T g by -2 w Hg; what feeds the gradient most stays (2002.07376).

    The paper removes the highest -w Hg, so its negative is the keep-score here.
    """

    kind: ClassVar[str] = "grasp"
    needs: ClassVar[frozenset[str]] = frozenset({"hessian_grad"})

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return weight * stats.need("hessian_grad", self.kind)


@dataclass(frozen=True, repr=False)
class SynFlow(Criterion):
    """|w| dR/d|w| with R = 1^T (prod |W_l|) 1: synaptic flow, without data (arXiv 2006.05467)."""

    kind: ClassVar[str] = "synflow"
    needs: ClassVar[frozenset[str]] = frozenset({"synflow"})

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return weight.abs() * stats.need("synflow", self.kind).abs()


@dataclass(frozen=True, repr=False)
class Movement(Criterion):
    """-sum_t w_t g_t: weights that move away from zero stay (arXiv 2005.07683)."""

    kind: ClassVar[str] = "movement"
    needs: ClassVar[frozenset[str]] = frozenset({"movement"})

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return stats.need("movement", self.kind)


@dataclass(frozen=True, repr=False)
class Taylor(Criterion):
    """sum_t (w_t g_t)^2: squared first-order change of the loss (arXiv 1906.10771, single parameters)."""

    kind: ClassVar[str] = "taylor"
    needs: ClassVar[frozenset[str]] = frozenset({"taylor"})

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return stats.need("taylor", self.kind)


@dataclass(frozen=True, repr=False)
class Reversed(Criterion):
    """The opposite of another criterion: a cheap control (if it does as well, the criterion did nothing)."""

    kind: ClassVar[str] = "reversed"
    of: Criterion = field(default_factory=Magnitude)

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", Criterion.from_dict(self.of))

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        return -self.of(weight, stats)

    def requires(self) -> frozenset[str]:
        return self.of.requires()

    def __str__(self) -> str:
        return f"reversed {self.of}"
