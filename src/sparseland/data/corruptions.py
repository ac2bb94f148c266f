"""Images out of distribution, made here: those recipes of CIFAR-10-C that need no download, severity 1 to 5."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparseland.core.errors import RecipeError, nearest
from sparseland.data.order import generator

# What each kind takes at severities 1 to 5, for images of about 32 x 32 (arXiv 1903.12261, its CIFAR constants).
SEVERITIES: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle_noise": (0.06, 0.10, 0.12, 0.16, 0.20),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    "zoom_blur": (1.06, 1.11, 1.16, 1.21, 1.26),
    "brightness": (0.05, 0.10, 0.15, 0.20, 0.30),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "saturate": ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
}
CORRUPTIONS = tuple(SEVERITIES)
PART = 1000  # images at a time


def corrupt(images: Tensor, kind: str, severity: int = 3, *, seed: int = 0) -> Tensor:
    """The images, spoilt: noise, blur, light, or compression, as in CIFAR-10-C.

    Each kind has its own random numbers, a function of ``seed`` and ``kind`` alone. Motion and glass blur, snow, fog,
    frost, spatter and elastic distortion are not here (frost needs pictures of ice).

    Parameters:
        images: uint8 [n, C, H, W] with C 1 or 3, or floats in [0, 1].
        kind: one of `CORRUPTIONS`; "saturate" needs colours. severity: 1 (mild) to 5.

    Returns:
        The same shape and type.

    Raises:
        RecipeError: an unknown kind, severity or shape.

    >>> grey = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    >>> noisy = corrupt(grey, "gaussian_noise", 5)
    >>> noisy.dtype, bool((noisy != grey).any()), torch.equal(noisy, corrupt(grey, "gaussian_noise", 5))
    (torch.uint8, True, True)
    >>> corrupt(grey, "brightness", 5).unique().tolist()
    [204]

    References: arXiv 1903.12261.
    """
    if kind not in SEVERITIES:
        raise RecipeError(f"corruption {kind!r}: {nearest(kind, CORRUPTIONS)}")
    if severity not in (1, 2, 3, 4, 5):
        raise RecipeError(f"severity {severity!r}; possible: 1 (mild) to 5")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or (kind == "saturate" and images.shape[1] != 3):
        wanted = "[n, 3, H, W]" if kind == "saturate" else "[n, 1 or 3, H, W]"
        raise RecipeError(f"{kind} of images {list(images.shape)}; possible: {wanted}")
    draw, amount = generator("corrupt", kind, seed), SEVERITIES[kind][severity - 1]
    parts = []
    for part in images.split(PART):
        pixels = part.double() / 255 if part.dtype == torch.uint8 else part.double()
        spoilt = _RECIPES[kind](pixels, amount, draw).clamp(0, 1)
        # Cut off, not rounded, as the recipes do; the 1e-6 keeps 200 from becoming 199.99….
        parts.append((spoilt * 255 + 1e-6).to(torch.uint8) if part.dtype == torch.uint8 else spoilt.to(part.dtype))
    return torch.cat(parts) if parts else images.clone()


# ------------------------------------------------------------------------------------------------------------ the kinds
def _normal(x: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=draw, dtype=torch.float64)


def _impulse(x: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Salt and pepper: that share of the values, half of it white, half black."""
    hit = torch.rand(x.shape, generator=draw, dtype=torch.float64) < share
    white = torch.rand(x.shape, generator=draw, dtype=torch.float64) < 0.5
    return torch.where(hit, white.double(), x)


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel filtered with ``kernel`` [k, k], borders mirrored."""
    channels, size = x.shape[1], kernel.shape[0] // 2
    weight = kernel.expand(channels, 1, *kernel.shape)
    return F.conv2d(F.pad(x, (size,) * 4, mode="reflect"), weight, groups=channels)


def _gauss(sigma: float, size: int) -> Tensor:
    at = torch.arange(-size, size + 1, dtype=torch.float64)
    line = torch.exp(-at.square() / (2 * sigma**2))
    plane = line[:, None] * line
    return plane / plane.sum()


def _gaussian_blur(x: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    return _filtered(x, _gauss(sigma, min(math.ceil(4 * sigma), min(x.shape[2:]) - 1)))


def _defocus(x: Tensor, amount: tuple[float, float], _: torch.Generator) -> Tensor:
    """A disk of a radius in pixels, its edge softened by a 3 x 3 Gaussian."""
    radius, soft = amount
    size = math.ceil(radius) + 1
    at = torch.arange(-size, size + 1, dtype=torch.float64)
    disk = (at[:, None].square() + at.square() <= radius**2).double()
    disk = F.conv2d((disk / disk.sum())[None, None], _gauss(soft, 1)[None, None], padding=1)[0, 0]
    return _filtered(x, disk)


def _zoom(x: Tensor, furthest: float, _: torch.Generator) -> Tensor:
    """The mean of the image and of its middle, enlarged step by step."""
    total, count = x.clone(), 1
    for step in range(round((furthest - 1) * 100)):
        factor = 1 + step / 100
        sides = [math.ceil(side / factor) for side in x.shape[2:]]
        top, left = ((side - part) // 2 for side, part in zip(x.shape[2:], sides, strict=True))
        middle = x[:, :, top : top + sides[0], left : left + sides[1]]
        large = F.interpolate(middle, scale_factor=factor, mode="bilinear", align_corners=False)
        down, right = (max(0, big - side) // 2 for big, side in zip(large.shape[2:], x.shape[2:], strict=True))
        cut = large[:, :, down : down + x.shape[2], right : right + x.shape[3]]
        if cut.shape != x.shape:
            cut = F.interpolate(middle, size=x.shape[2:], mode="bilinear", align_corners=False)
        total, count = total + cut, count + 1
    return total / count


def _brightness(x: Tensor, more: float, _: torch.Generator) -> Tensor:
    """The value of HSV (the largest channel) raised; hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    raised = (value + more).clamp(0, 1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-12), raised)


def _contrast(x: Tensor, share: float, _: torch.Generator) -> Tensor:
    middle = x.mean((2, 3), keepdim=True)
    return (x - middle) * share + middle


def _saturate(x: Tensor, amount: tuple[float, float], _: torch.Generator) -> Tensor:
    """The saturation s of HSV becomes a s + b; each channel is v (1 − s k), where k is the hue's alone (grey: red)."""
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = value - low
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype).view(1, 3, 1, 1)
    hue = torch.where(spread > 0, (value - x) / spread.clamp(min=1e-12), red)
    saturation = torch.where(value > 0, spread / value.clamp(min=1e-12), torch.zeros_like(value))
    return value * (1 - (amount[0] * saturation + amount[1]).clamp(0, 1) * hue)


def _pixelate(x: Tensor, share: float, _: torch.Generator) -> Tensor:
    """Smaller and as large again, by boxes."""
    from sparseland.data.images import pixelate

    return pixelate(_bytes(x), [max(1, int(side * share)) for side in x.shape[2:]]).double() / 255


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8)


def _jpeg(x: Tensor, quality: int, _: torch.Generator) -> Tensor:
    from sparseland.data.images import recompress

    return recompress(_bytes(x), quality).double() / 255


_RECIPES: dict[str, Callable[[Tensor, Any, torch.Generator], Tensor]] = {
    "gaussian_noise": lambda x, c, draw: x + c * _normal(x, draw),
    "shot_noise": lambda x, c, draw: torch.poisson(x * c, generator=draw) / c,
    "impulse_noise": _impulse,
    "speckle_noise": lambda x, c, draw: x + c * x * _normal(x, draw),
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus,
    "zoom_blur": _zoom,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
}
