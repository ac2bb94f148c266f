"""How the demo's learning rate and update period were chosen: on validation images, with seeds the demo does not use.

    python benchmarks/demo/choose.py

First the rate, by the mean validation accuracy of all six methods at updates every 20 steps; then the period, by that
of the four methods which move their masks. The test split is never read here. Writes choice.json beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).resolve().parent
RATES, PERIODS, SEEDS = (0.02, 0.05, 0.1, 0.2), (10, 20, 50), (10, 11, 12)
MOVING = ("set", "rigl", "gmp", "granet")


def validation(config: dict[str, Any], out: str) -> float:
    """Train one run; its validation accuracy."""
    from sparseland.train import TrainConfig, run

    result = run(TrainConfig.from_dict(config), out, resume="auto", progress=False)
    return float(result["validation"]["accuracy"])


def jobs(names: Iterable[str], rate: float, every: int, out: Path) -> dict[str, dict[str, Any]]:
    """The demo's runs at other hyperparameters."""
    from sparseland.recipes import load

    found = {}
    for name in names:
        method = {"name": name, **({} if name == "dense" else {"sparsity": 0.9})}
        method |= {"every": every} if name in MOVING else {}
        for seed in SEEDS:
            key = f"lr={rate}/every={every}/{name}/{seed}"
            config = load("demo").config.replace(method=method, seed=seed, lr=rate, threads=1)
            found[key] = {"config": config.to_dict(), "out": str(out / key)}
    return found


def main() -> None:
    """Train, choose, write."""
    from sparseland.files import write_json
    from sparseland.train.fan_out import fan_out, require

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-choice"), help="the folder for the runs")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    place = {"out": given.out / "results", "workers": given.workers, "threads": 1}
    tried: dict[str, float] = {}

    def look(names: tuple[str, ...], rate: float, every: int) -> float:
        found = require(fan_out(validation, jobs(names, rate, every, given.out), **place))
        tried.update({key: round(value, 5) for key, value in found.items()})
        return mean(found.values())

    rates = {rate: look(("dense", "random", *MOVING), rate, 20) for rate in RATES}
    rate = max(rates, key=lambda r: rates[r])  # the smallest of equals
    periods = {every: look(MOVING, rate, every) for every in PERIODS}
    every = max(periods, key=lambda e: periods[e])
    write_json(
        HERE / "choice.json",
        {
            "chosen": {"lr": rate, "every": every},
            "rates": rates,
            "periods": periods,
            "seeds": SEEDS,
            "validation": tried,
        },
    )
    print(f"lr {rate} of {rates}\nevery {every} of {periods}")


if __name__ == "__main__":
    main()
