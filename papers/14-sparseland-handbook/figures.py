"""The handbook's figures: SVG written by hand from result.json, the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

WIDTH, LEFT, RIGHT, TOP, STEP = 720, 250, 40, 46, 22
# Colours of Okabe and Ito, told apart by most eyes; the shape of a mark says the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
FONT = "font-family='sans-serif' font-size='12' fill='#222'"

Row = Mapping[str, Any]


def svg(width: float, height: float, title: str, body: Iterable[str]) -> str:
    """A whole picture on white, with its title for those who cannot see it."""
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' width='{width:g}' "
        f"height='{height:g}' role='img' aria-label='{escape(title, quote=True)}'>"
    )
    frame = f"<rect width='{width:g}' height='{height:g}' fill='#fff'/>"
    return "\n".join([head, f"<title>{escape(title)}</title>", frame, *body, "</svg>"]) + "\n"


def label(x: float, y: float, said: str, anchor: str = "start", more: str = "") -> str:
    """Text at a place."""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' {FONT} {more}>{escape(said)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#ccc", width: float = 1) -> str:
    """A straight line."""
    return f"<path d='M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}' stroke='{colour}' stroke-width='{width:g}' fill='none'/>"


def mark(x: float, y: float, number: int) -> str:
    """A dot, square, diamond or triangle in the colour of its number."""
    colour, r = COLOURS[number % len(COLOURS)], 4.5
    shapes = (
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{r}' fill='{colour}'/>",
        f"<rect x='{x - r:.1f}' y='{y - r:.1f}' width='{2 * r}' height='{2 * r}' fill='{colour}'/>",
        f"<path d='M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z' fill='{colour}'/>",
        f"<path d='M{x:.1f} {y - 6:.1f}l6 10.5h-12z' fill='{colour}'/>",
    )
    return shapes[number % len(shapes)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two bounds.

    >>> ticks(70, 90)
    [70.0, 75.0, 80.0, 85.0, 90.0]
    """
    rough = (high - low) / count or 1.0
    power = 10 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def by_seed(row: Row) -> list[float]:
    """The values of a row, one for each seed."""
    return [float(v) for v in str(row["by_seed"]).split(",")]


def dots(title: str, rows: Sequence[Row], axis: str) -> str:
    """One line per arm, grouped by setting: a stroke per seed, a bar over mean ± standard deviation."""
    every = [v for row in rows for v in (*by_seed(row), row["mean"] - row["std"], row["mean"] + row["std"])]
    low, high = min(every), max(every)
    low, high = low - 0.04 * (high - low or 1), high + 0.04 * (high - low or 1)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["setting"], []).append(row)
    arms = list(dict.fromkeys(row["arm"] for row in rows))

    def at(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    height = TOP + STEP * (len(rows) + len(groups)) + 30
    body = [label(10, 20, title, more="font-weight='bold'")]
    for tick in ticks(low, high):
        body += [line(at(tick), TOP - 12, at(tick), height - 34), label(at(tick), height - 18, f"{tick:g}", "middle")]
    body.append(label((LEFT + WIDTH - RIGHT) / 2, height - 3, axis, "middle"))
    y = TOP
    for setting, members in groups.items():
        body.append(label(10, y + 4, setting, more="font-weight='bold'"))
        y += STEP
        for row in members:
            mean, spread, number = row["mean"], row["std"], arms.index(row["arm"])
            colour = COLOURS[number % len(COLOURS)]
            body.append(label(LEFT - 12, y + 4, row["arm"], "end"))
            body.append(line(at(mean - spread), y, at(mean + spread), y, colour, 2))
            body += [line(at(v), y - 5, at(v), y + 5, colour) for v in by_seed(row)]
            body.append(mark(at(mean), y, number))
            y += STEP
    return svg(WIDTH, height, title, body)


def plane(
    title: str,
    points: Sequence[tuple[str, float, float, str]],
    axes: tuple[str, str],
    *,
    joined: bool,
    level: float | None = None,
    log: tuple[bool, bool] = (True, False),
) -> str:
    """Marks in a plane, (series, x, y, note) each, with a legend; points of a series are joined if asked."""
    bottom, height, right = 300, 352, 210
    xs, ys = [p[1] for p in points], [p[2] for p in points]
    x_at = scale(xs, 60, WIDTH - right, log[0])
    y_at = scale([*ys, *([level] if level is not None else [])], bottom, TOP, log[1])
    body = [label(10, 20, title, more="font-weight='bold'")]
    for tick in marks(xs, log[0]):
        body += [line(x_at(tick), TOP, x_at(tick), bottom), label(x_at(tick), bottom + 18, f"{tick:g}", "middle")]
    for tick in marks(ys, log[1]):
        body += [line(60, y_at(tick), WIDTH - right, y_at(tick)), label(52, y_at(tick) + 4, f"{tick:g}", "end")]
    if level is not None:
        body.append(line(60, y_at(level), WIDTH - right, y_at(level), "#222", 1.5))
    body += [label(60, height - 10, f"{axes[0]}"), label(60, TOP - 8, axes[1])]
    series = list(dict.fromkeys(p[0] for p in points))
    for number, name in enumerate(series):
        own = sorted((p[1:] for p in points if p[0] == name), key=lambda p: p[0])
        places = [(x_at(x), y_at(y), note) for x, y, note in own]
        if joined:
            for (x1, y1, _), (x2, y2, _) in pairwise(places):
                body.append(line(x1, y1, x2, y2, COLOURS[number % len(COLOURS)], 1.5))
        for x, y, note in places:
            body += [mark(x, y, number), label(x + 7, y - 5, note, more="opacity='.75'")]
        y = TOP + 8 + STEP * number
        body += [mark(WIDTH - right + 24, y, number), label(WIDTH - right + 36, y + 4, name)]
    return svg(WIDTH, height, title, body)


def scale(values: Sequence[float], start: float, end: float, log: bool) -> Callable[[float], float]:
    """From a value to a place between two ends, with a margin."""
    mapped = [math.log10(v) if log else v for v in values]
    low, high = min(mapped), max(mapped)
    low, high = low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1)
    return lambda v: start + ((math.log10(v) if log else v) - low) / (high - low) * (end - start)


def marks(values: Sequence[float], log: bool) -> list[float]:
    """Where the axis has its numbers.

    >>> marks([0.03, 1.2], True)
    [0.05, 0.1, 0.2, 0.5, 1.0]
    """
    if not log:
        return ticks(min(values), max(values))
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    every = [round(m * 10.0**p, 6) for p in powers for m in (1, 2, 5)]
    found = [v for v in every if min(values) * 0.95 <= v <= max(values) * 1.05]
    return found if len(found) <= 8 else [v for v in found if str(v).strip("0.")[:1] == "1"]


def budget(title: str, rows: Sequence[Row]) -> str:
    """Accuracy against training compute; one series per arm, a note for the setting."""
    points = [(r["arm"], r["training_flops"], r["mean"], r["setting"].replace("dense", "")) for r in rows]
    return plane(title, points, ("training FLOPs, dense = 1", "test accuracy, %"), joined=True)


def speed(title: str, rows: Sequence[Row], n: int) -> str:
    """Times dense against density at one size; one series per form and batch."""
    points = [(f"{r['arm']}, batch {r['batch']}", 1 - r["sparsity"], r["mean"], "") for r in rows if r["n"] == n]
    axes = (f"density (non-zeros of {n} × {n} weights)", "times as fast as dense")
    return plane(title, sorted(points), axes, joined=True, level=1.0, log=(True, True))


TITLES = {
    "L1": "Sparse nets and dense nets of as many weights",
    "L3": "What the accuracy costs to train",
    "L4": "Dense, half-sparse and sparse starts",
    "L5": "Static and moving masks at equal layer ratios",
    "L6": "Masks chosen before, during and after training",
    "L7": "Masks and the same masks shuffled within each layer",
    "L8": "Training longer: 1, 2 and 5 times the epochs",
    "L9": "The same comparison on an easy and a harder benchmark",
    "L10": "The worst class",
}


def every(result: Mapping[str, Any]) -> dict[str, str]:
    """{question: SVG} of what the result holds."""
    out = {}
    for question, title in TITLES.items():
        metric = "worst class (%)" if question == "L10" else "test accuracy (%)"
        rows = [row for row in result["ours"] if row["part"] == question and row["metric"] == metric]
        if rows:
            out[question] = budget(title, rows) if question in ("L3", "L4", "L8") else dots(title, rows, metric)
    timed = [row for row in result["ours"] if row["part"] == "L2"]
    if timed:
        sizes = sorted({row["n"] for row in timed})
        n = 1024 if 1024 in sizes else sizes[-1]
        out["L2"] = speed(f"y = W x with {n} × {n} weights, one thread", timed, n)
    return out
