"""VGG-C and VGG-D as the sparse-training literature uses them on small images."""

from __future__ import annotations

import torch
from torch import nn

from sparseland.core.errors import SparselandError, nearest
from sparseland.zoo.init import check_shape

# Five groups, a pooling after each; (channels, kernel size).
VARIANTS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "C": (
        ((64, 3), (64, 3)),
        ((128, 3), (128, 3)),
        ((256, 3), (256, 3), (256, 1)),
        ((512, 3), (512, 3), (512, 1)),
        ((512, 3), (512, 3), (512, 1)),
    ),
    "D": (
        ((64, 3), (64, 3)),
        ((128, 3), (128, 3)),
        ((256, 3), (256, 3), (256, 3)),
        ((512, 3), (512, 3), (512, 3)),
        ((512, 3), (512, 3), (512, 3)),
    ),
}
MIN_SIDE = 17  # below, the last pooling would have nothing left to halve


class VGG(nn.Module):
    """VGG with BatchNorm, two hidden layers of 512 with BatchNorm instead of dropout (arXiv:1409.1556, 1810.02340).

    In variant C the last convolution of groups 3 to 5 is 1×1, in D all are 3×3. On 32×32×3 and 10 classes C has
    10.5 million parameters and D 15.2 million, the published counts of the pruning literature.
    Names: ``features.i`` (convolution, BatchNorm, ReLU, pooling in turn), ``classifier.i``.

    Differs from some PyTorch ports: 1×1 convolutions are not padded (a padded one grows the map and with it the first
    linear layer, to 11.3 million in all), and convolutions before BatchNorm have no bias. Pooling rounds up, so that
    28×28 images work too; on 32×32 that changes nothing.

    Parameters:
        in_shape: (C, H, W), sides of at least 17 pixels.
        classes: number of logits.
        variant: "C" or "D".

    Raises:
        SparselandError: an unknown variant, or an image too small for five poolings.

    >>> round(sum(p.numel() for p in VGG((3, 32, 32), 10, "C").parameters()) / 1e6, 1)
    10.5
    """

    def __init__(self, in_shape: tuple[int, int, int], classes: int, variant: str) -> None:
        super().__init__()
        channels, height, width = check_shape(in_shape, classes)
        if variant not in VARIANTS:
            raise SparselandError(f"unknown VGG variant {variant!r}: {nearest(variant, VARIANTS)}")
        if min(height, width) < MIN_SIDE:
            raise SparselandError(
                f"VGG halves the image five times and needs at least {MIN_SIDE} pixels a side; got {height}×{width}. "
                f"Resize the images (size=32), or take 'resnet-20', 'mobilenet-v1' or 'lenet-5'."
            )
        layers: list[nn.Module] = []
        for group in VARIANTS[variant]:
            for outputs, kernel in group:
                layers.append(nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False))
                layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            height, width = -(-height // 2), -(-width // 2)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * height * width, 512), nn.ReLU(), nn.BatchNorm1d(512),
            nn.Linear(512, 512), nn.ReLU(), nn.BatchNorm1d(512),
            nn.Linear(512, classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return logits
