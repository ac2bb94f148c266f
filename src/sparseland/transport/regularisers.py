"""Regularisers of one column of the plan, by what a solver needs of them: a conjugate, and a maximum over the simplex.

``delta(s) = max_{t >= 0} <t, s> - Omega(t)`` is the dual's piece, ``maximum(s, b)`` the same with sum(t) = b, the
semi-dual's. Both return the maximiser, which is the gradient. The last dimension is the column of the plan.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import TransportError


@dataclass(frozen=True)
class Regulariser(ABC):
    """Omega(t), a strictly convex function of a column t [..., n] >= 0, weighted by ``gamma`` > 0 (POT's ``reg``)."""

    gamma: float

    def __post_init__(self) -> None:
        if isinstance(self.gamma, bool) or not isinstance(self.gamma, (int, float)):
            raise TypeError(f"reg is a number > 0; got {self.gamma!r}")
        if not (self.gamma > 0 and math.isfinite(self.gamma)):
            raise TransportError(f"reg is a finite number > 0; got {self.gamma!r} (without regularisation: POT's emd)")

    @abstractmethod
    def omega(self, t: Tensor) -> Tensor:
        """Omega of every column: [..., n] to [...]."""

    @abstractmethod
    def delta(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """max over t >= 0 of <t, s> - Omega(t): (value [...], maximiser [..., n])."""

    @abstractmethod
    def maximum(self, s: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """max over t >= 0 with sum b of <t, s> - Omega(t): (value [...], maximiser [..., n], its multiplier [...]).

        The multiplier is the derivative of the value with respect to ``b`` [...] >= 0.
        """


@dataclass(frozen=True)
class SquaredL2(Regulariser):
    """Omega(t) = gamma / 2 * ||t||^2: sparse plans without a bound on the number of non-zeros (arXiv 1710.06276).

    >>> value, t = SquaredL2(2.0).delta(torch.tensor([3.0, -1.0]))
    >>> value.item(), t.tolist()
    (2.25, [1.5, 0.0])
    """

    def omega(self, t: Tensor) -> Tensor:
        """gamma / 2 * ||t||^2."""
        return 0.5 * self.gamma * t.square().sum(-1)

    def delta(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """sum([s]_+^2) / (2 gamma)."""
        t = s.clamp(min=0) / self.gamma
        return self.omega(t), t

    def maximum(self, s: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[s - theta]_+ / gamma, the projection of s / gamma on the simplex of mass b."""
        theta = threshold(s.sort(-1, descending=True).values, self.gamma * b)
        t = (s - theta[..., None]).clamp(min=0) / self.gamma
        return (t * s).sum(-1) - self.omega(t), t, theta


@dataclass(frozen=True)
class KSparse(Regulariser):
    """Omega(t) = gamma / 2 * ||t||^2 for columns with at most ``k`` non-zeros, infinite for others (arXiv 2209.15466).

    >>> value, t, theta = KSparse(1.0, k=2).maximum(torch.tensor([3.0, 1.0, 2.5]), torch.tensor(1.0))
    >>> t.tolist(), theta.item()
    ([0.75, 0.0, 0.25], 2.25)
    """

    k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise TransportError(f"max_nz is at least 1; got {self.k}")

    def omega(self, t: Tensor) -> Tensor:
        """gamma / 2 * ||t||^2, infinite where a column has more than k non-zeros."""
        return torch.where((t != 0).sum(-1) <= self.k, 0.5 * self.gamma * t.square().sum(-1), torch.inf)

    def delta(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """sum over the k largest of [s]_+^2 / (2 gamma)."""
        values, at = s.topk(min(self.k, s.shape[-1]), -1)
        t = values.clamp(min=0) / self.gamma
        return 0.5 * self.gamma * t.square().sum(-1), torch.zeros_like(s).scatter(-1, at, t)

    def maximum(self, s: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The k largest, projected on the simplex of mass b."""
        values, at = s.topk(min(self.k, s.shape[-1]), -1)
        theta = threshold(values, self.gamma * b)
        t = (values - theta[..., None]).clamp(min=0) / self.gamma
        best = (t * values).sum(-1) - 0.5 * self.gamma * t.square().sum(-1)
        return best, torch.zeros_like(s).scatter(-1, at, t), theta


@dataclass(frozen=True)
class NegEntropy(Regulariser):
    """Omega(t) = gamma * sum(t log t): dense plans, the entropic limit (POT's ``kl`` of ``ot.smooth``).

    >>> value, t, _ = NegEntropy(1.0).maximum(torch.zeros(4), torch.tensor(1.0))
    >>> t.tolist(), round(value.item(), 4)
    ([0.25, 0.25, 0.25, 0.25], 1.3863)
    """

    def omega(self, t: Tensor) -> Tensor:
        """gamma * sum(t log t), 0 log 0 = 0."""
        return self.gamma * torch.xlogy(t, t).sum(-1)

    def delta(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """gamma * sum(exp(s / gamma - 1))."""
        t = torch.exp(s / self.gamma - 1)
        return self.gamma * t.sum(-1), t

    def maximum(self, s: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """b * softmax(s / gamma)."""
        top = self.gamma * torch.logsumexp(s / self.gamma, -1)
        t = b[..., None] * torch.softmax(s / self.gamma, -1)
        log = self.gamma * torch.log(b.clamp(min=torch.finfo(b.dtype).tiny))
        return b * (top - log), t, top - log - self.gamma


def threshold(values: Tensor, mass: Tensor) -> Tensor:
    """theta [...] with sum([values - theta]_+) = mass, for ``values`` [..., n] sorted from high to low, mass >= 0.

        theta = (sum_{i <= rho} v_i - mass) / rho,   rho = the last i with v_i > (sum_{j <= i} v_j - mass) / i

    >>> threshold(torch.tensor([3.0, 2.5, 1.0]), torch.tensor(1.0)).item()
    2.25
    """
    ranks = torch.arange(1, values.shape[-1] + 1, dtype=values.dtype, device=values.device)
    candidates = (values.cumsum(-1) - mass[..., None]) / ranks
    rho = (values > candidates).sum(-1, keepdim=True).clamp(min=1)
    return candidates.gather(-1, rho - 1).squeeze(-1)


def top_k_relu(s: Tensor, k: int, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest entries along ``dim``, negative ones as 0: (values, indices), from high to low.

    Raises:
        TransportError: k is not in 1 … the size.

    >>> values, at = top_k_relu(torch.tensor([1.0, -2.0, 5.0]), 2)
    >>> values.tolist(), at.tolist()
    ([5.0, 1.0], [2, 0])
    """
    values, at = s.topk(_count(k, s.shape[dim]), dim)
    return values.clamp(min=0), at


def project_sparse_simplex(s: Tensor, k: int | None = None, mass: float | Tensor = 1.0, dim: int = -1) -> Tensor:
    """Nearest point to ``s`` with entries >= 0, sum ``mass`` and at most k non-zeros along ``dim``; k None: any number.

        argmin_p ||p - s||^2  s.t.  p >= 0, sum(p) = mass, ||p||_0 <= k

    The k largest entries, projected on the simplex (arXiv 1206.1529).

    Raises:
        TransportError: k is not in 1 … the size, or mass is not > 0.

    >>> project_sparse_simplex(torch.tensor([0.5, 0.25, 0.125]), k=2).tolist()
    [0.625, 0.375, 0.0]
    """
    moved = s.movedim(dim, -1)
    size = torch.as_tensor(mass, dtype=s.dtype, device=s.device).expand(moved.shape[:-1])
    if not bool((size > 0).all()):
        raise TransportError(f"the mass of a simplex is > 0; got {mass!r}")
    count = moved.shape[-1] if k is None else _count(k, moved.shape[-1])
    values, at = moved.topk(count, -1)
    p = (values - threshold(values, size)[..., None]).clamp(min=0)
    return torch.zeros_like(moved).scatter(-1, at, p).movedim(-1, dim)


def _count(k: int, size: int) -> int:
    if not 1 <= k <= size:
        raise TransportError(f"k is 1 … {size} (the size along the dimension); got {k}")
    return k
