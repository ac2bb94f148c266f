"""Records of every size without training: what a comparison of made-up runs would have written."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from sparseland.recipes import Recipe
from sparseland.reports import make_record
from sparseland.weights.methods import build, registry

NAMES = ("dense", "random", "set", "rigl", "gmp", "granet", "snip", "grasp", "synflow", "imp", "mest", "dsr", "topkast")
CLASSES = 4
EXTRA = {"rigl": 5_000, "gmp": 90_000, "granet": 50_000, "imp": 200_000}  # FLOPs beside those of the living weights
MACHINE = {"system": "Linux x86_64", "cpu": "a processor", "cores": 2, "threads": 1, "device": "cpu", "processes": 1}


def run(label: str, seed: int, place: int = 1, **changes: Any) -> dict[str, Any]:
    """One finished run; ``place`` makes methods differ, ``changes`` go into its result."""
    dense = label == "dense"
    kept = 100 if dense else 10
    right = 20 - (2 * place + seed * (1 + place % 3)) % 6
    confusion = [[right if i == j else (20 - right if j == (i + 1) % CLASSES else 0) for j in range(CLASSES)]
                 for i in range(CLASSES)]  # fmt: skip
    accuracy = right / 20
    bins = [[0, 0, 0.0]] * 8 + [[8, 2, 5.0]] + [[0, 0, 0.0]] * 5 + [[72, CLASSES * right - 8, 70.0]]
    moves = [
        {"step": step, "kept": kept, "total": 100, "explored": min(1, (kept + step) / 100), "churn": step and 0.1}
        for step in (range(0, 50, 10) if label in NAMES[2:] else (0,))
    ]
    moves[0]["churn"] = None
    history = [
        {"step": step, "epoch": step // 10, "loss": 1 / step, "accuracy": 0.5, "validation_loss": 0.5,
         "validation_accuracy": accuracy * step / 50, "sparsity": 1 - kept / 100, "lr": 0.1}
        for step in range(10, 60, 10)
    ]  # fmt: skip
    name = label.split()[0]
    result = {
        "schema": 1, "config": {"model": "mlp-8", "data": "digits", "epochs": 5, "batch_size": 8, "lr": 0.1,
                                "optimizer": "sgd", "lr_schedule": "cosine", "weight_decay": 0.0, "warmup": 0},
        "method": build(name).to_dict() if name in registry else {"name": name},
        "procedure": None, "steps": 50, "epochs": 5, "seed": seed,
        "data": {"name": "digits", "images": {"train": 100, "validation": 20, "test": 80}, "classes": CLASSES},
        "validation": {"accuracy": accuracy, "loss": 0.5, "per_class": [accuracy] * CLASSES},
        "test": {"accuracy": accuracy, "loss": 0.5, "per_class": [accuracy] * CLASSES, "confusion": confusion,
                 "ece": 0.05, "images": 80, "checkpoint": "best", "bins": bins},
        "checkpoints": {"chosen": "best", "best": {"step": 40, "epoch": 4}, "last": {"step": 50, "epoch": 5}},
        "kept": kept, "total": 100, "sparsity": 1 - kept / 100, "parameters": 110,
        "layers": [{"name": f"fc{i}.weight", "shape": [5, 10], "kept": kept // 2, "total": 50} for i in (1, 2)],
        "history": history, "masks": moves, "explored": 0.5,
        "flops": {"inference_dense": 200, "inference": 2 * kept, "training_dense": 300_000,
                  "training": 3000 * kept + EXTRA.get(name, 0), "uncounted": [],
                  "by_operator": {"linear": {"dense": 200, "sparse": 2 * kept}}},
        "bytes": {"dense": 440, "packed": 60},
        "memory": {"peak_bytes": 3 * 10**8, "as_implemented": 2000, "if_sparse": 900},
        "counts": {"all": [kept + 10, 110], "maskable": [kept, 100]}, "dead_units": 0 if dense else place,
        "card": {"method": name, "when": "during", "scope": ["fc1.weight"]}, "seconds": 2.0, "resumed": 0,
        "versions": {"python": "3.11", "torch": "2.13"}, "machine": MACHINE, **changes,
    }  # fmt: skip
    return {
        "label": label, "seed": seed, "folder": f"{label}/seed-{seed}", "packed": 440 if dense else 60 + place,
        "nonzeros": kept, "result": result,
    }  # fmt: skip


def comparison(labels: Sequence[str] = NAMES[:5], seeds: Sequence[int] = (0, 1, 2), **changes: Any) -> dict[str, Any]:
    """A record of these methods and seeds."""
    recipe = Recipe.from_dict({
        "name": "made-up", "description": "Nothing of this was trained.", "model": "mlp-8", "data": "digits",
        "compare": {"methods": [{"name": "dense"}, {"name": "rigl"}], "seeds": [0]},
    })  # fmt: skip
    runs = [run(label, seed, place, **copy.deepcopy(changes)) for place, label in enumerate(labels) for seed in seeds]
    return make_record("compare", "sparseland compare made-up.yaml --out runs/x", recipe.to_dict(), runs, seconds=12.0)


def first_schema(record: dict[str, Any]) -> dict[str, Any]:
    """The record as the first version of the library wrote it."""
    old = copy.deepcopy(record)
    for key in ("review", "allowed"):
        old.pop(key)
    for row in old["aggregate"]:
        for key in ("dead_units", "peak_bytes"):
            row.pop(key, None)
    for item in old["runs"]:
        for key in ("memory", "counts", "dead_units", "card"):
            item["result"].pop(key, None)
        item["result"]["flops"].pop("by_operator", None)
        item["result"]["test"].pop("bins", None)
    return {**old, "schema": 1, "warnings": ["an old warning"]}
