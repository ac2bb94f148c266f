"""Multi-layer perceptrons, LeNet-300-100 among them, and LeNet-5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.zoo.init import check_shape


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the flattened image; parameters ``fc1`` … ``fcK``.

    Equation: x ← relu(fc_i(x)) for i < K; logits = fc_K(x). LeNet-300-100 is ``hidden=(300, 100)``.

    Parameters:
        in_shape: (C, H, W).
        classes: number of logits.
        hidden: widths of the hidden layers; () is softmax regression.

    >>> model = MLP((1, 28, 28), 10, (300, 100))
    >>> sum(p.numel() for p in model.parameters())
    266610
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, in_shape: tuple[int, int, int], classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = check_shape(in_shape, classes)
        widths = [channels * height * width, *hidden, classes]
        self.depth = len(widths) - 1
        for i in range(self.depth):
            setattr(self, f"fc{i + 1}", nn.Linear(widths[i], widths[i + 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for i in range(1, self.depth):
            x = F.relu(getattr(self, f"fc{i}")(x))
        logits: torch.Tensor = getattr(self, f"fc{self.depth}")(x)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as the pruning literature means it (Caffe's): two 5×5 convolutions (20, 50), 500 hidden units.

    431,080 parameters on 28×28×1 with 10 classes. Images of less than 16 pixels a side are padded with zeros by the
    first convolution, so that 8×8 digits fit.

    Parameters:
        in_shape: (C, H, W).
        classes: number of logits.

    >>> model = LeNet5((1, 28, 28), 10)
    >>> sum(p.numel() for p in model.parameters())
    431080
    >>> LeNet5((1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, in_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, *sides = check_shape(in_shape, classes)
        padding = [max(0, -(-(16 - side) // 2)) for side in sides]
        # Each side: convolution (−4), halved, convolution (−4), halved: 28 → 24 → 12 → 8 → 4.
        height, width = (((side + 2 * pad - 4) // 2 - 4) // 2 for side, pad in zip(sides, padding, strict=True))
        self.conv1 = nn.Conv2d(channels, 20, 5, padding=(padding[0], padding[1]))
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * height * width, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: torch.Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits
