"""The sparsified Hessian of the entropic dual: what is kept, how it multiplies, and how it is solved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import nearest
from ..core.selection import select
from ..kernels.newton import Entries, cut, solve
from .problem import TransportError

RULES = ("mass", "density")


@dataclass(frozen=True, eq=False)
class SparseHessian:
    """M = [[D1, S], [S^T, D2]], the negative Hessian of the dual over eta with few entries in S: positive semidefinite.

        D1 = diag(P 1), D2 = diag(P^T 1) of the whole plan;  S = the entries of P that were kept

    Args:
        block: S with the sums of the whole plan. d1: [n]. d2: [m].

    As the diagonals are those of the whole plan, rows have slack = the mass dropped: diagonally dominant.

    >>> from sparseland.kernels.newton import entries
    >>> C, zero = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), torch.zeros(2).double()
    >>> H = sparsify(entries(C, 3.0, zero, zero, 1e-12), rule="mass", budget=0.1)
    >>> H.nnz, bool((torch.linalg.eigvalsh(H.dense()) > 0).all())
    (2, True)
    """

    block: Entries
    d1: Tensor
    d2: Tensor

    @property
    def nnz(self) -> int:
        """Entries kept in S."""
        return len(self.block.values)

    @property
    def density(self) -> float:
        """Share of the n x m entries of P that S keeps."""
        return self.nnz / (len(self.d1) * len(self.d2))

    def times(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """M (x, y): [n] and [m]."""
        rows, columns, values = self.block.row_numbers, self.block.places.long(), self.block.values
        across = (self.d1 * x).index_add(0, rows, values * y[columns])
        return across, (self.d2 * y).index_add(0, columns, values * x[rows])

    def dense(self) -> Tensor:
        """M as an [n + m, n + m] tensor: for tests and small problems."""
        n, m = len(self.d1), len(self.d2)
        full = torch.diag(torch.cat([self.d1, self.d2]))
        full[self.block.row_numbers, n + self.block.places.long()] = self.block.values
        return torch.maximum(full, full.T) if n and m else full

    def damped(self, share: float) -> SparseHessian:
        """M + share D, for D the diagonal of M."""
        return self if share == 0 else SparseHessian(self.block, (1 + share) * self.d1, (1 + share) * self.d2)

    def solve(
        self, g: Tensor, h: Tensor, *, tol: float, max_iter: int, native: bool | None = None
    ) -> tuple[Tensor, Tensor, int, float]:
        """(x, y) with M (x, y) = (g, h), conjugate-gradient steps done, and the l1 norm of what is left."""
        return solve(self.block, self.d1, self.d2, g, h, tol=tol, most=max_iter, native=native)


def sparsify(
    entries: Entries, *, rule: str, budget: float = 0.0, density: float = 8.0, native: bool | None = None
) -> SparseHessian:
    """Keep few entries of the plan, and the diagonals of all of it.

    Args:
        entries: a plan's entries above a floor, and its sums.
        rule: "mass" drops the smallest entries while their sum is <= ``budget``; "density" keeps the ceil(density *
            max(n, m)) largest entries of P (not of the 2n x 2n Hessian, which holds P twice).
        budget: mass. density: entries per row.

    Source: "density" is the paper's (arXiv 2401.12253), "mass" the idea of SSNS (regot).

    >>> from sparseland.kernels.newton import entries
    >>> C, zero = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).double(), torch.zeros(2).double()
    >>> sparsify(entries(C, 1.0, zero, zero, 1e-12), rule="density", density=1.5).nnz
    3
    """
    if rule not in RULES:
        raise TransportError(f"rule {rule!r}: {nearest(rule, RULES)}")
    values = entries.values
    if rule == "mass":
        block = entries.keep(values >= cut(values, budget, native=native))
    else:
        k = math.ceil(density * max(len(entries.rows), len(entries.columns)))
        block = entries if k >= len(values) else entries.keep(select(values, k))
    least = torch.finfo(values.dtype).tiny / torch.finfo(values.dtype).eps  # a row that no mass reaches keeps M regular
    return SparseHessian(block, entries.rows.clamp_min(least), entries.columns.clamp_min(least))
