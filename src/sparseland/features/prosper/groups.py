"""Points with the same candidates, side by side: what depends on candidates alone is computed once per set of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .em import CACHE, MOST_ROWS, Part

ROOM = 4 * CACHE  # bytes of what one chunk holds per point
PADDING = 4  # how many times the points a padded batch may be
FEW = 8  # points per group from which a product for each group pays


@dataclass(frozen=True)
class Groups:
    """members: (U, H') candidates of each group. group: (n,), of each point. starts: (U,), first point of each."""

    members: Tensor
    group: Tensor
    starts: Tensor

    @property
    def single(self) -> bool:
        """Whether every group is one point."""
        return len(self.members) == len(self.group)

    def sizes(self) -> Tensor:
        """Points of each group, (U,)."""
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([len(self.group)])])
        return ends - self.starts

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Of each point, ``left`` (n, K) times the ``right`` (U, K, M) of its group: (n, M).

        >>> two = grouped(torch.tensor([[0, 1], [0, 1], [0, 2]]))
        >>> two.products(torch.ones(3, 1), torch.tensor([[[5.0]], [[7.0]]])).tolist()
        [[5.0], [5.0], [7.0]]
        """
        n, widest = len(left), self._widest()
        if widest:
            slot = self._slots()
            padded = left.new_zeros(len(self.members), widest, left.shape[1])
            padded[self.group, slot] = left
            return torch.bmm(padded, right)[self.group, slot]
        found = left.new_empty(n, right.shape[2])
        for u, (start, end) in enumerate(self._ends()):
            torch.mm(left[start:end], right[u], out=found[start:end])
        return found

    def sums(self, left: Tensor, right: Tensor) -> Tensor:
        """Σ over the points of each group of the outer products of ``left`` (n, A) and ``right`` (n, B): (U, A, B).

        >>> two = grouped(torch.tensor([[0, 1], [0, 1], [0, 2]]))
        >>> two.sums(torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(3, 1)).flatten().tolist()
        [3.0, 3.0]
        """
        U, widest = len(self.members), self._widest()
        if widest:
            slot = self._slots()
            a = left.new_zeros(U, widest, left.shape[1])
            b = right.new_zeros(U, widest, right.shape[1])
            a[self.group, slot], b[self.group, slot] = left, right
            return torch.bmm(a.transpose(1, 2), b)
        found = left.new_empty(U, left.shape[1], right.shape[1])
        for u, (start, end) in enumerate(self._ends()):
            torch.mm(left[start:end].T, right[start:end], out=found[u])
        return found

    def grams(self, left: Tensor, right: Tensor) -> Tensor:
        """Σ over the points of each group of ``left``ᵀ ``right``, both (n, K, h): (U, h, h).

        >>> two = grouped(torch.tensor([[0, 1], [0, 1], [0, 2]]))
        >>> two.grams(torch.ones(3, 2, 1), torch.ones(3, 2, 1)).flatten().tolist()
        [4.0, 2.0]
        """
        n, _, h = left.shape
        if self._widest():
            return self.totals(torch.bmm(left.transpose(1, 2), right).view(n, h * h)).view(len(self.members), h, h)
        found = left.new_empty(len(self.members), h, h)
        for u, (start, end) in enumerate(self._ends()):
            torch.mm(left[start:end].reshape(-1, h).T, right[start:end].reshape(-1, h), out=found[u])
        return found

    def totals(self, values: Tensor) -> Tensor:
        """Σ over the points of each group of ``values`` (n, M): (U, M)."""
        return values.new_zeros(len(self.members), values.shape[1]).index_add_(0, self.group, values)

    def _widest(self) -> int:
        """Size of the largest group where one padded batch pays, else 0."""
        n, U = len(self.group), len(self.members)
        widest = int(self.sizes().max()) if U else 1
        return widest if n == 0 or (n < FEW * U and U * widest <= PADDING * n) else 0

    def _slots(self) -> Tensor:
        return torch.arange(len(self.group), device=self.group.device) - self.starts[self.group]

    def _ends(self) -> list[tuple[int, int]]:
        starts = self.starts.tolist()
        return list(zip(starts, [*starts[1:], len(self.group)], strict=True))


def grouped(candidates: Tensor, shared: float = 0.0) -> Groups:
    """The groups of (n, H') ``candidates`` of which equal rows stand side by side.

    shared: where a group has fewer points than this on average, every point is a group of its own.
    """
    new = _changes(candidates)
    if len(candidates) < shared * int(new.sum()):
        new = torch.ones_like(new)
    return Groups(candidates[new], new.cumsum(0) - 1, new.nonzero().squeeze(1))


def split(
    candidates: Tensor, row_bytes: int, group_bytes: int, batch: int | None, shared: float = 0.0
) -> Iterator[Part]:
    """Indices of chunks in which equal rows of ``candidates`` (N, H') stand side by side, and these rows.

    A chunk holds as many points and groups as have room, or at most ``batch`` points. shared: groups take
    no room where they have fewer points than this on average (`grouped`).
    """
    key = torch.zeros_like(candidates[:, 0])
    for column in candidates.unbind(1):  # may wrap around: neighbours are compared in full
        key = key * 1_000_003 + column
    order = key.argsort(stable=True)
    group = _changes(candidates[order]).cumsum(0) - 1
    rows = batch or max(1, min(MOST_ROWS, ROOM // max(1, row_bytes)))
    groups = max(1, CACHE // max(1, group_bytes))
    start = 0
    while start < len(order) or start == 0:  # at least one chunk, perhaps empty: every process has sums
        end = min(start + rows, len(order))
        number = int(group[end - 1] - group[start]) + 1 if end > start else 0
        if number > groups and end - start >= shared * number:
            end = int(torch.searchsorted(group, group[start] + groups))
        yield order[start:end], candidates[order[start:end]]
        start = max(end, 1)


def _changes(candidates: Tensor) -> Tensor:
    """(n,) whether a row differs from the one before it."""
    new = torch.ones(len(candidates), dtype=torch.bool, device=candidates.device)
    new[1:] = (candidates[1:] != candidates[:-1]).any(1)
    return new
