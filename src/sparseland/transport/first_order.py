"""First-order ascent on a dual: a fixed number of cheap steps, all problems in lockstep, the best iterate kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .lbfgs import Function, Minimum
from .problem import TransportError

BETAS, EPSILON = (0.9, 0.999), 1e-8


def descend(
    function: Function, x: Tensor, *, kind: str, lr: float, tol: float, reach: Tensor, max_iter: int,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> Minimum:  # fmt: skip
    """Minimise B functions from ``x`` [B, N] by Adam or by plain (sub)gradient steps.

        adam      x <- x - lr * m / (sqrt(v) + 1e-8), with the moments' usual bias correction
        gradient  x <- x - lr * g

    It ends at max|gradient| <= tol * reach, where kinks (k < n) let it; the iterate of lowest value is returned.

    Args:
        kind: "adam" or "gradient".
        lr: step, > 0, in units of the cost ("adam") or of cost per mass ("gradient").
        tol, reach, max_iter, progress: as in `lbfgs.minimise`.

    Raises:
        TransportError: lr is not > 0.

    >>> class Bowl:
    ...     def __call__(self, x):
    ...         return ((x - 3) ** 2).sum(-1), 2 * (x - 3)
    >>> reach = torch.ones(1)
    >>> found = descend(Bowl(), torch.zeros(1, 2), kind="gradient", lr=0.5, tol=1e-6, reach=reach, max_iter=3)
    >>> found.x.tolist(), found.n_iter.tolist(), found.converged.tolist()
    ([[3.0, 3.0]], [1], [True])
    """
    if not lr > 0:
        raise TransportError(f"lr is > 0; got {lr!r}")
    f, g = function(x)
    count, device = x.shape[0], x.device
    best = Minimum(
        x.clone(), f.clone(), g.clone(), torch.zeros(count, dtype=torch.int64, device=device),
        g.abs().amax(-1) <= tol * reach, torch.zeros(count, dtype=torch.bool, device=device), 1,
    )  # fmt: skip
    step_of = _Adam(x) if kind == "adam" else _plain
    for step in range(1, max_iter + 1):
        live = ~best.converged
        if not bool(live.any()):
            break
        x = x - lr * step_of(g, step)
        f, g = function(x)
        best.evaluations += 1
        small = g.abs().amax(-1) <= tol * reach
        better = live & ((f < best.value) | small)
        best.x[better], best.value[better], best.gradient[better] = x[better], f[better], g[better]
        best.n_iter[live] = step
        best.converged |= live & small
        entry = {
            "iteration": step,
            "value": -float(best.value.sum()),
            "gradient": float(best.gradient.abs().max()),
            "active": int(live.sum()),
            "evaluations": best.evaluations,
        }
        best.log.append(entry)
        if progress is not None:
            progress(entry)
    return best


def _plain(g: Tensor, step: int) -> Tensor:
    return g


class _Adam:
    """The moments of Adam, and the direction they give."""

    def __init__(self, x: Tensor) -> None:
        self.first, self.second = torch.zeros_like(x), torch.zeros_like(x)

    def __call__(self, g: Tensor, step: int) -> Tensor:
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * g
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * g.square()
        first, second = self.first / (1 - BETAS[0] ** step), self.second / (1 - BETAS[1] ** step)
        return first / (second.sqrt() + EPSILON)
