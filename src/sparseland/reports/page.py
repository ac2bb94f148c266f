"""The page: ``run.json`` as one self-contained HTML file, for any width, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import charts
from .aggregate import lookup
from .numbers import count, duration, percent
from .sections import class_table, first_layer, notes, picture_wall
from .tables import budget_line, headline

_TEMPLATES = Path(__file__).with_name("templates")


def write_page(record: Mapping[str, Any], path: Path) -> Path:
    """Write the report of a record beside it; returns its path.

    Raises:
        OutputError: it cannot be written.
    """
    from ..files import write_file

    text = page(record).encode()
    write_file(path, lambda file: file.write(text))
    return path


def page(record: Mapping[str, Any]) -> str:
    """The HTML of a report; nothing in it is loaded from elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    drawn = {
        key: [Markup(svg) for svg in value] if isinstance(value, list) else Markup(value)
        for key, value in _charts(record).items()
    }
    files = {key: Markup((_TEMPLATES / f"report.{key}").read_text(encoding="utf-8")) for key in ("css", "js")}
    return environment.get_template("report.html.j2").render(**_content(record), charts=drawn, **files)


def _charts(record: Mapping[str, Any]) -> dict[str, Any]:
    rows, runs = record["aggregate"], record["runs"]
    labels = [row["label"] for row in rows]
    measured = [row for row in rows if "accuracy" in row]
    whole = len(measured) == len(rows)  # colours go by place: a figure has all methods or is left out
    return {
        "sparsity": charts.accuracy_against_sparsity(rows) if whole else "",
        "flops": charts.accuracy_against_flops(rows) if whole else "",
        "curves": charts.learning_curves(runs, labels),
        "layers": charts.layer_bars(runs, labels),
        "dynamics": [charts.dynamics(runs, labels, key) for key in charts.DYNAMICS],
    }


def _content(record: Mapping[str, Any]) -> dict[str, Any]:
    from .. import __version__
    from ..recipes import Recipe

    rows, runs = record["aggregate"], record["runs"]
    recipe = Recipe.from_dict(record["recipe"])
    columns, cells = headline(rows)
    first = runs[0]["result"]
    shown = record["exhibits"]
    return {
        "version": lookup(record, "versions", "sparseland") or __version__,
        "name": recipe.name,
        "description": recipe.description,
        "setting": f"{recipe.config.model} on {recipe.config.data}",
        "created": record["created"].replace("T", " ").replace("Z", " UTC"),
        "answer": _answer(rows),
        "warnings": record["warnings"],
        "failed": record["failed"],
        "methods": [row["label"] for row in rows],
        "moving": charts.moving(runs),
        "columns": columns,
        "table": [[{"text": text, "sort": _sort_key(row, i, text)} for i, text in enumerate(line)]
                  for row, line in zip(rows, cells, strict=True)],
        "notes": [budget_line(record) + ".", *notes(rows, first)],
        "classes": class_table(rows, runs, lookup(shown, "pictures", "names")),
        "first_layer": first_layer(shown.get("first_layer")),
        "pictures": picture_wall(shown.get("pictures")),
        "command": record["command"],
        "machine": _machine(record),
        "recipe": recipe.to_yaml(),
        "program": recipe.to_python(),
        "compositions": [_composition(row["method"]) for row in rows],
        "runs": [_run_line(run) for run in runs],
    }  # fmt: skip


def _answer(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison in a sentence."""
    measured = [row for row in rows if "accuracy" in row]
    dense = next((row for row in measured if row["name"] == "dense"), None)
    sparse = [row for row in measured if row["name"] != "dense"]
    if not sparse:
        return "" if dense is None else f"Dense: {percent(dense['accuracy']['values'])} on the test split."
    best = max(sparse, key=lambda row: row["accuracy"]["mean"])
    text = (
        f"{'Highest of the sparse nets: ' if len(sparse) > 1 else ''}{best['label']} at "
        f"{100 * best['sparsity']['mean']:.4g} % sparsity, {percent(best['accuracy']['values'])} on the test split"
    )
    if dense is not None:
        text += f"; the dense net has {percent(dense['accuracy']['values'])}"
    if "bytes" in best and "dense_bytes" in best:
        smaller = best["dense_bytes"]["mean"] / best["bytes"]["mean"]
        text += f". Packed, it takes {count(best['bytes']['mean'])} bytes, {smaller:.1f} times less than as a dense net"
    return text + "."


def _sort_key(row: Mapping[str, Any], column: int, text: str) -> Any:
    keys = (None, None, "accuracy", "nonzeros", "training_flops", "inference_flops", "bytes")
    key = keys[column]
    if column == 1:
        return len(row["seeds"])
    return text if key is None else lookup(row, key, "mean") or 0


def _machine(record: Mapping[str, Any]) -> str:
    machine, versions = record.get("machine") or {}, record.get("versions") or {}
    cpu, cores, system, device, threads = (
        machine.get(key, "?") for key in ("cpu", "cores", "system", "device", "threads")
    )
    trained = duration(sum(run["result"]["seconds"] for run in record["runs"]))
    parts = [
        f"{cpu}, {cores} cores, {system}, {device}",
        f"runs: {len(record['runs'])}, {record['jobs']} at a time, threads of each: {threads}, {trained} of training",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return " · ".join(parts)


def _composition(method: Mapping[str, Any]) -> str:
    from ..weights.method import Method

    return str(Method.from_dict(dict(method)))


def _run_line(run: Mapping[str, Any]) -> list[str]:
    result = run["result"]
    accuracies = [lookup(result, split, "accuracy") for split in ("validation", "test")]
    chosen = result["checkpoints"][result["checkpoints"]["chosen"]]
    return [
        f"{run['label']}, seed {run['seed']}", *("–" if a is None else f"{a:.2%}" for a in accuracies),
        count(run["nonzeros"]), f"step {chosen['step']:,}", count(result["steps"]), duration(result["seconds"]),
    ]  # fmt: skip
