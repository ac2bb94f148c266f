"""Parts values and trade-off: objectives beside POT and a linear program, and iterations against k."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparseland.train.result import machine, versions
from sparseland.transport import solve

GAP = "objective, distance to POT (1e-6)"
IDENTITY = "objective, distance to LP + gamma / 2 sum b^2 (1e-6)"
ITERATIONS, FILLED = "iterations to 1e-6", "non-zeros / (k m) (%)"
VALUE, ROWS = "objective (1e-3)", "largest row error / largest mass (%)"
TO = 1e-6  # of the best value known: the cost's largest entry is 1, the mass 1
Row = dict[str, Any]


def wrapped(rows: list[Row], began: float) -> dict[str, Any]:
    """What a job returns."""
    measured = [row | {"value": round(float(row["value"]), 4)} for row in rows]
    facts = {"machine": machine(torch.device("cpu")), "versions": versions()}
    return {"measured": measured, "seconds": round(time.monotonic() - began, 1), **facts}


def cost_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances, the largest 1."""
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    return cost / cost.max()


def clouds(n: int, seed: int) -> np.ndarray:
    """Two Gaussian clouds in the plane, the second moved and stretched."""
    rng = np.random.default_rng(seed)
    return cost_of(rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) * [1.0, 0.5] + [1.0, 0.5])


def linear_program(cost: np.ndarray) -> float:
    """The value of transport without regularisation between uniform masses, by SciPy's assignment."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].sum() / len(cost))


def pot(cost: np.ndarray, gamma: float, k: int | None, form: str) -> float:
    """POT's objective at a tolerance below what is asked of us."""
    import contextlib
    import io

    import ot

    n, m = cost.shape
    a, b = np.full(n, 1 / n), np.full(m, 1 / m)
    call = ot.smooth.smooth_ot_dual if form == "dual" else ot.smooth.smooth_ot_semi_dual
    kind = {"reg_type": "l2"} if k is None else {"reg_type": "sparsity_constrained", "max_nz": k}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it prints the shape at every step
        warnings.simplefilter("ignore")
        _, log = call(a, b, cost, gamma, **kind, stopThr=1e-16, numItermax=1500, log=True)
    return -float(log["res"].fun)


def values(n: int, gamma: float, seed: int) -> dict[str, Any]:
    """Card's A: both forms, k = 2, 5, n against POT; k = 1 against a linear program."""
    began, cost, rows = time.monotonic(), clouds(n, seed), []
    common: dict[str, Any] = {"reg_type": "sparsity_constrained", "tol": 1e-14, "max_iter": 1500}
    for form in ("dual", "semi_dual"):
        for k in (2, 5, n):
            ours = float(solve(None, None, cost, gamma, max_nz=k, method=form, **common).value)
            # k = n is the plain squared norm, and POT's k-sparse dual refuses max_nz = n
            gap = abs(ours - pot(cost, gamma, None if k == n else k, form))
            rows.append({"setting": f"k={'n' if k == n else k}", "arm": form, "metric": GAP, "value": 1e6 * gap})
        ours = float(solve(None, None, cost, gamma, max_nz=1, method=form, **common).value)
        wanted = linear_program(cost) + gamma / 2 / n
        rows.append({"setting": "k=1", "arm": form, "metric": IDENTITY, "value": 1e6 * abs(ours - wanted)})
    return wrapped(rows, began)


def lines(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two histograms on a line of 64 places: Gaussians at random places, widths between 3 and 8."""
    rng, x = np.random.default_rng(seed), np.arange(64.0)
    shapes = [
        np.exp(-0.5 * ((x - c) / s) ** 2) + 1e-3
        for c, s in zip(rng.uniform(12, 52, 2), rng.uniform(3, 8, 2), strict=True)
    ]
    a, b = (shape / shape.sum() for shape in shapes)
    return a, b, cost_of(x[:, None], x[:, None])


def colours(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """64 colours of each of scikit-learn's two photographs, by k-means, with as much mass as pixels have them."""
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_sample_images

    palettes, shares = [], []
    for number, photo in enumerate(load_sample_images().images):
        rng = np.random.default_rng(2 * seed + number)
        pixels = photo.reshape(-1, 3)[rng.choice(photo.size // 3, 4000, replace=False)] / 255
        found = KMeans(64, n_init=1, random_state=seed).fit(pixels)
        palettes.append(found.cluster_centers_)
        shares.append(np.bincount(found.labels_, minlength=64) / len(pixels))
    return shares[0], shares[1], cost_of(*palettes)


PROBLEMS = {"1-D Gaussians": lines, "colours": colours}


def needed(log: list[dict[str, Any]], best: float) -> int:
    """Iterations until the dual value is within 1e-6 of the best."""
    return next(entry["iteration"] for entry in log if best - entry["value"] <= TO)


def curve(problem: str, gamma: float, ks: list[int], seed: int) -> dict[str, Any]:
    """Card's B: for each k, iterations of L-BFGS from zero, filling, value and row error; semi-dual, 64 x 64."""
    began, rows = time.monotonic(), []
    a, b, cost = (torch.from_numpy(part) for part in PROBLEMS[problem](seed))
    for k in ks:
        result = solve(a, b, cost, gamma, reg_type="sparsity_constrained", max_nz=k, tol=1e-14, max_iter=1500)
        rows += _measures(problem, k, b.numel(), float(a.max()), result.log, result)
    return wrapped(rows, began)


def _measures(problem: str, k: int, m: int, mass: float, log: list[dict[str, Any]], result: Any) -> list[Row]:
    best = max(entry["value"] for entry in log)
    plan: Tensor = result.dense_plan
    assert int((plan > 0).sum(0).max()) <= k
    found = {
        ITERATIONS: needed(log, best),
        FILLED: 100 * int(result.nnz) / (k * m),
        VALUE: 1e3 * best,
        ROWS: 100 * float(result.row_error) / mass,
    }
    return [{"setting": problem, "arm": f"k={k}", "metric": metric, "value": value} for metric, value in found.items()]
