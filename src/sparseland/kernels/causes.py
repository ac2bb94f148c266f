"""Causes of which only the largest shows in each pixel: smooth maxima, and what each cause has of them.

Both functions run over groups: sets of candidates that one point has, or several points share. Each takes ``native``:
None chooses the extension where it is built and the tensors are float64 on a CPU, False is the twin in torch (any
device), True insists. The twins hold a few tensors of size (U, n_s, D), the kernels only what they take and return.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import native as extension
from .choice import array, chosen

LEAST = torch.finfo(torch.float64).tiny  # of |u| in a power: |u|^e is a number then, and its product with 0 is 0


def maxima(
    powers: Tensor,
    members: Tensor,
    states: Tensor,
    exponent: float,
    y: Tensor | None = None,
    *,
    native: bool | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Smooth maxima of the causes that are on, for every state of every group.

    $$u_d(s) = \sum_h s_h \, \mathrm{powers}_{hd}, \quad m = |u|^e u$$

    With powers sign(W) |W|^ρ and e = 1/ρ − 1, m is sign(u) |u|^{1/ρ}. In |u|^e, |u| is at least 2^−1022: two causes
    may cancel.

    Args:
        powers: (H, D) float64. members: (U, h) int64, the candidates of each group. states: (n_s, h), zeros and ones.
        exponent: e, in −1 … 0. y: (U, D), a point for every group, or None.

    Returns:
        Σ_d m², (U, n_s), and with y Σ_d m y, (U, n_s), else m itself, (U, n_s, D).

    Raises:
        ValueError: an exponent outside −1 … 0; sizes that do not fit, members outside 0 … H − 1, states that are not 0
            or 1, where the extension does the work.

    >>> W = torch.tensor([[3.0, 0.0, 2.0], [4.0, 5.0, -2.0]]).double()
    >>> both = torch.ones(1, 2).double()
    >>> maxima(W.sign() * W.square(), torch.tensor([[0, 1]]), both, -0.5)[1].round(decimals=6).tolist()
    [[[5.0, 5.0, 0.0]]]
    """
    _check(exponent)
    if chosen(native, powers):
        U, number, D = len(members), len(states), powers.shape[1]
        lengths, none = powers.new_empty(U, number), powers.new_empty(0, 0)
        images = none if y is not None else powers.new_empty(U * number, D)
        cross = none if y is None else torch.empty_like(lengths)
        extension().causes_maxima(
            *map(array, (powers, members, states)), exponent, y is not None, array(none if y is None else y),
            images.numpy(), lengths.numpy(), cross.numpy(), torch.get_num_threads(),
        )  # fmt: skip
        return lengths, images.view(U, number, D) if y is None else cross
    u, power = _powers(powers, members, states, exponent)
    m = u.mul_(power)
    return m.square().sum(2), m if y is None else torch.matmul(m, y[..., None]).squeeze(2)


def shares(
    powers: Tensor,
    slopes: Tensor,
    members: Tensor,
    states: Tensor,
    exponent: float,
    weight: Tensor,
    *,
    y: Tensor | None = None,
    second: Tensor | None = None,
    cap: bool = False,
    native: bool | None = None,
) -> tuple[Tensor, Tensor]:
    r"""What each cause has of the maxima, ∂m/∂W, weighted: below and above, both (H, D).

    $$\mathrm{below}_h = \sum_{u, s \ni h} \mathrm{weight}_{us} \, g(|u(s)|^e \, \mathrm{slopes}_h), \quad
    g(x) = x, \text{ or } \min(x, 1) \text{ with cap}$$

    The powers are taken anew: that is cheaper than to keep them, (U, n_s, D), since `maxima`.

    Args:
        powers, members, states, exponent: as in `maxima`. slopes: (H, D), |W|^{ρ−1}. weight: (U, n_s).
        y: (U, D), a point for every group: above is the same, times y.
        second: (U, n_s, D), where points share groups: the weight of above in place of ``weight``. One of the two.

    Raises:
        ValueError: as `maxima`; both or none of y and second.

    >>> W, on = torch.tensor([[4.0], [9.0]]).double(), torch.tensor([[1.0, 0.0]]).double()
    >>> one = torch.ones(1, 1).double()
    >>> below, above = shares(W, W, torch.tensor([[0, 1]]), on, -0.5, one, y=3 * one)
    >>> below.round(decimals=6).tolist(), above.round(decimals=6).tolist()
    ([[2.0], [0.0]], [[6.0], [0.0]])
    """
    if (y is None) == (second is None):
        raise ValueError("give y, a point for every group, or else second")
    _check(exponent)
    below, above = (torch.zeros(slopes.shape, dtype=slopes.dtype, device=slopes.device) for _ in range(2))
    if chosen(native, powers):
        none = powers.new_empty(0, 0)
        weights = (none if y is None else y, none if second is None else second.reshape(-1, powers.shape[1]))
        extension().causes_shares(
            *map(array, (powers, slopes, members, states)), exponent, cap, array(weight), y is not None,
            *map(array, weights), below.numpy(), above.numpy(), torch.get_num_threads(),
        )  # fmt: skip
        return below, above
    _, power = _powers(powers, members, states, exponent)
    for h, member in enumerate(members.unbind(1)):
        on = states[:, h].nonzero().squeeze(1)
        share = power[:, on] * slopes[member][:, None]
        share = share.clamp_max_(1.0) if cap else share
        part = (share * weight[:, on, None]).sum(1)
        below.index_add_(0, member, part)
        if second is not None:
            above.index_add_(0, member, (share * second[:, on]).sum(1))
        elif y is not None:
            above.index_add_(0, member, part * y)
    return below, above


def _check(exponent: float) -> None:
    if not -1.0 <= exponent <= 0.0:
        raise ValueError(f"the exponent lies in -1 … 0; got {exponent}")


def _powers(powers: Tensor, members: Tensor, states: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """u and |u|^e, (U, n_s, D)."""
    u = torch.matmul(states, powers[members])
    return u, u.abs().clamp_min_(LEAST).log2_().mul_(exponent).exp2_()
