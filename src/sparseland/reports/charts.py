"""The figures of a report, as SVG text that takes its colours from the page (light or dark) and its names from it too.

Colours are drawn as placeholders and then turned into CSS variables: method i is ``var(--m<i>)``, text is
``currentColor``, faint lines are ``var(--line)``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, pstdev
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from .numbers import ratio, scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Run = Mapping[str, Any]
TEXT, FAINT = "#010203", "#040506"
SIZE = (4.4, 3.0)  # inches; about the width of a phone, so that the text keeps its size
MANY_LAYERS = 6
MARKERS = "osD^vPX*<>"


def color(i: int) -> str:
    """The placeholder of method ``i``."""
    return f"#a0b0{i:02x}"


def figure(title: str, draw: Callable[[Axes], object], size: tuple[float, float] = SIZE, salt: str = "") -> str:
    """Draw on a pair of axes and return ``<svg>`` with ``title`` as its accessible name."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "sparseland", "font.size": 9, "axes.edgecolor": FAINT,
        "axes.labelcolor": TEXT, "text.color": TEXT, "xtick.color": TEXT, "ytick.color": TEXT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT,
        "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.8, "errorbar.capsize": 3,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        made = Figure(figsize=size, layout="constrained")
        draw(made.add_subplot())
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), title, salt or re.sub(r"\W+", "-", title.lower()))


def _for_the_page(svg: str, title: str, salt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{escape(title)}">', svg
    )
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', svg)  # several figures share a page
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{salt}-\1"', svg)
    svg = re.sub(r"#a0b0([0-9a-f]{2})", lambda found: f"var(--m{int(found[1], 16)})", svg)
    svg = svg.replace(TEXT, "currentColor").replace(FAINT, "var(--line)")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)  # the family is the page's
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    return re.sub(r"\s*\n\s*", " ", svg).strip()


def accuracy_against_sparsity(rows: Sequence[Row]) -> str:
    """Test accuracy over sparsity, one point per row; points of one method are joined."""
    if len(rows) < 2:
        return ""

    def draw(ax: Axes) -> None:
        for i, row in enumerate(rows):
            if row["name"] == "dense":
                _band(ax, row, i)
        sparse = [(i, row) for i, row in enumerate(rows) if row["name"] != "dense"]
        for place, (i, row) in enumerate(sparse):
            shift = 0.45 * (place - (len(sparse) - 1) / 2)  # points of equal sparsity stand side by side
            _point(ax, 100 * row["sparsity"]["mean"] + shift, row, i)
        for name in dict.fromkeys(row["name"] for _, row in sparse):
            mine = sorted(
                (100 * r["sparsity"]["mean"], 100 * r["accuracy"]["mean"]) for _, r in sparse if r["name"] == name
            )
            if len(mine) > 1:
                ax.plot(*zip(*mine, strict=True), color=FAINT, linewidth=1, zorder=1)
        values = sorted({round(100 * row["sparsity"]["mean"], 2) for _, row in sparse})
        if len(values) <= 3:
            ax.set_xticks(values)
        if values and values[-1] - values[0] < 4:
            ax.set_xlim(values[0] - 3, values[-1] + 3)
        ax.set(xlabel="sparsity (%)", ylabel="test accuracy (%)")

    return figure("Test accuracy against sparsity", draw)


def accuracy_against_flops(rows: Sequence[Row]) -> str:
    """Test accuracy over training FLOPs, as a share of dense training."""
    usable = [(i, row) for i, row in enumerate(rows) if "training_flops" in row and "accuracy" in row]
    if len(usable) < 2:
        return ""

    def draw(ax: Axes) -> None:
        for i, row in usable:
            reference = row.get("training_dense_flops", row["training_flops"])["mean"]
            _point(ax, row["training_flops"]["mean"] / reference, row, i)
        ax.set(xlabel="training FLOPs (dense = 1)", ylabel="test accuracy (%)", xlim=(0, None))

    return figure("Test accuracy against training FLOPs", draw)


def _point(ax: Axes, x: float, row: Row, i: int) -> None:
    entry = row["accuracy"]
    ax.errorbar(
        x, 100 * entry["mean"], yerr=100 * (entry["std"] or 0), fmt=MARKERS[i % len(MARKERS)], color=color(i),
        markersize=7, elinewidth=1.4,
    )  # fmt: skip


def _band(ax: Axes, row: Row, i: int) -> None:
    middle, deviation = 100 * row["accuracy"]["mean"], 100 * (row["accuracy"]["std"] or 0)
    ax.axhspan(middle - deviation, middle + deviation, color=color(i), alpha=0.12, linewidth=0)
    ax.axhline(middle, color=color(i), linestyle="--", linewidth=1.4)


def learning_curves(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Validation accuracy over steps: mean and one standard deviation over seeds."""
    key = "validation_accuracy"
    lines = {
        label: _over_seeds([run["result"]["history"] for run in runs if run["label"] == label], key) for label in labels
    }
    if not any(lines.values()):
        return ""

    def draw(ax: Axes) -> None:
        for i, label in enumerate(labels):
            points = lines[label]
            x = [step for step, *_ in points]
            ax.plot(x, [100 * middle for _, middle, _ in points], color=color(i), marker="o" if len(x) == 1 else "")
            low, high = ([100 * (m + sign * d) for _, m, d in points] for sign in (-1, 1))
            ax.fill_between(x, low, high, color=color(i), alpha=0.15, linewidth=0)
        ends = [m for points in lines.values() for _, m, _ in points[len(points) // 4 :]]
        ax.set_ylim(max(0, 100 * min(ends) - 4), min(100.5, 100 * max(ends) + 2))  # the start would flatten the rest
        ax.set(xlabel="optimizer step", ylabel="validation accuracy (%)")

    return figure("Learning curves: validation accuracy over steps", draw)


def _over_seeds(histories: Sequence[Sequence[Mapping[str, Any]]], key: str) -> list[tuple[int, float, float]]:
    """(step, mean, standard deviation) at every step that any of the histories has."""
    values: dict[int, list[float]] = {}
    for history in histories:
        for entry in history:
            if entry.get(key) is not None:
                values.setdefault(entry["step"], []).append(entry[key])
    return [(step, mean(found), pstdev(found)) for step, found in sorted(values.items())]


DYNAMICS = {
    "sparsity": ("sparsity (%)", "Sparsity over steps"),
    "churn": ("churn (% of all weights)", "Churn: share of weights whose state changed at each update"),
    "explored": ("explored (% of all weights)", "Explored: share of weights that were ever alive"),
}


def dynamics(runs: Sequence[Run], labels: Sequence[str], key: str) -> str:
    """Sparsity, churn or exploration over steps, mean over seeds; only methods whose masks move."""
    name, title = DYNAMICS[key]
    lines = {}
    for label in labels:
        mine = [_moves(run["result"]) for run in runs if run["label"] == label]
        if label in moving(runs):
            lines[label] = _over_seeds(mine, key)
    if not lines:
        return ""

    def draw(ax: Axes) -> None:
        for i, label in enumerate(labels):
            points = lines.get(label)
            if points:
                x, y = [step for step, *_ in points], [100 * middle for _, middle, _ in points]
                drawn = "steps-post" if key != "churn" else "default"
                ax.plot(x, y, color=color(i), drawstyle=drawn, marker="." if key == "churn" else "", markersize=4)
        ax.set(xlabel="optimizer step", ylabel=name)
        ax.set_ylim(bottom=0)

    return figure(title, draw)


def moving(runs: Sequence[Run]) -> list[str]:
    """Labels of the methods whose masks changed after the start."""
    return list(dict.fromkeys(run["label"] for run in runs if len(run["result"].get("masks", ())) > 1))


def _moves(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mask updates of a run, with its end (where nothing changes any more)."""
    moves = [
        {**move, "sparsity": 1 - move["kept"] / move["total"]} for move in result.get("masks", ()) if move["total"]
    ]
    if moves and moves[-1]["step"] < result["steps"]:
        moves.append({**moves[-1], "step": result["steps"], "churn": None})
    return moves


def layer_bars(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Sparsity per layer: bars for few layers, lines of dots for many; mean over seeds."""
    found: dict[str, dict[str, float]] = {}
    for label in labels:
        mine = [run["result"]["layers"] for run in runs if run["label"] == label]
        found[label] = {
            layer["name"]: mean(1 - other["kept"] / other["total"] for layers in mine for other in layers
                                if other["name"] == layer["name"])
            for layer in mine[0]
        }  # fmt: skip
    names = list(next(iter(found.values()), {}))
    shown = [(i, label) for i, label in enumerate(labels) if any(found[label].values())]
    if not names or not shown:
        return ""

    def draw(ax: Axes) -> None:
        height = 0.8 / len(shown)
        for place, (i, label) in enumerate(shown):
            values = [100 * found[label].get(name, 0.0) for name in names]
            if len(names) <= MANY_LAYERS:
                y = [n + (place - (len(shown) - 1) / 2) * height for n in range(len(names))]
                ax.barh(y, values, height=0.9 * height, color=color(i))
            else:
                ax.plot(values, range(len(names)), "o", color=color(i), markersize=4)
        ax.set_yticks(range(len(names)), [name.removesuffix(".weight").replace("$", r"\$") for name in names])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set(xlabel="sparsity (%)", xlim=(0, 100))

    size = (
        SIZE[0],
        max(SIZE[1], 0.9 + (0.26 * len(names) if len(names) > MANY_LAYERS else 0.2 * len(names) * len(shown))),
    )
    return figure("Sparsity of each layer", draw, size)


def describe(row: Row) -> str:
    """A row's numbers in a sentence, for people who do not see the figures.

    >>> describe({"label": "rigl", "accuracy": {"mean": 0.95, "std": None}, "sparsity": {"mean": 0.9}})
    'rigl: 95.00 % at 90 % sparsity'
    """
    text = f"{row['label']}: {100 * row['accuracy']['mean']:.2f} % at {100 * row['sparsity']['mean']:g} % sparsity"
    if "training_flops" in row:
        flops = row["training_flops"]["mean"]
        dense = row.get("training_dense_flops", {"mean": 0})["mean"]
        text += f", {scaled(flops, 'FLOP')} of training ({ratio(flops, dense)} of dense)"
    return text
