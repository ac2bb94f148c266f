"""How often features fire: running densities, dead and underused features, and the Zipf curve through them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.matching import shares

OFFSETS = (0, 1, 2, 5, 10, 20, 50, 100, 200)  # b of (rank + b)^-s that are tried
FLOOR = 1e-5  # densities below do not take part in the fit: that end does not follow the law


@dataclass(frozen=True)
class Zipf:
    """log density = c - s log(rank + b), rank from 1.

    Parameters:
        c: log of the scale. s: slope, >= 0. b: offset, >= 0. r2: share of the log densities' variance explained.

    >>> fitted = Zipf.fit(0.5 / torch.arange(1.0, 200.0))
    >>> round(fitted.s, 3), fitted.b, round(fitted.r2, 3)
    (1.0, 0.0, 1.0)
    """

    c: float
    s: float
    b: float
    r2: float

    @classmethod
    def fit(cls, density: Tensor) -> Zipf:
        """Least squares of the sorted densities above 1e-5, b by trying; flat where fewer than three are left."""
        ranked = density.detach().double().cpu().sort(descending=True).values
        ranked = ranked[ranked > FLOOR]
        if ranked.numel() < 3:
            return cls(float(ranked.mean().log()) if ranked.numel() else 0.0, 0.0, 0.0, 0.0)
        y = ranked.log()
        rank = torch.arange(1, ranked.numel() + 1, dtype=torch.float64)
        found = []
        for b in OFFSETS:
            x = (rank + b).log()
            slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
            slope = min(slope, 0.0)
            intercept = float(y.mean() - slope * x.mean())
            error = float((y - intercept - slope * x).square().sum())
            spread = float((y - y.mean()).square().sum())
            found.append((error, cls(intercept, -slope, float(b), 1 - error / spread if spread > 0 else 1.0)))
        return min(found, key=lambda item: item[0])[1]

    def density(self, count: int) -> Tensor:
        """Expected densities of ranks 1 … count, (count,) float64, at most 1.

        >>> Zipf(0.0, 1.0, 0.0, 1.0).density(3).tolist() == [1.0, 0.5, 1 / 3]
        True
        """
        rank = torch.arange(1, count + 1, dtype=torch.float64)
        return (self.c - self.s * (rank + self.b).log()).exp().clamp(max=1.0)


def ranks(density: Tensor) -> Tensor:
    """Rank of each feature by density, 0 = the most frequent; equal ones by index.

    >>> ranks(torch.tensor([0.1, 0.5, 0.1])).tolist()
    [1, 0, 2]
    """
    order = density.sort(descending=True, stable=True).indices
    found = torch.empty_like(order)
    found[order] = torch.arange(order.numel(), device=order.device)
    return found


def steadied(old: Tensor, new: Tensor) -> Tensor:
    """New ranks where a feature moved by more than a quarter of its old rank and 8 places, else the old order.

    >>> steadied(torch.arange(4), torch.tensor([1, 0, 2, 3])).tolist()
    [0, 1, 2, 3]
    """
    moved = (new - old).abs() > 0.25 * old + 8
    return ranks(-torch.where(moved, new, old).double())


def budgets(curve: Zipf, rank: Tensor, k: int, tokens: int) -> Tensor:
    """Tokens m_i each feature may have in a batch: Zipf by rank, whole, 1 … tokens, adding up to k * tokens.

    >>> budgets(Zipf(0.0, 1.0, 0.0, 1.0), torch.tensor([1, 0, 2]), 1, 10).tolist()
    [3, 5, 2]
    """
    return shares(curve.density(rank.numel()).to(rank.device)[rank], k * tokens, high=tokens)


def gini(density: Tensor) -> float:
    """Inequality of densities: 0 all equal … 1 one feature has everything.

    >>> gini(torch.ones(4)), round(gini(torch.tensor([0.0, 0.0, 0.0, 1.0])), 3)
    (0.0, 0.75)
    """
    ranked = density.detach().double().sort().values
    total = float(ranked.sum())
    if total <= 0:
        return 0.0
    n = ranked.numel()
    place = torch.arange(1, n + 1, dtype=torch.float64, device=ranked.device)
    return float((2 * place - n - 1) @ ranked) / (n * total)
