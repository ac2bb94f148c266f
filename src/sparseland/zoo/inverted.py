"""The inverted residual block that MobileNetV2, V3 and EfficientNet are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError

Activation = Callable[[torch.Tensor], torch.Tensor]
SMALL = 64  # images up to this side keep their resolution in the first convolution


def divisible(channels: float, by: int = 8) -> int:
    """The multiple of ``by`` next to ``channels``, at least ``by`` and never more than 10 % below.

    >>> [divisible(c) for c in (3, 16, 18, 19.2, 11.9)]
    [8, 16, 24, 24, 16]
    """
    near = max(by, int(channels + by / 2) // by * by)
    return near + by if near < 0.9 * channels else near


def stem(in_shape: tuple[int, int, int], stride: int | None) -> int:
    """Stride of the first convolution: as given, or 1 for images of at most 64 pixels a side and else 2.

    Raises:
        SparselandError: another stride.

    >>> stem((3, 32, 32), None), stem((3, 224, 224), None), stem((3, 224, 224), 1)
    (1, 2, 1)
    """
    if stride not in (None, 1, 2):
        raise SparselandError(f"stem_stride is 1, 2 or None (by the size of the image); got {stride!r}")
    return stride or (1 if max(in_shape[1:]) <= SMALL else 2)


def check_options(width: float, dropout: float) -> None:
    """Raise unless the width multiplies by more than 0 and the dropout is a probability in [0, 1).

    Raises:
        SparselandError: they are not.

    >>> check_options(0.5, 0.2)
    """
    if not width > 0:
        raise SparselandError(f"width multiplies the numbers of channels and is above 0; got {width}")
    if not 0 <= dropout < 1:
        raise SparselandError(f"dropout is a probability in [0, 1); got {dropout}")


class SqueezeExcite(nn.Module):
    """x · gate(expand(act(reduce(mean of x over the pixels)))), one factor per channel (arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int, act: Activation, gate: Activation) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.act, self.gate = act, gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * self.gate(factor)


class InvertedResidual(nn.Module):
    """bn3(project(se(act(bn2(depthwise(act(bn1(expand(x)))))))) [+ x where shape and stride allow].

    Parameters:
        inputs, hidden, outputs: channels; without ``expand`` where hidden = inputs.
        kernel: side of the depthwise kernel, odd; padding is kernel // 2 on every side.
        stride: of the depthwise convolution.
        act: activation after the first two convolutions.
        squeezed: channels inside squeeze-and-excitation; 0 for none.
        squeeze_act, gate: activations inside it.
        eps: of the BatchNorms.

    >>> block = InvertedResidual(8, 48, 8, 3, 1, F.relu6)
    >>> block(torch.zeros(2, 8, 5, 5)).shape, block.residual
    (torch.Size([2, 8, 5, 5]), True)
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int,
        stride: int,
        act: Activation,
        *,
        squeezed: int = 0,
        squeeze_act: Activation = F.relu,
        gate: Activation = F.hardsigmoid,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.act = act
        self.residual = stride == 1 and inputs == outputs
        self.expand: nn.Module | None = None
        if hidden != inputs:
            self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(hidden, eps=eps)
        self.depthwise = nn.Conv2d(
            hidden, hidden, kernel, stride=stride, padding=kernel // 2, groups=hidden, bias=False
        )
        self.bn2 = nn.BatchNorm2d(hidden, eps=eps)
        self.se = SqueezeExcite(hidden, squeezed, squeeze_act, gate) if squeezed else None
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x if self.expand is None else self.act(self.bn1(self.expand(x)))
        out = self.act(self.bn2(self.depthwise(out)))
        if self.se is not None:
            out = self.se(out)
        out = self.bn3(self.project(out))
        result: torch.Tensor = out + x if self.residual else out
        return result
