"""A comparison that is fair, made from real tiny runs, and ready to be spoiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Runs = list[dict[str, Any]]
ARMS: dict[str, dict[str, Any]] = {
    "dense": {"method": {"name": "dense"}},
    "small dense": {"method": {"name": "dense"}, "model": "mlp-3"},  # 3·64 + 3·10 weights, about a tenth of mlp-32's
    "random": {"method": {"name": "random", "sparsity": 0.9}},
    "rigl": {"method": {"name": "rigl", "sparsity": 0.9, "every": 2}},
    "gmp": {"method": {"name": "gmp", "sparsity": 0.9, "every": 2}},
}
ACCURACY = {"dense": 0.92, "small dense": 0.7, "random": 0.75, "rigl": 0.85, "gmp": 0.9}
SEEDS = (0, 1, 2)
# What the seeds add, other for every arm: equal differences would be suspicious.
JITTER = {"dense": (0.0, 4.0, -4.0), "small dense": (3.0, -2.0, 1.0), "random": (-4.0, 1.0, 5.0),
          "rigl": (2.0, -5.0, 1.0), "gmp": (0.0, 3.0, -2.0)}  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One real run of every arm: {label: result}."""
    from sparseland.train import TrainConfig, run

    folder: Path = tmp_path_factory.mktemp("advisor")
    base = {"model": "mlp-32", "data": "digits", "limit": 200, "epochs": 4, "batch_size": 40, "threads": 1}
    configs = {label: TrainConfig.from_dict({**base, **arm}) for label, arm in ARMS.items()}
    return {label: run(config, folder / label, progress=False) for label, config in configs.items()}


@pytest.fixture
def fair(trained: dict[str, dict[str, Any]]) -> Runs:
    """Five arms of three seeds in which nothing is unfair.

    The runs are real (counts, masks, FLOPs, layers); their accuracies are set, because two hundred digits decide
    nothing, and so is the name of the data, because digits alone are toys.
    """
    runs: Runs = []
    for label, result in trained.items():
        for seed in SEEDS:
            mine = copy.deepcopy(result)
            mine["seed"] = mine["config"]["seed"] = seed
            mine["config"]["data"] = mine["data"]["name"] = "fashion-mnist"
            accuracy = ACCURACY[label] + 0.001 * JITTER[label][seed]
            mine["test"] |= {"accuracy": accuracy, "loss": 1 - accuracy, "per_class": [accuracy] * 10}
            mine["validation"]["loss"] = 1 - accuracy
            mine.setdefault("memory", {"peak_bytes": 1_000_000, "as_implemented": 900_000, "if_sparse": 300_000})
            packed = 4 * mine["kept"] + mine["total"] // 8
            runs.append({"label": label, "seed": seed, "folder": f"{label}/seed-{seed}", "packed": packed,
                         "nonzeros": mine["kept"], "result": mine})  # fmt: skip
    return runs


@pytest.fixture
def plans(fair: Runs) -> Runs:
    """The same comparison before it is trained."""
    return [{"label": run["label"], "seed": run["seed"], "config": run["result"]["config"]} for run in fair]


@pytest.fixture
def names() -> Callable[[Any], set[str]]:
    """The guards that speak in findings, objects or dicts."""

    def of(findings: Any) -> set[str]:
        return {found["guard"] if isinstance(found, dict) else found.guard for found in findings}

    return of
