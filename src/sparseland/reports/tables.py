"""The headline table, in words: the same cells on the screen, in the report and in a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .numbers import count, percent, ratio, scaled, spread

COLUMNS = ["method", "seeds", "test accuracy", "non-zeros", "training FLOPs", "inference FLOPs", "bytes packed"]


def headline(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the comparison's table.

    >>> headline([{"label": "dense", "seeds": [0], "accuracy": {"mean": 0.5, "std": None, "values": [0.5]}}])[1]
    [['dense', '1', '50.00 %', '–', '–', '–', '–']]
    """
    return COLUMNS, [
        [
            str(row["label"]), str(len(row["seeds"])), _percent(row, "accuracy"), _nonzeros(row),
            _share(row, "training_flops", "training_dense_flops"),
            _share(row, "inference_flops", "inference_dense_flops"),
            _count(row, "bytes"),
        ]
        for row in rows
    ]  # fmt: skip


def _percent(row: Mapping[str, Any], key: str) -> str:
    return percent(row[key]["values"]) if key in row else "–"


def _count(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        return "–"
    middle, deviation = spread(row[key]["values"])
    return count(middle) if not deviation else f"{count(middle)} ± {count(deviation)}"


def _nonzeros(row: Mapping[str, Any]) -> str:
    """What was counted in the files, and beside it what the masks keep where that is more."""
    counted = _count(row, "nonzeros")
    fewer = "nonzeros" in row and "kept" in row and row["nonzeros"]["mean"] < row["kept"]["mean"]
    return f"{counted} of {_count(row, 'kept')}" if fewer else counted


def _share(row: Mapping[str, Any], key: str, reference: str) -> str:
    if key not in row:
        return "–"
    share = f" ({ratio(row[key]['mean'], row[reference]['mean'])})" if reference in row else ""
    deviation = row[key]["std"]
    return f"{scaled(row[key]['mean'])}{f' ± {scaled(deviation)}' if deviation else ''}{share}"


def budget_line(record: Mapping[str, Any]) -> str:
    """What every run had to spend, in one sentence."""
    spent = record["budget"]
    steps = " or ".join(f"{value:,}" for value in spent["steps"])
    same = "Equal training budget for all" if spent["equal"] else "Training budgets DIFFER"
    return (
        f"{same}: {spent['epochs']} epochs in batches of {spent['batch_size']} ({steps} steps), {spent['optimizer']}, "
        f"lr {spent['lr']:g} {spent['lr_schedule']}, weight decay {spent['weight_decay']:g}"
    )
