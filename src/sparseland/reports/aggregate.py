"""From single runs to one row per method: means and spreads. What a reader must be warned of is the advisor's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..advisor.facts import look
from .numbers import spread

Run = Mapping[str, Any]


def aggregate(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per label, in the order of first appearance.

    Parameters:
        runs: {"label", "seed", "result": what `train.run` returned, "packed": bytes of the packed
            file, "nonzeros": counted in it}.

    Returns:
        Rows {"label", "name", "method" (words), "seeds", "accuracy", "validation", "worst_class", "nonzeros", "kept",
        "total", "sparsity", "training_flops", "inference_flops", "bytes", "dense_bytes", "steps", "epochs",
        "explored", "seconds", "dead_units", "peak_bytes"}; every measured entry is {"mean", "std" (None for one seed),
        "values"}.

    >>> result = {"method": {"name": "dense"}, "test": {"accuracy": 0.5}}
    >>> row = aggregate([{"label": "dense", "seed": s, "result": result} for s in (0, 1)])[0]
    >>> row["seeds"], row["accuracy"]
    ([0, 1], {'mean': 0.5, 'std': 0.0, 'values': [0.5, 0.5]})
    """
    rows = []
    for label in dict.fromkeys(run["label"] for run in runs):
        mine = [run for run in runs if run["label"] == label]
        results = [run["result"] for run in mine]
        row: dict[str, Any] = {
            "label": label,
            "name": results[0]["method"].get("name", label),
            "method": results[0]["method"],
            "seeds": [run["seed"] for run in mine],
        }
        for key, values in _measured(mine).items():
            present = [value for value in values if value is not None]
            if present:
                middle, deviation = spread(present)
                row[key] = {"mean": middle, "std": deviation, "values": present}
        rows.append(row)
    return rows


def _measured(runs: Sequence[Run]) -> dict[str, list[Any]]:
    results = [run["result"] for run in runs]
    paths = {
        "accuracy": ("test", "accuracy"), "validation": ("validation", "accuracy"), "ece": ("test", "ece"),
        "kept": ("kept",), "total": ("total",), "sparsity": ("sparsity",),
        "training_flops": ("flops", "training"), "training_dense_flops": ("flops", "training_dense"),
        "inference_flops": ("flops", "inference"), "inference_dense_flops": ("flops", "inference_dense"),
        "dense_bytes": ("bytes", "dense"), "steps": ("steps",), "epochs": ("epochs",),
        "explored": ("explored",), "seconds": ("seconds",), "dead_units": ("dead_units",),
        "peak_bytes": ("memory", "peak_bytes"),
    }  # fmt: skip
    out = {key: [look(result, *path) for result in results] for key, path in paths.items()}
    out["bytes"] = [run.get("packed", look(run["result"], "bytes", "packed")) for run in runs]
    out["nonzeros"] = [run.get("nonzeros") for run in runs]
    out["worst_class"] = [worst(result)[1] for result in results]
    return out


def worst(result: Run) -> tuple[int | None, float | None]:
    """The class with the lowest test accuracy, and that accuracy.

    >>> worst({"test": {"per_class": [1.0, 0.8, None]}})
    (1, 0.8)
    """
    per_class = look(result, "test", "per_class") or []
    known = [(value, i) for i, value in enumerate(per_class) if value is not None]
    return (min(known)[1], min(known)[0]) if known else (None, None)


def budget(runs: Sequence[Run]) -> dict[str, Any]:
    """What every run had to spend, from their configurations, and whether it was the same for all.

    A method that trains several schedules has fewer epochs in each, so equal means the steps of all together.

    Returns:
        {"epochs" (of the first run), "batch_size", "lr_schedule", "lr", "steps": [all that occur], "equal": bool}.

    >>> runs = [{"result": {"config": {"epochs": n}, "steps": steps}} for n, steps in ((10, 200), (5, 200), (10, 400))]
    >>> budget(runs[:2])["equal"], budget(runs)["equal"]
    (True, False)
    """
    configs = [run["result"]["config"] for run in runs]
    keys = ("epochs", "batch_size", "accumulate", "optimizer", "lr", "lr_schedule", "warmup", "weight_decay", "augment")
    shared = {key: configs[0].get(key) for key in keys} if configs else {}
    steps = sorted({run["result"]["steps"] for run in runs})
    same = all(all(config.get(key) == shared[key] for key in keys if key != "epochs") for config in configs)
    return {**shared, "steps": steps, "equal": same and len(steps) <= 1}
