"""The ImageNet ResNets of He et al.: four stages of basic or bottleneck blocks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError
from sparseland.zoo.init import check_shape

# Table 1 of the paper: blocks in each of the four stages.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK = 50  # from this depth on the blocks are bottlenecks, whose outputs are four times as wide


class Basic(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + downsample(x))."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + downsample(x)), the stride in the 3×3 convolution."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ImageNetResNet(nn.Module):
    """ResNet-18/34/50/101/152 (arXiv:1512.03385): 11,689,512 / 21,797,672 / 25,557,032 / 44,549,160 / 60,192,808
    parameters on 3 channels and 1000 classes.

    Names are the widespread ones, so that stored weights fit: ``conv1``, ``bn1``,
    ``layer{1,2,3,4}.i.{conv1,bn1,conv2,bn2,conv3,bn3,downsample.0,downsample.1}``, ``fc``.

    Differs from the paper: a bottleneck of stride 2 has the stride in its 3×3 convolution ("v1.5", as everybody trains
    it), not in the first 1×1.

    Parameters:
        in_shape: (C, H, W), any size: the last feature map is averaged. The first 32-fold of the resolution goes.
        classes: number of logits.
        depth: 18, 34, 50, 101 or 152.
        width: channels of the first stage (64); the others have twice, four and eight times as many.

    Raises:
        SparselandError: another depth, a width below 1.

    >>> sum(p.numel() for p in ImageNetResNet((3, 224, 224), 1000, 50).parameters())
    25557032
    """

    def __init__(self, in_shape: tuple[int, int, int], classes: int, depth: int, width: int = 64) -> None:
        super().__init__()
        channels, _, _ = check_shape(in_shape, classes)
        if depth not in DEPTHS:
            raise SparselandError(f"an ImageNet ResNet has depth {', '.join(map(str, DEPTHS))}; got {depth}")
        if width < 1:
            raise SparselandError(f"width is the number of channels of the first stage, at least 1; got {width}")
        factor = 4 if depth >= BOTTLENECK else 1
        block = Bottleneck if depth >= BOTTLENECK else Basic
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for stage, blocks in enumerate(DEPTHS[depth]):
            wide = width * 2**stage
            layers = []
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(inputs, wide, factor * wide, stride))
                inputs = factor * wide
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
