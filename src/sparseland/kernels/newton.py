"""What Sinkhorn and the sparse Newton steps of transport compute, natively on CPUs and readably in torch.

Sinkhorn steps, an evaluation of the plan (its sums and the entries that matter), the plan itself, the cut that drops
small entries up to a budget of mass, and the linear system of a Newton step. Each takes ``native``: None chooses the
extension where it is built and the tensors are float64 on a CPU, False is the twin in torch (any device), True insists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparseland.core.errors import SparselandError

from . import native as extension
from .choice import array, chosen

BACK = 5  # steps over which progress is judged


@dataclass(frozen=True, eq=False)
class Entries:
    """The sums of a plan [n, m] and its entries above a floor, by rows (the three tensors of a CSR matrix).

    Parameters:
        rows: [n] row sums. columns: [m] column sums; both of the whole plan.
        starts: [n + 1] int64; row i holds entries starts[i] to starts[i + 1]. places: [nnz] int32 columns, rising in
            a row. values: [nnz] float64.

    >>> e = entries(torch.zeros(2, 2, dtype=torch.float64), 1.0, torch.zeros(2).double(), torch.zeros(2).double(), 0.5)
    >>> e.rows.tolist(), e.starts.tolist(), e.places.tolist()
    ([2.0, 2.0], [0, 2, 4], [0, 1, 0, 1])
    """

    rows: Tensor
    columns: Tensor
    starts: Tensor
    places: Tensor
    values: Tensor

    @property
    def row_numbers(self) -> Tensor:
        """[nnz] int64: the row of every entry."""
        counts = self.starts.diff()
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)

    def keep(self, mask: Tensor) -> Entries:
        """Only the entries where ``mask`` [nnz] is True; the sums stay."""
        if bool(mask.all()):
            return self
        ends = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.cumsum(0)])
        return Entries(self.rows, self.columns, ends[self.starts], self.places[mask], self.values[mask])


def sinkhorn_steps(
    cost: Tensor,
    log_a: Tensor,
    log_b: Tensor,
    eta: float,
    u: Tensor,
    v: Tensor,
    *,
    steps: int,
    tol: float = 0.0,
    level: float = 0.0,
    slow: float = 0.1,
    native: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Up to ``steps`` log-domain Sinkhorn steps of each problem, from the potentials ``u``, ``v`` on.

        u_i = (log a_i - log sum_j exp(eta (v_j - C_ij))) / eta, then the same for v;  P = exp(eta (u_i + v_j - C_ij))

    Args:
        cost: [B, n, m] float64. log_a: [B, n]. log_b: [B, m]. eta: > 0, the inverse of POT's ``reg``.
        u, v: [B, n], [B, m]; not changed.
        steps: > 0. tol: stop at an error sum |b - P^T 1| <= tol; the rows are exact where a problem stops.
        level, slow: stop as well at an error <= level that is more than ``slow`` times what it was 5 steps before.

    Returns:
        u, v, the steps done [B] (int64) and the error [B].

    >>> one = torch.ones(1, 2, dtype=torch.float64)
    >>> u, v, done, error = sinkhorn_steps(
    ...     torch.zeros(1, 2, 2).double(), one.log(), one.log(), 1.0, 0 * one, 0 * one, steps=9
    ... )
    >>> float(error) < 1e-12, round(float((u[0, 0] + v[0, 0]).exp()), 12)
    (True, 0.5)
    """
    if steps < 1:
        raise SparselandError(f"steps is a number >= 1; got {steps}")
    if chosen(native, cost):
        u, v = u.contiguous().clone(), v.contiguous().clone()
        told = [
            extension().ot_sinkhorn(
                *map(array, (cost[k], log_a[k], log_b[k])), eta, array(u[k]), array(v[k]), steps, tol, level, slow,
                torch.get_num_threads(),
            )
            for k in range(len(cost))
        ]  # fmt: skip
        return u, v, torch.tensor([done for done, _ in told]), torch.tensor([e for _, e in told], dtype=cost.dtype)
    return _steps(cost, log_a, log_b, eta, u, v, steps, tol, level, slow)


def _steps(
    cost: Tensor, log_a: Tensor, log_b: Tensor, eta: float, u: Tensor, v: Tensor,
    steps: int, tol: float, level: float, slow: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    going = torch.ones(len(cost), dtype=torch.bool, device=cost.device)
    done = torch.zeros(len(cost), dtype=torch.int64, device=cost.device)
    error = torch.full((len(cost),), math.inf, dtype=cost.dtype, device=cost.device)
    before = [error] * BACK
    for step in range(1, steps + 1):
        rows = (log_a - ((v[:, None, :] - cost) * eta).logsumexp(2)) / eta  # [B, n]
        u = torch.where(going[:, None], rows, u)
        columns = ((u[:, :, None] - cost) * eta).logsumexp(1)  # [B, m]
        now = (log_b.exp() - (columns + v * eta).exp()).abs().sum(1)
        error, done = torch.where(going, now, error), done + going
        going = going & (error > tol) & ~((error <= level) & (error > slow * before[step % BACK]))
        before[step % BACK] = error
        if step == steps or not bool(going.any()):
            break
        v = torch.where(going[:, None], (log_b - columns) / eta, v)
    return u, v, done, error


def entries(cost: Tensor, eta: float, u: Tensor, v: Tensor, floor: float, *, native: bool | None = None) -> Entries:
    """The sums of the plan and its entries >= ``floor``, in one pass over the cost.

        P_ij = exp(eta (u_i + v_j - C_ij))

    Args:
        cost: [n, m] float64. u: [n]. v: [m]. eta: > 0. floor: > 0; infinity collects nothing.

    Overflow gives infinite sums, not an error: a line search tells by them that a step was too long.

    >>> zero = torch.zeros(1, dtype=torch.float64)
    >>> entries(torch.tensor([[0.0, 9.0]]).double(), 1.0, zero, torch.zeros(2).double(), 0.01).places.tolist()
    [0]
    """
    if chosen(native, cost):
        rows, columns = cost.new_empty(cost.shape[0]), cost.new_empty(cost.shape[1])
        made = extension().ot_entries(
            *(array(cost), eta, array(u), array(v), floor, array(rows), array(columns), torch.get_num_threads())
        )
        return Entries(rows, columns, *map(torch.from_numpy, made))
    plan = ((u[:, None] + v[None, :] - cost) * eta).exp()
    mask = plan >= floor if floor < math.inf else torch.zeros_like(plan, dtype=torch.bool)
    starts = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    return Entries(plan.sum(1), plan.sum(0), starts, mask.nonzero()[:, 1].int(), plan[mask])


def plan(
    cost: Tensor, eta: float, u: Tensor, v: Tensor, *, native: bool | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole plan [n, m], its linear cost <P, C>, and how many of its entries are above zero.

        P_ij = exp(eta (u_i + v_j - C_ij)), zero below e^-700 where the extension makes it

    Args:
        cost: [n, m] float64. u: [n]. v: [m]. eta: > 0.

    >>> made, linear, nnz = plan(torch.ones(1, 2).double(), 1.0, torch.ones(1).double(), torch.zeros(2).double())
    >>> made.tolist(), float(linear), int(nnz)
    ([[1.0, 1.0]], 2.0, 2)
    """
    if chosen(native, cost):
        made = torch.empty_like(cost, memory_format=torch.contiguous_format)
        linear, nnz = extension().ot_plan(*(array(cost), eta, array(u), array(v), array(made), torch.get_num_threads()))
        return made, torch.tensor(linear, dtype=cost.dtype), torch.tensor(nnz)
    made = ((u[:, None] + v[None, :] - cost) * eta).exp()
    return made, (made * cost).sum(), torch.count_nonzero(made)


def cut(values: Tensor, budget: float, *, native: bool | None = None) -> float:
    """The smallest value that stays if the smallest are dropped while their sum is <= ``budget``; inf if all go.

    Args:
        values: [k] float64, >= 0. budget: >= 0.

    >>> cut(torch.tensor([4.0, 1.0, 2.0]).double(), 3.0), cut(torch.tensor([1.0]).double(), 3.0)
    (4.0, inf)
    """
    if chosen(native, values):
        return float(extension().ot_cut(array(values), budget))
    ranked = values.sort().values
    stay = ranked[ranked.cumsum(0) > budget]
    return float(stay[0]) if len(stay) else math.inf


def solve(
    matrix: Entries,
    d1: Tensor,
    d2: Tensor,
    g: Tensor,
    h: Tensor,
    *,
    tol: float,
    most: int,
    native: bool | None = None,
) -> tuple[Tensor, Tensor, int, float]:
    """Solve [[D1, S], [S^T, D2]] (x, y) = (g, h) with the sparse S [n, m] of ``matrix``.

        (D2 - S^T D1^-1 S) y = h - S^T D1^-1 g  by conjugate gradients;  x = D1^-1 (g - S y)

    x is eliminated because that halves the steps; the diagonal of what remains is the preconditioner. Starts at y = 0,
    so that a kernel does no harm as long as the right side has no part in it.

    Args:
        d1: [n] > 0. d2: [m] > 0. g: [n]. h: [m]. tol: l1 norm of the residual at which it stops. most: steps.

    Returns:
        x, y, the steps done and the residual's l1 norm.

    >>> S = entries(torch.zeros(1, 1).double(), 1.0, torch.zeros(1).double(), torch.zeros(1).double(), 0.5)  # (1)
    >>> two, one = torch.full((1,), 2.0).double(), torch.ones(1).double()
    >>> x, y, steps, _ = solve(S, two, two, 3 * one, 3 * one, tol=1e-12, most=9)  # [[2, 1], [1, 2]] (1, 1) = (3, 3)
    >>> round(float(x), 9), round(float(y), 9)
    (1.0, 1.0)
    """
    if chosen(native, matrix.values):
        x, y = torch.empty_like(d1), torch.empty_like(d2)
        given = (matrix.starts, matrix.places, matrix.values, d1, d2, g, h)
        steps, residual = extension().ot_solve(*map(array, given), tol, most, array(x), array(y))
        return x, y, int(steps), float(residual)
    return _conjugate_gradients(matrix, d1, d2, g, h, tol, most)


def _conjugate_gradients(
    matrix: Entries, d1: Tensor, d2: Tensor, g: Tensor, h: Tensor, tol: float, most: int
) -> tuple[Tensor, Tensor, int, float]:
    rows, columns, values = matrix.row_numbers, matrix.places.long(), matrix.values

    def times(y: Tensor) -> Tensor:  # S y
        return torch.zeros_like(d1).index_add_(0, rows, values * y[columns])

    def back(x: Tensor) -> Tensor:  # S^T x
        return torch.zeros_like(d2).index_add_(0, columns, values * x[rows])

    weight = d2 - torch.zeros_like(d2).index_add_(0, columns, values.square() / d1[rows])
    weight = 1 / torch.maximum(weight, 1e-14 * d2)
    y, r = torch.zeros_like(d2), h - back(g / d1)
    p, rho, step = torch.zeros_like(r), 1.0, 0
    while step < most and float(r.abs().sum()) > tol:
        z = weight * r
        rho, last = float(r @ z), rho
        p = z + (rho / last if step else 0.0) * p
        q = d2 * p - back(times(p) / d1)
        curvature = float(p @ q)
        if not (curvature > 0 and math.isfinite(curvature)):
            break  # rounding has the last word
        y, r = y + rho / curvature * p, r - rho / curvature * q
        step += 1
    return (g - times(y)) / d1, y, step, float(r.abs().sum())
