"""The figures of a report, as SVG text. Figures that there is nothing to draw for are empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, pstdev
from typing import TYPE_CHECKING, Any

from .svg import FAINT, MARKERS, SIZE, TEXT, color, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
Run = Mapping[str, Any]
MANY_LAYERS = 6


def accuracy_against_sparsity(rows: Sequence[Row]) -> str:
    """Test accuracy over sparsity, one point per row; points of one method are joined."""
    if len(rows) < 2:
        return ""

    def draw(ax: Axes) -> None:
        for i, row in enumerate(rows):
            if row["name"] == "dense":
                _band(ax, row, i)
        sparse = [(i, row) for i, row in enumerate(rows) if row["name"] != "dense" and "sparsity" in row]
        values = sorted({round(100 * row["sparsity"]["mean"], 2) for _, row in sparse})
        wide = (values[-1] - values[0] + 6) if values else 6.0
        for place, (i, row) in enumerate(sparse):
            shift = 0.07 * wide * (place - (len(sparse) - 1) / 2) * min(1, 8 / len(sparse))  # equal ones side by side
            _point(ax, 100 * row["sparsity"]["mean"] + shift, row, i)
        for name in dict.fromkeys(row["name"] for _, row in sparse):
            mine = sorted(
                (100 * r["sparsity"]["mean"], 100 * r["accuracy"]["mean"]) for _, r in sparse if r["name"] == name
            )
            if len({x for x, _ in mine}) > 1:
                ax.plot(*zip(*mine, strict=True), color=FAINT, linewidth=1, zorder=1)
        if len(values) <= 3:
            ax.set_xticks(values)
        if values:
            ax.set_xlim(values[0] - 0.55 * wide, values[-1] + 0.55 * wide)
        ax.set(xlabel="sparsity (%)", ylabel="test accuracy (%)")

    return figure("Test accuracy against sparsity", draw)


COSTS = {
    "training_flops": ("training_dense_flops", "training FLOPs"),
    "inference_flops": ("inference_dense_flops", "inference FLOPs"),
    "bytes": ("dense_bytes", "bytes of the file"),
}


def accuracy_against(rows: Sequence[Row], cost: str, front: Sequence[str] = ()) -> str:
    """Test accuracy over a cost, as a share of the dense net's.

    Parameters:
        cost: a key of `COSTS`. front: labels of the rows to which no other is preferable; a line joins them.
    """
    reference, name = COSTS[cost]
    usable = [(i, row) for i, row in enumerate(rows) if cost in row and reference in row and "accuracy" in row]
    if len(usable) < 2 or not all(row[reference]["mean"] for _, row in usable):
        return ""
    share = {row["label"]: row[cost]["mean"] / row[reference]["mean"] for _, row in usable}

    def draw(ax: Axes) -> None:
        best = sorted(
            (share[row["label"]], 100 * row["accuracy"]["mean"]) for _, row in usable if row["label"] in front
        )
        for i, row in usable:
            _point(ax, share[row["label"]], row, i)
        right = ax.get_xlim()[1]
        if best:  # nothing lies left of and above this line
            x, y = [point[0] for point in best], [point[1] for point in best]
            ax.step([*x, right], [*y, y[-1]], where="post", color=TEXT, alpha=0.55, linewidth=1.1, zorder=1)
        shares = list(share.values())
        if min(shares) > 0 and max(shares) > 20 * min(shares):
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            ax.set_xlim(0, right)
        ax.set(xlabel=f"{name} (dense = 1)", ylabel="test accuracy (%)")

    return figure(f"Test accuracy against {name}", draw)


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
        label: _over_seeds([run["result"].get("history") or [] for run in runs if run["label"] == label], key)
        for label in labels
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
    "dead_units": ("units without a weight", "Dead units: units without a living weight"),
}


def dynamics(runs: Sequence[Run], labels: Sequence[str], key: str) -> str:
    """Sparsity, churn, exploration or dead units over steps, mean over seeds; only methods whose masks move."""
    name, title = DYNAMICS[key]
    lines = {}
    for label in labels:
        mine = [_moves(run["result"]) for run in runs if run["label"] == label]
        if label in moving(runs):
            lines[label] = _over_seeds(mine, key)
    if not any(lines.values()):
        return ""
    scale = 1 if key == "dead_units" else 100

    def draw(ax: Axes) -> None:
        for i, label in enumerate(labels):
            points = lines.get(label)
            if points:
                x, y = [step for step, *_ in points], [scale * middle for _, middle, _ in points]
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
        mine = [run["result"].get("layers") or [] for run in runs if run["label"] == label]
        found[label] = {
            layer["name"]: mean(1 - other["kept"] / max(1, other["total"]) for layers in mine for other in layers
                                if other["name"] == layer["name"])
            for layer in (mine[0] if mine else [])
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
        ax.set_yticks(range(len(names)), [_short(name.removesuffix(".weight")) for name in names])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set(xlabel="sparsity (%)", xlim=(0, 100))

    size = (
        SIZE[0],
        max(SIZE[1], 0.9 + (0.26 * len(names) if len(names) > MANY_LAYERS else 0.2 * len(names) * len(shown))),
    )
    return figure("Sparsity of each layer", draw, size)


def dead_units(rows: Sequence[Row]) -> str:
    """Units without a living weight at the end, one bar per method; nothing where no method has any."""
    known = [(i, row) for i, row in enumerate(rows) if row.get("dead_units", {}).get("mean")]
    if not known:
        return ""

    def draw(ax: Axes) -> None:
        for place, (i, row) in enumerate(known):
            entry = row["dead_units"]
            ax.barh(place, entry["mean"], xerr=entry["std"] or None, color=color(i), ecolor=TEXT, height=0.7)
        ax.set_yticks(range(len(known)), [_short(row["label"]) for _, row in known])
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.set(xlabel="units without a living weight")
        ax.set_xlim(left=0)

    return figure("Dead units at the end", draw, (SIZE[0], max(SIZE[1], 0.9 + 0.26 * len(known))))


def _short(name: str, most: int = 22) -> str:
    """A name that leaves room for the figure; matplotlib would read dollars as formulas."""
    text = name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"
    return text.replace("$", r"\$")
