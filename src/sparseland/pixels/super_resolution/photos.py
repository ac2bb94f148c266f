"""Pictures, the pairs made from them, and the patches a net is trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import DataNotFound, SparselandError
from .resize import imresize

FILES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
CHANNELS = ("y", "rgb")


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture and what it is called.

    Parameters:
        name: for messages.
        pixels: RGB [3, H, W], uint8, or floats in [0, top].
        top: the declared largest value of floats, 1 or 255.

    Raises:
        SparselandError: not RGB, or the values are not in the declared range; names the picture.

    >>> Photo("grey", torch.full((3, 4, 4), 128.0), top=255).unit().unique().item() == torch.tensor(128 / 255).item()
    True
    """

    name: str
    pixels: Tensor
    top: int = 255

    def __post_init__(self) -> None:
        x = self.pixels
        if x.ndim != 3 or x.shape[0] != 3 or 0 in x.shape or not (x.dtype == torch.uint8 or x.is_floating_point()):
            raise SparselandError(f"{self.name}: RGB as uint8 or float [3, H, W], please; got {x.dtype} {[*x.shape]}")
        if self.top not in (1, 255):
            raise SparselandError(f"{self.name}: top is {self.top}; possible: 1, 255")
        low, high = float(x.min()), float(x.max())
        wrong = self.top == 1 if x.dtype == torch.uint8 else self.top == 255 and 0 < high <= 1
        if wrong or not 0 <= low <= high <= self.top:
            raise SparselandError(
                f"{self.name}: declared as [0, {self.top}], but its {x.dtype} values lie in [{low:g}, {high:g}]"
            )

    def unit(self) -> Tensor:
        """float32 in [0, 1]."""
        return self.pixels.float() / self.top

    def cropped(self, multiple: int) -> Photo:
        """Without the last rows and columns that ``multiple`` does not divide (the field's ``modcrop``)."""
        height, width = (side - side % multiple for side in self.pixels.shape[1:])
        return Photo(self.name, self.pixels[:, :height, :width], self.top)


@dataclass(frozen=True, eq=False)
class Pair:
    """A low and a high resolution picture, floats in [0, 1]: [C, h, w] and [C, scale h, scale w]."""

    name: str
    low: Tensor
    high: Tensor
    scale: int


def luma(rgb: Tensor) -> Tensor:
    """Y of YCbCr (BT.601, as MATLAB's ``rgb2ycbcr``): (16 + 65.481 R + 128.553 G + 24.966 B) / 255, [..., 1, H, W].

    rgb: [..., 3, H, W] in [0, 1].

    >>> luma(torch.ones(3, 1, 1)).mul(255).item(), luma(torch.zeros(3, 1, 1)).mul(255).item()
    (235.0, 16.0)
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=rgb.dtype, device=rgb.device).view(3, 1, 1)
    return (16 + (weights * rgb).sum(-3, keepdim=True)) / 255


def pair(photo: Photo, scale: int, *, channels: str = "y") -> Pair:
    """The picture beside itself, shrunk by ``scale`` with `imresize` and rounded to 8 bits.

    Parameters:
        scale: whole number, at least 2.
        channels: "y" (luma only, C = 1) or "rgb" (C = 3).

    Raises:
        SparselandError: the sides are no multiples of ``scale``, or an argument is not possible; names the picture.

    >>> made = pair(Photo("noise", torch.randint(0, 256, (3, 12, 8), dtype=torch.uint8)), 2)
    >>> made.low.shape, made.high.shape
    (torch.Size([1, 6, 4]), torch.Size([1, 12, 8]))
    """
    height, width = photo.pixels.shape[1:]
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 2 or channels not in CHANNELS:
        raise SparselandError(f"scale {scale!r} (possible: 2, 3, …), channels {channels!r} (possible: y, rgb)")
    if height % scale or width % scale:
        raise SparselandError(
            f"{photo.name} is {height}x{width}, not a multiple of scale {scale}; crop it: photo.cropped({scale})"
        )
    high = luma(photo.unit()) if channels == "y" else photo.unit()
    low = (255 * imresize(high.double(), 1 / scale)).round().clamp(0, 255).float() / 255
    return Pair(photo.name, low, high, scale)


class Patches:
    """Random patches at the same place of both pictures, flipped and turned alike.

    Parameters:
        pairs: of one scale and number of channels.
        size: side of the high resolution patch, a multiple of the scale.
        augment: flips along both axes and turns by 90 degrees, each with chance 1/2.

    Raises:
        SparselandError: a picture is smaller than the patch, or the pairs differ in kind; names the picture.

    >>> patches = Patches([Pair("p", torch.rand(1, 8, 8), torch.rand(1, 16, 16), 2)], size=8)
    >>> low, high = patches.batch(3, torch.Generator().manual_seed(0))
    >>> low.shape, high.shape
    (torch.Size([3, 1, 4, 4]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(self, pairs: Sequence[Pair], size: int, *, augment: bool = True) -> None:
        if not pairs:
            raise SparselandError("there are no pictures to cut patches from")
        self.pairs, self.size, self.augment = list(pairs), size, augment
        first = self.pairs[0]
        if size < first.scale or size % first.scale:
            raise SparselandError(f"a patch of {size} is no multiple of scale {first.scale}")
        for item in self.pairs:
            if (item.scale, len(item.high)) != (first.scale, len(first.high)):
                raise SparselandError(
                    f"{item.name} has scale {item.scale} and {len(item.high)} channels, "
                    f"{first.name} has {first.scale} and {len(first.high)}"
                )
            if min(item.high.shape[1:]) < size:
                raise SparselandError(f"{item.name} is {[*item.high.shape[1:]]}, smaller than the patch of {size}")

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` patches (low, high); pictures are drawn evenly, places and turns too, from ``generator``."""
        scale = self.pairs[0].scale
        side, drawn = self.size // scale, []
        for u in torch.rand(count, 6, generator=generator, dtype=torch.float64).tolist():
            item = self.pairs[int(u[0] * len(self.pairs))]
            y, x = (int(v * (room - side + 1)) for v, room in zip(u[1:3], item.low.shape[1:], strict=True))
            cut = [
                item.low[:, y : y + side, x : x + side],
                item.high[:, scale * y : scale * (y + side), scale * x : scale * (x + side)],
            ]
            drawn.append([turned(patch, u[3:]) if self.augment else patch for patch in cut])
        low, high = (torch.stack(list(patches)) for patches in zip(*drawn, strict=True))
        return low, high


def turned(patch: Tensor, dice: Sequence[float]) -> Tensor:
    """Flipped along H, along W, and transposed, wherever its die of three shows less than 1/2."""
    axes = [axis for axis, die in zip((1, 2), dice, strict=False) if die < 0.5]
    patch = patch.flip(axes) if axes else patch
    return patch.transpose(1, 2) if dice[2] < 0.5 else patch


def read_photos(folder: str | os.PathLike[str], *, crop: int | None = None) -> list[Photo]:
    """All pictures of a folder in the order of their names; with ``crop`` cut to multiples of it.

    Raises:
        DataNotFound: no folder, or no pictures in it. SparselandError: a file cannot be read.

    >>> read_photos("nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparseland.core.errors.DataNotFound: nowhere is not a folder of pictures (.png, .bmp, ...)
    """
    import numpy as np
    from PIL import Image

    root = Path(folder)
    paths = sorted(p for p in root.glob("*") if p.suffix.lower() in FILES) if root.is_dir() else []
    if not paths:
        raise DataNotFound(f"{folder} is not a folder of pictures ({', '.join(FILES)})")
    photos = []
    for path in paths:
        try:
            with Image.open(path) as image:
                array = np.array(image.convert("RGB"))
        except OSError as error:
            raise SparselandError(f"{path} cannot be read as an image: {error}") from error
        photo = Photo(str(path), torch.from_numpy(array).permute(2, 0, 1).contiguous())
        photos.append(photo if crop is None else photo.cropped(crop))
    return photos


def bundled_photos(*, crop: int | None = None) -> list[Photo]:
    """The two photographs that come with scikit-learn (china, flower; 427x640): something to try without a folder.

    Raises:
        DataNotFound: scikit-learn is not installed.

    >>> [tuple(photo.pixels.shape) for photo in bundled_photos(crop=4)]
    [(3, 424, 640), (3, 424, 640)]
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise DataNotFound("the bundled photographs come with scikit-learn; pip install scikit-learn") from None
    found = load_sample_images()
    photos = [
        Photo(Path(name).stem, torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous())
        for name, image in zip(found.filenames, found.images, strict=True)
    ]
    return [photo if crop is None else photo.cropped(crop) for photo in photos]
