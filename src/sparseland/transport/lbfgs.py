"""L-BFGS for many small problems at once: every problem has its own curvature, its own step and its own end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

ARMIJO, CURVATURE = 1e-4, 0.9
TRIES = 25  # evaluations of one line search


class Function(Protocol):
    """What is minimised: x [B, N] to value [B] and gradient [B, N]; `take` restricts it to some problems."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def take(self, which: Tensor) -> Any:
        """The same for the problems ``which``."""


@dataclass(eq=False)
class Minimum:
    """Where the search ended, per problem."""

    x: Tensor
    value: Tensor
    gradient: Tensor
    n_iter: Tensor
    converged: Tensor
    stalled: Tensor
    evaluations: int
    log: list[dict[str, Any]] = field(default_factory=list)


def minimise(
    function: Function,
    x: Tensor,
    *,
    tol: float,
    scale: Tensor,
    reach: Tensor,
    max_iter: int,
    memory: int = 10,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> Minimum:
    """Minimise B functions from ``x`` [B, N] with a weak-Wolfe line search; kinks are allowed.

    A problem ends when max|gradient| <= tol * reach, or when a step lowers f by no more than
    tol * max(|f|, |f'|, scale), and so did all steps since the curvature was last forgotten. When no step lowers it,
    or ``tol`` is below the dtype's precision, it has stalled.

    Args:
        tol: relative tolerance, > 0.
        scale: [B] natural size of f. reach: [B] natural size of a gradient's entries.
        max_iter: iterations at most, >= 0.
        memory: pairs kept.
        progress: called after every iteration with {"iteration", "value", "gradient", "active", "evaluations"}.

    >>> class Bowl:
    ...     def __call__(self, x):
    ...         return ((x - 3) ** 2).sum(-1), 2 * (x - 3)
    >>> one = torch.ones(2)
    >>> found = minimise(Bowl(), torch.zeros(2, 4), tol=1e-6, scale=one, reach=one, max_iter=20)
    >>> found.x.round().tolist()[0], found.converged.tolist()
    ([3.0, 3.0, 3.0, 3.0], [True, True])
    """
    return _Search(function, x, tol, scale, reach, memory).run(max_iter, progress)


class _Search:
    """The state of B searches; those that have ended are frozen in `best`, and leave once they are the majority."""

    def __init__(self, function: Function, x: Tensor, tol: float, scale: Tensor, reach: Tensor, memory: int) -> None:
        self.function, self.tol, self.memory = function, tol, memory
        self.scale, self.reach = scale, reach
        self.f, self.g = function(x)
        self.x, self.evaluations = x, 1
        self.since = torch.full_like(self.f, torch.inf)  # the value when curvature was last forgotten
        self.bend = torch.ones_like(self.f)  # <s, y> / <y, y> of the newest pair
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # (s, y, 1 / <s, y> or 0 where the pair is void)
        self.rows = torch.arange(x.shape[0], device=x.device)  # which problem each row is
        count, device = x.shape[0], x.device
        self.done = self.g.abs().amax(-1) <= tol * reach
        self.best = Minimum(
            x.clone(), self.f.clone(), self.g.clone(), torch.zeros(count, dtype=torch.int64, device=device),
            self.done.clone(), torch.zeros(count, dtype=torch.bool, device=device), 0,
        )  # fmt: skip

    def run(self, max_iter: int, progress: Callable[[dict[str, Any]], object] | None) -> Minimum:
        for iteration in range(1, max_iter + 1):
            if bool(self.done.all()):
                break
            self._compact()
            self._step(iteration)
            entry = {
                "iteration": iteration,
                "value": -float(self.best.value.sum()),
                "gradient": float(self.best.gradient.abs().max()),
                "active": int((~self.done).sum()),
                "evaluations": self.evaluations,
            }
            self.best.log.append(entry)
            if progress is not None:
                progress(entry)
        self.best.evaluations = self.evaluations
        return self.best

    def _step(self, iteration: int) -> None:
        direction, fresh = self._direction()
        slope = (direction * self.g).sum(-1)
        short = (1 / self.g.norm(dim=-1).clamp(min=torch.finfo(slope.dtype).tiny)).clamp(max=1)
        x, f, g, found = self._line(direction, slope, torch.where(fresh, short, torch.ones_like(short)))
        found &= ~self.done
        lowered = self.f - f
        s, y = x - self.x, g - self.g
        sy = (s * y).sum(-1)
        yy = y.square().sum(-1)
        good = found & (sy > torch.finfo(f.dtype).eps * yy)
        self.bend = torch.where(good, sy / torch.where(good, yy, 1), self.bend)
        self.pairs.append((s, y, torch.where(good, 1 / torch.where(good, sy, 1), 0)))
        self.pairs = self.pairs[-self.memory :]
        limit = self.tol * torch.maximum(torch.maximum(f.abs(), self.f.abs()), self.scale)
        self.x, self.f, self.g = (torch.where(_like(found, new), new, old) for new, old in
                                  ((x, self.x), (f, self.f), (g, self.g)))  # fmt: skip
        small = self.g.abs().amax(-1) <= self.tol * self.reach
        flat = ~self.done & ~small & (~found | (lowered <= limit))
        # At a kink the curvature of the past misleads: forget it, and believe a small gain only if that brings no more.
        again = flat & ~fresh & (self.since - self.f > limit)
        self.since, self.bend = torch.where(again, self.f, self.since), torch.where(again, 1, self.bend)
        self.pairs = [(s, y, torch.where(again, 0, r)) for s, y, r in self.pairs] if bool(again.any()) else self.pairs
        ended = flat & ~again
        # Rounding, or a kink that promises a gain which no step brings, ends a search as well, but is no convergence.
        exact = (found | (-slope * short <= limit)) & (self.tol >= torch.finfo(f.dtype).eps)
        self._keep(iteration, (~self.done & small) | (ended & exact), ended & ~exact)

    def _keep(self, iteration: int, converged: Tensor, stalled: Tensor) -> None:
        rows = self.rows[~self.done]
        live = ~self.done
        self.best.x[rows], self.best.value[rows], self.best.gradient[rows] = self.x[live], self.f[live], self.g[live]
        self.best.n_iter[rows] = iteration
        self.best.converged[self.rows[converged]] = True
        self.best.stalled[self.rows[stalled]] = True
        self.done = self.done | converged | stalled

    def _compact(self) -> None:
        """Leave the problems that have ended behind, once they are half of those carried along."""
        if 2 * int(self.done.sum()) < self.done.numel() or not bool(self.done.any()):
            return
        live = (~self.done).nonzero().squeeze(1)
        self.function = self.function.take(live)
        self.rows, self.done = self.rows[live], self.done[live]
        self.x, self.f, self.g = self.x[live], self.f[live], self.g[live]
        self.scale, self.reach = self.scale[live], self.reach[live]
        self.since, self.bend = self.since[live], self.bend[live]
        self.pairs = [(s[live], y[live], r[live]) for s, y, r in self.pairs]

    def _direction(self) -> tuple[Tensor, Tensor]:
        """The two-loop recursion; the negative gradient where it does not descend. And where no pair is known [B]."""
        q, held = self.g.clone(), []
        for s, y, r in reversed(self.pairs):
            alpha = r * (s * q).sum(-1)
            q -= alpha[:, None] * y
            held.append(alpha)
        if self.pairs:
            q *= self.bend[:, None]
        for (s, y, r), alpha in zip(self.pairs, reversed(held), strict=True):
            q += (alpha - r * (y * q).sum(-1))[:, None] * s
        fresh = torch.stack([r for _, _, r in self.pairs]).sum(0) == 0 if self.pairs else torch.ones_like(self.done)
        ahead = (q * self.g).sum(-1) > 0
        return -torch.where(ahead[:, None], q, self.g), fresh

    def _line(self, d: Tensor, slope: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bracket a step that meets both Wolfe conditions; the last column says where one that lowers f was found."""
        low, high = torch.zeros_like(t), torch.full_like(t, torch.inf)
        f_low, slope_low = self.f, slope
        kept = [self.x, self.f, self.g]
        found = self.done.clone()
        slack = 4 * torch.finfo(t.dtype).eps * self.f.abs()  # rounding of f must not end a search
        pending = ~self.done
        for _ in range(TRIES):
            x = self.x + t[:, None] * d
            f, g = self.function(x)
            self.evaluations += 1
            rise = (g * d).sum(-1)
            armijo = f <= self.f + ARMIJO * t * slope + slack
            curved = rise >= CURVATURE * slope
            better = pending & armijo & (f <= kept[1])
            kept = [torch.where(_like(better, new), new, old) for new, old in zip((x, f, g), kept, strict=True)]
            found |= better
            pending = pending & ~(armijo & curved)
            if not bool(pending.any()):
                break
            t, low, high, f_low, slope_low = _next(t, f, rise, armijo, low, high, f_low, slope_low, pending)
        return kept[0], kept[1], kept[2], found


def _next(
    t: Tensor, f: Tensor, rise: Tensor, armijo: Tensor, low: Tensor, high: Tensor, f_low: Tensor, slope_low: Tensor,
    pending: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The next step to try: a parabola's minimum inside the bracket, twice as far where there is none yet."""
    up, down = pending & armijo, pending & ~armijo
    width = t - low
    bend = 2 * (f - f_low - slope_low * width)  # from f_low, its slope, and f at t
    guess = low - slope_low * width.square() / torch.where(bend > 0, bend, 1)
    inside = torch.where(bend > 0, guess, low + 0.5 * width)
    inside = torch.minimum(torch.maximum(inside, low + 0.1 * width), low + 0.9 * width)
    new_low, new_high = torch.where(up, t, low), torch.where(down, t, high)
    farther = torch.where(torch.isinf(new_high), 2 * t, 0.5 * (new_low + new_high))
    step = torch.where(down, inside, torch.where(up, farther, t))
    return step, new_low, new_high, torch.where(up, f, f_low), torch.where(up, rise, slope_low)


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask if value.ndim == 1 else mask[:, None]
