"""The word *flow*: what dead coordinates receive.

Up to four small functions of the stored value w, the mask m (True = alive) and the step t; the identity by default:

    forward(w, m, t)            the value the layer computes with
    backward(w, m, t)           the value used for the gradient of the layer's input
    grad(g, w, m, t)            what the optimizer sees as the gradient of w
    update(w, before, m, t)     the value after the optimizer step

A flow whose `forward` is not the identity keeps its dense values aside (``latent``) and writes the forward value into
the parameter after each step, so no forward hook is needed. ``zeros`` says whether dead coordinates end as zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from .errors import RecipeError, ScheduleError
from .pattern import NM, Pattern
from .schedule import resolve_step
from .word import Word


class Flow(Word):
    """Four functions, identity by default."""

    zeros: ClassVar[bool] = True
    learns: ClassVar[bool] = True  # dead coordinates receive updates, so the optimizer may remember them
    ranks_dead: ClassVar[bool] = True  # dead coordinates still hold values and compete at the next update
    ranks_first: ClassVar[bool] = False  # where masks move, `update` already gets the new ones

    @property
    def latent(self) -> bool:
        """Whether dense values live on behind the mask."""
        return type(self).forward is not Flow.forward

    @property
    def two_way(self) -> bool:
        """Whether the input's gradient uses another value than the forward."""
        return type(self).backward is not Flow.backward

    def forward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        """The value the layer computes with."""
        return w

    def backward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        """The value used for the gradient of the layer's input."""
        return self.forward(w, mask, step)

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        """The gradient the optimizer receives."""
        return g

    def update(self, w: Tensor, before: Tensor, mask: Tensor, step: int) -> Tensor:
        """The value kept after the optimizer step; ``before`` is the value ahead of it."""
        return w

    def resolve(self, steps: int | None) -> Flow:
        """Turn fractions of the run into steps."""
        names = [f.name for f in fields(self) if f.name in ("start", "until")]  # type: ignore[arg-type]
        return self.replace(**{n: resolve_step(getattr(self, n), steps, f"{self.kind}.{n}") for n in names})

    def __str__(self) -> str:
        return self.kind if repr(self) == f"{type(self).__name__}()" else repr(self)


@dataclass(frozen=True, repr=False)
class Hard(Flow):
    """Dead is zero after every step: update = w m. The gradient stays dense, for growth."""

    kind: ClassVar[str] = "hard"
    learns: ClassVar[bool] = False
    ranks_dead: ClassVar[bool] = False

    def update(self, w: Tensor, before: Tensor, mask: Tensor, step: int) -> Tensor:
        return w.masked_fill(~mask, 0)


@dataclass(frozen=True, repr=False)
class StraightThrough(Flow):
    """forward = w m; the gradient passes as if there were no mask: grad = g (m + dead (1 - m)).

    ``dead`` = 1 lets dead coordinates learn (STE), 0 lets them wait unchanged (movement pruning).
    """

    kind: ClassVar[str] = "straight-through"
    dead: float = 1.0

    def forward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return w.masked_fill(~mask, 0)

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return g if self.dead == 1 else torch.where(mask, g, self.dead * g)

    def update(self, w: Tensor, before: Tensor, mask: Tensor, step: int) -> Tensor:
        return w if self.dead else torch.where(mask, w, before)  # no weight decay or momentum while waiting


@dataclass(frozen=True, repr=False)
class Product(Flow):
    """forward = w m, grad = g m: the chain rule through the product. Dead values feel only decay, and may return."""

    kind: ClassVar[str] = "product"

    def forward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return w.masked_fill(~mask, 0)

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return g.masked_fill(~mask, 0)


@dataclass(frozen=True, repr=False)
class SRSTE(Flow):
    """forward = w m; grad = g + decay (1 - m) w: sparse-refined straight-through (arXiv 2102.04010)."""

    kind: ClassVar[str] = "sr-ste"
    decay: float = 2e-4

    def forward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return w.masked_fill(~mask, 0)

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return g + self.decay * w.masked_fill(mask, 0)


@dataclass(frozen=True, repr=False)
class Fading(Flow):
    """forward = w (m + (1 - m) D), D = exp(-rate (t - start)) or max(0, 1 - rate (t - start)) (arXiv 2402.04744).

    ``gradient``: "ste" passes g unchanged; "exact" multiplies it by the same factor as the forward.
    """

    kind: ClassVar[str] = "fading"
    rate: float
    curve: str = "exponential"
    start: int | float = 0
    gradient: str = "ste"

    def __post_init__(self) -> None:
        if self.curve not in ("exponential", "linear") or self.gradient not in ("ste", "exact"):
            raise RecipeError(
                f"fading: curve {self.curve!r} (possible: exponential, linear), "
                f"gradient {self.gradient!r} (possible: ste, exact)"
            )

    def factor(self, step: int) -> float:
        """D at ``step``: the share of a dead value that the forward still sees."""
        age = max(0, step - int(self.start))
        return math.exp(-self.rate * age) if self.curve == "exponential" else max(0.0, 1 - self.rate * age)

    def forward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return torch.where(mask, w, self.factor(step) * w)

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return g if self.gradient == "ste" else torch.where(mask, g, self.factor(step) * g)


@dataclass(frozen=True, repr=False)
class Shrinking(Flow):
    """update = w (m + factor (1 - m)): dead values shrink each step and may return (arXiv 2303.09650).

    Where masks move, they move first: what is ranked low now shrinks now. factor, in [0, 1]: 0 is iterative hard
    thresholding, 1 leaves everything as it is. From step ``until`` on the mask is hard.
    """

    kind: ClassVar[str] = "shrinking"
    ranks_first: ClassVar[bool] = True
    factor: float = 0.95
    until: int | float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.factor <= 1:
            raise RecipeError(f"shrinking.factor is {self.factor!r}; possible: 0 (zero at once) … 1 (no shrinking)")

    def update(self, w: Tensor, before: Tensor, mask: Tensor, step: int) -> Tensor:
        return w.masked_fill(~mask, 0) if _hard(self.until, step) else torch.where(mask, w, self.factor * w)

    def resolve(self, steps: int | None) -> Flow:
        return _leaves_time(super().resolve(steps), steps)


@dataclass(frozen=True, repr=False)
class Penalised(Flow):
    """grad = g + (strength + ramp t)(1 - m) r(w), r(w) = w (l2) or sign(w) (l1): dead values are pulled to zero.

    From step ``until`` on the mask is hard.
    """

    kind: ClassVar[str] = "penalised"
    ranks_first: ClassVar[bool] = True
    strength: float = 1e-4
    norm: str = "l2"
    ramp: float = 0.0
    until: int | float | None = None

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise RecipeError(f"penalised.norm is {self.norm!r}; possible: l1, l2")

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        pull = w if self.norm == "l2" else w.sign()
        return g + (self.strength + self.ramp * step) * pull.masked_fill(mask, 0)

    def update(self, w: Tensor, before: Tensor, mask: Tensor, step: int) -> Tensor:
        return w.masked_fill(~mask, 0) if _hard(self.until, step) else w

    def resolve(self, steps: int | None) -> Flow:
        return _leaves_time(super().resolve(steps), steps)


def _hard(until: int | float | None, step: int) -> bool:
    return until is not None and step >= until


def _leaves_time(flow: Flow, steps: int | None) -> Flow:
    """Refuse a mask that gets hard when nothing is trained any more."""
    until = getattr(flow, "until", None)
    if steps is not None and until is not None and until >= steps:
        raise ScheduleError(
            f"{flow.kind}.until is step {until} of {steps}: no fine-tuning left; possible: 0 … {steps - 1}"
        )
    return flow


@dataclass(frozen=True, repr=False)
class Bidirectional(Flow):
    """forward = w m, input gradient from w m_b, grad = g + decay (1 - m) w: two N:M masks, one per GEMM.

    ``pattern`` shapes m_b, chosen by magnitude from the dense w along the *other* axis (BDWP).
    """

    kind: ClassVar[str] = "bidirectional"
    pattern: Pattern = NM(2, 8, axis=0)
    decay: float = 2e-4

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", Pattern.from_dict(self.pattern))

    def forward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return w.masked_fill(~mask, 0)

    def backward(self, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return w * self.pattern.project(w.abs(), self.pattern.capacity(w.shape))

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return g + self.decay * w.masked_fill(mask, 0)


@dataclass(frozen=True, repr=False)
class Frozen(Flow):
    """The mask acts on the update only: grad = g m, update = m w + (1 - m) before; dead values stay."""

    kind: ClassVar[str] = "frozen"
    zeros: ClassVar[bool] = False
    learns: ClassVar[bool] = False

    def grad(self, g: Tensor, w: Tensor, mask: Tensor, step: int) -> Tensor:
        return g.masked_fill(~mask, 0)

    def update(self, w: Tensor, before: Tensor, mask: Tensor, step: int) -> Tensor:
        return torch.where(mask, w, before)
