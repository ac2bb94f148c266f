"""The word *allocation*: how many survive where. Budgets are exact integers.

``allocation(shapes, sparsity, pattern=…, scores=…)`` returns {name: number of non-zeros}. With patterns whose atoms are
single coordinates the counts add up to exactly `kept(total, sparsity)`; with larger atoms they are multiples of each
tensor's atom and their sum is as near as those multiples allow. Every tensor keeps at least one atom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .budget import Bounds, global_counts, waterfill
from .criterion import Criterion, Magnitude
from .errors import InfeasibleBudget, TargetError, nearest
from .pattern import Pattern, Unstructured
from .selection import kept
from .word import Word

Shapes = Mapping[str, Sequence[int]]


class Allocation(Word):
    """Divides one budget over named tensors. ``scored``: by ranking scores (of the method or of its ``criterion``)."""

    scored: ClassVar[bool] = False

    def __call__(
        self,
        shapes: Shapes,
        sparsity: float,
        *,
        pattern: Pattern | None = None,
        scores: Mapping[str, Tensor] | None = None,
        relaxed: bool = False,
        total: int | None = None,
        alive: Mapping[str, Tensor] | None = None,
    ) -> dict[str, int]:
        """Counts per tensor.

        Args:
            shapes: {name: (out, in, taps …)}, in network order.
            sparsity: overall fraction of zeros in [0, 1).
            pattern: bounds each tensor by its capacity and makes counts multiples of its atom.
            scores: {name: scores}; needed when ``scored``.
            relaxed: allow counts above an N:M capacity (a gradual schedule on its way).
            total: the exact number of non-zeros to divide instead of ``kept(sum of sizes, sparsity)``.
            alive: {name: bool mask}; only these coordinates may live on (nothing comes back).

        Raises:
            InfeasibleBudget: the budget lies outside what the tensors can hold.

        >>> Uniform()({"a": (10, 10), "b": (10, 30)}, 0.9)
        {'a': 10, 'b': 30}
        """
        pattern = pattern or Unstructured()
        if not shapes:
            raise TargetError("there is nothing to allocate a budget to: no tensors were given")
        for name, shape in shapes.items():
            pattern.check_shape(shape, name)
        budget = kept(sum(math.prod(s) for s in shapes.values()), sparsity) if total is None else total
        bounds = Bounds.of(shapes, pattern, relaxed, alive)
        bounds.check(budget, f"{self} at sparsity {sparsity:g}", pattern)
        if self.scored:
            if scores is None:
                raise InfeasibleBudget(f"allocation {self} ranks scores over all tensors, but no scores were given")
            return self._by_scores(scores, budget, pattern, bounds)
        return self._by_shapes(shapes, budget, bounds)

    def check(self, shapes: Shapes, sparsity: float, pattern: Pattern, *, total: int | None = None) -> None:
        """Raise, without any scores, what allocating this budget would raise."""
        if not self.scored:
            self(shapes, sparsity, pattern=pattern, total=total)
            return
        for name, shape in shapes.items():
            pattern.check_shape(shape, name)
        budget = kept(sum(math.prod(s) for s in shapes.values()), sparsity) if total is None else total
        Bounds.of(shapes, pattern).check(budget, f"{self} at sparsity {sparsity:g}", pattern)

    def _by_shapes(self, shapes: Shapes, budget: int, bounds: Bounds) -> dict[str, int]:
        return waterfill(shapes, self.raw(shapes), budget, bounds)

    def raw(self, shapes: Shapes) -> dict[str, float]:
        """Relative densities before scaling to the budget."""
        raise TypeError(f"{type(self).__name__} must define its densities")

    def _by_scores(self, scores: Mapping[str, Tensor], budget: int, pattern: Pattern, bounds: Bounds) -> dict[str, int]:
        return global_counts(scores, budget, pattern, bounds)

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, repr=False)
class Uniform(Allocation):
    """The same density everywhere: d_l = d."""

    kind: ClassVar[str] = "uniform"

    def raw(self, shapes: Shapes) -> dict[str, float]:
        return dict.fromkeys(shapes, 1.0)


@dataclass(frozen=True, repr=False)
class ER(Allocation):
    """Erdős–Rényi: d_l ~ ((out + in) / (out * in))^power, kernel taps ignored (SET, arXiv 1707.04780)."""

    kind: ClassVar[str] = "er"
    power: float = 1.0

    def raw(self, shapes: Shapes) -> dict[str, float]:
        return {n: (sum(s[:2]) / math.prod(s[:2])) ** self.power for n, s in shapes.items()}


@dataclass(frozen=True, repr=False)
class ERK(Allocation):
    """Erdős–Rényi kernel: d_l ~ (sum of all sides / product of all sides)^power (RigL, arXiv 1911.11134).

    Layers whose density would pass 1 are dense and the rest is solved again. Equal to ER on matrices; tensors with
    more than four axes use all of them.

    >>> ERK()({"conv": (16, 3, 3, 3), "fc": (100, 100)}, 0.9)
    {'conv': 116, 'fc': 927}
    """

    kind: ClassVar[str] = "erk"
    power: float = 1.0

    def raw(self, shapes: Shapes) -> dict[str, float]:
        return {n: (sum(s) / math.prod(s)) ** self.power for n, s in shapes.items()}


class _Protected(Allocation):
    """Allocations that fix some tensors first and divide what is left by an inner rule."""

    inner: ClassVar[Allocation]

    def fixed(self, shapes: Shapes, budget: int) -> dict[str, float]:
        """{name: density} of the protected tensors."""
        raise TypeError(f"{type(self).__name__} must name what it protects")

    def _by_shapes(self, shapes: Shapes, budget: int, bounds: Bounds) -> dict[str, int]:
        density = self.fixed(shapes, budget)
        counts = {}
        for n, d in density.items():
            step = bounds.step[n]
            counts[n] = min(max(round(d * math.prod(shapes[n]) / step) * step, bounds.low[n]), bounds.high[n])
        rest = {n: s for n, s in shapes.items() if n not in counts}
        left = budget - sum(counts.values())
        spare = left - sum(bounds.high[n] for n in rest)  # more than the rest can hold: the protected ones take it
        for n in counts if spare > 0 else ():
            more = min(spare, bounds.high[n] - counts[n])
            counts[n], spare, left = counts[n] + more, spare - more, left - more
        least = sum(bounds.low[n] for n in rest)
        if left < least or (rest and left <= 0):
            raise InfeasibleBudget(
                f"{self} keeps {', '.join(f'{n!r} ({c:,})' for n, c in counts.items())} out of a budget of "
                f"{budget:,}; the other {len(rest)} tensors would get {left:,} and need at least {least:,} "
                f"(lower the sparsity, or use 'erk' or 'uniform')"
            )
        if rest:
            counts |= waterfill(rest, self.inner.raw(rest), left, bounds)
        return {n: counts[n] for n in shapes}


def _named(name: str | None, shapes: Shapes, default: int, who: str) -> str:
    names = list(shapes)
    if name is None:
        return names[default]
    if name not in shapes:
        raise TargetError(f"{who}: no tensor {name!r}; {nearest(name, names)}")
    return name


@dataclass(frozen=True, repr=False)
class UniformPlus(_Protected):
    """uniform+: first tensor dense, last at max(d, last_density), the rest at one density (arXiv 2202.02643)."""

    kind: ClassVar[str] = "uniform+"
    first: str | None = None
    last: str | None = None
    last_density: float = 0.2
    inner: ClassVar[Allocation] = Uniform()

    def fixed(self, shapes: Shapes, budget: int) -> dict[str, float]:
        overall = budget / sum(math.prod(s) for s in shapes.values())
        first, last = _named(self.first, shapes, 0, self.kind), _named(self.last, shapes, -1, self.kind)
        return {last: max(overall, self.last_density)} | {first: 1.0}


@dataclass(frozen=True, repr=False)
class ERKPlus(_Protected):
    """ERK+: one tensor (default: the last, the classifier) at a fixed density, ERK on the rest (arXiv 2202.02643)."""

    kind: ClassVar[str] = "erk+"
    layer: str | None = None
    density: float = 1.0
    inner: ClassVar[Allocation] = ERK()

    def fixed(self, shapes: Shapes, budget: int) -> dict[str, float]:
        return {_named(self.layer, shapes, -1, self.kind): self.density}


@dataclass(frozen=True, repr=False)
class Global(Allocation):
    """One ranking over all tensors: each keeps what scores above the common threshold."""

    kind: ClassVar[str] = "global"
    scored: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class LAMP(Allocation):
    """Layer-adaptive magnitudes: s_u = w_u^2 / sum_{v: |w_v| >= |w_u|} w_v^2, ranked globally (arXiv 2010.07611).

    The squared scores of the method's criterion stand for w^2.
    """

    kind: ClassVar[str] = "lamp"
    scored: ClassVar[bool] = True

    def _by_scores(self, scores: Mapping[str, Tensor], budget: int, pattern: Pattern, bounds: Bounds) -> dict[str, int]:
        return global_counts({n: lamp(s) for n, s in scores.items()}, budget, pattern, bounds)


def lamp(scores: Tensor) -> Tensor:
    """LAMP scores of one tensor.

    >>> lamp(torch.tensor([1., 2., 3.])).mul(1260).round().tolist()  # 1/14, 4/13, 9/9
    [90.0, 388.0, 1260.0]
    """
    order = scores.detach().reshape(-1).sort(stable=True)
    squares = order.values.double().square()
    tails = squares.flip(0).cumsum(0).flip(0)
    out = torch.empty_like(squares)
    out[order.indices] = torch.where(tails > 0, squares / tails, squares)
    return out.view(scores.shape)


@dataclass(frozen=True, repr=False)
class Ratios(Allocation):
    """Layer ratios taken from another criterion's global ranking; which weights live is left to the method's own."""

    kind: ClassVar[str] = "ratios"
    criterion: Criterion = field(default_factory=Magnitude)
    scored: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "criterion", Criterion.from_dict(self.criterion))

    def __str__(self) -> str:
        return f"ratios of {self.criterion}"
