"""The card's learned baselines: group variational dropout, l0 with hard-concrete gates, group lasso.

Each gives every weight a score; the best of each layer are kept, as many as in the other arms, and trained on.
Groups are the inputs of a linear layer (columns) and the filters of a convolution (rows).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.weights import eligible

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # of the approximate KL divergence to a log-uniform prior (arXiv 1701.05369)
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1  # temperature and stretch of the hard-concrete distribution (arXiv 1712.01312)


def groups(weight: Tensor) -> int:
    """The axis whose entries are groups: 1 of a matrix, 0 of filters."""
    return 1 if weight.ndim == 2 else 0


def along(values: Tensor, weight: Tensor) -> Tensor:
    """One value a group, broadcast over the weight."""
    shape = [1] * weight.ndim
    shape[groups(weight)] = -1
    return values.view(shape).expand_as(weight)


def whole_groups(order: Tensor, weight: Tensor) -> Tensor:
    """Scores that take group after group in falling ``order``, and within the last one by magnitude.

    >>> whole_groups(torch.tensor([0.1, 0.9]), torch.tensor([[5.0, 1.0], [4.0, 2.0]])).argmax().item()
    3
    """
    rank = order.argsort().argsort().to(weight.dtype)
    return along(rank, weight) + 0.5 * weight.abs() / weight.abs().max().clamp_min(1e-12)


class Arm(ABC):
    """A baseline on one net: `penalty` is added to the loss, `finish_` makes plain layers again and says the scores."""

    def __init__(self, net: nn.Module, images: int) -> None:
        self.net, self.images = net, images
        self.layers: dict[str, Any] = {n: t.module for n, t in eligible(net).items()}

    @abstractmethod
    def penalty(self, share: float) -> Tensor:
        """What is added to the mean loss of a batch; ``share``: of the ramp, in [0, 1]."""

    @abstractmethod
    def finish_(self) -> dict[str, Tensor]:
        """Plain layers; {weight: scores}, higher = keep."""


class GroupLasso(Arm):
    """strength Σ_g √|g| ‖w_g‖₂; groups are kept by their norm."""

    strength = 1e-4

    def penalty(self, share: float) -> Tensor:
        """The sum over all groups."""
        total = torch.zeros(())
        for layer in self.layers.values():
            axis = groups(layer.weight)
            w = layer.weight.movedim(axis, 0).flatten(1)
            total = total + math.sqrt(w.shape[1]) * (w.square().sum(1) + 1e-12).sqrt().sum()
        return self.strength * share * total

    def finish_(self) -> dict[str, Tensor]:
        """Norms of groups."""
        found = {}
        for name, layer in self.layers.items():
            w = layer.weight.detach()
            found[name] = whole_groups(w.movedim(groups(w), 0).flatten(1).norm(dim=1), w)
        return found


class HardConcrete(Arm):
    """A gate for each weight, z = clamp(s (ζ − γ) + γ, 0, 1), s ~ concrete(ln α, β); penalty: E non-zeros / N."""

    strength = 1.0

    def __init__(self, net: nn.Module, images: int) -> None:
        super().__init__(net, images)
        for layer in self.layers.values():
            layer.gate = nn.Parameter(2.0 + 0.01 * torch.randn_like(layer.weight).flatten())
            layer.forward = _Call(layer, _gated)

    def penalty(self, share: float) -> Tensor:
        """strength/N Σ σ(ln α − β ln(−γ/ζ))."""
        shift = BETA * math.log(-LOW / HIGH)
        alive = torch.stack([(layer.gate - shift).sigmoid().sum() for layer in self.layers.values()]).sum()
        return self.strength * share / self.images * alive

    @torch.no_grad()
    def finish_(self) -> dict[str, Tensor]:
        """Weights times their gates at rest; scores are the gates' ln α."""
        found = {}
        for name, layer in self.layers.items():
            found[name] = layer.gate.detach().clone().view(layer.weight.shape)
            rest = (found[name].sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)
            layer.weight.mul_(rest.clamp_min(1e-3))
            del layer.gate, layer.forward
        return found


def _gated(layer: Any, x: Tensor) -> Tensor:
    logit = layer.gate
    if layer.training:
        u = torch.rand_like(logit).clamp(1e-6, 1 - 1e-6)
        logit = (u.log() - (1 - u).log() + logit) / BETA
    gate = (logit.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1).view(layer.weight.shape)
    return _product(layer, x, layer.weight * gate, layer.bias)


class GroupDropout(Arm):
    """Bayesian compression (arXiv 1705.08665): w_ij = z_j v_ij, normal–Jeffreys prior on each group's scale z_j."""

    def __init__(self, net: nn.Module, images: int) -> None:
        super().__init__(net, images)
        for layer in self.layers.values():
            count = layer.weight.shape[groups(layer.weight)]
            layer.scale = nn.Parameter(1 + 0.01 * torch.randn(count))
            layer.scale_log_var = nn.Parameter(torch.full((count,), -9.0))
            layer.log_var = nn.Parameter(torch.full((layer.weight.numel(),), -9.0))
            layer.forward = _Call(layer, _scaled)

    @staticmethod
    def log_alpha(layer: Any) -> Tensor:
        """ln σ_z² − ln μ_z²: high for groups that carry nothing."""
        return layer.scale_log_var - (layer.scale.square() + 1e-8).log()

    def penalty(self, share: float) -> Tensor:
        """KL/N: log-uniform on the scales, standard normal on v."""
        total = torch.zeros(())
        for layer in self.layers.values():
            log_alpha = self.log_alpha(layer)
            total = total - (K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * F.softplus(-log_alpha) - K1).sum()
            v, log_var = layer.weight, layer.log_var
            total = total + 0.5 * (log_var.exp() - 1 - log_var).sum() + 0.5 * v.square().sum()
        return share / self.images * total

    @torch.no_grad()
    def finish_(self) -> dict[str, Tensor]:
        """Weights times the mean scales; groups are kept by −ln α."""
        found = {}
        for name, layer in self.layers.items():
            layer.weight.mul_(along(layer.scale.detach(), layer.weight))
            found[name] = whole_groups(-self.log_alpha(layer).detach(), layer.weight.detach())
            del layer.scale, layer.scale_log_var, layer.log_var, layer.forward
        return found


def _scaled(layer: Any, x: Tensor) -> Tensor:
    inputs = layer.weight.ndim == 2  # groups scale inputs, or filters
    scale: Tensor = layer.scale if inputs else layer.scale.view(-1, 1, 1)
    if layer.training:
        spread = (0.5 * layer.scale_log_var).exp().view_as(scale)
        shape = x.shape if inputs else (len(x), *scale.shape)
        scale = scale + spread * torch.randn(shape)
    x = x * scale if inputs else x
    mean = _product(layer, x, layer.weight, layer.bias if inputs else None)
    if layer.training:
        variance = _product(layer, x.square(), layer.log_var.exp().view(layer.weight.shape), None)
        mean = mean + (variance + 1e-8).sqrt() * torch.randn_like(mean)
    return mean if inputs else mean * scale + layer.bias.view(-1, 1, 1)


def _product(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias) if weight.ndim == 2 else layer._conv_forward(x, weight, bias)


class _Call:
    """A layer's forward for the time of a training."""

    def __init__(self, layer: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        self.layer, self.function = layer, function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


ARMS: dict[str, type[Arm]] = {"group lasso": GroupLasso, "l0": HardConcrete, "group VD": GroupDropout}
