"""EfficientNet B0 to B4: one searched net, scaled in width and depth together."""

from __future__ import annotations

from math import ceil

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError, nearest
from sparseland.zoo.init import check_shape
from sparseland.zoo.inverted import InvertedResidual, check_options, divisible, stem

# Table 1 of the paper: (expansion, kernel, stride of the first block, channels, blocks).
STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
# Multipliers of width and depth, and the dropout before the classifier.
VARIANTS = {
    "b0": (1.0, 1.0, 0.2), "b1": (1.0, 1.1, 0.2), "b2": (1.1, 1.2, 0.3), "b3": (1.2, 1.4, 0.3), "b4": (1.4, 1.8, 0.4),
}  # fmt: skip
EPS = 1e-3  # of the BatchNorms, as published


class EfficientNet(nn.Module):
    """EfficientNet (arXiv:1905.11946); B0 has 5,288,548 parameters on 3 channels and 1000 classes.

    The first convolution has stride 2 as published, and stride 1 for images of at most 64 pixels a side. Names:
    ``conv1``, ``bn1``, ``layers.i.{expand,bn1,depthwise,bn2,se.reduce,se.expand,project,bn3}``, ``conv2``, ``bn2``,
    ``linear``.

    Differs from the paper: convolutions pad the same on both sides (TensorFlow's SAME pads more below and to the right
    where the stride is 2), and blocks are never dropped while training (stochastic depth).

    Parameters:
        in_shape: (C, H, W), any size: the last feature map is averaged. B0 was made for 224×224, B4 for 380×380.
        classes: number of logits.
        variant: "b0" to "b4".
        stem_stride: 1 or 2; None: by the size of the image.
        dropout: before the classifier, a probability in [0, 1); None: as published for the variant.

    Raises:
        SparselandError: an unknown variant, a dropout out of range, another stride.

    >>> sum(p.numel() for p in EfficientNet((3, 224, 224), 1000).parameters())
    5288548
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        classes: int,
        variant: str = "b0",
        stem_stride: int | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        shape = check_shape(in_shape, classes)
        if variant not in VARIANTS:
            raise SparselandError(f"unknown variant {variant!r} of EfficientNet: {nearest(variant, tuple(VARIANTS))}")
        width, depth, published = VARIANTS[variant]
        dropout = published if dropout is None else dropout
        check_options(width, dropout)
        inputs = divisible(32 * width)
        self.conv1 = nn.Conv2d(shape[0], inputs, 3, stride=stem(shape, stem_stride), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs, eps=EPS)
        layers = []
        for expansion, kernel, stride, channels, blocks in STAGES:
            outputs = divisible(channels * width)
            for block in range(ceil(blocks * depth)):
                step = stride if block == 0 else 1
                layers.append(
                    InvertedResidual(
                        inputs, expansion * inputs, outputs, kernel, step, F.silu,
                        squeezed=max(1, inputs // 4), squeeze_act=F.silu, gate=torch.sigmoid, eps=EPS,
                    )
                )  # fmt: skip
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        last = 4 * inputs
        self.conv2 = nn.Conv2d(inputs, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(last, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.bn1(self.conv1(x)))
        x = F.silu(self.bn2(self.conv2(self.layers(x))))
        logits: torch.Tensor = self.linear(self.dropout(x.mean((2, 3))))
        return logits
