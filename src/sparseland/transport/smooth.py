"""The dual and the semi-dual of regularised transport as functions to minimise, many problems at once.

    dual       max_{u, v}  <a, u> + <b, v> - sum_j delta(u + v_j 1 - M_j)
    semi-dual  max_u       <a, u> - sum_j max_{t >= 0, sum t = b_j} <t, u - M_j> - Omega(t)

The plan's columns are the maximisers. `Dense` looks at every entry of the cost at every evaluation. `Pruned` is exact,
too, but works on shortlists, and looks at a whole column only where an entry outside of its list might enter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import Problem
from .regularisers import KSparse, Regulariser, threshold
from .shortlist import Shortlist

NARROW, WIDE = 12, 8  # entries of a narrow shortlist beside 2 k; a wide one holds a column's eighth
DENSE = 600  # below so many rows looking at all of them is as fast


@dataclass(eq=False)
class Columns:
    """What the current potentials say about every column: the non-zeros t [C, K] at rows ``at`` [C, K], and v [C]."""

    value: Tensor  # [C] of the column's conjugate
    t: Tensor
    at: Tensor
    v: Tensor


class Dense:
    """Value and gradient for B problems; x [B, n + m] holds (u, v), or [B, n] only u with ``semi``."""

    def __init__(self, problem: Problem, regulariser: Regulariser, *, semi: bool) -> None:
        self.problem, self.regulariser, self.semi = problem, regulariser, semi
        self.columns_first = problem.M.mT.contiguous()  # [B, m, n]: a column of the plan lies together in memory
        self.evaluations = 0

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.problem.n + (0 if self.semi else self.problem.m)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(-dual value [B], its gradient [B, size])."""
        self.evaluations += 1
        value, t, v = self._columns(x)
        rows, a, b = t.sum(-2), self.problem.a, self.problem.b
        f = value.sum(-1) - (x[:, : self.problem.n] * a).sum(-1)
        if self.semi:
            return f, rows - a
        return f - (v * b).sum(-1), torch.cat([rows - a, t.sum(-1) - b], -1)

    def solution(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Plan [B, n, m] and potentials u [B, n], v [B, m]."""
        _, t, v = self._columns(x)
        return t.mT, x[:, : self.problem.n], v

    def take(self, which: Tensor) -> Dense:
        """The same for some problems of the batch only."""
        return Dense(_take(self.problem, which), self.regulariser, semi=self.semi)

    def _columns(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = x[:, None, : self.problem.n] - self.columns_first
        if self.semi:
            value, t, theta = self.regulariser.maximum(s, self.problem.b)
            return value, t, -theta
        v = x[:, self.problem.n :]
        value, t = self.regulariser.delta(s.add_(v[..., None]))
        return value, t, v


class Pruned:
    """`Dense` for the squared norm over at most ``k`` entries, at a cost of few entries per column; same numbers."""

    def __init__(
        self, problem: Problem, regulariser: KSparse, *, semi: bool, widths: tuple[int, int] | None = None
    ) -> None:
        self.problem, self.regulariser, self.semi = problem, regulariser, semi
        batch, n, m = problem.M.shape
        self.k = min(regulariser.k, n)
        cost = problem.M.mT.reshape(batch * m, n).contiguous()  # [C, n], C = batch * m: a column lies together
        self.home = torch.arange(batch, device=problem.device).repeat_interleave(m)  # [C] whose problem it is
        self.mass = problem.b.reshape(-1)
        self.widths = widths or (min(n, max(NARROW + 2 * self.k, n // WIDE)), min(n, NARROW + 2 * self.k))
        self.wide = Shortlist(cost, self.home, self.widths[0])
        self.narrow = Shortlist(cost, self.home, self.widths[1], self.wide)
        self.evaluations = 0

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.problem.n + (0 if self.semi else self.problem.m)

    @property
    def scanned(self) -> int:
        """Columns that have been looked at whole, so far."""
        return self.wide.scanned

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(-dual value [B], its gradient [B, size])."""
        self.evaluations += 1
        found = self._columns(x)
        batch, n, m = self.problem.M.shape
        a, b = self.problem.a, self.problem.b
        f = found.value.view(batch, m).sum(-1) - (x[:, :n] * a).sum(-1)
        rows = self._row_sums(found).sub_(a)
        if self.semi:
            return f, rows
        v = x[:, n:]
        return f - (v * b).sum(-1), torch.cat([rows, found.t.sum(-1).view(batch, m) - b], -1)

    def solution(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Plan [B, n, m] and potentials u [B, n], v [B, m]."""
        found = self._columns(x)
        batch, n, m = self.problem.M.shape
        plan = torch.zeros_like(self.wide.cost).scatter_(1, found.at, found.t)
        return plan.view(batch, m, n).mT, x[:, :n], found.v.view(batch, m)

    def take(self, which: Tensor) -> Pruned:
        """The same for some problems of the batch only."""
        return Pruned(_take(self.problem, which), self.regulariser, semi=self.semi, widths=self.widths)

    def _row_sums(self, found: Columns) -> Tensor:
        batch, n, _ = self.problem.M.shape
        sums = torch.zeros(batch * n, dtype=self.problem.dtype, device=self.problem.device)
        at = found.at if batch == 1 else found.at + (self.home * n)[:, None]
        return sums.index_add_(0, at.reshape(-1), found.t.reshape(-1)).view(batch, n)

    def _columns(self, x: Tensor) -> Columns:
        """All columns, from the narrow lists; where an outsider might enter from the wide ones, then from the cost."""
        u = x[:, : self.problem.n]
        v = None if self.semi else x[:, self.problem.n :].reshape(-1)
        found, edge = self._among(u, v, slice(None))
        far = self.wide.doubted(u, edge)
        late = torch.cat([self.narrow.doubted(u, edge), far]).unique()
        if late.numel():
            self.narrow.renew(u, late)
            edge[late] = self._replace(found, u, v, late)
            far = self.wide.doubted(u, edge[far], far)
        if far.numel():
            self.wide.renew(u, far)
            self.narrow.renew(u, far)
            self._replace(found, u, v, far)
        return found

    def _replace(self, found: Columns, u: Tensor, v: Tensor | None, which: Tensor) -> Tensor:
        some, edge = self._among(u, v, which)
        for whole, part in ((found.value, some.value), (found.t, some.t), (found.at, some.at), (found.v, some.v)):
            whole[which] = part
        return edge

    def _among(self, u: Tensor, v: Tensor | None, which: Tensor | slice) -> tuple[Columns, Tensor]:
        """Solve the columns ``which`` on their narrow lists; and how high an outsider must be to change anything."""
        s, order = self.narrow.values(u, which).topk(self.k, -1)
        gamma = self.regulariser.gamma
        theta = threshold(s, gamma * self.mass[which]) if v is None else -v[which]
        t = (s - theta[:, None]).clamp_(min=0).div_(gamma)
        squared = 0.5 * gamma * t.square().sum(-1)
        value = squared if v is not None else (t * s).sum(-1) - squared
        at = self.narrow.at[which].gather(1, order)
        return Columns(value, t, at, -theta), torch.maximum(theta, s[:, -1])


def objective(problem: Problem, regulariser: Regulariser, *, semi: bool) -> Dense | Pruned:
    """The cheaper of the two: pruned for squared norms over many rows, dense otherwise.

    >>> problem = Problem.make([1.0], [1.0], [[3.0]]).flat()
    >>> f, g = objective(problem, KSparse(1.0), semi=False)(torch.tensor([[4.0, 0.0]], dtype=torch.float64))
    >>> f.item(), g.tolist()  # t = [4 + 0 - 3]_+ = 1, -dual = 1 / 2 - 4
    (-3.5, [[0.0, 0.0]])
    """
    if isinstance(regulariser, KSparse) and problem.n >= max(DENSE, 8 * regulariser.k):
        return Pruned(problem, regulariser, semi=semi)
    return Dense(problem, regulariser, semi=semi)


def _take(problem: Problem, which: Tensor) -> Problem:
    return Problem._like(problem.a[which], problem.b[which], problem.M[which])
