"""Sinkhorn in the log domain: the plain baseline, and the first stage of the sparse Newton solver."""

from __future__ import annotations

import torch

from ..kernels.newton import sinkhorn_steps
from .entropic import Found, Single, inverse, result, singles
from .problem import Problem, TransportError
from .result import OTResult


def sinkhorn(
    problem: Problem,
    reg: float | None = None,
    *,
    eta: float | None = None,
    tol: float = 1e-9,
    max_iter: int = 10_000,
    drop_zero: bool = False,
    sparse: bool = False,
    native: bool | None = None,
) -> OTResult:
    """Entropic transport by alternating scaling with logsumexp, one pass over the cost per step.

        u <- reg (log a - log sum_j exp((v_j - M_ij) / reg)),  then the same for v;  P = exp((u_i + v_j - M_ij) / reg)

    Args:
        problem: one or a batch; float32 is computed in float64 and given back in float32.
        reg: positive, in units of M (POT's ``reg``).
        eta: 1 / reg, in its place.
        tol: |P 1 - a|_1 + |P^T 1 - b|_1, relative to the total mass. max_iter: steps (both potentials are one step).
        drop_zero: leave out points without mass (their potential is -inf); without it they are refused.
        sparse: the plan as a COO tensor of the entries >= 0.01 tol / (n m) of the mass.
        native: None takes the extension where it can; False is torch.

    Returns:
        `OTResult`; ``value`` is <P, M> + reg sum P log P, as POT's ``ot.solve``. Where tol is not reached, status is
        "max_iter" and the last potentials, which are the best, are given back.

    Raises:
        TransportError: reg, eta, tol or max_iter out of range; a zero mass (its index is named).

    Source: Cuturi 2013 (arXiv 1306.0895); in the log domain because exp(-M / reg) underflows at small reg.

    >>> r = sinkhorn(Problem.make(None, [0.25, 0.75], [[0.0, 1.0], [1.0, 0.0]]), 0.1)
    >>> r.status, [round(x, 6) for x in r.plan.sum(0).tolist()]
    ('converged', [0.25, 0.75])
    """
    eta = inverse(reg, eta)
    counted("max_iter", max_iter)
    tolerance(tol)
    parts = singles(problem, eta, drop_zero)
    found: list[Found] = []
    for group in _groups(parts):
        a, b, cost = (torch.stack([getattr(part, name) for part in group]) for name in ("a", "b", "cost"))
        u, v, done, error = sinkhorn_steps(
            cost,
            a.log(),
            b.log(),
            eta,
            torch.zeros_like(a),
            torch.zeros_like(b),
            steps=max_iter,
            tol=tol,
            native=native,
        )
        for k in range(len(group)):
            status = "converged" if float(error[k]) <= tol else "max_iter"
            line = {"stage": "sinkhorn", "steps": int(done[k]), "error": float(error[k])}
            found.append(Found(u[k], v[k], status, int(done[k]), log=[line]))
    return result(problem, eta, parts, found, tol=tol, sparse=sparse, native=native)


def _groups(parts: list[Single]) -> list[list[Single]]:
    """The whole batch at once on a GPU, where it has one shape; one by one on a CPU."""
    together = parts[0].cost.device.type != "cpu" and all(part.cost.shape == parts[0].cost.shape for part in parts)
    return [parts] if together else [[part] for part in parts]


def counted(name: str, value: int, least: int = 1) -> int:
    """A count >= ``least``, or an error that says so."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number >= {least}; got {value!r}")
    if value < least:
        raise TransportError(f"{name} is a whole number >= {least}; got {value!r}")
    return value


def tolerance(tol: float) -> float:
    """A tolerance >= 0, or an error that says so."""
    if isinstance(tol, bool) or not isinstance(tol, int | float):
        raise TypeError(f"tol is a number >= 0; got {tol!r}")
    if not 0 <= tol < float("inf"):
        raise TransportError(f"tol is a finite number >= 0; got {tol!r}")
    return float(tol)
