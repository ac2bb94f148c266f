"""The dual and the semi-dual of regularised transport as functions to minimise, many problems at once.

    dual       max_{u, v}  <a, u> + <b, v> - sum_j delta(u + v_j 1 - M_j)
    semi-dual  max_u       <a, u> - sum_j max_{t >= 0, sum t = b_j} <t, u - M_j> - Omega(t)

The plan's columns are the maximisers. `Dense` looks at every entry of the cost at every evaluation. `Pruned` is exact,
too, but keeps for each column the candidates that led when it was last scanned: no other entry can have overtaken them
as long as the largest rise of u since then is smaller than the lead. It scans again only the columns where it is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import Problem
from .regularisers import KSparse, Regulariser, SquaredL2, threshold

SLICE = 1 << 19  # entries of a slice that is scanned at once: it stays in cache
EPOCHS = 24  # references kept; a column whose reference is older is scanned again
DENSE = 256  # below so many rows pruning has nothing to win


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
    """`Dense` for the squared norm with or without ``k``, at a cost of few entries per column; same numbers."""

    def __init__(self, problem: Problem, regulariser: SquaredL2 | KSparse, *, semi: bool, width: int = 0) -> None:
        self.problem, self.regulariser, self.semi = problem, regulariser, semi
        self.k = min(regulariser.k, problem.n) if isinstance(regulariser, KSparse) else None
        batch, n, m = problem.M.shape
        self.cost = problem.M.mT.reshape(batch * m, n).contiguous()  # [C, n], C = batch * m columns
        self.home = torch.arange(batch, device=problem.device).repeat_interleave(m)  # [C] whose problem it is
        self.mass = problem.b.reshape(-1)
        self.width = min(n, width or (64 if self.k is None else max(32, 4 * self.k)))
        self.evaluations = self.scanned = 0
        self._forget()

    def _forget(self) -> None:
        columns, width = self.cost.shape[0], self.width
        device = self.problem.device
        self.at = torch.zeros(columns, width, dtype=torch.int64, device=device)
        self.near = torch.zeros(columns, width, dtype=self.problem.dtype, device=device)
        self.rest = torch.full((columns,), torch.inf, dtype=self.problem.dtype, device=device)  # inf: scan first
        self.epoch = torch.zeros(columns, dtype=torch.int64, device=device)
        self.references: list[Tensor] = []

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.problem.n + (0 if self.semi else self.problem.m)

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
        plan = torch.zeros_like(self.cost).scatter_(1, found.at, found.t)
        return plan.view(batch, m, n).mT, x[:, :n], found.v.view(batch, m)

    def take(self, which: Tensor) -> Pruned:
        """The same for some problems of the batch only."""
        return Pruned(_take(self.problem, which), self.regulariser, semi=self.semi, width=self.width)

    def _row_sums(self, found: Columns) -> Tensor:
        batch, n, _ = self.problem.M.shape
        sums = torch.zeros(batch * n, dtype=self.problem.dtype, device=self.problem.device)
        at = found.at if batch == 1 else found.at + (self.home * n)[:, None]
        return sums.index_add_(0, at.reshape(-1), found.t.reshape(-1)).view(batch, n)

    def _columns(self, x: Tensor) -> Columns:
        u = x[:, : self.problem.n]
        v = None if self.semi else x[:, self.problem.n :].reshape(-1)
        found, edge = self._among(u, v, slice(None))
        rise = [(u - reference).amax(-1) for reference in self.references]  # of any u_i since that scan, per problem
        bound = self.rest if not rise else self.rest + torch.stack(rise)[self.epoch, self.home]
        # in u - cost: nothing outside the candidates lies above `bound`, nothing below `edge` enters the column
        late = (edge < bound).nonzero().squeeze(1)
        if late.numel():
            self._scan(u, v, late)
            some, _ = self._among(u, v, late)
            for whole, part in ((found.value, some.value), (found.t, some.t), (found.at, some.at), (found.v, some.v)):
                whole[late] = part
        return found

    def _among(self, u: Tensor, v: Tensor | None, which: Tensor | slice) -> tuple[Columns, Tensor]:
        """Solve the columns ``which`` among their candidates; and how high an outsider must be to change anything."""
        at, home = self.at[which], self.home[which]
        u_at = u[0][at] if u.shape[0] == 1 else u[home[:, None], at]
        s = u_at - self.near[which]
        if self.k is not None and self.k < self.width:
            s, order = s.topk(self.k, -1)
            at = at.gather(1, order)
        elif v is None:
            s, order = s.sort(-1, descending=True)
            at = at.gather(1, order)
        gamma = self.regulariser.gamma
        theta = threshold(s, gamma * self.mass[which]) if v is None else -v[which]
        t = (s - theta[:, None]).clamp_(min=0).div_(gamma)
        squared = 0.5 * gamma * t.square().sum(-1)
        value = squared if v is not None else (t * s).sum(-1) - squared
        edge = theta if self.k is None else torch.maximum(theta, s[:, -1] if self.k < self.width else theta)
        return Columns(value, t, at, -theta), edge

    def _scan(self, u: Tensor, v: Tensor | None, late: Tensor) -> None:
        """Look at every entry of the columns ``late``; the candidates are the highest there."""
        n = self.problem.n
        self.scanned += late.numel()
        self._new_reference(u)
        step = max(1, SLICE // n)
        for some in late.split(step):
            cost = self.cost[some]
            s = (u if u.shape[0] == 1 else u[self.home[some]]) - cost
            count = min(self.width + 1, n)
            values, at = s.topk(count, -1)
            self.at[some] = at[:, : self.width]
            self.near[some] = cost.gather(1, at[:, : self.width])
            self.rest[some] = values[:, -1] if count > self.width else -torch.inf
        self.epoch[late] = len(self.references) - 1

    def _new_reference(self, u: Tensor) -> None:
        """Remember u; references that no column uses are dropped, and the eldest when there are too many."""
        used = torch.bincount(self.epoch, minlength=len(self.references)).tolist() if self.references else []
        if len(self.references) >= EPOCHS:
            keep = [i for i, count in enumerate(used) if count]
            if len(keep) >= EPOCHS:  # the eldest reference's columns: scanned at the next evaluation
                self.rest[self.epoch == keep[0]] = torch.inf
                keep = keep[1:]
            number = torch.zeros(len(self.references), dtype=torch.int64, device=u.device)
            number[keep] = torch.arange(len(keep), device=u.device)
            self.references = [self.references[i] for i in keep]
            self.epoch = number[self.epoch]
        self.references.append(u.clone())


def objective(problem: Problem, regulariser: Regulariser, *, semi: bool) -> Dense | Pruned:
    """The cheaper of the two: pruned for squared norms over many rows, dense otherwise.

    >>> problem = Problem.make([1.0], [1.0], [[3.0]]).flat()
    >>> f, g = objective(problem, SquaredL2(1.0), semi=False)(torch.tensor([[4.0, 0.0]], dtype=torch.float64))
    >>> f.item(), g.tolist()  # t = [4 + 0 - 3]_+ = 1, -dual = 1 / 2 - 4
    (-3.5, [[0.0, 0.0]])
    """
    if isinstance(regulariser, KSparse) and problem.n >= max(DENSE, 8 * regulariser.k):
        return Pruned(problem, regulariser, semi=semi)
    return Dense(problem, regulariser, semi=semi)


def _take(problem: Problem, which: Tensor) -> Problem:
    return Problem._like(problem.a[which], problem.b[which], problem.M[which])
