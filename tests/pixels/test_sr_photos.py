"""Pairs and patches: both pictures show the same place; every refusal names the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.pixels.super_resolution import Pair, Patches, Photo, bundled_photos, imresize, luma, pair, read_photos
from sparseland.pixels.super_resolution.photos import turned


def noise(height: int, width: int, name: str = "noise") -> Photo:
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Photo(name, pixels)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_is_high_shrunk_and_rounded(scale: int) -> None:
    photo = noise(24, 36)
    for channels, truth in (("rgb", photo.unit()), ("y", luma(photo.unit()))):
        made = pair(photo, scale, channels=channels)
        assert torch.equal(made.high, truth) and made.scale == scale
        assert torch.equal(made.low * 255, (made.low * 255).round()) or bool(
            ((made.low * 255) - (made.low * 255).round()).abs().max() < 1e-4
        )
        assert float((made.low - imresize(truth, 1 / scale).clamp(0, 1)).abs().max()) <= 0.5 / 255 + 1e-6


def where(size: int) -> Pair:
    """A pair whose values say where they come from: high = place of the low pixel above it, twice as large."""
    low = torch.arange(float(size * size)).view(1, size, size)
    return Pair("map", low, low.repeat_interleave(2, 1).repeat_interleave(2, 2), 2)


@pytest.mark.parametrize("augment", [True, False])
def test_patches_show_the_same_place_however_turned(augment: bool) -> None:
    patches = Patches([where(12)], 8, augment=augment)
    low, high = patches.batch(1500, torch.Generator().manual_seed(1))
    assert torch.equal(high, low.repeat_interleave(2, 2).repeat_interleave(2, 3))
    corners = {tuple(sorted(p.flatten().tolist())) for p in low}
    assert len(corners) == 9 * 9  # every place of a 4x4 patch in 12x12 comes up
    steps = {(float(p[0, 0, 1] - p[0, 0, 0]), float(p[0, 1, 0] - p[0, 0, 0])) for p in low}
    every = {(x * a, y * b) for x, y in ((1.0, 12.0), (12.0, 1.0)) for a in (1, -1) for b in (1, -1)}
    assert steps == (every if augment else {(1.0, 12.0)})


def test_batches_depend_on_the_generator_alone() -> None:
    patches = Patches([where(12), where(9)], 8)
    one, two, other = (patches.batch(6, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], other[0])
    assert Patches([where(4)], 8).batch(2, torch.Generator())[0].shape == (2, 1, 4, 4)  # the whole picture


def test_eight_ways_to_turn() -> None:
    patch = torch.arange(4.0).view(1, 2, 2)
    made = {
        tuple(turned(patch, [a, b, c]).flatten().tolist()) for a in (0.1, 0.9) for b in (0.1, 0.9) for c in (0.1, 0.9)
    }
    assert len(made) == 8


def test_files_are_read_in_order_and_cropped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (9, 13, 3), dtype=np.uint8) for name in ("b.png", "a.bmp")}
    for name, array in arrays.items():
        Image.fromarray(array).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    photos = read_photos(tmp_path, crop=4)
    assert [Path(p.name).name for p in photos] == ["a.bmp", "b.png"]
    assert np.array_equal(photos[1].pixels.permute(1, 2, 0).numpy(), arrays["b.png"][:8, :12])
    Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).save(tmp_path / "c.png")
    grey = read_photos(tmp_path)[2].pixels
    assert grey.shape == (3, 6, 6) and torch.equal(grey[0], grey[2])
    (tmp_path / "d.png").write_bytes(b"not a picture")
    with pytest.raises(SparselandError, match=r"d\.png cannot be read"):
        read_photos(tmp_path)
    with pytest.raises(DataNotFound, match="not a folder of pictures"):
        read_photos(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match="empty is not a folder of pictures"):
        read_photos(tmp_path / "empty")


def test_bundled_photographs() -> None:
    pytest.importorskip("sklearn")
    found = bundled_photos()
    assert [Path(p.name).stem for p in found] == ["china", "flower"]
    assert all(p.pixels.shape == (3, 427, 640) and p.pixels.dtype == torch.uint8 for p in found)


@pytest.mark.parametrize(
    ("pixels", "top", "says"),
    [
        (torch.rand(3, 4, 4), 255, r"cat\.png: declared as \[0, 255\], but its torch.float32 values lie in \[0"),
        (torch.full((3, 4, 4), 200.0), 1, r"cat\.png: declared as \[0, 1\].*lie in \[200, 200\]"),
        (torch.full((3, 4, 4), -0.1), 1, r"cat\.png: declared as \[0, 1\].*\[-0\.1"),
        (torch.full((3, 4, 4), 256.0), 255, r"\[256, 256\]"),
        (torch.full((3, 4, 4), float("nan")), 1, r"nan"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), 1, r"declared as \[0, 1\], but its torch.uint8"),
        (torch.zeros(3, 4, 4), 7, r"top is 7; possible: 1, 255"),
        (torch.zeros(1, 4, 4), 1, r"cat\.png: RGB as uint8 or float \[3, H, W\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), 255, r"got torch.int64"),
        (torch.zeros(3, 0, 4), 1, r"\[3, 0, 4\]"),
    ],
)
def test_values_are_as_declared(pixels: torch.Tensor, top: int, says: str) -> None:
    with pytest.raises(SparselandError, match=says):
        Photo("cat.png", pixels, top)


def test_sizes_have_to_fit() -> None:
    with pytest.raises(SparselandError, match=r"dog\.png is 9x12, not a multiple of scale 2; crop it"):
        pair(noise(9, 12, "dog.png"), 2)
    assert pair(noise(9, 12).cropped(2), 2).low.shape == (1, 4, 6)
    for scale, channels in ((1, "y"), (2.0, "y"), (True, "y"), (2, "ycbcr")):
        with pytest.raises(SparselandError, match="possible: 2, 3"):
            pair(noise(12, 12), scale, channels=channels)  # type: ignore[arg-type]
    good, tiny = pair(noise(24, 24), 2), pair(noise(24, 12, "tiny.png"), 2)
    with pytest.raises(SparselandError, match=r"tiny\.png is \[24, 12\], smaller than the patch of 16"):
        Patches([good, tiny], 16)
    with pytest.raises(SparselandError, match="patch of 15 is no multiple of scale 2"):
        Patches([good], 15)
    with pytest.raises(SparselandError, match="no pictures"):
        Patches([], 16)
    with pytest.raises(SparselandError, match="noise has scale 3 and 1 channels, noise has 2 and 1"):
        Patches([good, pair(noise(24, 24), 3)], 6)
