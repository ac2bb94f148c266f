"""What the jobs of this folder measure: Newton steps, errors and processor seconds of SNS and of Sinkhorn.

Errors are |P 1 - a|_1 + |P^T 1 - b|_1, told as -log10 ("digits") because a table rounds to two decimals. Seconds are
processor seconds of one thread, so that other work on the machine matters little.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sparseland.core.errors import DataNotFound
from sparseland.train.result import machine, versions
from sparseland.transport import OTResult, Problem, sinkhorn, sns
from sparseland.transport.problems import gaussian_problem, image_problem, random_assignment

NEWTON, SINKHORN, DIGITS = "Newton steps", "Sinkhorn steps", "digits of the error"
SECONDS, RATIO, GRADIENTS = "CPU milliseconds", "Sinkhorn's time to 1e-9 over SNS's", "conjugate-gradient steps"
SHARE, AGREE = "entries kept at the last step (%)", "digits of the difference to POT"
MASS, PLAIN = "mass rule", "Sinkhorn"


def timed(run: Callable[[], OTResult]) -> tuple[OTResult, float]:
    """The result, and processor seconds."""
    began = time.process_time()
    found = run()
    return found, time.process_time() - began


def digits(error: float) -> float:
    """-log10, at most 16."""
    return -math.log10(max(error, 1e-16))


def reached(found: OTResult) -> float:
    """The error of the plan that was given back: the best on the way."""
    return min(float(line["error"]) for line in found.log)


def told(arm: str, found: OTResult, seconds: float, setting: str) -> list[dict[str, Any]]:
    """Steps, error and time of one run."""
    newton = [line for line in found.log if line["stage"] == "newton"]
    first = sum(line["steps"] for line in found.log if line["stage"] == "sinkhorn")
    values = {NEWTON: len(newton), SINKHORN: first, DIGITS: digits(reached(found)), SECONDS: 1e3 * seconds}
    if newton:
        values |= {GRADIENTS: sum(line["cg"] for line in newton), SHARE: 100 * newton[-1]["density"]}
    return [{"setting": setting, "arm": arm, "metric": metric, "value": float(v)} for metric, v in values.items()]


def about(measured: list[dict[str, Any]], began: float) -> dict[str, Any]:
    """What a job returns."""
    where = {"seconds": round(time.monotonic() - began, 1), "machine": machine(torch.device("cpu"))}
    return {"measured": measured, **where, "versions": versions()}


def compare(
    problem: Problem, eta: float, arms: dict[str, dict[str, Any]], setting: str, most: int
) -> list[dict[str, Any]]:
    """SNS in several ways, then Sinkhorn to 1e-9 (or ``most`` steps), on one problem."""
    measured, first = [], math.nan
    for arm, options in arms.items():
        found, seconds = timed(partial(sns, problem, eta=eta, **options))
        measured += told(arm, found, seconds, setting)
        first = seconds if math.isnan(first) else first
    found, seconds = timed(lambda: sinkhorn(problem, eta=eta, tol=1e-9, max_iter=most))
    measured += told(PLAIN, found, seconds, setting)
    return [*measured, {"setting": setting, "arm": next(iter(arms)), "metric": RATIO, "value": seconds / first}]


def assignment(n: int, eta: float, arms: dict[str, dict[str, Any]], most: int, seed: int) -> dict[str, Any]:
    """Random assignment; Sinkhorn also with twenty times the processor seconds of the mass rule."""
    torch.set_num_threads(1)
    began, problem = time.monotonic(), random_assignment(n, seed=seed)
    sns(problem, eta=eta, tol=1e-3)  # what is loaded on the first call
    measured = compare(problem, eta, arms, "", most)
    budget = 20 * next(m["value"] for m in measured if m["arm"] == MASS and m["metric"] == SECONDS) / 1e3
    _, one = timed(lambda: sinkhorn(problem, eta=eta, tol=0.0, max_iter=200))
    steps = max(200, round(200 * budget / one))
    found, seconds = timed(lambda: sinkhorn(problem, eta=eta, tol=0.0, max_iter=steps))
    measured += told(f"{PLAIN}, 20 x the time", found, seconds, "")
    return about(measured, began)


def course(n: int, eta: float, passes: list[int], seed: int) -> dict[str, Any]:
    """The best error after so many passes over the cost: a Sinkhorn step is one, so is each trial of a Newton step."""
    torch.set_num_threads(1)
    began, problem = time.monotonic(), random_assignment(n, seed=seed)
    lines = sns(problem, eta=eta, warmup=20).log
    spent, best, steps = 1, math.inf, []  # one pass more than the Sinkhorn steps: the first evaluation
    for line in lines:
        spent += line["steps"] if line["stage"] == "sinkhorn" else 1 + round(-math.log2(line["step"] or 0.5))
        best = min(best, float(line["error"]))
        steps.append((spent, best))
    measured = []
    for count in passes:
        plain = sinkhorn(problem, eta=eta, tol=0.0, max_iter=count).log[-1]["error"]
        after = [error for at, error in steps if at <= count]
        for arm, error in ((MASS, after[-1] if after else plain), (PLAIN, float(plain))):
            measured.append({"setting": f"{count} passes", "arm": arm, "metric": DIGITS, "value": digits(error)})
    return about(measured, began)


def images(
    source: str, p: float, eta: float, arms: dict[str, dict[str, Any]], most: int, setting: str, seed: int
) -> dict[str, Any]:
    """Two test images (numbers 2 seed and 2 seed + 1) as densities with 1 % spread evenly; or two Gaussian mixtures."""
    import numpy as np

    torch.set_num_threads(1)
    began = time.monotonic()
    if source == "gaussians":
        problem = gaussian_problem(20, p=p, seed=seed)
    else:
        root = os.environ.get("SPARSELAND_DATA")
        if root is None:
            raise DataNotFound(f"set SPARSELAND_DATA to the folder that holds {source}/test.npz")
        pixels = np.load(Path(root, source, "test.npz"))["images"][2 * seed : 2 * seed + 2]
        problem = image_problem(torch.from_numpy(pixels[0]), torch.from_numpy(pixels[1]), p=p)
    return about(compare(problem, eta, arms, setting, most), began)


def agreement(n: int, etas: list[float], seed: int) -> dict[str, Any]:
    """The plan and its cost against POT's log-domain Sinkhorn, run to 1e-12 or 20,000 steps."""
    import ot

    torch.set_num_threads(1)
    began, problem = time.monotonic(), random_assignment(n, seed=seed)
    measured = []
    a, b, cost = (t.numpy() for t in (problem.a, problem.b, problem.M))
    for eta in etas:
        theirs = ot.sinkhorn(
            a, b, cost, reg=1 / eta, method="sinkhorn_log", stopThr=1e-12, numItermax=20_000, warn=False
        )
        found = sns(problem, eta=eta)
        plan = found.plan.numpy()
        apart = max(abs(plan - theirs).max(), abs((plan * cost).sum() - (theirs * cost).sum()))
        measured.append({"setting": f"eta {eta:g}", "arm": MASS, "metric": AGREE, "value": digits(float(apart))})
    return about(measured, began)


def sweep(n: int, etas: list[float], tols: list[float], arms: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """The time to each tolerance at each eta: SNS in two ways beside Sinkhorn, medians of five."""
    torch.set_num_threads(1)
    began, problem = time.monotonic(), random_assignment(n, seed=seed)
    sns(problem, eta=10.0, tol=1e-3)
    measured = []
    for eta in etas:
        for tol in tols:
            setting = f"eta {eta:g}, to {tol:g}"
            runs: dict[str, Callable[[], OTResult]] = {
                arm: partial(sns, problem, eta=eta, tol=tol, **options) for arm, options in arms.items()
            }
            runs[PLAIN] = partial(sinkhorn, problem, eta=eta, tol=tol, max_iter=30_000)
            for arm, run in runs.items():
                found = [timed(run)]
                found += [timed(run) for _ in range(4 if found[0][1] < 1 else 0)]
                seconds = sorted(s for _, s in found)[len(found) // 2]
                measured += told(arm, found[0][0], seconds, setting)
    return about(measured, began)
