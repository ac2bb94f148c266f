"""The algebra of spike and slab, natively on CPUs; the same in torch is sparseland.features.prosper.slabs.

For every point and every support a of its candidates: Λ = G_a + Ψ_a⁻¹ and κ = Λ⁻¹ (b_a + Ψ_a⁻¹ μ_a). Eight points are
worked on side by side; both functions invert anew, which costs less than to write the inverses and read them again.
All tensors are float64 on a CPU but ``members`` (int64), and the extension must be built: `choice.chosen` says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import native as extension
from .choice import array


def values(gram: Tensor, psi: Tensor, mu: Tensor, b: Tensor, members: Tensor, states: Tensor) -> Tensor:
    r"""Log-likelihoods (n, n_s) of every state of every point, without the part that all states share.

    $$\tfrac12 \left( (b_a + Ψ_a^{-1} μ_a)^\top κ - μ_a^\top Ψ_a^{-1} μ_a - \log |Ψ_a| |Λ| \right)$$

    Args:
        gram: (H, H). psi: (H,) or (H, H). mu: (H,). b: (n, H). members: (n, h) candidates. states: (n_s, h), 0 or 1.

    A state whose Ψ_a or Λ is not positive gets NaN.

    Raises:
        ValueError: sizes that do not fit, members outside 0 … H − 1, states that are not 0 or 1.

    >>> from sparseland.kernels import available
    >>> one = torch.ones(1, 1).double()  # Λ = 2, κ = 1
    >>> not available() or round(float(values(one, one[0], one[0], one, torch.tensor([[0]]), one)), 4) == 0.1534
    True
    """
    found = b.new_empty(len(b), len(states))
    extension().slabs_values(
        *_model(gram, psi, mu), *map(array, (b, members, states)), found.numpy(), torch.get_num_threads()
    )
    return found


def moments(
    gram: Tensor, psi: Tensor, mu: Tensor, b: Tensor, members: Tensor, states: Tensor, q: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Posterior means (n, h) of the slabs, and over all points the second moments and the masses, both (H, H).

    $$\sum_s q_s κ, \quad \sum_{n s} q_{n s} (κ κ^\top + Λ^{-1}), \quad \sum_{n s} q_{n s} s s^\top$$

    Args:
        q: (n, n_s), ≥ 0, what each state counts. The others: as in `values`.

    Raises:
        ValueError: as `values`.

    >>> from sparseland.kernels import available
    >>> one = torch.ones(1, 1).double()  # Λ = 2, κ = 1
    >>> not available() or [float(t) for t in moments(one, one[0], one[0], one, torch.tensor([[0]]), one, one)]
    [1.0, 1.5, 1.0]
    """
    means, zz, ss = b.new_empty(members.shape), torch.zeros_like(gram), torch.zeros_like(gram)
    extension().slabs_moments(
        *_model(gram, psi, mu), *map(array, (b, members, states, q)),
        means.numpy(), zz.numpy(), ss.numpy(), torch.get_num_threads(),
    )  # fmt: skip
    return means, zz, ss


def _model(gram: Tensor, psi: Tensor, mu: Tensor) -> tuple[Any, ...]:
    return array(gram), array(psi[None] if psi.ndim == 1 else psi), array(mu[None])
