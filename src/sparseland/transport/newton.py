"""Sinkhorn-Newton-Sparse (SNS): a few Sinkhorn steps, then Newton on the dual with a sparse Hessian."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import nearest
from ..kernels.newton import Entries, entries, sinkhorn_steps
from .entropic import Found, Single, inverse, result, singles
from .hessian import RULES, SparseHessian, sparsify
from .problem import Problem, TransportError
from .result import OTResult
from .sinkhorn import counted, tolerance

NEAR = 0.1  # error below which Newton is tried (warmup="auto")
SLOW = 0.1  # ... once five Sinkhorn steps gain less than a factor of ten
ARMIJO = 1e-4
REACH = 50.0  # largest change of a potential over reg in one Newton step
LEAST_DAMPING = 1e-3
SHORT = 1 / 8  # a shorter step than this: back to Sinkhorn for a while
ROUNDING = 1e-10  # expected gain times eta below which the dual's own digits cannot judge a step


@dataclass(frozen=True)
class _Settings:
    warmup: int | str
    rule: str
    density: float
    nu: float
    tol: float
    max_newton: int
    max_warmup: int
    cg_max: int
    max_halvings: int
    native: bool | None


def sns(
    problem: Problem,
    reg: float | None = None,
    *,
    eta: float | None = None,
    warmup: int | str = "auto",
    rule: str = "mass",
    density: float = 8.0,
    nu: float = 0.01,
    tol: float = 1e-11,
    max_newton: int = 300,
    max_iter: int | None = None,
    max_warmup: int = 10_000,
    cg_max: int = 2000,
    max_halvings: int = 60,
    drop_zero: bool = False,
    sparse: bool = False,
    native: bool | None = None,
) -> OTResult:
    """Entropic transport to machine precision in a few Newton steps, each as cheap as a few Sinkhorn steps.

        f(u, v) = a.u + b.v - reg sum P,  P = exp((u_i + v_j - M_ij) / reg);  -Hessian = eta [[P1, P], [P^T, P^T1]]

    Args:
        problem: one or a batch; computed in float64 whatever its dtype.
        reg: positive, in units of M (POT's ``reg``).
        eta: 1 / reg, in its place (the paper's; there 1200 with M in [0, 1]).
        warmup: Sinkhorn steps before the first Newton step (the paper's N1: 20; 700 for L1 costs), or "auto": until
            the error is below 0.1 and five steps gain less than a factor of ten.
        rule: which entries of P the Hessian keeps: "mass" drops the smallest while their sum is <= nu times the
            gradient; "density" keeps the ceil(density * max(n, m)) largest of P (the paper's lambda = density / n).
        density: entries per row, > 0. nu: 0 < nu < 1. tol: |P 1 - a|_1 + |P^T 1 - b|_1 over the total mass.
        max_newton, max_warmup, cg_max, max_halvings: limits on Newton steps, Sinkhorn steps of "auto", conjugate
            gradients per Newton step, and halvings of a step. max_iter: `solve`'s word for max_newton.
        drop_zero: leave out points without mass. sparse: the plan as a COO tensor. native: False is torch.

    Returns:
        `OTResult`; ``log`` has a line per Newton step (stage, error, nnz, cg, step, seconds). status "max_iter" or
        "stalled" (no step improves any more) where tol was not reached; the best potentials are kept.

    Raises:
        TransportError: options out of range; a zero mass (its index is named).

    Source: Tang et al., ICLR 2024 (arXiv 2401.12253). Differs from the paper: "mass" and "auto" are ours to choose by
    (the paper's are rule="density", warmup=20); conjugate gradients stop at the smaller of 1e-3 and the error; the
    Hessian's diagonal is raised where a step would move a potential by more than 50 reg, which is what makes L1 costs
    converge from any start; a step shortened below 1/8 is followed by Sinkhorn steps, 20, then 40, 80, …

    >>> C = torch.rand(60, 60, generator=torch.Generator().manual_seed(0)).double()
    >>> r = sns(Problem.make(None, None, C), eta=300.0)
    >>> r.status, float((r.plan.sum(0) - 1 / 60).abs().sum()) < 1e-11
    ('converged', True)
    """
    eta = inverse(reg, eta)
    max_newton = max_newton if max_iter is None else counted("max_iter", max_iter)
    given = (warmup, rule, density, nu, tolerance(tol), max_newton, max_warmup, cg_max, max_halvings, native)
    settings = _checked(_Settings(*given), problem)
    parts = singles(problem, eta, drop_zero)
    found = [_Run(part, eta, settings).solve() for part in parts]
    return result(problem, eta, parts, found, tol=tol, sparse=sparse, native=native)


def _checked(at: _Settings, problem: Problem) -> _Settings:
    if at.warmup != "auto":
        if isinstance(at.warmup, str):
            raise TransportError(f"warmup is 'auto' or a number of Sinkhorn steps >= 1; got {at.warmup!r}")
        counted("warmup", at.warmup)
    for name, least in (("max_newton", 0), ("max_warmup", 1), ("cg_max", 1), ("max_halvings", 0)):
        counted(name, getattr(at, name), least)
    if at.rule not in RULES:
        raise TransportError(f"rule {at.rule!r}: {nearest(at.rule, RULES)}")
    if not 0 < at.nu < 1:
        raise TransportError(f"nu is a number in (0, 1), the share of the error that may be dropped; got {at.nu!r}")
    if not 0 < at.density < math.inf:
        raise TransportError(f"density is a number > 0, kept entries of P per row; got {at.density!r}")
    kept, least = math.ceil(at.density * max(problem.n, problem.m)), problem.n + problem.m - 1
    if at.rule == "density" and kept < least:
        warnings.warn(
            f"density={at.density:g} keeps {kept} entries of P; a plan at a vertex has up to n + m - 1 = {least}, so "
            "Newton will be slow (rule='mass' chooses for itself)",
            stacklevel=3,
        )
    return at


@dataclass(frozen=True, eq=False)
class _Point:
    """Potentials and the plan's sums and entries there."""

    u: Tensor
    v: Tensor
    entries: Entries
    g: Tensor
    h: Tensor
    error: float
    total: float


class _Run:
    """One problem on its way."""

    def __init__(self, part: Single, eta: float, settings: _Settings) -> None:
        self.part, self.eta, self.at = part, eta, settings
        # entries below it sum to at most nu tol: the mass rule would drop them at every point before the last
        self.floor = max(settings.nu * settings.tol, 1e-18) / part.cost.numel()
        self.log: list[dict[str, Any]] = []
        self.damping = 0.0
        self.steps = 0
        self.begun = time.perf_counter()

    def solve(self) -> Found:
        at = self.at
        zero = torch.zeros_like(self.part.a), torch.zeros_like(self.part.b)
        auto = at.warmup == "auto"
        point = self.sinkhorn(*zero, steps=at.max_warmup if auto else int(at.warmup), auto=auto)
        best, status, bout, done = point, "max_iter", 10, 0
        while point.error > at.tol and done < at.max_newton:
            done += 1
            following, line = self.newton(point)
            if following is None and line["step"] == 0 and point.error <= NEAR / 1e3:
                status = "stalled"
                break
            if following is None or line["step"] < SHORT:
                bout = 2 * bout
                start = point if following is None else following
                following = self.sinkhorn(start.u, start.v, steps=bout, auto=False)
            point = following
            best = point if point.error < best.error else best
        if best.error <= at.tol:
            status = "converged"
        return Found(best.u, best.v, status, self.steps, best.entries, self.log)

    def sinkhorn(self, u: Tensor, v: Tensor, *, steps: int, auto: bool) -> _Point:
        part, at = self.part, self.at
        level = NEAR if auto else 0.0
        moved, other, count, error = sinkhorn_steps(
            part.cost[None], part.a.log()[None], part.b.log()[None], self.eta, u[None], v[None],
            steps=steps, tol=at.tol, level=level, slow=SLOW, native=at.native,
        )  # fmt: skip
        self.steps += int(count[0])
        self.note(stage="sinkhorn", steps=int(count[0]), error=float(error[0]))
        return self.point(moved[0], other[0])

    def point(self, u: Tensor, v: Tensor) -> _Point:
        seen = entries(self.part.cost, self.eta, u, v, self.floor, native=self.at.native)
        g, h = self.part.a - seen.rows, self.part.b - seen.columns
        return _Point(u, v, seen, g, h, float(g.abs().sum() + h.abs().sum()), float(seen.rows.sum()))

    def newton(self, here: _Point) -> tuple[_Point | None, dict[str, Any]]:
        """One step: sparsify, solve, search. None where no step along the direction is an improvement."""
        at = self.at
        budget = at.nu * here.error
        matrix = sparsify(here.entries, rule=at.rule, budget=budget, density=at.density, native=at.native)
        x, y, count, left = self.direction(here, matrix)
        there, length = self.search(here, x / self.eta, y / self.eta)
        self.steps += 1
        error = here.error if there is None else there.error
        line = self.note(
            stage="newton", error=error, nnz=matrix.nnz, density=matrix.density, cg=count, residual=left, step=length,
            damping=self.damping * here.error,
        )  # fmt: skip
        return there, line

    def direction(self, here: _Point, matrix: SparseHessian) -> tuple[Tensor, Tensor, int, float]:
        """Solve (M + damping error D) (x, y) = gradient with as little damping as keeps |x|, |y| <= REACH.

        Parts of the plan that hardly exchange mass make M almost singular: Newton would move them by their imbalance
        over that little, where its logarithm is right. D is M's diagonal.
        """
        goal, spent, more = min(1e-3, here.error) * here.error, 0, False
        while True:
            x, y, count, left = matrix.damped(self.damping * here.error).solve(
                here.g, here.h, tol=goal, max_iter=self.at.cg_max, native=self.at.native
            )
            spent += count
            reach = max(float(x.abs().max()), float(y.abs().max()))
            if (reach <= REACH and left <= 0.1 * here.error) or self.damping > 1e6:
                break
            self.damping, more = max(10 * self.damping, LEAST_DAMPING), True
        if not more and reach < REACH / 10:
            self.damping = self.damping / 10 if self.damping > LEAST_DAMPING else 0.0
        return x, y, spent, left

    def search(self, here: _Point, x: Tensor, y: Tensor) -> tuple[_Point | None, float]:
        """Halve the step until the dual rises enough (Armijo); by the error where the dual has no digits left."""
        slope = float(here.g @ x + here.h @ y)
        if not (slope > 0 and math.isfinite(slope)):
            return None, 0.0
        fine = slope * self.eta < ROUNDING
        rise, length = float(self.part.a @ x + self.part.b @ y), 1.0
        for _ in range(min(4, self.at.max_halvings + 1) if fine else self.at.max_halvings + 1):
            there = self.point(here.u + length * x, here.v + length * y)
            gain = length * rise - (there.total - here.total) / self.eta  # -inf where the plan overflows
            if math.isfinite(gain) and (there.error < here.error if fine else gain >= ARMIJO * length * slope):
                return there, length
            length /= 2
        return None, 0.0

    def note(self, **line: Any) -> dict[str, Any]:
        self.log.append(line | {"seconds": time.perf_counter() - self.begun})
        return line
