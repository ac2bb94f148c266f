"""Bicubic resizing as MATLAB's ``imresize`` does it: the degradation that super-resolution papers train and test on.

torch's bicubic (a = -0.75, no antialiasing by default) gives other pictures: results on them cannot be compared.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ...core.errors import SparselandError


def cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5: 1.5|x|^3 - 2.5|x|^2 + 1 up to 1, -0.5|x|^3 + 2.5|x|^2 - 4|x| + 2 up to 2, else 0.

    >>> cubic(torch.tensor([0.0, 0.5, -1.5, 2.0])).tolist()
    [1.0, 0.5625, -0.0625, 0.0]
    """
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@lru_cache(maxsize=256)
def resize_matrix(size: int, scale: float, antialias: bool = True) -> Tensor:
    """The matrix A [ceil(scale size), size] (float64) that resizes one axis: y = A x.

    Output pixel i (from 1) lies at u = i / scale + (1 - 1 / scale) / 2; its weights are h(u - j), h(x) = s k(s x) with
    s = min(scale, 1) (the kernel is stretched where the picture shrinks), divided by their sum. Beyond its ends the
    axis is mirrored with the edge repeated. ``antialias=False``: h = k.

    Raises:
        SparselandError: size or scale is not above zero.

    >>> [round(w, 7) for w in resize_matrix(16, 0.5)[4, 5:9].tolist()]  # half of k(1.75), k(1.25), k(0.75), k(0.25)
    [-0.0117188, -0.0351562, 0.1132812, 0.4335938]
    >>> bool(torch.allclose(resize_matrix(9, 1.5).sum(1), torch.ones(14, dtype=torch.float64)))
    True

    The answer is shared: do not change it in place.
    """
    if size < 1 or not scale > 0:
        raise SparselandError(f"resizing needs a size of at least 1 and a scale above 0; got {size} and {scale}")
    out, stretch = math.ceil(size * scale - 1e-9), scale if antialias and scale < 1 else 1.0
    width = 4 / stretch
    centre = torch.arange(1, out + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)  # [out], pixels from 1
    first = torch.floor(centre - width / 2)
    places = first[:, None] + torch.arange(math.ceil(width) + 2, dtype=torch.float64)  # [out, taps]
    weights = stretch * cubic(stretch * (centre[:, None] - places))
    weights = weights / weights.sum(1, keepdim=True)
    wrapped = (places.long() - 1) % (2 * size)
    source = torch.where(wrapped < size, wrapped, 2 * size - 1 - wrapped)
    return torch.zeros(out, size, dtype=torch.float64).scatter_add_(1, source, weights)


def imresize(images: Tensor, scale: float, *, antialias: bool = True) -> Tensor:
    """Bicubic resizing of ``images`` [..., H, W] to [..., ceil(scale H), ceil(scale W)], equal to MATLAB's.

    Values may leave the range of the input, as MATLAB's do for floating-point images; for 8-bit pictures clamp and
    round the answer. Same dtype as the input, differentiable; computed in float64 for float64 inputs, else in float32.

    Raises:
        SparselandError: not a floating-point tensor with at least two axes.

    >>> ramp = torch.arange(8.0).expand(1, 8, 8)
    >>> imresize(ramp, 0.5).shape, round(imresize(ramp, 0.5)[0, 0, 1].item(), 4)  # 2.5, but -1 is mirrored to 0
    (torch.Size([1, 4, 4]), 2.4883)
    """
    if images.ndim < 2 or not images.is_floating_point():
        raise SparselandError(f"imresize takes floats [..., H, W]; got {images.dtype} {tuple(images.shape)}")
    work = images if images.dtype == torch.float64 else images.float()
    down, across = (resize_matrix(side, float(scale), antialias).to(work) for side in images.shape[-2:])
    return (down @ work @ across.T).to(images.dtype)
