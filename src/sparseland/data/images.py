"""Pillow, and nothing but Pillow: decode, convert, resize. The only file of this folder that imports it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sparseland.core.errors import SparselandError

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")


def to_array(image: Image.Image, channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """One Pillow image as uint8 [C, H, W]; with ``size`` = (H, W) it is scaled and centre-cropped, not distorted."""
    from PIL import Image, ImageOps

    if image.mode.startswith("I"):
        # 16-bit greys: keep the upper eight bits; convert("L") would clip nearly all of them to white.
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise SparselandError("floating-point images have no fixed range; store them as 8- or 16-bit images")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and (image.height, image.width) != size:
        image = ImageOps.fit(image, (size[1], size[0]), method=Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def decode_jpeg(data: np.ndarray, offsets: np.ndarray, indices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Decode some of the JPEG files that lie end to end in ``data``.

    Parameters:
        data: uint8 [total], the files.
        offsets: int64 [n+1]; file i is ``data[offsets[i]:offsets[i+1]]``.
        indices: int64 [k], which ones.
        shape: (H, W) that each must have.

    Returns:
        uint8 [k, 3, H, W].

    Raises:
        SparselandError: a file cannot be decoded, or has another size.
    """
    from PIL import Image

    images = np.empty((len(indices), 3, *shape), dtype=np.uint8)
    for row, index in enumerate(indices):
        try:
            with Image.open(io.BytesIO(data[offsets[index] : offsets[index + 1]].tobytes())) as image:
                array = to_array(image, 3, None)
        except OSError as error:
            raise SparselandError(f"image {index} cannot be decoded: {error}") from error
        if array.shape[1:] != shape:
            raise SparselandError(f"image {index} is {array.shape[1:]}, not {shape}")
        images[row] = array
    return images


def probe(path: Path) -> tuple[bool, tuple[int, int]]:
    """(is it grey?, (H, W)) from the header alone.

    Raises:
        SparselandError: not an image that Pillow can read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in GREY_MODES, (image.height, image.width)
    except OSError as error:
        raise SparselandError(f"{path} cannot be read as an image: {error}") from error


def read_files(paths: list[Path], channels: int, size: tuple[int, int]) -> np.ndarray:
    """Read image files as uint8 [k, C, H, W].

    Raises:
        SparselandError: a file is damaged.
    """
    from PIL import Image

    images = np.empty((len(paths), channels, *size), dtype=np.uint8)
    for row, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                images[row] = to_array(image, channels, size)
        except OSError as error:
            raise SparselandError(f"{path} cannot be read as an image: {error}") from error
    return images


def recompress(images: torch.Tensor, quality: int) -> torch.Tensor:
    """uint8 [n, C, H, W] (C 1 or 3) written as JPEG of that quality (1 to 95) and read again.

    >>> grey = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    >>> recompress(grey, 40).unique().tolist()
    [128]
    """
    from PIL import Image

    def written(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=quality)
        return Image.open(file)

    return _each(images, written)


def pixelate(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """uint8 [n, C, H, W] scaled to ``size`` = (height, width) and back, both with Pillow's box filter.

    >>> pixelate(torch.tensor([[[[0, 100], [100, 200]]]], dtype=torch.uint8), (1, 1)).unique().tolist()
    [100]
    """
    from PIL import Image

    def coarse(image: Image.Image) -> Image.Image:
        box = Image.Resampling.BOX
        return image.resize((size[1], size[0]), box).resize(image.size, box)

    return _each(images, coarse)


def _each(images: torch.Tensor, change: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    """Every image through a function of Pillow images."""
    from PIL import Image

    out = torch.empty_like(images)
    for row, image in enumerate(images):
        pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
        with change(Image.fromarray(pixels)) as changed:
            out[row] = torch.from_numpy(to_array(changed, len(image), None).copy())
    return out
