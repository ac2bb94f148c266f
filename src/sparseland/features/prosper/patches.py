"""Patches of photos for sparse coding: cutting, whitening, ON and OFF channels, and Gabors fitted to filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import SparselandError

Array = NDArray[np.float64]
NAMES = ("x", "y", "width", "length", "angle", "frequency")


def cut_patches(
    images: Sequence[object],
    size: int = 12,
    n: int = 20_000,
    *,
    centre: bool = True,
    flattest: float = 0.0,
    seed: int = 0,
) -> Array:
    """(n, size²): squares at random places of grey pictures (height, width), each picture as often as it is large.

    centre: take each patch's own mean away. flattest: the share of patches with the least variance that is dropped
    (more are drawn, so that n remain), in [0, 1). Raises SparselandError for a picture that is no (height, width) of
    numbers, or smaller than a patch.

    >>> image = np.arange(100.0).reshape(10, 10)
    >>> cut = cut_patches([image], size=3, n=5)
    >>> cut.shape, bool(np.allclose(cut.mean(1), 0)), bool(np.allclose(cut[:, 1] - cut[:, 0], 1))
    ((5, 9), True, True)
    """
    grey = [np.asarray(image, dtype=np.float64) for image in images]
    if size < 1 or n < 1 or not 0 <= flattest < 1:
        raise SparselandError(f"size and n are at least 1, flattest in [0, 1); given {size}, {n} and {flattest}")
    for i, image in enumerate(grey):
        if image.ndim != 2 or min(image.shape) < size or not np.isfinite(image).all():
            raise SparselandError(
                f"picture {i} has shape {image.shape}; needed are finite (height, width) of at least {size} x {size}"
            )
    if not grey:
        raise SparselandError("no picture was given")
    rng = np.random.default_rng(seed)
    places = np.array([(g.shape[0] - size + 1) * (g.shape[1] - size + 1) for g in grey], dtype=np.float64)
    drawn = int(np.ceil(n / (1 - flattest)))
    found = np.empty((drawn, size, size))
    for i, which in enumerate(rng.choice(len(grey), size=drawn, p=places / places.sum())):
        top, left = (int(rng.integers(side - size + 1)) for side in grey[which].shape)
        found[i] = grey[which][top : top + size, left : left + size]
    flat = found.reshape(drawn, size * size)
    if drawn > n:
        flat = flat[np.sort(np.argsort(-flat.var(1), kind="stable")[:n])]
    return flat - flat.mean(1, keepdims=True) if centre else flat


@dataclass(frozen=True)
class Whitening:
    """ZCA: X -> (X - mean) forward, and X @ backward + mean to come back (exactly, on the directions that were kept).

    mean (D,), forward (D, D) = V diag((lambda + floor)^-1/2) Vᵀ, backward (D, D) = V diag((lambda + floor)^1/2) Vᵀ over
    the kept directions V of the covariance.

    >>> x = np.random.default_rng(0).normal(size=(500, 3)) @ np.diag([1.0, 5.0, 0.1])
    >>> white = whitening(x, floor=0.0)
    >>> bool(np.allclose(np.cov(white(x).T, bias=True), np.eye(3))), bool(np.allclose(white.inverse(white(x)), x))
    (True, True)
    """

    mean: Array
    forward: Array
    backward: Array
    kept: int

    def __call__(self, x: object) -> Array:
        """Whitened rows."""
        white: Array = (np.asarray(x, dtype=np.float64) - self.mean) @ self.forward
        return white

    def inverse(self, x: object) -> Array:
        """Rows as they were."""
        rows: Array = np.asarray(x, dtype=np.float64) @ self.backward + self.mean
        return rows


def whitening(x: object, *, variance: float = 1.0, floor: float = 1e-2) -> Whitening:
    """ZCA learned from rows (N, D).

    variance: share of the variance whose directions are kept, in (0, 1] (less than 1 leaves the highest frequencies
    out, which are mostly noise). floor: added to every eigenvalue, as a share of their mean, so that nothing is
    divided by nearly zero. Raises SparselandError for other shapes, fewer than two rows, NaN, or no variance at all.

    >>> x = np.random.default_rng(0).normal(size=(100, 4)) * [9.0, 9.0, 1.0, 0.1]
    >>> whitening(x, variance=0.98).kept
    2
    """
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
        raise SparselandError(f"whitening needs two or more finite rows (N, D); given shape {rows.shape}")
    if not 0 < variance <= 1 or floor < 0:
        raise SparselandError(f"variance lies in (0, 1] and floor at 0 or above; given {variance} and {floor}")
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    if values.sum() == 0:
        raise SparselandError("all rows are equal, so there is nothing to whiten")
    share = np.cumsum(values) / values.sum()
    kept = len(values) if variance == 1 else int(np.searchsorted(share, variance) + 1)
    scale, v = np.sqrt(values[:kept] + floor * values.mean()), vectors[:, :kept]
    if scale.min() <= 1e-12 * scale.max():
        raise SparselandError(
            f"{int((scale <= 1e-12 * scale.max()).sum())} directions have no variance; keep variance < 1, or floor > 0"
        )
    return Whitening(mean, (v / scale) @ v.T, (v * scale) @ v.T, kept)


def on_off(x: object) -> Array:
    """(N, 2D): what is above zero beside what is below it, both positive, as MCA needs them.

    >>> on_off([[1.0, -2.0]]).tolist()
    [[1.0, 0.0, 0.0, 2.0]]
    """
    rows = np.asarray(x, dtype=np.float64)
    return np.concatenate([np.maximum(rows, 0), np.maximum(-rows, 0)], axis=-1)


def from_on_off(x: object) -> Array:
    """(N, D) from (N, 2D): ON less OFF; undoes `on_off`, and turns its filters into signed ones.

    >>> from_on_off(on_off([[1.0, -2.0]])).tolist()
    [[1.0, -2.0]]
    """
    rows = np.asarray(x, dtype=np.float64)
    if rows.shape[-1] % 2:
        raise SparselandError(f"ON and OFF make an even number of columns; there are {rows.shape[-1]}")
    half = rows.shape[-1] // 2
    return rows[..., :half] - rows[..., half:]


# ----------------------------------------------------------------------------------------------------------- Gabor fits
@dataclass(frozen=True)
class GaborFit:
    """The best Gabor of every filter: r2 (H,) the share of variance it explains, fitted (H, D), parameters (H, 6).

    parameters: columns ``NAMES``: centre x, y (pixels), width and length of the envelope across and along the stripes
    (standard deviations, pixels), angle of the wave (radians), frequency (cycles per pixel).

    >>> fit = gabor_fit(np.eye(1, 25, 12), size=5, steps=10, starts=1)
    >>> bool(fit.r2[0] > 0.9), fit.parameters.shape
    (True, (1, 6))
    """

    r2: Array
    fitted: Array
    parameters: Array

    def localised(self, threshold: float = 0.7, size: int | None = None) -> NDArray[np.bool_]:
        """Gabor-like filters: r2 above ``threshold``; with ``size`` also an envelope less than half of it wide."""
        good: NDArray[np.bool_] = self.r2 > threshold
        return good if size is None else np.logical_and(good, self.parameters[:, 2:4].min(1) < size / 2)


def gabor_fit(components: object, size: int, *, steps: int = 40, starts: int = 4) -> GaborFit:
    """Fit g(u, v) = exp(-u²/2a² - v²/2b²)(A cos 2πfu + B sin 2πfu) to every filter, (u, v) turned by the angle.

    components: (H, size²). A and B are solved for, the six others by damped Gauss-Newton from ``starts`` peaks of the
    filter's spectrum; r2 = 1 - |W - g|²/|W|² (no constant is taken off, as a Gabor has none to spare). Raises
    SparselandError where components are no finite (H, size²).

    >>> grid = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), -1).reshape(-1, 2) - 4
    >>> wave = np.exp(-(grid**2).sum(1) / 8) * np.cos(2 * np.pi * 0.2 * grid[:, 0] + 0.3)
    >>> fit = gabor_fit(wave[None], size=9, steps=20, starts=1)
    >>> bool(fit.r2[0] > 0.999), bool(abs(fit.parameters[0, 5] - 0.2) < 0.01)
    (True, True)
    """
    w = torch.as_tensor(np.asarray(components, dtype=np.float64))
    if w.ndim != 2 or w.shape[1] != size * size or not bool(torch.isfinite(w).all()):
        raise SparselandError(f"Gabors are fitted to finite (H, {size * size}) for size {size}; given {tuple(w.shape)}")
    norms = w.norm(dim=1).clamp_min(1e-300)
    unit = w / norms[:, None]
    best = torch.full((len(w),), -np.inf, dtype=torch.float64)
    found, fitted = torch.zeros(len(w), len(NAMES), dtype=torch.float64), torch.zeros_like(w)
    for start in _starts(unit, size, starts):
        parameters, r2 = _gauss_newton(start, unit, size, steps)
        better = r2 > best
        best, found[better] = torch.where(better, r2, best), parameters[better]
        fitted[better] = _project(_basis(parameters, size), unit)[better]
    return GaborFit(best.numpy(), (fitted * norms[:, None]).numpy(), _readable(found).numpy())


def _starts(w: Tensor, size: int, starts: int) -> list[Tensor]:
    """Centre and width of |W|², and the strongest waves of the spectrum that lie apart."""
    grid = _grid(size)
    weight = w**2 / (w**2).sum(1, keepdim=True).clamp_min(1e-300)
    centre = weight @ grid
    wide = ((weight[:, :, None] * (grid[None] - centre[:, None]) ** 2).sum((1, 2)) / 2).sqrt().clamp(0.7, size / 2)
    spots = 4 * size  # zero-padded, so that peaks stand between the pixels' own frequencies
    power = torch.fft.fft2(w.view(-1, size, size), s=(spots, spots)).abs() ** 2
    axis = torch.fft.fftfreq(spots, dtype=torch.float64)
    fy, fx = torch.meshgrid(axis, axis, indexing="ij")
    radius = (fx**2 + fy**2).sqrt()
    half = ((fy > 0) | ((fy == 0) & (fx >= 0))) & (radius <= 0.5)
    power = (power * half).flatten(1)
    made = []
    for _ in range(starts):
        peak = power.argmax(1)
        x, y = fx.flatten()[peak], fy.flatten()[peak]
        angle, frequency = torch.atan2(y, x), (x**2 + y**2).sqrt().clamp_min(0.02)
        made.append(torch.stack([centre[:, 0], centre[:, 1], wide.log(), wide.log(), angle, frequency], 1))
        near = (fx.flatten() - x[:, None]) ** 2 + (fy.flatten() - y[:, None]) ** 2 < (0.75 / size) ** 2
        power = power.masked_fill(near, 0.0)
    return made


def _grid(size: int) -> Tensor:
    """(size², 2): x and y of every pixel."""
    axis = torch.arange(size, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def _basis(p: Tensor, size: int) -> Tensor:
    """(H, D, 2): the envelope times cosine and sine."""
    grid = _grid(size)
    x, y = grid[None, :, 0] - p[:, 0, None], grid[None, :, 1] - p[:, 1, None]
    u, v = x * p[:, 4, None].cos() + y * p[:, 4, None].sin(), y * p[:, 4, None].cos() - x * p[:, 4, None].sin()
    width, length = p[:, 2, None].exp(), p[:, 3, None].exp()
    envelope = torch.exp(-0.5 * (u / width) ** 2 - 0.5 * (v / length) ** 2)
    wave = 2 * torch.pi * p[:, 5, None] * u
    return torch.stack([envelope * wave.cos(), envelope * wave.sin()], 2)


def _project(basis: Tensor, w: Tensor) -> Tensor:
    """The least-squares mix of the two columns, (H, D)."""
    one, two = basis.unbind(2)
    a, b, c = (one * one).sum(1) + 1e-10, (one * two).sum(1), (two * two).sum(1) + 1e-10
    u, v = (one * w).sum(1), (two * w).sum(1)
    scale = 1 / (a * c - b * b)
    return ((c * u - b * v) * scale)[:, None] * one + ((a * v - b * u) * scale)[:, None] * two


def _gauss_newton(p: Tensor, w: Tensor, size: int, steps: int) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt on every filter at once, each with a damping of its own; parameters and r2 (|W| = 1)."""
    damping = torch.full((len(p),), 1e-2, dtype=p.dtype)
    lowest = torch.tensor([-1.0, -1.0, np.log(0.4), np.log(0.4), -10.0, 0.0], dtype=p.dtype)
    highest = torch.tensor([size, size, np.log(2.0 * size), np.log(2.0 * size), 10.0, 0.6], dtype=p.dtype)
    p, loss = p.clone(), ((w - _project(_basis(p, size), w)) ** 2).sum(1)
    going = torch.arange(len(p))  # filters that still improve
    for _ in range(steps):
        q, goal = p[going], w[going]
        here, columns = _project(_basis(q, size), goal), []
        for i in range(p.shape[1]):  # filters do not depend on each other: a sweep per parameter gives all Jacobians
            step = torch.zeros_like(q)
            step[:, i] = 1e-6
            columns.append((here - _project(_basis(q + step, size), goal)) / 1e-6)
        jacobian, error = torch.stack(columns, 2), goal - here
        normal = jacobian.mT @ jacobian
        scale = damping[going, None, None] * torch.diag_embed(normal.diagonal(dim1=1, dim2=2) + 1e-9)
        move = torch.linalg.solve(normal + scale, jacobian.mT @ error[:, :, None])[:, :, 0]
        tried = (q - move.nan_to_num(0.0)).clamp(lowest, highest)
        new = ((goal - _project(_basis(tried, size), goal)) ** 2).sum(1)
        good = new < loss[going]
        done = (good & (new > loss[going] * (1 - 1e-5))) | (damping[going] > 1e6) | (new < 1e-12)
        p[going[good]], loss[going[good]] = tried[good], new[good]
        damping[going] = torch.where(good, damping[going] / 3, damping[going] * 4).clamp_min(1e-9)
        going = going[~done]
        if not len(going):
            break
    return p, torch.where((w**2).sum(1) > 0, 1 - loss, 0.0)  # nothing is explained where there is nothing


def _readable(p: Tensor) -> Tensor:
    """Widths instead of their logarithms, angles in [0, pi)."""
    return torch.cat([p[:, :2], p[:, 2:4].exp(), (p[:, 4:5] % torch.pi), p[:, 5:]], 1)
