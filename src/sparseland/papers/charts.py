"""Line charts of a paper folder as SVG: the same rows make the same bytes, on the same version of matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # told apart by everyone
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sparseland",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "errorbar.capsize": 3,
    "legend.frameon": False,
}


def draw(chart: Mapping[str, Any]) -> str:
    """A chart as SVG text.

    Parameters:
        chart: {"title", "x", "y": labels; "lines": [{"label", "x", "y", "error"}]; "levels": [{"label", "y", "error"}]
            for horizontal lines; "zoom": (low, high) of a second panel}. x is drawn on a logarithmic scale, with a tick
            at every value.

    >>> chart = {"title": "t", "x": "density (%)", "y": "accuracy (%)"}
    >>> chart["lines"] = [{"label": "static", "x": [5, 1], "y": [91.2, 25.2], "error": [1.7, 2.3]}]
    >>> draw(chart) == draw(chart), draw(chart)[:4]
    (True, '<svg')
    """
    import matplotlib
    from matplotlib.figure import Figure

    zoom = chart.get("zoom")
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=(9.2 if zoom else 6.4, 3.6), layout="constrained")
        panels = made.subplots(1, 2 if zoom else 1, squeeze=False)[0]
        for axes in panels:
            _panel(axes, chart)
        panels[0].set(title=chart["title"], ylabel=chart["y"])
        if zoom:
            panels[1].set(title="the same, enlarged", ylim=zoom)
        panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"[ \t]+\n", "\n", re.sub(r"(\d+\.\d\d)\d+", r"\1", svg))  # steady digits, small files
    return svg[svg.index("<svg") :]


def _panel(axes: Axes, chart: Mapping[str, Any]) -> None:
    """All lines of a chart on one pair of axes."""
    count = len(chart["lines"])
    for i, line in enumerate(chart["lines"]):
        points = sorted(zip(line["x"], line["y"], line["error"], strict=True))
        x, y, error = (list(column) for column in zip(*points, strict=True))
        beside = [value * 1.02 ** (i - (count - 1) / 2) for value in x]  # equal values stand side by side
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        axes.errorbar(beside, y, yerr=error, label=line["label"], color=color, marker=marker, markersize=5)
    for level in chart.get("levels", ()):
        axes.axhline(level["y"], color="black", linestyle="--", linewidth=1, label=level["label"])
        low, high = level["y"] - level["error"], level["y"] + level["error"]
        axes.axhspan(low, high, color="black", alpha=0.08, linewidth=0)
    ticks = sorted({x for line in chart["lines"] for x in line["x"]})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(chart["x"])
