"""The CIFAR ResNets of He et al.: three stages of basic blocks, width W, 2W, 4W."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError, nearest
from sparseland.zoo.init import check_shape

SHORTCUTS = ("A", "B")


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new; no parameters.

    >>> PadShortcut(16, 32, 2)(torch.ones(1, 16, 8, 8)).sum((0, 2, 3)).unique(return_counts=True)
    (tensor([ 0., 16.]), tensor([16, 16]))
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(inputs, outputs, stride)
        else:
            self.shortcut = nn.Sequential()
            self.shortcut.add_module("conv", nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet-d for small images, d = 6n + 2: n basic blocks in each of three stages (arXiv:1512.03385, §4.2).

    ResNet-20/32/44/56/110 with width 16 and option A have 269,722 / 464,154 / 658,586 / 853,018 / 1,727,962 parameters
    on 3 channels and 10 classes. Names: ``conv1``, ``bn1``, ``layer{1,2,3}.i.{conv1,bn1,conv2,bn2}``, ``linear``.

    Parameters:
        in_shape: (C, H, W), any size: the last feature map is averaged.
        classes: number of logits.
        depth: 6n + 2, n ≥ 1.
        width: channels of the first stage (16); the others have twice and four times as many.
        shortcut: "A" (zeros, no parameters) or "B" (1×1 convolution and BatchNorm) where the shape changes.

    Raises:
        SparselandError: a depth that is not 6n + 2, a width below 1, an unknown shortcut.

    >>> model = CifarResNet((3, 32, 32), 10, 20)
    >>> sum(p.numel() for p in model.parameters())
    269722
    """

    def __init__(
        self, in_shape: tuple[int, int, int], classes: int, depth: int, width: int = 16, shortcut: str = "A"
    ) -> None:
        super().__init__()
        channels, _, _ = check_shape(in_shape, classes)
        if depth < 8 or (depth - 2) % 6:
            below = max(8, depth - (depth - 2) % 6)
            raise SparselandError(f"a CIFAR ResNet has depth 6n + 2; got {depth}, near it are {below} and {below + 6}")
        if width < 1:
            raise SparselandError(f"width is the number of channels of the first stage, at least 1; got {width}")
        if shortcut not in SHORTCUTS:
            raise SparselandError(f"unknown shortcut {shortcut!r}: {nearest(shortcut, SHORTCUTS)}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, shortcut)
        self.layer2 = _stage(width, 2 * width, blocks, 2, shortcut)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, shortcut)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: str) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))
