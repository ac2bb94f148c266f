"""MobileNetV1: depthwise separable convolutions, with a width multiplier."""

from __future__ import annotations

import torch
from torch import nn

from sparseland.core.errors import SparselandError
from sparseland.zoo.init import check_shape

# (channels, stride) of the thirteen separable layers; strides as for 224×224 images.
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
SMALL = 64  # images up to this side keep their resolution in the first convolution


class Separable(nn.Module):
    """relu(bn2(pointwise(relu(bn1(depthwise(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.depthwise(x)))
        return torch.relu(self.bn2(self.pointwise(x)))


class MobileNetV1(nn.Module):
    """MobileNetV1 (arXiv:1704.04861); 4,231,976 parameters at width 1 on 3 channels and 1000 classes.

    The first convolution has stride 2 as published, and stride 1 for images of at most 64 pixels a side (the usual
    CIFAR variant). Names: ``conv1``, ``bn1``, ``layers.i.{depthwise,bn1,pointwise,bn2}``, ``linear``.

    Parameters:
        in_shape: (C, H, W), any size: the last feature map is averaged.
        classes: number of logits.
        width: multiplier of all channel counts, > 0, rounded down (1, 0.75, 0.5 and 0.25 are published).
        stem_stride: 1 or 2; None: by the size of the image.

    Raises:
        SparselandError: a width so small that a layer would be empty, another stride.

    >>> sum(p.numel() for p in MobileNetV1((3, 224, 224), 1000).parameters())
    4231976
    """

    def __init__(
        self, in_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int | None = None
    ) -> None:
        super().__init__()
        channels, height, wide = check_shape(in_shape, classes)
        if not width * 32 >= 1:
            raise SparselandError(f"width multiplies the 32 channels of the first layer, so at least 1/32; got {width}")
        if stem_stride not in (None, 1, 2):
            raise SparselandError(f"stem_stride is 1, 2 or None (by the size of the image); got {stem_stride!r}")
        stride = stem_stride or (1 if max(height, wide) <= SMALL else 2)
        inputs = int(32 * width)
        self.conv1 = nn.Conv2d(channels, inputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        layers = []
        for outputs, step in LAYERS:
            layers.append(Separable(inputs, int(outputs * width), step))
            inputs = int(outputs * width)
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        logits: torch.Tensor = self.linear(self.layers(x).mean((2, 3)))
        return logits
