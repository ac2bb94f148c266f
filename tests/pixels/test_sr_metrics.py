"""PSNR, SSIM and luma, by hand and against a plain NumPy twin; what `measure` does to a model's answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sparseland.core.errors import SparselandError
from sparseland.pixels.super_resolution import Pair, luma, measure, psnr, ssim


def test_psnr_by_hand_and_its_border() -> None:
    one, other = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    other[0, 0, 0] = 1.0  # a wrong corner
    assert psnr(one, other) == pytest.approx(10 * math.log10(100))
    assert psnr(one, other, border=1) == float("inf")
    noise = torch.rand(1, 10, 10)
    mse = float((noise[:, 2:-2, 2:-2].double() ** 2).mean())
    assert psnr(one, noise, border=2) == pytest.approx(-10 * math.log10(mse))


def twin(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM window by window, as Wang et al. write it, on values up to 255."""
    a, b = 255 * a.astype(np.float64), 255 * b.astype(np.float64)
    axis = np.arange(-5, 6)
    g = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    g /= g.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            m, n = (g * p).sum(), (g * q).sum()
            s, t, st = (g * (p - m) ** 2).sum(), (g * (q - n) ** 2).sum(), (g * (p - m) * (q - n)).sum()
            values.append((2 * m * n + c1) * (2 * st + c2) / ((m * m + n * n + c1) * (s + t + c2)))
    return float(np.mean(values))


def test_ssim_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((17, 20))
    b = np.clip(a + 0.1 * rng.standard_normal(a.shape), 0, 1)
    got = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    assert got == pytest.approx(twin(a, b), abs=1e-9)
    assert ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None], border=3) == pytest.approx(
        twin(a[3:-3, 3:-3], b[3:-3, 3:-3]), abs=1e-9
    )


def test_luma_of_pure_colours() -> None:
    """MATLAB: rgb2ycbcr([1 0 0; 0 1 0; 0 0 1]) has Y = 81.481, 144.553, 40.966."""
    colours = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    assert torch.allclose(255 * luma(colours).flatten(), torch.tensor([81.481, 144.553, 40.966], dtype=torch.float64))


class Answer(nn.Module):
    """The same picture, whatever comes in."""

    def __init__(self, picture: torch.Tensor) -> None:
        super().__init__()
        self.picture = picture

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return self.picture[None]


def test_answers_are_clamped_rounded_cropped_and_compared_on_luma() -> None:
    high = (torch.rand(3, 24, 24) > 0.5).float()
    item = Pair("p", high[:, ::2, ::2], high, 2)
    spoiled = high.clone()
    spoiled[:, :2] = 0.3  # within the border of 2
    spoiled[:, -2:] = 0.3
    model = Answer(spoiled * 1.5 + 0.001 * (spoiled == 0)).train()  # too bright, and too little above black to count
    assert measure(model, [item])["psnr"] == float("inf") and model.training
    assert measure(model, [item], border=0)["psnr"] < 40
    grey = high + 0.2 * torch.tensor([128.553, -65.481, 0.0]).view(3, 1, 1) / 128.553  # luma does not see this
    level = Pair("q", torch.full((3, 12, 12), 0.5), torch.full((3, 24, 24), 0.5), 2)
    seen = measure(Answer(level.high + (grey - high)), [level])
    assert seen["psnr"] > 50 and psnr(level.high, level.high + (grey - high)) < 25


def test_means_are_over_pictures() -> None:
    dark, half = torch.zeros(1, 16, 16), torch.full((1, 16, 16), 51 / 255)
    pairs = [Pair("a", dark[:, ::2, ::2], torch.full((1, 16, 16), 102 / 255), 2), Pair("b", dark, half + 51 / 510, 2)]
    found = measure(Answer(half), pairs)["psnr"]
    assert found == pytest.approx((-20 * math.log10(0.2) - 20 * math.log10(0.1)) / 2, abs=1e-4)


def test_bad_input() -> None:
    x = torch.rand(1, 16, 16)
    with pytest.raises(SparselandError, match="two pictures of one shape"):
        psnr(x, x[:, 1:])
    with pytest.raises(SparselandError, match="a border of 8 leaves nothing"):
        psnr(x, x, border=8)
    with pytest.raises(SparselandError, match="at least 11x11"):
        ssim(x, x, border=3)
    with pytest.raises(SparselandError, match="no pictures"):
        measure(nn.Identity(), [])
    with pytest.raises(SparselandError, match=r"p: \(1, 8, 8\) given, \(1, 16, 16\) asked for"):
        measure(nn.Identity(), [Pair("p", x[:, ::2, ::2], x, 2)])
