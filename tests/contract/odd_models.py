"""A model of what is not a plain layer: tied, transposed, grouped, attention, recurrent, frozen, unused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparseland.testing import Task
from sparseland.testing.tasks import labelled


class Odd(nn.Module):
    """(B, 4, 8) -> (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(4, 8, 3, padding=1)
        self.grouped = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.first = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.first.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.unused = nn.Linear(8, 4)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(self.up(x))).transpose(1, 2)  # (B, T, D)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.recurrent(x)[0]
        x = x + self.tied(torch.relu(self.first(x)))
        x = x + self.frozen(x)
        return self.head(x.mean(1))


def odd_task() -> Task:
    """20 steps on it."""
    return Task("odd", Odd, labelled(8, 4, 8), steps=20)
