"""The tiny trainings that methods are checked on: a few seconds for the whole contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..weights.statistics import default_loss


@dataclass(frozen=True)
class Task:
    """A model factory and the batches it is trained on, in a fixed order, again and again.

    Args:
        model: makes a fresh model; the weights it draws are given a seed by whoever calls it.
        batches: what ``loss(model, batch)`` takes.
        steps: optimizer steps of a whole run.
    """

    name: str
    model: Callable[[], nn.Module]
    batches: Sequence[Any]
    loss: Callable[[nn.Module, Any], Tensor] = default_loss
    steps: int = 40

    def build(self, seed: int = 1) -> nn.Module:
        """A fresh model, drawn with ``seed``; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.model().train()

    def scoring(self, share: slice = slice(2)) -> list[Any]:
        """The batches that methods with ``needs_data`` may measure on."""
        return list(self.batches[share])


def mlp() -> nn.Module:
    """8 -> 16 -> 16 -> 4: sizes that every built-in pattern divides."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def convnet() -> nn.Module:
    """Two convolutions with batch norm and a classifier on 4 x 5 x 5 inputs."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def labelled(*shape: int, classes: int = 4, batches: int = 8, seed: int = 7) -> list[tuple[Tensor, Tensor]]:
    """Random inputs whose label is the quarter their first coordinates fall in: learnable, and the same everywhere.

    >>> inputs, labels = labelled(16, 8)[0]
    >>> tuple(inputs.shape), tuple(labels.shape)
    ((16, 8), (16,))
    """
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(batches):
        inputs = torch.randn(*shape, generator=generator)  # (B, …)
        flat = inputs.reshape(shape[0], -1)[:, :classes]
        out.append((inputs, flat.argmax(1)))
    return out


def tasks() -> tuple[Task, ...]:
    """The built-in tasks: a small MLP and a small convolution net with batch norm."""
    return Task("mlp", mlp, labelled(16, 8)), Task("conv", convnet, labelled(8, 4, 5, 5))
