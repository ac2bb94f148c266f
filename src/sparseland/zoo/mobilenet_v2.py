"""MobileNetV2: inverted residuals with linear bottlenecks, with a width multiplier."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.zoo.init import check_shape
from sparseland.zoo.inverted import InvertedResidual, check_options, divisible, stem

# Table 2 of the paper: (expansion, channels, blocks, stride of the first block); strides as for 224×224 images.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """MobileNetV2 (arXiv:1801.04381); 3,504,872 parameters at width 1 on 3 channels and 1000 classes.

    The first convolution has stride 2 as published, and stride 1 for images of at most 64 pixels a side. Names:
    ``conv1``, ``bn1``, ``layers.i.{expand,bn1,depthwise,bn2,project,bn3}``, ``conv2``, ``bn2``, ``linear``.

    Parameters:
        in_shape: (C, H, W), any size: the last feature map is averaged.
        classes: number of logits.
        width: multiplier of all channel counts, > 0, then rounded to multiples of 8; the last 1280 only grow.
        stem_stride: 1 or 2; None: by the size of the image.
        dropout: before the classifier, a probability in [0, 1).

    Raises:
        SparselandError: a width or dropout out of range, another stride.

    >>> sum(p.numel() for p in MobileNetV2((3, 224, 224), 1000).parameters())
    3504872
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        classes: int,
        width: float = 1.0,
        stem_stride: int | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        shape = check_shape(in_shape, classes)
        check_options(width, dropout)
        inputs = divisible(32 * width)
        self.conv1 = nn.Conv2d(shape[0], inputs, 3, stride=stem(shape, stem_stride), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        layers = []
        for expansion, channels, blocks, stride in STAGES:
            outputs = divisible(channels * width)
            for block in range(blocks):
                step = stride if block == 0 else 1
                layers.append(InvertedResidual(inputs, expansion * inputs, outputs, 3, step, F.relu6))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        last = divisible(1280 * max(1.0, width))
        self.conv2 = nn.Conv2d(inputs, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(last, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.bn1(self.conv1(x)))
        x = F.relu6(self.bn2(self.conv2(self.layers(x))))
        logits: torch.Tensor = self.linear(self.dropout(x.mean((2, 3))))
        return logits
