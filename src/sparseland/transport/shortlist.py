"""Exact top-k of u - cost per column without looking at every entry again: shortlists, and when to distrust them.

A shortlist is made where all entries of a column are known: it holds the highest, and the value of the best that it
leaves out. Since then no u_i has risen by more than the largest rise; so an outsider's value now is at most its value
then plus that rise. While this stays below what matters in a column, the shortlist answers for the whole column. A few
u_i rise far more than all others, so where the bound fails they are looked at one by one and the next rise counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLICE = 1 << 19  # entries of a slice that is scanned at once: it stays in cache
EPOCHS = 16  # values of u that are remembered
RISERS = 48  # entries that rose most, which are looked at one by one


class Shortlist:
    """The ``width`` highest entries of u - cost in each of C columns, drawn from ``parent`` (None: from ``cost``).

    Args:
        cost: [C, n], one row per column of the plan.
        home: [C] the problem each belongs to; u is [B, n].
    """

    def __init__(self, cost: Tensor, home: Tensor, width: int, parent: Shortlist | None = None) -> None:
        self.cost, self.home, self.width, self.parent = cost, home, width, parent
        count, device = cost.shape[0], cost.device
        self.at = torch.zeros(count, width, dtype=torch.int64, device=device)
        self.near = torch.zeros(count, width, dtype=cost.dtype, device=device)
        self.rest = torch.full((count,), torch.inf, dtype=cost.dtype, device=device)  # inf: nothing is known yet
        self.epoch = torch.zeros(count, dtype=torch.int64, device=device)
        self.references: list[Tensor] = []
        self.scanned = 0

    def doubted(self, u: Tensor, edge: Tensor, which: Tensor | None = None) -> Tensor:
        """The columns (among ``which`` [L], None: all) where an entry outside the list may exceed ``edge`` [L]."""
        if not self.references:
            return torch.arange(self.cost.shape[0], device=u.device)
        rises = torch.stack([u - reference for reference in self.references])  # [E, B, n]
        epoch, home, rest = (t if which is None else t[which] for t in (self.epoch, self.home, self.rest))
        late = (edge < rest + rises.amax(-1)[epoch, home]).nonzero().squeeze(1)
        if late.numel() == 0 or self.parent is not None or self.cost.shape[1] <= 2 * RISERS:
            return late if which is None else which[late]
        edge = edge[late]
        late = late if which is None else which[late]
        return late[edge < self._bound(u, rises, late)]

    def _bound(self, u: Tensor, rises: Tensor, late: Tensor) -> Tensor:
        """A closer bound for the columns ``late``: the few entries that rose most are looked at one by one."""
        bound = self.rest[late]
        epoch = self.epoch[late]
        for number in epoch.unique().tolist():
            mine = (epoch == number).nonzero().squeeze(1)
            columns, home = late[mine], self.home[late[mine]]
            top, risers = rises[number].topk(RISERS + 1, -1)
            at = risers[home, :RISERS]
            then = self.references[number][home[:, None], at] - self.cost[columns[:, None], at]
            rest = self.rest[columns]
            outside = then <= rest[:, None]  # what is in the list was higher
            high = torch.where(outside, then + top[home, :RISERS], -torch.inf).amax(-1)
            bound[mine] = torch.maximum(rest + top[home, -1], high)
        return bound

    def values(self, u: Tensor, which: Tensor | slice) -> Tensor:
        """u - cost at the list's entries of the columns ``which``."""
        at = self.at[which]
        return (u[0][at] if u.shape[0] == 1 else u[self.home[which][:, None], at]) - self.near[which]

    def renew(self, u: Tensor, which: Tensor) -> None:
        """Draw the list of the columns ``which`` [L] anew."""
        self.scanned += which.numel()
        self._remember(u)
        self.epoch[which] = len(self.references) - 1
        whole = self.cost.shape[1] if self.parent is None else self.parent.width
        for some in which.split(max(1, SLICE // whole)):
            if self.parent is None:
                cost, at = self.cost[some], None
                s = (u if u.shape[0] == 1 else u[self.home[some]]) - cost
            else:
                cost, at = self.parent.near[some], self.parent.at[some]
                s = self.parent.values(u, some)
            top, order = s.topk(min(self.width + 1, whole), -1)
            order = order[:, : self.width]
            self.at[some] = order if at is None else at.gather(1, order)
            self.near[some] = cost.gather(1, order)
            self.rest[some] = top[:, -1] if self.width < whole else -torch.inf

    def _remember(self, u: Tensor) -> None:
        """Keep u as the newest reference; those that no column uses go, and of too many the eldest."""
        if len(self.references) >= EPOCHS:
            used = torch.bincount(self.epoch, minlength=len(self.references)).tolist()
            keep = [i for i, count in enumerate(used) if count]
            if len(keep) >= EPOCHS:
                self.rest[self.epoch == keep[0]] = torch.inf  # drawn anew as soon as it is asked for
                keep = keep[1:]
            number = torch.zeros(len(self.references), dtype=torch.int64, device=u.device)
            number[keep] = torch.arange(len(keep), device=u.device)
            self.references = [self.references[i] for i in keep]
            self.epoch = number[self.epoch]
        self.references.append(u.clone())
