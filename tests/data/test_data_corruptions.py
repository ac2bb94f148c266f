"""Corrupted images: each kind by its definition, worse with severity, the same each time, bad input refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparseland.core.errors import RecipeError
from sparseland.data import CORRUPTIONS, corrupt, load
from sparseland.data.corruptions import SEVERITIES


def pictures(channels: int = 3, count: int = 8, side: int = 32) -> torch.Tensor:
    """Smooth ones, uint8."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 8, 8, generator=draw)
    return (torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_shape_type_range_and_the_same_each_time(kind: str) -> None:
    images = pictures()
    before = images.clone()
    for severity in (1, 3, 5):
        spoilt = corrupt(images, kind, severity)
        assert spoilt.shape == images.shape and spoilt.dtype == torch.uint8
        assert torch.equal(spoilt, corrupt(images, kind, severity))
        assert not torch.equal(spoilt, images)
        floats = corrupt(images.float() / 255, kind, severity)
        assert floats.dtype == torch.float32 and float(floats.min()) >= 0 and float(floats.max()) <= 1
    assert torch.equal(images, before)
    if "noise" in kind:
        assert not torch.equal(corrupt(images, kind), corrupt(images, kind, seed=1))


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind != "saturate"])  # first grey, then gaudy
def test_worse_with_severity_on_colour_and_on_grey(kind: str) -> None:
    for channels in (1, 3):
        images = pictures(channels)
        errors = [float((corrupt(images, kind, s).float() - images.float()).square().mean()) for s in range(1, 6)]
        assert errors[0] < errors[-1], errors
        assert errors == sorted(errors) or kind == "pixelate", (
            errors
        )  # boxes of 0.85 may hit edges that those of 0.75 miss


def test_noises_have_the_moments_they_should() -> None:
    grey = torch.full((64, 1, 32, 32), 0.5)
    for severity in (1, 5):
        for kind, std in (
            ("gaussian_noise", SEVERITIES["gaussian_noise"][severity - 1]),
            ("speckle_noise", SEVERITIES["speckle_noise"][severity - 1] * 0.5),
            ("shot_noise", (0.5 / SEVERITIES["shot_noise"][severity - 1]) ** 0.5),
        ):
            spoilt = corrupt(grey, kind, severity)
            assert float(spoilt.mean()) == pytest.approx(0.5, abs=0.002)
            assert float(spoilt.std()) == pytest.approx(std, rel=0.02)
        changed = corrupt(grey, "impulse_noise", severity)
        share = SEVERITIES["impulse_noise"][severity - 1]
        assert float((changed != 0.5).float().mean()) == pytest.approx(share, rel=0.1)
        assert float((changed == 1).float().mean()) == pytest.approx(share / 2, rel=0.15)


def test_light_and_colour_as_in_hsv() -> None:
    from colorsys import hsv_to_rgb, rgb_to_hsv

    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    image[0, :, 0, 0] = 0.3  # grey
    image[0, :, 0, 1] = 0.0  # black
    for severity in range(1, 6):
        more, (scale, shift) = SEVERITIES["brightness"][severity - 1], SEVERITIES["saturate"][severity - 1]
        lighter, richer = corrupt(image, "brightness", severity), corrupt(image, "saturate", severity)
        for row in range(4):
            for column in range(4):
                h, s, v = rgb_to_hsv(*image[0, :, row, column].tolist())
                assert lighter[0, :, row, column].tolist() == pytest.approx(hsv_to_rgb(h, s, min(v + more, 1)))
                wanted = hsv_to_rgb(h, min(max(scale * s + shift, 0), 1), v)
                assert richer[0, :, row, column].tolist() == pytest.approx(wanted)
    contrast = corrupt(image, "contrast", 3)
    middle = image.mean((2, 3), keepdim=True)
    assert torch.allclose(contrast, (image - middle) * 0.4 + middle)


def test_blurs_against_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    images = pictures(1, 2).double() / 255
    for severity in range(1, 6):
        sigma = SEVERITIES["gaussian_blur"][severity - 1]
        expected = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=4.0)
        assert np.abs(corrupt(images, "gaussian_blur", severity).numpy() - expected).max() < 2e-3
    flat = torch.full((1, 1, 16, 16), 0.6)  # 153 of 255
    for kind in ("gaussian_blur", "defocus_blur", "zoom_blur", "pixelate", "contrast"):
        assert torch.allclose(corrupt(flat, kind, 5), flat, atol=1e-6), kind


def test_small_images_too() -> None:
    digits = load("digits").test.images[:5]
    assert all(corrupt(digits, kind, 5).shape == digits.shape for kind in CORRUPTIONS if kind != "saturate")


@pytest.mark.parametrize(
    ("shape", "kind", "severity", "message"),
    [
        ((1, 1, 8, 8), "gauss", 3, "corruption 'gauss'.*gaussian_blur"),
        ((1, 1, 8, 8), "contrast", 0, "severity 0; possible: 1"),
        ((1, 1, 8, 8), "saturate", 3, r"saturate of images \[1, 1, 8, 8\]; possible: \[n, 3, H, W\]"),
        ((1, 4, 8, 8), "contrast", 3, r"possible: \[n, 1 or 3, H, W\]"),
        ((8, 8), "contrast", 3, r"images \[8, 8\]"),
    ],
)
def test_bad_input(shape: tuple[int, ...], kind: str, severity: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        corrupt(torch.zeros(shape), kind, severity)
