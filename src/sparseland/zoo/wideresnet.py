"""Wide residual networks WRN-d-k: pre-activation blocks, k times as wide."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError
from sparseland.zoo.init import check_shape


class PreactBlock(nn.Module):
    """x + conv2(drop(relu(bn2(conv1(relu(bn1(x))))))); where the shape changes, the sum starts from a 1×1 convolution.

    That convolution sees the activated input, relu(bn1(x)), as in the reference implementation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(active)))))
        total: torch.Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return total


class WideResNet(nn.Module):
    """WRN-d-k, d = 6n + 4: a stem of 16 channels, then three stages of n blocks, 16k, 32k, 64k wide (arXiv:1605.07146).

    On 3 channels and 10 classes WRN-16-8 has 10,961,370 parameters and WRN-28-10 has 36,479,194.
    Names: ``conv1``, ``layer{1,2,3}.i.{bn1,conv1,bn2,conv2,shortcut}``, ``bn``, ``linear``.

    Parameters:
        in_shape: (C, H, W), any size: the last feature map is averaged.
        classes: number of logits.
        depth: 6n + 4, n ≥ 1.
        factor: k, how many times as wide as a ResNet of width 16.
        dropout: probability between the two convolutions of a block, in [0, 1).

    Raises:
        SparselandError: a depth that is not 6n + 4, a factor below 1, a dropout outside [0, 1).

    >>> sum(p.numel() for p in WideResNet((3, 32, 32), 10, 16, 2).parameters())
    691674
    """

    def __init__(
        self, in_shape: tuple[int, int, int], classes: int, depth: int, factor: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        channels, _, _ = check_shape(in_shape, classes)
        if depth < 10 or (depth - 4) % 6:
            below = max(10, depth - (depth - 4) % 6)
            raise SparselandError(f"a wide ResNet has depth 6n + 4; got {depth}, near it are {below} and {below + 6}")
        if factor < 1:
            raise SparselandError(f"the widening factor is at least 1; got {factor}")
        if not 0.0 <= dropout < 1.0:
            raise SparselandError(f"dropout is a probability in [0, 1); got {dropout}")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * factor, blocks, 1, dropout)
        self.layer2 = _stage(16 * factor, 32 * factor, blocks, 2, dropout)
        self.layer3 = _stage(32 * factor, 64 * factor, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * factor)
        self.linear = nn.Linear(64 * factor, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: torch.Tensor = self.linear(F.relu(self.bn(x)).mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreactBlock(inputs, outputs, stride, dropout)
    return nn.Sequential(first, *(PreactBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))
