"""The page: ``run.json`` as one self-contained HTML file, for any width, light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..advisor.facts import look
from . import charts
from .calibration import calibration
from .judgement import findings, forest, on_front, pareto
from .ledger import cards, further, layer_table, operators, scopes, speed_table
from .numbers import count, duration
from .sections import class_table, first_layer, notes, picture_wall
from .summary import answer, tiles
from .svg import MARKS
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
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["drawn"] = Markup  # SVG that was made here
    files = {key: Markup((_TEMPLATES / f"report.{key}").read_text(encoding="utf-8")) for key in ("css", "js")}
    return environment.get_template("report.html.j2").render(**_content(record), charts=_charts(record), **files)


def _charts(record: Mapping[str, Any]) -> dict[str, Any]:
    rows, runs = record["aggregate"], record["runs"]
    review = record.get("review") or {}
    labels = [row["label"] for row in rows]
    measured = [row for row in rows if "accuracy" in row]
    whole = len(measured) == len(rows)  # colours go by place: a figure has all methods or is left out
    return {
        "sparsity": charts.accuracy_against_sparsity(rows) if whole else "",
        "costs": [charts.accuracy_against(rows, cost, on_front(review, cost)) for cost in charts.COSTS],
        "curves": charts.learning_curves(runs, labels),
        "layers": charts.layer_bars(runs, labels),
        "dead": charts.dead_units(rows),
        "dynamics": [charts.dynamics(runs, labels, key) for key in charts.DYNAMICS],
    }


def _content(record: Mapping[str, Any]) -> dict[str, Any]:
    from .. import __version__

    rows, runs = record["aggregate"], record["runs"]
    review = record.get("review") or {}
    columns, cells = headline(rows)
    shown = record.get("exhibits") or {}
    return {
        "version": look(record, "versions", "sparseland") or __version__,
        **_recipe(record["recipe"]),
        "kind": record["kind"],
        "created": record["created"].replace("T", " ").replace("Z", " UTC"),
        "answer": answer(rows, review),
        "tiles": tiles(rows, review),
        "findings": findings(record),
        "failed": record.get("failed") or [],
        "methods": [row["label"] for row in rows],
        "marks": MARKS,
        "moving": charts.moving(runs),
        "headline": {
            "columns": columns,
            "rows": [[{"text": text, "sort": _sort_key(row, i, text)} for i, text in enumerate(line)]
                     for row, line in zip(rows, cells, strict=True)],
        },
        "notes": [budget_line(record) + ".", *notes(rows, runs[0]["result"])],
        "forest": forest(rows, review),
        "pareto": pareto(rows, review),
        "further": further(rows),
        "operators": operators(rows, runs),
        "scopes": scopes(rows, runs),
        "layer_table": layer_table(rows, runs),
        "speed": speed_table(record["speed"]) if record.get("speed") else None,
        "cards": cards(rows, runs),
        "classes": class_table(rows, runs, look(shown, "pictures", "names")),
        "calibration": calibration(rows, runs),
        "first_layer": first_layer(shown.get("first_layer")),
        "pictures": picture_wall(shown.get("pictures")),
        "command": record["command"],
        "machine": _machine(record),
        "compositions": [text for row in rows if (text := _composition(row["method"]))],
        "runs": [_run_line(run) for run in runs],
    }  # fmt: skip


def _recipe(plain: Mapping[str, Any]) -> dict[str, str]:
    """Name, words and program of the recipe; as it was written where this library cannot make it."""
    from ..core.errors import SparselandError
    from ..recipes import Recipe, write_yaml

    about = {"name": str(plain.get("name", "report")), "description": str(plain.get("description") or "")}
    about["setting"] = f"{plain.get('model', '?')} on {plain.get('data', '?')}"
    try:
        recipe = Recipe.from_dict(plain)
    except SparselandError:  # of another version, or with a method of the user's own that is not imported here
        return {**about, "recipe": write_yaml(dict(plain)), "program": ""}
    return {**about, "recipe": recipe.to_yaml(), "program": recipe.to_python()}


def _sort_key(row: Mapping[str, Any], column: int, text: str) -> Any:
    keys = (None, None, "accuracy", "nonzeros", "training_flops", "inference_flops", "bytes")
    key = keys[column]
    if column == 1:
        return len(row["seeds"])
    if key is None:
        return text
    value = look(row, key, "mean")
    return "" if value is None else value


def _machine(record: Mapping[str, Any]) -> list[str]:
    machine, versions = record.get("machine") or {}, record.get("versions") or {}
    cpu, cores, system, device, threads = (
        machine.get(key, "?") for key in ("cpu", "cores", "system", "device", "threads")
    )
    trained = duration(sum(look(run["result"], "seconds") or 0 for run in record["runs"]))
    runs = len(record["runs"])
    return [
        f"{cpu}, {cores} cores, {system}, {device}",
        f"{runs} run{'s' if runs > 1 else ''}, {record.get('jobs', '?')} at a time, threads of each: {threads}; "
        f"{trained} of training",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]


def _composition(method: Mapping[str, Any]) -> str:
    from ..core.errors import SparselandError
    from ..weights.method import Method

    try:
        return str(Method.from_dict(dict(method)))
    except SparselandError:
        return ""  # a word of the user's own that is not imported here


def _run_line(run: Mapping[str, Any]) -> list[str]:
    result = run["result"]
    accuracies = [look(result, split, "accuracy") for split in ("validation", "test")]
    step = look(result, "checkpoints", look(result, "checkpoints", "chosen") or "", "step")
    seconds = look(result, "seconds")
    return [
        f"{run['label']}, seed {run['seed']}", *("–" if a is None else f"{a:.2%}" for a in accuracies),
        "–" if run.get("nonzeros") is None else count(run["nonzeros"]), "–" if step is None else f"step {step:,}",
        count(result["steps"]), "–" if seconds is None else duration(seconds),
    ]  # fmt: skip
