"""The numbers behind the headline: further columns, cost by operator, what was counted, cards; all of them optional."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from ..advisor.facts import look
from .numbers import count, duration, percent, ratio, scaled

Row = Mapping[str, Any]
Run = Mapping[str, Any]

_COLUMNS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "validation": ("validation accuracy", lambda entry: percent(entry["values"])),
    "worst_class": ("worst class", lambda entry: percent(entry["values"], 1)),
    "ece": ("calibration error", lambda entry: percent(entry["values"], 1)),
    "explored": ("ever alive", lambda entry: f"{100 * entry['mean']:.1f} %"),
    "dead_units": ("dead units", lambda entry: f"{entry['mean']:,.1f}".removesuffix(".0")),
    "peak_bytes": ("peak memory", lambda entry: scaled(entry["mean"], "B")),
    "seconds": ("training time", lambda entry: duration(entry["mean"])),
}


def further(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Numbers that the headline has no room for; columns that no row has are left out."""
    keys = [key for key in _COLUMNS if any(key in row for row in rows)]
    if not keys:
        return None
    lines = []
    for row in rows:
        cells = [{"text": row["label"], "sort": row["label"]}]
        for key in keys:
            known = row.get(key)
            cells.append({"text": _COLUMNS[key][1](known) if known else "–", "sort": known["mean"] if known else ""})
        lines.append(cells)
    return {"columns": ["method", *(_COLUMNS[key][0] for key in keys)], "rows": lines}


def operators(rows: Sequence[Row], runs: Sequence[Run]) -> dict[str, Any] | None:
    """FLOPs of one sample by kind of operator, mean over seeds, with the share of dense."""

    def cell(entries: Sequence[Any]) -> str:
        sparse, dense = (mean(entry[key] for entry in entries) for key in ("sparse", "dense"))
        return f"{scaled(sparse)} ({ratio(sparse, dense)})" if dense else scaled(sparse)

    return _by_key(rows, runs, ("flops", "by_operator"), cell)


def scopes(rows: Sequence[Row], runs: Sequence[Run]) -> dict[str, Any] | None:
    """Non-zeros and sparsity by what is counted: all parameters, weights, what may be masked, ..."""

    def cell(entries: Sequence[Any]) -> str:
        nonzeros, total = (mean(_pair(entry)[i] for entry in entries) for i in (0, 1))
        return f"{count(nonzeros)} of {count(total)} ({100 * (1 - nonzeros / total):.2f} %)" if total else "none"

    return _by_key(rows, runs, ("counts",), cell)


def _pair(entry: Any) -> tuple[float, float]:
    if isinstance(entry, Mapping):
        return entry["nonzeros"], entry["total"]
    return entry[0], entry[1]


def _by_key(
    rows: Sequence[Row], runs: Sequence[Run], path: tuple[str, ...], cell: Callable[[Sequence[Any]], str]
) -> dict[str, Any] | None:
    """A table of methods × keys from a mapping in each result; None where no run has it, or has it otherwise."""
    tables = {
        row["label"]: [look(run["result"], *path) for run in runs if run["label"] == row["label"]] for row in rows
    }
    keys = list(dict.fromkeys(key for found in tables.values() for one in found for key in (one or {})))
    lines = []
    try:
        for label, found in tables.items():
            texts = [
                cell(entries) if (entries := [one[key] for one in found if one and key in one]) else "–" for key in keys
            ]
            lines.append([label, *texts])
    except (TypeError, KeyError, IndexError, ValueError):
        return None  # a result of another library: this part of it is open
    return {"columns": ["method", *keys], "rows": lines} if keys else None


def layer_table(rows: Sequence[Row], runs: Sequence[Run]) -> dict[str, Any] | None:
    """Sparsity of each maskable layer and method, mean over seeds, with its dead units where they are known."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    shapes: dict[str, str] = {}
    for run in runs:
        for layer in look(run["result"], "layers") or ():
            shapes.setdefault(layer["name"], " × ".join(str(n) for n in layer["shape"]))
            found.setdefault(layer["name"], {}).setdefault(run["label"], []).append(layer)
    lines = []
    for name, by_label in found.items():
        cells = [_layer_cell(by_label.get(row["label"], ())) for row in rows]
        lines.append([name.removesuffix(".weight"), shapes[name], *cells])
    return {"columns": ["layer", "shape", *(row["label"] for row in rows)], "rows": lines} if lines else None


def _layer_cell(layers: Sequence[Mapping[str, Any]]) -> str:
    if not layers:
        return "–"
    text = f"{100 * mean(1 - layer['kept'] / max(1, layer['total']) for layer in layers):.2f} %"
    dead = [layer["dead_units"] for layer in layers if layer.get("dead_units") is not None]
    return f"{text}, {mean(dead):.4g} dead" if dead and mean(dead) else text


def cards(rows: Sequence[Row], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The sparsity card of each method, of its first run: label and (field, text) pairs."""
    out = []
    for row in rows:
        card = next((look(run["result"], "card") for run in runs if run["label"] == row["label"]), None)
        if isinstance(card, Mapping) and card:
            out.append(
                {"label": row["label"], "fields": [(key.replace("_", " "), _said(v)) for key, v in card.items()]}
            )
    return out


def _said(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_said(inner) for inner in value)
    return str(value)


def speed_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Milliseconds of one sample, and how many times faster the zeros make it; at least one row.

    >>> row = {"label": "rigl", "torch_ms": 3.0, "dense_ms": 2.0, "sparse_ms": 1.0, "threads": 1, "isa": "avx2"}
    >>> speed_table([row])["rows"]
    [['rigl', '3.000', '2.000', '1.000', '2.00 ×']]
    """
    cells = [
        [row["label"], *(f"{row[f'{name}_ms']:.3f}" for name in ("torch", "dense", "sparse")),
         f"{row['dense_ms'] / row['sparse_ms']:.2f} ×" if row["sparse_ms"] else "–"]
        for row in rows
    ]  # fmt: skip
    threads = rows[0]["threads"]
    return {
        "title": f"milliseconds of one sample, {threads} thread{'s' if threads > 1 else ''}, {rows[0]['isa']}",
        "columns": ["method", "torch", "engine, dense", "engine, sparse", "dense / sparse"],
        "rows": cells,
    }
