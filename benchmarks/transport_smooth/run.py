"""Sparsity-constrained transport between 2,000 and 2,000 points: seconds beside POT, same objective, same tolerance.

    OMP_NUM_THREADS=1 python benchmarks/transport_smooth/run.py

POT's ``smooth_ot_dual`` and ``smooth_ot_semi_dual`` (L-BFGS-B of SciPy) and `sparseland.transport.solve` with the same
form take turns in one process, in float64, from zero. Both stop by the same rule and at POT's
default, 1e-9: no entry of the gradient above it, or a step that gains no more than 1e-9 * max(|f|, |f'|, 1) (the cost's
range and the mass are 1). The dual's answers are valued once more by an evaluation in NumPy that belongs to neither.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CLAIM = "at least 5 times as fast as POT at n = 2,000 on the same objective and tolerance"
TOL, TIMES = 1e-9, 5.0
FORMS = ("dual", "semi_dual")
Found = dict[str, Any]


def clouds(n: int, seed: int) -> np.ndarray:
    """Squared distances between two Gaussian clouds, from 0 to 1."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) * [1.0, 0.5] + [1.0, 0.5]
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    return (cost - cost.min()) / (cost.max() - cost.min())


def dual_value(u: np.ndarray, v: np.ndarray, cost: np.ndarray, gamma: float, k: int) -> float:
    """<a, u> + <b, v> - sum over columns of the k largest [u + v_j - M_j]_+^2 / (2 gamma); uniform masses."""
    s = np.partition(u[:, None] + v - cost, len(u) - k, axis=0)[-k:]
    return float(u.mean() + v.mean() - (np.maximum(s, 0) ** 2).sum() / (2 * gamma))


def pot(form: str, cost: np.ndarray, gamma: float, k: int, max_iter: int) -> Found:
    """POT's answer; what it prints at every step goes nowhere."""
    import ot

    n, m = cost.shape
    call = ot.smooth.smooth_ot_dual if form == "dual" else ot.smooth.smooth_ot_semi_dual
    options = {"reg_type": "sparsity_constrained", "max_nz": k, "stopThr": TOL, "numItermax": max_iter, "log": True}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan, log = call(np.full(n, 1 / n), np.full(m, 1 / m), cost, gamma, **options)
    res = log["res"]
    return {
        "u": log["alpha"],
        "v": log.get("beta"),
        "plan": plan,
        "objective": -float(res.fun),
        "iterations": int(res.nit),
        "evaluations": int(res.nfev),
        "said": str(res.message),
    }


def ours(form: str, cost: np.ndarray, gamma: float, k: int, max_iter: int) -> Found:
    """The front door's answer."""
    from sparseland.transport import solve

    options = {"reg_type": "sparsity_constrained", "max_nz": k, "method": form, "tol": TOL, "max_iter": max_iter}
    result = solve(None, None, cost, gamma, **options)
    return {
        "u": result.potential_a.numpy(),
        "v": result.potential_b.numpy(),
        "plan": result.plan.numpy(),
        "objective": float(result.value),
        "iterations": result.n_iter,
        "evaluations": result.log[-1]["evaluations"],
        "said": result.status,
    }


SOLVERS: dict[str, Callable[..., Found]] = {"POT": pot, "sparseland": ours}


def described(found: Found, cost: np.ndarray, gamma: float, k: int) -> Found:
    """What a solver found, in numbers that are computed here."""
    plan, n = found["plan"], len(cost)
    words = {key: found[key] for key in ("objective", "iterations", "evaluations", "said")}
    words["row error / mass"] = float(np.abs(plan.sum(1) - 1 / n).max() * n)
    words["most non-zeros"] = int((plan > 0).sum(0).max())
    if found["v"] is not None:
        words["objective here"] = dual_value(found["u"], found["v"], cost, gamma, k)
    return words


def measured(given: argparse.Namespace, cost: np.ndarray) -> list[Found]:
    """Seconds and answers of all solvers and forms, in turns."""
    seconds: dict[tuple[str, str], list[float]] = {(name, form): [] for form in FORMS for name in SOLVERS}
    busy: dict[tuple[str, str], list[float]] = {pair: [] for pair in seconds}
    answers: dict[tuple[str, str], Found] = {}
    for number in range(given.rounds):
        order = list(seconds)[:: -1 if number % 2 else 1]
        for name, form in order:
            began, used = time.perf_counter(), time.process_time()
            found = SOLVERS[name](form, cost, given.gamma, given.k, given.max_iter)
            seconds[name, form].append(time.perf_counter() - began)
            busy[name, form].append(time.process_time() - used)
            answers[name, form] = described(found, cost, given.gamma, given.k)
            print(f"{name:10} {form:9} {seconds[name, form][-1]:7.2f} s  {answers[name, form]}", flush=True)
    rows = []
    for form in FORMS:
        median = {name: statistics.median(seconds[name, form]) for name in SOLVERS}
        cpu = {name: statistics.median(busy[name, form]) for name in SOLVERS}
        best = {name: answers[name, form]["objective"] for name in SOLVERS}
        rows.append({
            "form": form, "seconds": {name: seconds[name, form] for name in SOLVERS}, "median": median, "cpu": cpu,
            "answers": {name: answers[name, form] for name in SOLVERS},
            "times": median["POT"] / median["sparseland"], "gain": best["sparseland"] - best["POT"],
        })  # fmt: skip
    return rows


def main() -> None:
    """Warm up on a small problem, take turns on the large one, write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--gamma", type=float, default=10.0)
    parser.add_argument("--max-iter", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch

    from sparseland.reports.speed import write_result

    torch.set_num_threads(given.threads)
    small = clouds(700, 1)
    for form in FORMS:
        for call in SOLVERS.values():
            call(form, small, given.gamma, given.k, 3)
    rows = measured(given, clouds(given.points, 0))
    import ot

    least, worst = min(row["times"] for row in rows), min(row["gain"] for row in rows)
    problem = {"points": given.points, "k": given.k, "gamma": given.gamma, "tolerance": TOL}
    write_result(
        given.out, CLAIM, "OMP_NUM_THREADS=1 python benchmarks/transport_smooth/run.py", threads=given.threads,
        rounds=given.rounds, problem=problem, peers={"POT": ot.__version__}, rows=rows, least=least,
        objective_over_pots=worst, holds=least >= TIMES and worst >= -TOL,
    )  # fmt: skip
    print(
        " and ".join(f"{row['form']} {row['times']:.1f} x" for row in rows),
        f"as fast as POT, objective {worst:+.1e} ->",
        given.out,
    )


if __name__ == "__main__":
    main()
