"""A moving average of the weights (EMA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class WeightAverage:
    """ā ← d·ā + (1 − d)·w over parameters and floating-point buffers, d = min(decay, (1 + n)/(10 + n)) at update n.

    The small d of the first updates keeps the average from remembering the initialisation. Counters are copied.

    Parameters:
        model: whose weights are averaged; the average starts as a copy of them.
        decay: in (0, 1).

    >>> layer = nn.Linear(1, 1)
    >>> average = WeightAverage(layer, 0.999)
    >>> average.update(layer)
    >>> torch.equal(average.tensors["weight"], layer.weight)  # an average of equal values
    True
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.tensors[name].lerp_(value, 1 - decay)
            else:
                self.tensors[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return {"updates": self.updates, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.updates = state["updates"]
        for name, value in state["tensors"].items():
            self.tensors[name].copy_(value)
