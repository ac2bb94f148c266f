"""Bicubic resizing: kernels by hand, an independent NumPy reference, and numbers that were published with MATLAB."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sparseland.core.errors import SparselandError
from sparseland.pixels.super_resolution import imresize, measure, pair, read_photos, resize_matrix


def keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def reference(line: np.ndarray, scale: float, antialias: bool = True) -> np.ndarray:
    """One axis as MATLAB's documentation has it, pixel by pixel from 0; the ends are mirrored by padding."""
    n, s = len(line), min(scale, 1.0) if antialias else 1.0
    reach = math.ceil(2 / s) + 2
    padded = np.pad(line.astype(np.float64), reach, mode="symmetric")  # edge pixel repeated
    answer = []
    for i in range(math.ceil(n * scale)):
        at = (i + 0.5) / scale - 0.5
        near = range(math.ceil(at - 2 / s), math.floor(at + 2 / s) + 1)
        weights = np.array([s * keys(s * (at - j)) for j in near])
        answer.append((weights * padded[[j + reach for j in near]]).sum() / weights.sum())
    return np.array(answer)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2 / 3, 0.37, 1.0, 1.7, 2, 3, 4])
@pytest.mark.parametrize("size", [12, 25])
def test_it_is_the_reference_on_both_axes(size: int, scale: float, antialias: bool) -> None:
    picture = np.random.default_rng(0).random((size, size - 5))
    down = np.stack([reference(column, scale, antialias) for column in picture.T], 1)
    expected = np.stack([reference(row, scale, antialias) for row in down])
    got = imresize(torch.from_numpy(picture), scale, antialias=antialias).numpy()
    assert got.shape == (math.ceil(size * scale), math.ceil((size - 5) * scale))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_halving_by_hand() -> None:
    """k(0.25), k(0.75), k(1.25), k(1.75) = 111/128, 29/128, -9/128, -3/128, each twice and halved."""
    row = resize_matrix(32, 0.5)[7]
    taps = [-3, -9, 29, 111, 111, 29, -9, -3]
    assert torch.allclose(row[11:19], torch.tensor(taps, dtype=torch.float64) / 256)
    assert row.count_nonzero() == 8


def test_doubling_by_hand() -> None:
    """Output 4 lies a quarter of a pixel before input 2: k(1.75), k(0.75), k(0.25), k(1.25) on pixels 0 … 3."""
    row = resize_matrix(8, 2)[4]
    assert torch.allclose(row[:4], torch.tensor([-3.0, 29, 111, -9], dtype=torch.float64) / 128)
    assert row.count_nonzero() == 4


def test_quartering_by_hand() -> None:
    """16 taps at k(1/8), k(3/8) … k(15/8), each side, over four."""
    row = resize_matrix(64, 0.25)[8]
    half = torch.tensor([keys((2 * j + 1) / 8) / 4 for j in range(8)], dtype=torch.float64)
    assert torch.allclose(row[26:42], torch.cat([half.flip(0), half]), atol=1e-15)


def test_the_edge_is_repeated() -> None:
    row = resize_matrix(32, 0.5)[0]  # between pixels 0 and 1: pixels -3 … 4; -1, -2, -3 are 0, 1, 2
    by_hand = torch.tensor([111 + 29, 111 - 9, 29 - 3, -9, -3], dtype=torch.float64) / 256
    assert torch.allclose(row[:5], by_hand) and row.count_nonzero() == 5


@pytest.mark.parametrize("scale", [0.3, 0.5, 2, 3])
def test_constants_stay_and_axes_do_not_mix(scale: float) -> None:
    assert torch.allclose(imresize(torch.full((2, 9, 11), 0.7), scale), torch.tensor(0.7))
    x = torch.rand(9, 11)
    assert torch.allclose(imresize(x, scale).T, imresize(x.T.contiguous(), scale), atol=1e-6)
    assert torch.allclose(imresize(x.expand(2, 3, 9, 11), scale)[1, 2], imresize(x, scale), atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 2, 3])
def test_both_ends_are_alike(scale: float) -> None:
    x = torch.rand(10, 12)
    assert torch.allclose(imresize(x.flip(0), scale), imresize(x, scale).flip(0), atol=1e-6)


def test_dtypes_gradients_and_bad_input() -> None:
    assert imresize(torch.rand(4, 4, dtype=torch.bfloat16), 2).dtype == torch.bfloat16
    x = torch.rand(1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: imresize(v, 0.5), (x,))
    with pytest.raises(SparselandError, match=r"floats \[\.\.\., H, W\]; got torch.uint8 \(4, 4\)"):
        imresize(torch.zeros(4, 4, dtype=torch.uint8), 2)
    for size, scale in ((0, 0.5), (4, 0.0), (4, -1.0)):
        with pytest.raises(SparselandError, match="scale above 0"):
            resize_matrix(size, scale)


class Bicubic(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        return imresize(low, self.scale)


@pytest.mark.parametrize(("scale", "decibels", "ssim"), [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)])
def test_published_numbers_of_set5(data_folder: Path, scale: int, decibels: float, ssim: float) -> None:
    """What the field's papers give for bicubic, degraded and enlarged by MATLAB (e.g. arXiv 1501.00092, 1707.02921)."""
    folder = data_folder / "super-resolution" / "CSet5"
    if not folder.is_dir():
        pytest.skip(f"no Set5 at {folder}")
    found = measure(Bicubic(scale), [pair(photo, scale) for photo in read_photos(folder, crop=scale)])
    assert found["psnr"] == pytest.approx(decibels, abs=0.01) and found["ssim"] == pytest.approx(ssim, abs=5e-4)
