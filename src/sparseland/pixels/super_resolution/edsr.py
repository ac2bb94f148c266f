"""EDSR (arXiv 1707.02921): residual blocks without normalisation, enlarged at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError
from .resize import imresize

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


class EDSR(nn.Module):
    """head, ``blocks`` x (conv, ReLU, conv, + input), conv, + head; then pixel shuffle and a last conv. 3x3 throughout.

    Parameters:
        scale: 2, 3 or 4. channels: 3 (RGB, DIV2K's mean is taken off) or 1 (Y).
        features, blocks: 64 and 16 is EDSR-baseline, 256 and 32 with ``residual`` 0.1 is EDSR.
        residual: factor of each block's branch.
        skip: "none" as in the paper, or "bicubic": the net learns what is missing in the bicubic enlargement.
        light: enlarge by one conv of channels scale^2 outputs and a pixel shuffle, in place of those of the paper.

    Raises:
        SparselandError: an argument is not possible.

    >>> sum(p.numel() for p in EDSR(2).parameters())  # EDSR-baseline: 1.37 million
    1369859
    >>> EDSR(3, features=8, blocks=1)(torch.rand(1, 3, 5, 7)).shape
    torch.Size([1, 3, 15, 21])

    Differs from the paper's code: the mean is a buffer, not a convolution (24 numbers fewer in the state).
    """

    mean: Tensor

    def __init__(
        self,
        scale: int = 2,
        *,
        channels: int = 3,
        features: int = 64,
        blocks: int = 16,
        residual: float = 1.0,
        skip: str = "none",
        light: bool = False,
    ) -> None:
        super().__init__()
        check_shape("EDSR", scale, channels, skip)
        if features < 1 or blocks < 0:
            raise SparselandError(f"EDSR: features {features} (possible: 1 …), blocks {blocks} (possible: 0 …)")
        self.scale, self.skip, self.channels = scale, skip, channels
        self.register_buffer("mean", torch.tensor(MEAN if channels == 3 else (0.0,)).view(1, -1, 1, 1))
        self.head = conv(channels, features)
        self.body = nn.Sequential(*(ResidualBlock(features, residual) for _ in range(blocks)), conv(features, features))
        if light:
            self.tail = nn.Sequential(conv(features, channels * scale**2), nn.PixelShuffle(scale))
        else:
            self.tail = nn.Sequential(*enlarge(features, scale), conv(features, channels))

    def forward(self, low: Tensor) -> Tensor:
        """[N, C, h, w] in [0, 1] to [N, C, scale h, scale w]."""
        features = self.head(low - self.mean)
        answer: Tensor = self.tail(features + self.body(features)) + self.mean
        return answer + imresize(low, self.scale) if self.skip == "bicubic" else answer


class ResidualBlock(nn.Module):
    """x + residual conv(relu(conv(x))).

    >>> ResidualBlock(4, residual=0.0)(torch.ones(1, 4, 3, 3)).unique().tolist()
    [1.0]
    """

    def __init__(self, features: int, residual: float = 1.0) -> None:
        super().__init__()
        self.first, self.second, self.residual = conv(features, features), conv(features, features), residual

    def forward(self, x: Tensor) -> Tensor:
        """[N, features, h, w], same shape out."""
        branch: Tensor = self.second(self.first(x).relu())
        return x + self.residual * branch


def check_shape(net: str, scale: int, channels: int, skip: str) -> None:
    """Refuse what neither net can be."""
    if scale not in (2, 3, 4) or channels not in (1, 3) or skip not in ("none", "bicubic"):
        raise SparselandError(
            f"{net}: scale {scale!r} (possible: 2, 3, 4), channels {channels!r} (possible: 1, 3), "
            f"skip {skip!r} (possible: none, bicubic)"
        )


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3, same size out."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def enlarge(features: int, scale: int) -> list[nn.Module]:
    """Conv and pixel shuffle by 2 or 3; twice by 2 for 4."""
    step = 3 if scale == 3 else 2
    times = 2 if scale == 4 else 1
    return [m for _ in range(times) for m in (conv(features, features * step**2), nn.PixelShuffle(step))]
