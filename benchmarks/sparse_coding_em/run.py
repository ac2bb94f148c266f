"""One EM step of sparse coding, batched, against NumPy that takes one data point at a time: seconds, in turns.

    python benchmarks/sparse_coding_em/run.py

Both get the same points, parameters, candidates and states, on as many threads, and take turns in one process. Before
anything is timed, the new parameters of both are compared. The peer has the structure of the original library:
vectorised over states and pixels, a Python loop over points (tests/features/prosper_per_point.py, which is also an
oracle of the tests); what is the same for all points (the list of states) it keeps between calls.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CLAIM = "an EM step takes a tenth of the time, or less, of a per-point NumPy EM on the same data, states and cores"
CLOSE, TIMES = 1e-8, 10.0
BARS = {"candidates": 8, "gamma": 5, "h": 10, "n": 1000}
PATCHES = {"candidates": 6, "gamma": 3, "h": 64, "n": 2000}


def threads(count: int) -> None:
    """For NumPy's and torch's products; before either is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)


def problem(name: str, place: str, n: int, h: int) -> tuple[Any, dict[str, Any]]:
    """Points and parameters: bars of 5 x 5, or points of 144 pixels made of two or three of 64 random filters."""
    import numpy as np

    from sparseland.features.prosper import sample_bars
    from tests.features.prosper_cases import VALUES, start

    if place == "bars":
        mixing = {"MCA": "max", "MMCA": "magnitude", "GSC": "slab"}.get(name, "linear")
        data = sample_bars(n, mixing=mixing, values=VALUES.get(name, (0.0, 1.0)), seed=0)
        rng = np.random.default_rng(1)
        params = start(name, h, 25)
        w = data.components + rng.normal(0, 1.0, data.components.shape)
        params["W"] = np.abs(w) if name == "MCA" else w
        return (np.abs(data.X) if name == "MCA" else data.X), params
    rng, params = np.random.default_rng(2), start(name, h, 144)
    params["pi"] = np.array([0.02, 0.96, 0.02]) if name == "DSC" else np.full(h, 0.04) if name == "GSC" else 0.04
    values = np.array(VALUES.get(name, (0.0, 1.0)))
    states = rng.choice(values, size=(n, h), p=np.where(values == 0, 0.96, 0.04 / (len(values) - 1)))
    parts = states[:, :, None] * (params["W"] + 0.3 * rng.normal(size=(h, 144)))
    clean = parts.sum(1)
    if name in ("MCA", "MMCA"):
        clean = np.take_along_axis(parts, np.abs(parts).argmax(1)[:, None], 1)[:, 0]
    y = clean + rng.normal(0, params.get("sigma", 1.2), clean.shape)
    return (np.abs(y) if name == "MCA" else y), params


def row(name: str, place: str, size: dict[str, int], count: int, rounds: int) -> dict[str, Any]:
    """One model: the two steps compared, then timed in turns."""
    import torch

    from sparseland.reports.speed import summary, take_turns
    from tests.features.prosper_cases import apart, model, per_point, tensors

    torch.set_num_threads(count)
    y, params = problem(name, place, size["n"], size["h"])
    made = model(name, size["h"], candidates=size["candidates"], gamma=size["gamma"])
    points, given = torch.as_tensor(y), tensors(params)
    words = {"candidates": size["candidates"], "gamma": size["gamma"]}
    worst = apart(made.step(given, points)[0], per_point(name, params, y, **words)[0])
    if worst > CLOSE:
        raise SystemExit(f"{name} on {place}: the two steps differ by {worst:.1e}, so nothing is timed")
    rivals = {"batched": lambda: made.step(given, points), "per point": lambda: per_point(name, params, y, **words)}
    times = summary(take_turns(rivals, rounds=rounds, warm_up=1), "per point")
    gain = times["per point"]["median"] / times["batched"]["median"]
    return {"model": name, "data": place, **size, "difference": worst, "times": times, "times_faster": gain}


def main() -> None:
    """Measure every model on both sizes, print a table, write result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ("BSC", "TSC", "DSC", "MCA", "MMCA", "GSC")
    parser.add_argument("--models", nargs="+", default=list(models), choices=models)
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--points", type=int, help="fewer points, for a short try")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    threads(given.threads)
    sys.path.insert(0, str(HERE.parents[1]))
    from sparseland.reports.speed import write_result

    rows = []
    for place, size in (("bars", BARS), ("patches", PATCHES)):
        for name in given.models:
            wanted = size | ({"n": given.points} if given.points else {})
            found = row(name, place, wanted, given.threads, given.rounds)
            rows.append(found)
            ms = {rival: 1e3 * one["median"] for rival, one in found["times"].items()}
            print(
                f"{place:8} {name:5} batched {ms['batched']:8.1f} ms, per point {ms['per point']:8.1f} ms: "
                f"{found['times_faster']:.1f} x",
                flush=True,
            )
    least = min(found["times_faster"] for found in rows)
    write_result(
        given.out, CLAIM, "python benchmarks/sparse_coding_em/run.py", threads=given.threads, rounds=given.rounds,
        rows=rows, least=least, holds=least >= TIMES,
        below=[f"{found['model']} on {found['data']}" for found in rows if found["times_faster"] < TIMES],
    )  # fmt: skip
    print(f"at least {least:.1f} x -> {given.out}")


if __name__ == "__main__":
    main()
