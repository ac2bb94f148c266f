"""Patches of photos: each model beside scikit-learn's L1 dictionary, ICA and NMF, with as many components."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import learning
import numpy as np
import torch
from numpy.typing import NDArray

from sparseland.features.prosper import cut_patches, from_on_off, gabor_fit, on_off, whitening

Array = NDArray[np.float64]
GABOR, CHANCE = "Gabor-like, R2 > 0.7 (% of filters)", "R2 of Gabors, mean"
ORIENTED = "Gabor-like and oriented (% of filters)"
GAIN, RISE = "denoising gain, held out (dB)", "rise of L at T = 1 (nat)"
FALL = "largest fall of L at T = 1 (1e-3 nat)"
NOISE = 0.1  # of a pixel in 0 to 1, added for the denoising
SIZE = 12
Rebuild = Callable[[Array], Array]


class Photos:
    """Learning and held-out patches of unit spread: whitened on the directions of 99 % of the variance, or centred."""

    def __init__(self, n: int, seed: int, raw: bool) -> None:
        left, right = learning.grey_photos()
        x = cut_patches(left, SIZE, n, flattest=0.25, seed=seed)
        self.pixels, self.held = x[:500], cut_patches(right, SIZE, min(2000, n), flattest=0.25, seed=1000 + seed)
        self.white = None if raw else whitening(x, variance=0.99)
        self.spread = (x if raw else self.white(x)).std()
        self.x = self.code(x)

    def code(self, pixels: Array) -> Array:
        """What the models see of pixels."""
        return (pixels if self.white is None else self.white(pixels)) / self.spread

    def pixels_of(self, x: Array) -> Array:
        """Back from there."""
        return x * self.spread if self.white is None else self.white.inverse(x * self.spread)

    def noise(self) -> float:
        """Variance that noise of the pixels has there, a dimension."""
        return NOISE**2 / self.spread**2 * (1.0 if self.white is None else float((self.white.forward**2).sum(0).mean()))

    def gain(self, rebuild: Rebuild, clean: Array, seed: int) -> float:
        """10 log10 of the noise's power in pixels over what is left of it."""
        noisy = clean + np.random.default_rng(500 + seed).normal(0, NOISE, clean.shape)
        left = self.pixels_of(rebuild(self.code(noisy))) - clean
        return float(10 * np.log10(((noisy - clean) ** 2).mean() / (left**2).mean()))


def model(arm: str, n: int, h: int, fit: dict[str, Any], seed: int) -> tuple[Array, dict[str, float]]:
    """One of the six models on patches: MCA on ON and OFF channels, MMCA on centred ones, the others whitened."""
    photos = Photos(n, seed, raw=arm == "MMCA")
    split = arm == "MCA"
    made = learning.estimator(arm, h, seed, **fit).fit(on_off(photos.x) if split else photos.x)
    filters = from_on_off(made.components_) if split else np.asarray(made.components_)
    steps = np.asarray(made.log_likelihoods_)[int(np.ceil(fit["schedule"][1] * fit["max_iter"])) :]
    found = {
        FALL: 1e3 * max(0.0, float(-np.diff(steps).min())),
        RISE: float(steps[-1] - steps[0]),
        learning.CAUSES: learning.causes(made, (-1.0, 0.0, 1.0)),
        learning.SIGMA: learning.noise_of(made),
    }
    key = "noise" if arm == "GSC" else "sigma"
    known, more = made.params_[key], photos.noise()  # the noise that is added is known, and belongs to the model's
    made.params_[key] = known + more if key == "noise" else (known**2 + more).sqrt()

    def rebuild(noisy: Array) -> Array:
        given = made.reconstruct(on_off(noisy) if split else noisy)
        return from_on_off(given) if split else np.asarray(given)

    found[GAIN] = photos.gain(rebuild, photos.held, seed)
    return filters, found


def shape(filters: Array) -> dict[str, float]:
    """How Gabor-like the filters are; oriented: at least a quarter wave in a standard deviation of the envelope."""
    fit = gabor_fit(filters, SIZE)
    good = fit.localised(0.7)
    oriented = good & (fit.parameters[:, 5] * fit.parameters[:, 2:4].max(1) > 0.25)
    return {GABOR: 100 * good.mean(), ORIENTED: 100 * oriented.mean(), CHANCE: fit.r2.mean()}


def best(make: Callable[[float], Rebuild], strengths: tuple[float, ...], photos: Photos, seed: int) -> Rebuild:
    """The strength that denoises patches of the learning set best (noise that no test sees)."""
    return make(max(strengths, key=lambda strength: photos.gain(make(strength), photos.pixels, 77_000 + seed)))


def baseline(arm: str, n: int, h: int, seed: int) -> tuple[Array, dict[str, float]]:
    """An L1 dictionary, ICA or NMF on the same whitened patches; what they shrink by is chosen on learning patches."""
    from sklearn.decomposition import NMF, FastICA, MiniBatchDictionaryLearning, sparse_encode

    photos = Photos(n, seed, raw=False)
    x = photos.x
    if arm == "L1 dictionary":
        learner = MiniBatchDictionaryLearning(
            h, alpha=1.0, batch_size=256, max_iter=6, fit_algorithm="cd", transform_algorithm="lasso_cd",
            random_state=seed,
        )  # fmt: skip
        filters = learner.fit(x).components_

        def make(alpha: float) -> Rebuild:
            return lambda y: sparse_encode(y, filters, algorithm="lasso_cd", alpha=alpha, max_iter=200) @ filters

        rebuild = best(make, (0.25, 0.5, 1.0, 2.0), photos, seed)
    elif arm == "FastICA":
        ica = FastICA(h, whiten="unit-variance", max_iter=100, tol=1e-3, random_state=seed).fit(x)
        filters = ica.components_  # the rows that read an image; in whitened space alike to what they write

        def make(threshold: float) -> Rebuild:
            def shrunk(y: Array) -> Array:
                code = ica.transform(y)
                return np.asarray(ica.inverse_transform(np.sign(code) * np.maximum(np.abs(code) - threshold, 0)))

            return shrunk

        rebuild = best(make, (0.0, 0.5, 1.0, 2.0), photos, seed)
    else:
        nmf = NMF(h, init="nndsvda", max_iter=60, random_state=seed).fit(on_off(x[:3000]))
        filters = from_on_off(nmf.components_)

        def rebuild(y: Array) -> Array:
            return from_on_off(nmf.inverse_transform(nmf.transform(on_off(y))))

    return filters, {GAIN: photos.gain(rebuild, photos.held, seed)}


def control(arm: str, n: int, h: int, seed: int) -> tuple[Array, dict[str, float]]:
    """What Gabors fit without learning: whitened patches as they are, or noise."""
    white = Photos(n, seed, raw=False).x
    filters = white[:h] if arm == "patches, unlearned" else np.random.default_rng(seed).normal(size=(h, SIZE * SIZE))
    return filters, {}


BASELINES = ("L1 dictionary", "FastICA", "NMF, ON and OFF")


def measure(arms: dict[str, dict[str, Any]], seed: int, place: str | None = None) -> dict[str, Any]:
    """Every arm by its own function; filters of the first seed stay in `place`, for draw.py."""
    begin = time.perf_counter()
    torch.set_num_threads(1)
    measured: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ICA or NMF would like more iterations
        for arm, job in arms.items():
            function = model if "fit" in job else baseline if arm in BASELINES else control
            filters, found = function(arm, **job, seed=seed)
            measured += [item | {"setting": ""} for item in learning.rows(arm, **shape(filters), **found)]
            if place is not None and seed == 0:
                np.save(Path(place) / f"{arm}.npy", filters)
    return learning.about(time.perf_counter() - begin) | {"measured": measured}
