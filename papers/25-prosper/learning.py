"""What card 25's proof measures: bars whose causes are known, patches of photos, and EM over several processes."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparseland.features import prosper
from sparseland.features.prosper import Annealing, match, sample_bars

Array = NDArray[np.float64]
ALL, BARS, WORST = (
    "all bars found (% of runs)",
    "bars found (of 10)",
    "worst error of a bar (0-10)",
)
CAUSES, SIGMA = "causes a picture", "sigma"
SIGNS = {"GSC": {"signs": True, "scale": True}, "TSC": {"signs": True}}


def about(seconds: float) -> dict[str, Any]:
    """Where and how long, as the runner wants it."""
    import sklearn

    from sparseland.train.result import machine, versions

    return {
        "seconds": seconds,
        "machine": machine(torch.device("cpu")),
        "versions": versions() | {"scikit-learn": sklearn.__version__},
    }


def annealed(t: float, ends: float) -> Annealing:
    """T falls from t to 1 at the share `ends` of the steps, the data cut rises from 0 to 1 at two thirds (the card)."""
    return Annealing(T=[(0.0, t), (ends, 1.0)], Ncut_factor=[(0.0, 0.0), (2 / 3, 1.0)])


def estimator(model: str, h: int, seed: int, **given: Any) -> Any:
    """A model of the package; `schedule` (T at the start, share of the steps where it is 1) becomes an Annealing."""
    schedule = given.pop("schedule")
    return getattr(prosper, model)(h, annealing=annealed(*schedule), random_state=seed, **given)


def causes(made: Any, values: tuple[float, ...]) -> float:
    """Expected number of active latents of a point."""
    pi = np.atleast_1d(np.asarray(made.pi_, dtype=float))
    h = len(made.components_)
    if type(made).__name__ == "DSC":
        return float(h * (1 - pi[values.index(0.0)]))
    return float(pi.sum() if len(pi) == h else h * pi[0])


def noise_of(made: Any) -> float:
    """Standard deviation of the noise, a pixel."""
    if type(made).__name__ == "GSC":
        noise = np.asarray(made.noise_covariance_, dtype=float)
        return float(np.sqrt(np.mean(np.diag(noise)) if noise.ndim == 2 else noise.mean()))
    return float(made.sigma_)


def rows(arm: str, **found: float) -> list[dict[str, Any]]:
    """What the runner averages over seeds."""
    return [{"arm": arm, "metric": metric, "value": float(value)} for metric, value in found.items()]


# ------------------------------------------------------------------------------------------------------------ bars
def bars(models: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """Every model on bars of its own kind, with restarts: which bars came back, and the prior and noise with them."""
    begin = time.perf_counter()
    torch.set_num_threads(1)
    measured: list[dict[str, Any]] = []
    for model, job in models.items():
        measured += one_model(model, job["data"], job["fit"], seed)
    return about(time.perf_counter() - begin) | {"measured": measured}


def one_model(model: str, data: dict[str, Any], fit: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """One data set and one model: what its first start finds, and the best of all."""
    given = sample_bars(seed=seed, **data)
    values = tuple(float(v) for v in data.get("values", (0, 1)))
    more = {"values": values} if model == "DSC" else {}
    found: dict[str, float] = {}
    single: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:  # the first start is kept, and the restarts go on from there
        for place, count in ((single, 1), (found, fit["n_restarts"])):
            settings = fit | more | {"n_restarts": count, "checkpoint": f"{folder}/em"}
            made = estimator(model, len(given.components), seed, **settings).fit(given.X)
            met = match(made.components_, given.components, **SIGNS.get(model, {}))
            place |= {
                ALL: 100.0 * (met.recovered() == 10),
                BARS: met.recovered(),
                WORST: np.minimum(met.errors, 10.0).max(),
                CAUSES: causes(made, values),
                SIGMA: noise_of(made),
            }
    return rows(model, **found) + rows(f"{model}, one start", **{k: single[k] for k in (ALL, BARS)})


# --------------------------------------------------------------------------------------------- the maximum's claim
def maximum(fits: dict[str, dict[str, Any]], data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Bars mixed by their maximum: MCA, the linear BSC, ICA and NMF on the same pictures, scale and sign forgiven."""
    from sklearn.decomposition import NMF, FastICA

    begin = time.perf_counter()
    torch.set_num_threads(1)
    given = sample_bars(seed=seed, mixing="max", **data)
    positive = np.maximum(given.X, 0)  # NMF refuses what the noise makes negative
    measured = []
    for model, fit in fits.items():
        made = estimator(model, 10, seed, **fit).fit(given.X)
        met = match(made.components_, given.components, signs=True, scale=True)
        plain = match(made.components_, given.components)
        errors = {
            BARS: met.recovered(),
            ALL: 100.0 * (met.recovered() == 10),
            "bars found at their height": plain.recovered(),
        }
        measured += rows(model, **errors, **{SIGMA: noise_of(made), CAUSES: causes(made, (0.0, 1.0))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ICA or NMF would like more iterations
        others = {
            "FastICA": FastICA(10, random_state=seed, max_iter=1000, whiten="unit-variance").fit(given.X).mixing_.T,
            "NMF": NMF(10, random_state=seed, max_iter=1000, init="nndsvda").fit(positive).components_,
        }
    for arm, components in others.items():
        met = match(components, given.components, signs=True, scale=True)
        measured += rows(arm, **{BARS: met.recovered(), ALL: 100.0 * (met.recovered() == 10)})
    return about(time.perf_counter() - begin) | {"measured": measured}


# ------------------------------------------------------------------------------------------------------- processes
def parallel(models: dict[str, dict[str, Any]], ranks: list[int], seeds: list[int]) -> dict[str, Any]:
    """Twenty steps by one process, and by several under torchrun: the largest difference of any parameter, by seed."""
    begin = time.perf_counter()
    torch.set_num_threads(1)
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        folder, alone = Path(place), {}
        for seed, model in itertools.product(seeds, models):
            kind = {"MCA": "max", "MMCA": "magnitude", "GSC": "slab"}.get(model, "linear")
            x = sample_bars(1000, mixing=kind, seed=seed).X
            np.save(folder / f"{model}-{seed}.npy", x)
            alone[model, seed] = parameters(estimator(model, 10, seed, **models[model]).fit(x))
        for count in ranks:
            launch(count, place, models, seeds)
            for (model, seed), known in alone.items():
                worst = max(apart(known, np.load(folder / f"{model}-{seed}-{i}.npz")) for i in range(count))
                measured += rows(model, **{f"difference, {count} processes (1e-10)": worst / 1e-10})
    return about(time.perf_counter() - begin) | {"measured": measured}


def launch(ranks: int, place: str, models: dict[str, dict[str, Any]], seeds: list[int]) -> None:
    """torchrun on this machine; every process runs `rank`."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", __file__]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PAPER_25": repr((place, models, seeds))}
    subprocess.run(words, env=env, check=True, capture_output=True, timeout=900)


def apart(known: dict[str, Array], got: Any) -> float:
    """The largest difference of any parameter, relative to its largest entry where that is above 1."""
    return max(float(np.abs(got[k] - v).max() / max(1.0, np.abs(v).max())) for k, v in known.items())


def parameters(made: Any) -> dict[str, Array]:
    """All of a fitted model's."""
    return {key: value.detach().cpu().numpy() for key, value in made.params_.items()}


def rank() -> None:
    """One of the processes of `parallel`."""
    import ast

    import torch.distributed as dist

    place, models, seeds = ast.literal_eval(os.environ["PAPER_25"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for seed, model in itertools.product(seeds, models):
        x = np.load(Path(place) / f"{model}-{seed}.npy")
        made = estimator(model, 10, seed, **models[model]).fit(prosper.shard(x))
        np.savez(Path(place) / f"{model}-{seed}-{dist.get_rank()}.npz", **parameters(made))
    dist.barrier()
    dist.destroy_process_group()


@functools.lru_cache(maxsize=1)
def grey_photos() -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """scikit-learn's two photos in grey, 0 to 1: the left 70 % to learn from, the rest to be tested on."""
    from sklearn.datasets import load_sample_images

    whole = [image.mean(2) / 255.0 for image in load_sample_images().images]
    edges = [int(0.7 * image.shape[1]) for image in whole]
    learned = tuple(image[:, :edge] for image, edge in zip(whole, edges, strict=True))
    return learned, tuple(image[:, edge:] for image, edge in zip(whole, edges, strict=True))


if __name__ == "__main__":
    rank()
