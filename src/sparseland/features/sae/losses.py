"""What an autoencoder is trained for: reconstruction, sparsity where no budget sets it, and a second chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALL = 1e-12


def unexplained(x: Tensor, y: Tensor) -> Tensor:
    """Fraction of variance unexplained: sum |x - y|^2 / sum |x - mean(x)|^2, means over the batch (N, d).

    >>> x = torch.tensor([[1.0], [3.0]])
    >>> unexplained(x, x).item(), unexplained(x, torch.full((2, 1), 2.0)).item()
    (0.0, 1.0)
    """
    return (x - y).square().sum() / variation(x)


def variation(x: Tensor) -> Tensor:
    """sum |x - mean(x)|^2 over the batch, without gradient; of one token: sum |x|^2.

    >>> variation(torch.tensor([[1.0], [3.0]])).item()
    2.0
    """
    x = x.detach()
    centred = x - x.mean(0) if x.shape[0] > 1 else x
    return centred.square().sum().clamp(min=SMALL)


def second_chance(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, decoder: Tensor, features: Tensor, k: int, rank: Tensor
) -> Tensor:
    """How badly the chosen ``features`` alone reconstruct what is left over: sum |e - e_hat|^2 / sum |e - mean(e)|^2.

    e_hat = sum of the k best of ``features`` of each token by rank * pre-activation, times their pre-activations. No
    bias on either side; gradients reach encoder and decoder. NaN (e constant) counts as 0.

    Parameters:
        x: (N, d) centred input. residual: (N, d) e, without gradient. weight: (F, d) encoder rows. decoder: (F, d).
        features: (n,) indices, n >= 1. k: codes a token. rank: (n,) weights of the choice.

    Differs from the papers: OpenAI adds the bias to the target, SAELens and sparsify to the reconstruction.

    >>> e = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> second_chance(e, e, torch.eye(2), torch.zeros(2), torch.eye(2), torch.arange(2), 1, torch.ones(2)).item()
    0.0
    """
    codes = torch.addmm(bias[features], x, weight[features].t())
    if k < features.numel():
        best = torch.topk(codes.detach() * rank, k, dim=1, sorted=False).indices
        codes = codes * torch.zeros_like(codes).scatter_(1, best, 1.0)
    found = unexplained(residual.detach(), codes @ decoder[features])
    return torch.nan_to_num(found, nan=0.0, posinf=0.0)


class Jump(torch.autograd.Function):
    """JumpReLU: z where z > theta, else 0; theta learns through a rectangle of width ``bandwidth`` around the jump."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return z * (z > theta)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """dz = grad where z > theta; dtheta = -theta / bandwidth * rectangle((z - theta) / bandwidth) * grad."""
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < ctx.bandwidth / 2).to(z.dtype)
        return grad * (z > theta), (-(theta / ctx.bandwidth) * near * grad).sum(0), None


class Step(torch.autograd.Function):
    """1 where z > theta; only theta learns: -1 / bandwidth * rectangle((z - theta) / bandwidth)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        """dz = 0."""
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < ctx.bandwidth / 2).to(z.dtype)
        return None, (-(1 / ctx.bandwidth) * near * grad).sum(0), None
