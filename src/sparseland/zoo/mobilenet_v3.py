"""MobileNetV3, large and small: inverted residuals with squeeze-and-excitation and hard-swish."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError, nearest
from sparseland.zoo.init import check_shape
from sparseland.zoo.inverted import InvertedResidual, check_options, divisible, stem

# Tables 1 and 2 of the paper: (kernel, expanded, channels, squeeze-and-excitation, hard-swish, stride) of each block.
LARGE = (
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)  # fmt: skip
SMALL = (
    (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2), (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)  # fmt: skip
VARIANTS = {"large": (LARGE, 1280), "small": (SMALL, 1024)}  # the blocks, and the width of the classifier
EPS = 1e-3  # of the BatchNorms, as published


class MobileNetV3(nn.Module):
    """MobileNetV3 (arXiv:1905.02244); large 5,483,032 and small 2,542,856 parameters at width 1, 1000 classes.

    The first convolution has stride 2 as published, and stride 1 for images of at most 64 pixels a side. Names:
    ``conv1``, ``bn1``, ``layers.i.{expand,bn1,depthwise,bn2,se.reduce,se.expand,project,bn3}``, ``conv2``, ``bn2``,
    ``hidden``, ``linear``.

    Parameters:
        in_shape: (C, H, W), any size: the last feature map is averaged.
        classes: number of logits.
        variant: "large" or "small".
        width: multiplier of all channel counts, > 0, then rounded to multiples of 8.
        stem_stride: 1 or 2; None: by the size of the image.
        dropout: before the classifier, a probability in [0, 1).

    Raises:
        SparselandError: an unknown variant, a width or dropout out of range, another stride.

    >>> sum(p.numel() for p in MobileNetV3((3, 224, 224), 1000).parameters())
    5483032
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        classes: int,
        variant: str = "large",
        width: float = 1.0,
        stem_stride: int | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        shape = check_shape(in_shape, classes)
        if variant not in VARIANTS:
            raise SparselandError(f"unknown variant {variant!r} of MobileNetV3: {nearest(variant, tuple(VARIANTS))}")
        check_options(width, dropout)
        blocks, hidden = VARIANTS[variant]
        inputs = divisible(16 * width)
        self.conv1 = nn.Conv2d(shape[0], inputs, 3, stride=stem(shape, stem_stride), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs, eps=EPS)
        layers = []
        for kernel, expanded, channels, squeeze, swish, stride in blocks:
            wide, outputs = divisible(expanded * width), divisible(channels * width)
            squeezed = divisible(wide // 4) if squeeze else 0
            act = F.hardswish if swish else F.relu
            layers.append(InvertedResidual(inputs, wide, outputs, kernel, stride, act, squeezed=squeezed, eps=EPS))
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.conv2 = nn.Conv2d(inputs, 6 * inputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(6 * inputs, eps=EPS)
        self.hidden = nn.Linear(6 * inputs, divisible(hidden * width))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(divisible(hidden * width), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.bn1(self.conv1(x)))
        x = F.hardswish(self.bn2(self.conv2(self.layers(x))))
        x = F.hardswish(self.hidden(x.mean((2, 3))))
        logits: torch.Tensor = self.linear(self.dropout(x))
        return logits
