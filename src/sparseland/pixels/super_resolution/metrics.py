"""PSNR and SSIM as super-resolution papers quote them: on the luma Y, without a border."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import SparselandError
from .photos import Pair, luma

__all__ = ["luma", "measure", "psnr", "ssim"]
WINDOW, SIGMA = 11, 1.5  # of SSIM
K1, K2 = 0.01, 0.03


def psnr(one: Tensor, other: Tensor, *, border: int = 0) -> float:
    """10 log10(1 / mean squared error) in dB, for values in [0, 1]; ``border`` pixels are left out on each side.

    >>> round(psnr(torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.1)), 4)
    20.0
    >>> psnr(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8))
    inf
    """
    one, other = _cropped(one, other, border)
    error = (one - other).square().mean()
    return float("inf") if error == 0 else float(-10 * torch.log10(error))


def ssim(one: Tensor, other: Tensor, *, border: int = 0) -> float:
    """Mean structural similarity of pictures [..., H, W] in [0, 1], Gaussian window 11x11 of sigma 1.5, no padding.

    mean of (2 m n + c1)(2 s_mn + c2) / ((m^2 + n^2 + c1)(s_m + s_n + c2)), c1 = 0.01^2, c2 = 0.03^2 (Wang et al. 2004).

    Raises:
        SparselandError: shapes differ, or what is left of the border is smaller than the window.

    >>> x = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim(x, x), 6), ssim(x, 1 - x) < 0
    (1.0, True)
    """
    one, other = _cropped(one, other, border)
    if min(one.shape[-2:]) < WINDOW:
        raise SparselandError(f"SSIM needs pictures of at least {WINDOW}x{WINDOW}; without border {tuple(one.shape)}")
    steps = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    bell = torch.exp(-steps.square() / (2 * SIGMA**2))
    bell = bell / bell.sum()
    a, b = (x.reshape(-1, 1, *x.shape[-2:]) for x in (one, other))
    across = F.conv2d(torch.cat([a, b, a * a, b * b, a * b]), bell.view(1, 1, 1, WINDOW))
    m, n, aa, bb, ab = F.conv2d(across, bell.view(1, 1, WINDOW, 1)).chunk(5)
    top = (2 * m * n + K1**2) * (2 * (ab - m * n) + K2**2)
    bottom = (m * m + n * n + K1**2) * (aa - m * m + bb - n * n + K2**2)
    return float((top / bottom).mean())


def _cropped(one: Tensor, other: Tensor, border: int) -> tuple[Tensor, Tensor]:
    if one.shape != other.shape or one.ndim < 2:
        raise SparselandError(f"two pictures of one shape [..., H, W], please; got {[*one.shape]} and {[*other.shape]}")
    if border < 0 or min(one.shape[-2:]) <= 2 * border:
        raise SparselandError(f"a border of {border} leaves nothing of {tuple(one.shape)}")
    inner = slice(border, -border or None)
    return one[..., inner, inner].double(), other[..., inner, inner].double()


@torch.no_grad()
def measure(model: nn.Module, pairs: Iterable[Pair], *, border: int | None = None) -> dict[str, float]:
    """{"psnr" (dB), "ssim"}: means over pictures, on Y, after clamping to [0, 1] and rounding to 8 bits.

    Parameters:
        model: maps [1, C, h, w] to [1, C, H, W]; its mode is put back afterwards.
        pairs: the pictures; C = 3 (RGB) or 1 (Y).
        border: pixels left out on each side; None: the scale.

    Raises:
        SparselandError: there are no pictures, or the model's answer has another size.

    >>> ramp = torch.linspace(0, 1, 24).expand(1, 24, 24)
    >>> flat = Pair("ramp", ramp[:, ::2, ::2], ramp, 2)
    >>> 30 < measure(nn.Upsample(scale_factor=2, mode="bilinear"), [flat])["psnr"] < 60
    True
    """
    found, training = [], model.training
    model.eval()
    try:
        for item in pairs:
            answer = model(item.low[None])[0].clamp(0, 1)
            if answer.shape != item.high.shape:
                raise SparselandError(f"{item.name}: {tuple(answer.shape)} given, {tuple(item.high.shape)} asked for")
            answer, truth = (255 * answer).round() / 255, item.high
            if len(truth) == 3:
                answer, truth = luma(answer), luma(truth)
            edge = item.scale if border is None else border
            found.append((psnr(answer, truth, border=edge), ssim(answer, truth, border=edge)))
    finally:
        model.train(training)
    if not found:
        raise SparselandError("there are no pictures to measure")
    means = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    return dict(zip(("psnr", "ssim"), means, strict=True))
