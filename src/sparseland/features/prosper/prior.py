"""The mass that a prior puts on states which a truncated posterior can reach."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def binomial_mass(components: int, gamma: int, pi: float) -> tuple[float, float]:
    r"""log A and log B: $A = \sum_{g \le γ} \binom{H}{g} π^g (1-π)^{H-g}$, and B with a factor g in every term.

    >>> import math
    >>> log_a, log_b = binomial_mass(10, 10, 0.2)
    >>> abs(log_a) < 1e-12, abs(math.exp(log_b) - 2.0) < 1e-12
    (True, True)
    """
    size = torch.arange(gamma + 1, dtype=torch.float64)
    H = float(components)
    choose = math.lgamma(H + 1) - torch.lgamma(size + 1) - torch.lgamma(H - size + 1)
    terms = choose + size * math.log(pi) + (H - size) * math.log1p(-pi)
    log_a = min(0.0, float(terms.logsumexp(0))) if gamma < components else 0.0
    return log_a, float((terms + size.log()).logsumexp(0))


def poisson_binomial_mass(pi: Tensor, gamma: int) -> float:
    """log of the probability that at most γ of independent latents with probabilities ``pi`` (H,) are on.

    >>> abs(poisson_binomial_mass(torch.full((10,), 0.2), 4) - binomial_mass(10, 4, 0.2)[0]) < 1e-6
    True
    """
    if gamma >= len(pi):
        return 0.0
    mass = torch.zeros(gamma + 1, dtype=torch.float64)
    mass[0] = 1.0
    for p in pi.double().cpu():  # mass[g]: probability of exactly g causes so far
        shifted = torch.cat([mass.new_zeros(1), mass[:-1]])
        mass = mass * (1 - p) + shifted * p
    return min(0.0, math.log(max(float(mass.sum()), 1e-300)))
