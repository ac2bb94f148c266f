"""Patches, whitening, ON and OFF channels, and Gabor fits against waves whose parameters are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparseland.core.errors import SparselandError
from sparseland.features.prosper import cut_patches, from_on_off, gabor_fit, on_off, whitening


def pictures() -> list[np.ndarray]:
    """Two smooth random pictures of different sizes."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).cumsum(0).cumsum(1) for shape in ((40, 50), (60, 30))]


def test_patches_are_parts_of_their_pictures() -> None:
    images = pictures()
    cut = cut_patches(images, size=6, n=50, centre=False, seed=4)
    windows = np.concatenate([np.lib.stride_tricks.sliding_window_view(i, (6, 6)).reshape(-1, 36) for i in images])
    assert cut.shape == (50, 36)
    for row in cut:
        assert (windows == row).all(1).any()
    assert np.array_equal(cut, cut_patches(images, size=6, n=50, centre=False, seed=4))
    np.testing.assert_allclose(cut_patches(images, size=6, n=50, seed=4), cut - cut.mean(1, keepdims=True))


def test_flat_patches_are_left_out() -> None:
    flat = np.zeros((40, 80))
    flat[:, 40:] = np.random.default_rng(0).normal(size=(40, 40))
    few = cut_patches([flat], size=5, n=200, flattest=0.4, seed=0)
    assert few.shape == (200, 25) and (few.var(1) == 0).mean() < 0.25
    assert (cut_patches([flat], size=5, n=200, seed=0).var(1) == 0).mean() > 0.35


@pytest.mark.parametrize(
    ("images", "words", "said"),
    [
        ([np.zeros((5, 30))], {}, r"\(5, 30\)"),
        ([np.zeros((30, 30, 3))], {}, r"\(height, width\)"),
        ([np.full((30, 30), np.nan)], {}, "finite"),
        ([], {}, "no picture"),
        ([np.zeros((30, 30))], {"flattest": 1.0}, "flattest"),
    ],
)
def test_pictures_that_cannot_be_cut(images: list[Any], words: dict[str, Any], said: str) -> None:
    with pytest.raises(SparselandError, match=said):
        cut_patches(images, size=12, n=5, **words)


def test_whitening_is_zca() -> None:
    x = cut_patches(pictures(), size=5, n=3000, centre=False)
    white = whitening(x, floor=0.0)
    np.testing.assert_allclose(np.cov(white(x).T, bias=True), np.eye(25), atol=1e-8)
    np.testing.assert_allclose(white.inverse(white(x)), x, atol=1e-8)
    np.testing.assert_allclose(white.forward, white.forward.T)  # zero phase: of all whitenings the one nearest to x
    soft = whitening(x, variance=0.99, floor=0.05)
    assert soft.kept < 25 and np.linalg.matrix_rank(soft.forward) == soft.kept
    np.testing.assert_allclose(soft.forward @ soft.backward @ soft.forward, soft.forward, atol=1e-10)
    known = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    wanted = np.sort(known / (known + 0.05 * known.mean()))[::-1][: soft.kept]
    got = np.sort(np.linalg.eigvalsh(np.cov(soft(x).T, bias=True)))[::-1][: soft.kept]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_whitening_that_cannot_be() -> None:
    with pytest.raises(SparselandError, match="all rows are equal"):
        whitening(np.ones((4, 3)))
    with pytest.raises(SparselandError, match="1 directions have no variance"):
        whitening(np.random.default_rng(0).normal(size=(9, 3)) * [1.0, 1.0, 0.0], floor=0.0)
    for bad in (np.ones(3), np.ones((1, 3)), [[1.0, np.nan], [0.0, 1.0]]):
        with pytest.raises(SparselandError, match="finite rows"):
            whitening(bad)
    with pytest.raises(SparselandError, match=r"\(0, 1\]"):
        whitening(np.eye(3), variance=0.0)


def test_on_and_off() -> None:
    x = np.random.default_rng(0).normal(size=(7, 4))
    both = on_off(x)
    assert both.min() >= 0 and (both[:, :4] * both[:, 4:] == 0).all()
    np.testing.assert_array_equal(from_on_off(both), x)
    with pytest.raises(SparselandError, match="even"):
        from_on_off(np.ones((2, 3)))


def waves(size: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n Gabors of known centre, widths, angle and frequency."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2)
    low, high = [size * 0.3, size * 0.3, 1.5, 1.5, 0.1, 0.12], [size * 0.6, size * 0.6, 3.0, 3.0, 3.0, 0.3]
    known = rng.uniform(low, high, (n, 6))
    made = []
    for x, y, width, length, angle, frequency in known:
        u = (grid[:, 0] - x) * np.cos(angle) + (grid[:, 1] - y) * np.sin(angle)
        v = (grid[:, 1] - y) * np.cos(angle) - (grid[:, 0] - x) * np.sin(angle)
        phase = rng.uniform(0, 6)
        made.append(
            np.exp(-0.5 * (u / width) ** 2 - 0.5 * (v / length) ** 2) * np.cos(2 * np.pi * frequency * u + phase)
        )
    return known, np.array(made)


def test_gabors_are_found_again() -> None:
    known, made = waves(12, 20)
    fit = gabor_fit(3.0 * made, size=12)
    assert (fit.r2 > 0.999).sum() >= 18 and fit.r2.min() > 0.9
    exact = fit.r2 > 0.9999
    np.testing.assert_allclose(fit.parameters[exact], known[exact], rtol=0.05, atol=0.05)
    np.testing.assert_allclose(1 - ((3 * made - fit.fitted) ** 2).sum(1) / (9 * made**2).sum(1), fit.r2, atol=1e-6)
    assert fit.localised().all() and gabor_fit(made, size=12).r2 == pytest.approx(fit.r2, abs=1e-6)


def test_noise_is_no_gabor() -> None:
    rng = np.random.default_rng(1)
    fit = gabor_fit(rng.normal(size=(30, 144)), size=12)
    assert fit.r2.max() < 0.5 and not fit.localised().any()
    _, made = waves(12, 8)
    noisy = made + rng.normal(size=made.shape) * made.std(1, keepdims=True) * 0.5  # a fifth of the variance
    assert gabor_fit(noisy, size=12).r2 == pytest.approx(np.full(8, 0.8), abs=0.08)


def test_gabors_of_nothing() -> None:
    fit = gabor_fit(np.zeros((1, 16)), size=4, steps=3)
    assert fit.r2[0] == 0 and np.isfinite(fit.parameters).all() and (fit.fitted == 0).all()
    with pytest.raises(SparselandError, match=r"\(H, 16\)"):
        gabor_fit(np.zeros((2, 15)), size=4)
