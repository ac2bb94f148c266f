"""What happens to an activation before it is encoded, and how to get back to its own units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import ScoreError, SparselandError

SMALL = 1e-6


class Normalised(NamedTuple):
    """x = centre + scale * x_n, per token or for all; (N, 1) or 0-d tensors."""

    x: Tensor
    centre: Tensor
    scale: Tensor

    def back(self, x: Tensor) -> Tensor:
        """From normalised to the input's own units."""
        return x * self.scale + self.centre


def normalise(x: Tensor, kind: str, expected: Tensor) -> Normalised:
    """Normalise tokens (N, d): ``none``, ``layer_norm``, ``token_rms``, or ``expected_l2`` (divide by ``expected``).

    >>> found = normalise(torch.tensor([[3.0, 4.0]]), "token_rms", torch.tensor(1.0))
    >>> round(float(found.x.square().mean()), 4), found.back(found.x).tolist()
    (1.0, [[3.0, 4.0]])
    """
    zero, one = x.new_zeros(()), x.new_ones(())
    if kind == "none":
        return Normalised(x, zero, one)
    if kind == "expected_l2":
        return Normalised(x / expected, zero, expected.to(x.dtype))
    if kind == "token_rms":
        scale = x.square().mean(1, keepdim=True).sqrt().clamp(min=SMALL)
        return Normalised(x / scale, zero, scale)
    centre = x.mean(1, keepdim=True)
    scale = (x - centre).std(1, keepdim=True)  # unbiased, and 1e-5 only on the way in: as SAELens does
    return Normalised((x - centre) / (scale + 1e-5), centre, scale)


def check_input(x: Tensor, d_in: int) -> Tensor:
    """(…, d_in) as finite tokens (N, d_in).

    Raises:
        SparselandError: another width. ScoreError: NaN or infinity, with their count.

    >>> check_input(torch.zeros(2, 3, 4), 4).shape
    torch.Size([6, 4])
    """
    if not x.is_floating_point():
        raise TypeError(f"activations are floating point numbers; got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] != d_in:
        raise SparselandError(f"activations of width {d_in} were expected (d_in); got shape {tuple(x.shape)}")
    if x.numel() == 0:
        raise SparselandError(f"no activations were given: shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x.detach().sum())):  # a sum is one pass; only if it fails is each number looked at
        nan, inf = int(x.isnan().sum()), int(x.isinf().sum())
        if nan or inf:
            raise ScoreError(f"activations {tuple(x.shape)} hold {nan} NaN and {inf} infinite values")
    return x.reshape(-1, d_in)


def check_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """A gradient of the activations' own shape, as (N, d_in).

    >>> check_gradient(torch.ones(2, 3), torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    if gradient.shape != x.shape:
        raise SparselandError(f"gradient {tuple(gradient.shape)} and activations {tuple(x.shape)} differ in shape")
    if not bool(torch.isfinite(gradient).all()):
        raise ScoreError(f"the gradient {tuple(gradient.shape)} holds NaN or infinity")
    return gradient.detach().reshape(-1, x.shape[-1]).to(x.dtype)


def scaled_gradient(gradient: Tensor, kind: str) -> Tensor:
    """g as it is, over its batch's root mean square, or over each token's norm; all-zero parts stay zero.

    >>> scaled_gradient(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "token_l2").tolist()
    [[0.6..., 0.8...], [0.0, 0.0]]
    """
    if kind == "none":
        return gradient
    tiny = torch.finfo(gradient.dtype).tiny
    if kind == "batch_rms":
        return gradient / gradient.square().mean().sqrt().clamp(min=tiny)
    norms: Tensor = gradient.norm(dim=1, keepdim=True)
    return gradient / norms.clamp(min=tiny)


def geometric_median(x: Tensor, steps: int = 100, tolerance: float = 1e-5) -> Tensor:
    """The point with the smallest sum of distances to the rows of x (Weiszfeld), (d,).

    >>> geometric_median(torch.tensor([[0.0], [0.0], [0.0], [100.0]])).abs().item() < 1e-2
    True
    """
    guess = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - guess).norm(dim=1, keepdim=True).clamp(min=1e-8)
        new: Tensor = (weight * x).sum(0) / weight.sum()
        if float((new - guess).norm()) <= tolerance * float(new.norm().clamp(min=1e-8)):
            return new
        guess = new
    return guess
