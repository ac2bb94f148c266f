"""Adam for an autoencoder, one pass over each weight: projection, moments, update and renormalisation together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...kernels.sparse_code import adam_rows_
from .model import SparseAutoencoder


class Adam:
    """Adam (Kingma & Ba, arXiv 1412.6980); the decoder's rows stay at norm 1 where the configuration asks for it.

    g <- g - <g, w> w / |w|^2 (decoder rows), m, v <- moments, w <- w - lr m_hat / (sqrt(v_hat) + eps), w <- w / |w|

    Parameters:
        betas: of the two moments, in [0, 1). eps: added to the root.

    >>> from sparseland.features import SAEConfig
    >>> sae = SparseAutoencoder(SAEConfig(4, 8, k=2)); optimizer = Adam(sae)
    >>> sae(torch.randn(16, 4)).loss.backward(); optimizer.step(1e-2)
    >>> torch.allclose(sae.W_dec.norm(dim=1), torch.ones(8))
    True
    """

    def __init__(self, sae: SparseAutoencoder, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.sae, self.betas, self.eps, self.steps = sae, betas, eps, 0
        self.moments: dict[str, tuple[Tensor, Tensor]] = {
            name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in sae.named_parameters()
        }

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.sae.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update of every parameter that has a gradient."""
        self.steps += 1
        for name, parameter in self.sae.named_parameters():
            if parameter.grad is None:
                continue
            unit = name == "W_dec" and self.sae.config.unit_decoder
            weight, grad, (first, second) = parameter.data, parameter.grad, self.moments[name]
            if turned := weight.ndim == 2 and not weight.is_contiguous() and weight.t().is_contiguous():
                weight, grad, first, second = weight.t(), grad.t(), first.t(), second.t()
            elif weight.ndim == 1:
                weight, grad, first, second = (t.view(1, -1) for t in (weight, grad, first, second))
            adam_rows_(weight, grad, first, second, lr, self.betas, self.eps, self.steps, unit and not turned)

    def state_dict(self) -> dict[str, Any]:
        """Moments by name, and the number of steps."""
        return {"steps": self.steps, "moments": {name: list(pair) for name, pair in self.moments.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.steps = int(state["steps"])
        for name, (first, second) in state["moments"].items():
            self.moments[name][0].copy_(first)
            self.moments[name][1].copy_(second)
