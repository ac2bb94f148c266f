"""Super-resolution: nets, the degradation that makes their training pairs, and the measures of the field.

train = [pair(photo, 2) for photo in read_photos("DIV2K", crop=2)]
patches = Patches(train, size=32)
low, high = patches.batch(16, torch.Generator().manual_seed(0))
"""

from __future__ import annotations

from .edsr import EDSR
from .metrics import luma, measure, psnr, ssim
from .photos import Pair, Patches, Photo, bundled_photos, pair, read_photos
from .resize import imresize, resize_matrix
from .swinir import SwinIR

__all__ = [
    "EDSR",
    "Pair",
    "Patches",
    "Photo",
    "SwinIR",
    "bundled_photos",
    "imresize",
    "luma",
    "measure",
    "pair",
    "psnr",
    "read_photos",
    "resize_matrix",
    "ssim",
]
