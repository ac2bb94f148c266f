"""Spike-and-slab algebra over candidate sets: one small inverse per (set of candidates, support), for all its points.

With b = Wᵀ Σ⁻¹ y, G = Wᵀ Σ⁻¹ W, a support a has Λ = G_a + Ψ_a⁻¹, κ = Λ⁻¹ (b_a + Ψ_a⁻¹ μ_a) and
log p(y|a) = −½ [log|Ψ_a| + log|Λ| + μ_aᵀ Ψ_a⁻¹ μ_a] + ½ (b_a + Ψ_a⁻¹ μ_a)ᵀ κ − ½ yᵀ Σ⁻¹ y + c; only b is the point's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .groups import Groups
from .states import States


@dataclass
class Slabs:
    """Posterior slabs of the multi-cause states of n points in U groups of equal candidates.

    inverse: (U, n_s, H', H'), Λ⁻¹ with zeros outside the support. kappa: (n, n_s, H'), posterior means of z.
    """

    inverse: Tensor
    kappa: Tensor
    groups: Groups


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


def slabs(gram: Tensor, psi: Tensor, mu: Tensor, b: Tensor, groups: Groups, states: States) -> tuple[Tensor, Slabs]:
    """Log-likelihoods (n, n_s) of the multi-cause states, without the part that all states share, and their slabs.

    gram: (H, H). psi: (H,) or (H, H). mu: (H,). b: (n, H).
    """
    linear, constant = _per_group(gram, psi, mu, groups.members, states)  # (U, n_s, h, h + 1), (U, n_s)
    U, number, h = linear.shape[:3]
    near = b.gather(1, groups.members[groups.group])
    one = torch.cat([near, torch.ones_like(near[:, :1])], 1)
    kappa = groups.products(one, linear.view(U, number * h, h + 1).transpose(1, 2)).view(len(b), number, h)
    value = groups.products(near, linear[..., h].transpose(1, 2))
    value.add_(torch.matmul(kappa, near[:, :, None]).squeeze(2)).mul_(0.5).add_(constant[groups.group])
    return value, Slabs(linear[..., :h], kappa, groups)


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


def second_moments(found: Slabs, q: Tensor) -> tuple[Tensor, Tensor]:
    """Σ ⟨(s∘z)(s∘z)ᵀ⟩ of every group, (U, H', H'), and the posterior's mass on every state, (U, n_s); q: (n, n_s)."""
    number, h = found.kappa.shape[1:]
    mass = found.groups.totals(q)
    outer = found.groups.grams(found.kappa * q[..., None], found.kappa)
    spread = torch.matmul(mass[:, None], found.inverse.reshape(len(mass), number, h * h)).squeeze(1)
    return outer + spread.view_as(outer), mass
