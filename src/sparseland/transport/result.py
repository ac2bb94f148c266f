"""What a solver found, in POT's names: plan, potentials, values, and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .problem import Problem

FEASIBLE = 1e-4  # a marginal counts as met when its largest error is below this share of the largest mass
STATUSES = ("converged", "max_iter", "stalled")


@dataclass(eq=False)
class OTResult:
    """A transport plan with its potentials and its faults. Per-problem numbers are [...] tensors of the batch's shape.

    Args:
        plan: [..., n, m]; dense, or a sparse COO tensor when asked for (``sparse=True``).
        potentials: (u [..., n], v [..., m]), the dual variables of the row and of the column sums.
        value: [...] optimum of the regularised problem (its dual value), differentiable in a, b and M.
        value_linear: [...] <plan, M>, without the regulariser.
        n_iter: iterations done, of the slowest problem of a batch.
        status: "converged" (tolerance reached), "max_iter" or "stalled" (no step improves any more); the worst of
            a batch. The plan is the best found in any case.
        converged: [...] bool, one per problem.
        row_error, col_error: [...] max |T 1 - a| and max |T^T 1 - b|.
        nnz: [...] number of entries > 0.
        log: one dict per recorded iteration, the solver's own words.

    >>> p = Problem.make([1.0], [1.0], [[3.0]])
    >>> r = OTResult.of(p, p.M / 3, (p.a, p.b), value=p.a.sum(), n_iter=1, converged=torch.tensor(True))
    >>> float(r.value_linear), r.feasible, int(r.nnz), r.status
    (3.0, True, 1, 'converged')
    """

    plan: Tensor
    potentials: tuple[Tensor, Tensor]
    value: Tensor
    value_linear: Tensor
    n_iter: int
    status: str
    converged: Tensor
    row_error: Tensor
    col_error: Tensor
    nnz: Tensor
    mass: float = 1.0
    log: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @classmethod
    def of(
        cls,
        problem: Problem,
        plan: Tensor,
        potentials: tuple[Tensor, Tensor],
        *,
        value: Tensor,
        n_iter: int,
        converged: Tensor,
        status: str | None = None,
        sparse: bool = False,
        log: list[dict[str, Any]] | None = None,
    ) -> OTResult:
        """Measure a dense ``plan`` [..., n, m] (errors, non-zeros, linear cost) and wrap it.

        ``status`` None: "converged" if all are, else "max_iter".
        """
        held = plan.detach()
        status = status or ("converged" if bool(converged.all()) else "max_iter")
        return cls(
            plan=sparse_coo(plan) if sparse else plan,
            potentials=potentials,
            value=value,
            value_linear=(held * problem.M.detach()).sum((-2, -1)),
            n_iter=n_iter,
            status=status,
            converged=converged,
            row_error=(held.sum(-1) - problem.a.detach()).abs().amax(-1),
            col_error=(held.sum(-2) - problem.b.detach()).abs().amax(-1),
            nnz=(held > 0).sum((-2, -1)),
            mass=float(max(problem.a.max(), problem.b.max())),
            log=log or [],
        )

    @property
    def feasible(self) -> bool:
        """Whether every marginal of every problem is met within 1e-4 of the largest mass."""
        return float(torch.maximum(self.row_error, self.col_error).max()) <= FEASIBLE * self.mass

    @property
    def potential_a(self) -> Tensor:
        """POT's name of u [..., n]."""
        return self.potentials[0]

    @property
    def potential_b(self) -> Tensor:
        """POT's name of v [..., m]."""
        return self.potentials[1]

    @property
    def dense_plan(self) -> Tensor:
        """The plan as a dense tensor [..., n, m]."""
        return self.plan.to_dense() if self.plan.is_sparse else self.plan

    @property
    def sparse_plan(self) -> Tensor:
        """The plan as a coalesced COO tensor of its entries that are not 0."""
        return self.plan if self.plan.is_sparse else sparse_coo(self.plan)

    @property
    def marginal_a(self) -> Tensor:
        """T 1 [..., n]."""
        return self.dense_plan.sum(-1)

    @property
    def marginal_b(self) -> Tensor:
        """T^T 1 [..., m]."""
        return self.dense_plan.sum(-2)

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Both marginals of the plan."""
        return self.marginal_a, self.marginal_b

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.plan.shape))
        value = f"{float(self.value):.8g}" if self.value.numel() == 1 else f"{self.value.numel()} values"
        return (
            f"OTResult({shape}, {'sparse, ' if self.plan.is_sparse else ''}value={value}, status={self.status!r}, "
            f"n_iter={self.n_iter}, nnz={int(self.nnz.sum())}, row_error={float(self.row_error.max()):.2g}, "
            f"col_error={float(self.col_error.max()):.2g})"
        )


def sparse_coo(plan: Tensor) -> Tensor:
    """A dense plan as a coalesced COO tensor that holds only what is not 0.

    >>> sparse_coo(torch.tensor([[0.0, 0.5], [0.5, 0.0]])).indices().tolist()
    [[0, 1], [1, 0]]
    """
    made: Tensor = plan.to_sparse_coo().coalesce()
    return made
