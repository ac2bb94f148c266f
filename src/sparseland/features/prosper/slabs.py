"""Spike-and-slab algebra over candidate sets: one small inverse per (set of candidates, support).

In torch it serves all points of a set; on CPUs, in double precision, `kernels.slabs` inverts anew for every point.

With b = Wᵀ Σ⁻¹ y, G = Wᵀ Σ⁻¹ W, a support a has Λ = G_a + Ψ_a⁻¹, κ = Λ⁻¹ (b_a + Ψ_a⁻¹ μ_a) and
log p(y|a) = −½ [log|Ψ_a| + log|Λ| + μ_aᵀ Ψ_a⁻¹ μ_a] + ½ (b_a + Ψ_a⁻¹ μ_a)ᵀ κ − ½ yᵀ Σ⁻¹ y + c; only b is the point's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...kernels import slabs as kernels
from ...kernels.choice import chosen
from .groups import Groups, grouped
from .states import States


class Slabs(Protocol):
    """Posterior slabs of the multi-cause states of n points."""

    def means(self, q: Tensor) -> Tensor:
        """Σ_s q κ, (n, H'); q: (n, n_s)."""

    def moments(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`means`, and Σ ⟨(s∘z)(s∘z)ᵀ⟩ and Σ ⟨s sᵀ⟩ over all points, both (H, H) in double precision."""


@dataclass
class Kept(Slabs):
    """In torch: the inverses are kept, one for each of U groups of equal candidates.

    inverse: (U, n_s, H', H'), Λ⁻¹ with zeros outside the support. kappa: (n, n_s, H'), posterior means of z.
    """

    inverse: Tensor
    kappa: Tensor
    groups: Groups
    states: States
    latents: int

    def means(self, q: Tensor) -> Tensor:
        means: Tensor = torch.matmul(q[:, None], self.kappa).squeeze(1)
        return means

    def moments(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        second, mass = self._second(q)
        values, members, H = self.states.values, self.groups.members, self.latents
        both = (mass @ (values[:, :, None] * values[:, None, :]).flatten(1)).view_as(second)
        place = (members[:, :, None] * H + members[:, None, :]).reshape(-1)
        zz, ss = (
            torch.bincount(place, t.double().reshape(-1), minlength=H * H).double().view(H, H) for t in (second, both)
        )
        return self.means(q), zz, ss

    def _second(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Σ ⟨(s∘z)(s∘z)ᵀ⟩ of every group, (U, H', H'), and the posterior's mass on every state, (U, n_s)."""
        number, h = self.kappa.shape[1:]
        mass = self.groups.totals(q)
        outer = self.groups.grams(self.kappa * q[..., None], self.kappa)
        spread = torch.matmul(mass[:, None], self.inverse.reshape(len(mass), number, h * h)).squeeze(1)
        return outer + spread.view_as(outer), mass


@dataclass
class Anew(Slabs):
    """On CPUs: nothing is kept, for the kernel inverts anew sooner than it would read."""

    model: tuple[Tensor, Tensor, Tensor]  # gram, psi, mu
    b: Tensor
    candidates: Tensor
    states: States

    def means(self, q: Tensor) -> Tensor:
        return self.moments(q)[0]

    def moments(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return kernels.moments(*self.model, self.b, self.candidates, self.states.values, q)


def invert_(A: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse in place and log-determinant of symmetric positive matrices ``A`` (g, g, …), by Gauss-Jordan sweeps.

    The batch is last, so that each of the few operations runs over all matrices at once; no pivoting is needed.

    >>> A = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64)[..., None]
    >>> inverse, logdet = invert_(A.clone())
    >>> torch.allclose(inverse[..., 0] @ A[..., 0], torch.eye(2, dtype=torch.float64)), round(logdet.exp().item(), 6)
    (True, 8.0)
    """
    logdet = torch.zeros_like(A[0, 0])
    for k in range(len(A)):
        pivot = A[k, k].clone()
        logdet += pivot.log()
        column = A[:, k].clone()
        column[k] = 0.0
        A[:, k] = 0.0
        row = A[k] / pivot
        row[k] = pivot.reciprocal()
        A -= column[:, None] * row[None]
        A[k] = row
    return A, logdet


def slabs(
    gram: Tensor,
    psi: Tensor,
    mu: Tensor,
    b: Tensor,
    candidates: Tensor,
    states: States,
    native: bool | None = None,
) -> tuple[Tensor, Slabs]:
    """Log-likelihoods (n, n_s) of the multi-cause states, without the part that all states share, and their slabs.

    gram: (H, H). psi: (H,) or (H, H). mu: (H,). b: (n, H). candidates: (n, H'). native: as in `kernels.causes`.
    """
    if chosen(native, gram):
        found = Anew((gram, psi, mu), b, candidates, states)
        return kernels.values(*found.model, b, candidates, states.values), found
    groups = grouped(candidates)
    linear, constant = _per_group(gram, psi, mu, groups.members, states)  # (U, n_s, h, h + 1), (U, n_s)
    U, number, h = linear.shape[:3]
    near = b.gather(1, candidates)
    one = torch.cat([near, torch.ones_like(near[:, :1])], 1)
    kappa = groups.products(one, linear.view(U, number * h, h + 1).transpose(1, 2)).view(len(b), number, h)
    value = groups.products(near, linear[..., h].transpose(1, 2))
    value.add_(torch.matmul(kappa, near[:, :, None]).squeeze(2)).mul_(0.5).add_(constant[groups.group])
    return value, Kept(linear[..., :h], kappa, groups, states, len(gram))


def _per_group(gram: Tensor, psi: Tensor, mu: Tensor, groups: Tensor, states: States) -> tuple[Tensor, Tensor]:
    """[Λ⁻¹ | Λ⁻¹ Ψ⁻¹ μ] and the constant of every (group, state)."""
    U, h = groups.shape
    G = gram[groups[:, :, None], groups[:, None, :]].permute(1, 2, 0)  # (h, h, U)
    prior = psi[groups[:, :, None], groups[:, None, :]].permute(1, 2, 0) if psi.ndim == 2 else psi[groups].T
    mean = mu[groups].T  # (h, U)
    linear = gram.new_zeros(len(states), h, h + 1, U)
    constant = gram.new_empty(len(states), U)
    sizes = states.sizes.long()
    for g in sizes.unique().tolist():
        rows = (sizes == g).nonzero().squeeze(1)
        support = states.values[rows].nonzero()[:, 1].view(-1, g).T  # (g, n_g)
        i, j = support[:, None], support[None, :]  # (g, 1, n_g), (1, g, n_g)
        A, m = G[i, j].contiguous(), mean[support]  # (g, g, n_g, U), (g, n_g, U)
        if psi.ndim == 2:
            precision, log_psi = invert_(prior[i, j].contiguous())
            eta = (precision * m[None]).sum(1)
            A += precision
        else:
            p = prior[support]
            eta, log_psi = m / p, p.log().sum(0)
            A.diagonal(dim1=0, dim2=1).add_(p.reciprocal().permute(1, 2, 0))
        A, log_lambda = invert_(A)
        shift = (A * eta[None]).sum(1)  # Λ⁻¹ Ψ⁻¹ μ
        linear[rows, i, j] = A
        linear[rows, support, h] = shift
        constant[rows] = 0.5 * (((shift - m) * eta).sum(0) - log_psi - log_lambda)
    return linear.permute(3, 0, 1, 2).contiguous(), constant.T.contiguous()
