"""Small images as data URIs: test pictures, and heat maps of where a layer has its connections."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

# Viridis and a blue-white-red map at a few points; in between, straight lines. (value, red, green, blue)
SEQUENTIAL = ((0.0, 68, 1, 84), (0.25, 59, 82, 139), (0.5, 33, 145, 140), (0.75, 94, 201, 98), (1.0, 253, 231, 37))
DIVERGING = ((0.0, 33, 102, 172), (0.5, 247, 247, 247), (1.0, 178, 24, 43))


def picture(data: str, shape: Sequence[int]) -> str:
    """A data URI of a uint8 image given in base64, shape (C, H, W); one channel is grey.

    >>> picture(base64.b64encode(bytes(4)).decode(), (1, 2, 2))[:22]
    'data:image/png;base64,'
    """
    channels, height, width = shape
    pixels = np.frombuffer(base64.b64decode(data), dtype=np.uint8).reshape(channels, height, width)
    return _png(pixels[0] if channels == 1 else pixels[:3].transpose(1, 2, 0))


def heat_map(values: Sequence[float], height: int, width: int, most: float) -> str:
    """A data URI of values 0 … ``most`` in row-major order, dark (0) to bright."""
    scaled = np.asarray(values, dtype=np.float64).reshape(height, width) / (most or 1.0)
    return _png(_mapped(scaled, SEQUENTIAL))


def signed_map(values: Sequence[int], height: int, width: int) -> str:
    """A data URI of −127 … 127: blue is negative, red positive, exact zeros are transparent."""
    level = np.asarray(values, dtype=np.float64).reshape(height, width)
    colours = _mapped(level / 254 + 0.5, DIVERGING)
    alpha = np.where(level == 0, 0, 255).astype(np.uint8)[..., None]
    return _png(np.concatenate([colours, alpha], axis=2))


def _mapped(values: Any, stops: Sequence[tuple[float, int, int, int]]) -> Any:
    at = [stop[0] for stop in stops]
    channels = [np.interp(values, at, [stop[c] for stop in stops]) for c in (1, 2, 3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)


def _png(pixels: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
