"""Linear and convolution layers with a Gaussian posterior for every weight, N(mu, sigma^2), independent of each other.

In training a layer draws its output, not its weights (local reparameterisation); in evaluation it computes with mu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import TargetError
from ..targets import Rules, eligible

BUFFERS = ("precision", "odds", "prior_odds", "numbers")


class _Posterior:
    """What the layers below share. ``weight`` is mu; ``log_var`` is ln sigma^2, flat, so that nothing decays it."""

    log_var: nn.Parameter
    precision: Tensor  # E rho
    odds: Tensor  # logit of s~
    prior_odds: Tensor  # logit of pi, what the other weights say
    numbers: Tensor  # a, b, a_off, b_off, p01, p10 (NaN: not known yet)

    @property
    def variance(self) -> Tensor:
        """sigma^2 in the shape of the weight."""
        return self.log_var.exp().view(self.precision.shape)

    def _drawn(self, x: Tensor, product: Callable[..., Tensor]) -> Tensor:
        mean: Tensor = product(x, self.weight, self.bias)  # type: ignore[attr-defined]
        if not self.training:  # type: ignore[attr-defined]
            return mean
        variance: Tensor = product(x.square(), self.variance, None)
        return mean + (variance + 1e-8).sqrt() * torch.randn_like(mean)


class BayesLinear(_Posterior, nn.Linear):
    """y ~ N(x mu^T + bias, x^2 (sigma^2)^T). Made from a plain layer by `bayesian_`.

    >>> net = bayesian_(nn.Sequential(nn.Linear(3, 2)), log_var=0.0)
    >>> x = torch.ones(20_000, 3)
    >>> round(net(x).var(0).mean().item(), 1), bool((net.eval()(x).var(0) == 0).all())  # three weights of variance 1
    (3.0, True)
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._drawn(x, nn.functional.linear)


class BayesConv1d(_Posterior, nn.Conv1d):
    """The same for one-dimensional convolutions; each place of the output draws for itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self._drawn(x, self._conv_forward)


class BayesConv2d(_Posterior, nn.Conv2d):
    """The same for images; each place of the output draws for itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self._drawn(x, self._conv_forward)


KINDS: dict[type[nn.Module], Any] = {nn.Linear: BayesLinear, nn.Conv1d: BayesConv1d, nn.Conv2d: BayesConv2d}
PLAIN: dict[type[nn.Module], Any] = {new: old for old, new in KINDS.items()}


def bayesian_(model: nn.Module, targets: Rules = None, ignore: Rules = None, *, log_var: float = -8.0) -> nn.Module:
    """Give each target a posterior, in place; the parameters stay the same objects, mu the trained weights.

    log_var: ln sigma^2 to start from. Make optimizers afterwards: there are new parameters.

    Raises:
        TargetError: a target is shared, or in a layer of another kind; nothing is changed then.

    >>> net = bayesian_(nn.Sequential(nn.Linear(3, 2)))
    >>> [name for name, _ in net.named_parameters()], [name for name, _ in plain_(net).named_parameters()]
    (['0.weight', '0.bias', '0.log_var'], ['0.weight', '0.bias'])
    """
    found = eligible(model, targets, ignore)
    for name, target in found.items():
        if type(target.module) not in KINDS or not name.endswith("weight") or len(target.holders) > 1:
            kind = "shared" if len(target.holders) > 1 else f"in a {type(target.module).__name__}"
            raise TargetError(f"{name!r} is {kind}; posteriors exist for unshared weights of Linear, Conv1d, Conv2d")
    for target in found.values():
        module, weight = target.module, target.param.detach()
        module.__class__ = KINDS[type(module)]
        module.log_var = nn.Parameter(torch.full_like(weight, log_var).flatten())
        for buffer in BUFFERS[:3]:
            module.register_buffer(buffer, torch.zeros_like(weight))
        numbers = torch.full((6,), torch.nan, dtype=torch.float64, device=weight.device)
        module.register_buffer("numbers", numbers)
    return model


def plain_(model: nn.Module) -> nn.Module:
    """Take the posteriors off, in place; weights are mu."""
    for module in layers_of(model).values():
        for name in ("log_var", *BUFFERS):
            delattr(module, name)
        module.__class__ = PLAIN[type(module)]
    return model


def layers_of(model: nn.Module) -> dict[str, Any]:
    """{name of the weight: layer} of every layer with a posterior."""
    return {f"{n}.weight" if n else "weight": m for n, m in model.named_modules() if type(m) in PLAIN}
