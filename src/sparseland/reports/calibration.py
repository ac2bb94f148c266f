"""Reliability diagrams: is a net that says 80 % right in 80 of 100 cases?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any
from xml.sax.saxutils import quoteattr

from ..advisor.facts import look

FEW = 10  # images below which a bin's share of right answers is mostly luck: drawn faint
LEFT, TOP, SIDE, STRIP = 38, 10, 156, 30  # of the diagram, in units of its own


def calibration(rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One diagram per method that has bins, its seeds added up.

    Returns:
        {"label", "ece" (text, mean over seeds), "mce" (text, of all seeds together), "lean" (over- or
        underconfident, in words), "svg"}.
    """
    out = []
    for i, row in enumerate(rows):
        tests = [look(run["result"], "test") for run in runs if run["label"] == row["label"]]
        bins = add_up([look(test, "bins") for test in tests])
        if not bins:
            continue
        known = [value for value in (look(test, "ece") for test in tests) if value is not None]
        ece = mean(known) if known else _ece(bins)
        title = f"Reliability of {row['label']}: calibration error {100 * ece:.1f} %, {lean(bins)}"
        svg = diagram(bins, i, title)
        out.append(
            {"label": row["label"], "ece": f"{100 * ece:.1f} %", "mce": f"{100 * mce(bins):.1f} %", "lean": lean(bins)}
            | {"svg": svg}
        )
    return out


def add_up(parts: Sequence[Any]) -> list[tuple[float, float, float]]:
    """Bins of several seeds as one: [images, right ones, sum of probabilities] each; [] where none has any.

    >>> add_up([[[2, 1, 1.5]], None, [[1, 1, 0.9]]])
    [(3.0, 2.0, 2.4)]
    """
    known = [part for part in parts if part]
    if not known or len({len(part) for part in known}) > 1:
        return []
    return [
        (float(images), float(right), float(said))
        for images, right, said in (map(sum, zip(*column, strict=True)) for column in zip(*known, strict=True))
    ]


def _ece(bins: Sequence[tuple[float, float, float]]) -> float:
    return sum(abs(right - said) for _, right, said in bins) / (sum(n for n, *_ in bins) or 1)


def mce(bins: Sequence[tuple[float, float, float]]) -> float:
    """The largest difference of a bin between the share of right answers and what was said; bins of a few images count.

    Equation: MCE = max_b |right_b − confidence_b| / n_b.

    >>> mce([(10, 5, 8.0), (0, 0, 0.0), (1, 1, 0.5)])
    0.5
    """
    return max((abs(right - said) / images for images, right, said in bins if images), default=0.0)


def lean(bins: Sequence[tuple[float, float, float]]) -> str:
    """Whether what the net says is more or less than what it knows, on the whole.

    >>> lean([(10, 5, 8.0)]), lean([(10, 8, 8.0)]), lean([(10, 9, 8.0)])
    ('overconfident by 30.0 points', 'neither over- nor underconfident', 'underconfident by 10.0 points')
    """
    images = sum(n for n, *_ in bins) or 1
    gap = 100 * sum(said - right for _, right, said in bins) / images
    if abs(gap) < 0.5:
        return "neither over- nor underconfident"
    return f"{'over' if gap > 0 else 'under'}confident by {abs(gap):.1f} points"


def diagram(bins: Sequence[tuple[float, float, float]], i: int, title: str) -> str:
    """``<svg>``: what was said and right per bin; red what was said and wrong, pale what was right and not said.

    Below: how many images each bin has.
    """
    width, most = SIDE / len(bins), max(n for n, *_ in bins) or 1
    bottom = TOP + SIDE
    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="var(--line)"/>']
    for b, (images, right, said) in enumerate(bins):
        if not images:
            continue
        x, solid = LEFT + b * width, 1 if images >= FEW else 0.4
        share, confidence = right / images, said / images
        low = min(share, confidence)
        parts.append(_bar(x, bottom - SIDE * low, width, SIDE * low, f"var(--m{i})", solid))
        over = confidence > share
        gap, colour = SIDE * abs(confidence - share), "var(--bad)" if over else f"var(--m{i})"
        parts.append(_bar(x, bottom - SIDE * low - gap, width, gap, colour, 0.4 * solid))
        tall = max(1.0, STRIP * images / most)
        parts.append(_bar(x, bottom + 26 + STRIP - tall, width, tall, "var(--soft)", 0.75))
    parts.append(
        f'<path d="M{LEFT} {bottom}L{LEFT + SIDE} {TOP}" stroke="currentColor" stroke-dasharray="4 3" fill="none"/>'
    )
    for share in (0, 0.5, 1):
        at = SIDE * share
        parts.append(f'<text x="{LEFT - 5}" y="{bottom - at + 5:g}" text-anchor="end">{100 * share:g}</text>')
        parts.append(f'<text x="{LEFT + at:g}" y="{bottom + 17}" text-anchor="middle">{100 * share:g}</text>')
    size = f"{LEFT + SIDE + 18} {bottom + 28 + STRIP}"
    return f'<svg viewBox="0 0 {size}" role="img" aria-label={quoteattr(title)} class="rel">{"".join(parts)}</svg>'


def _bar(x: float, y: float, width: float, height: float, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height:.1f}" fill="{colour}" '
        f'fill-opacity="{opacity}"/>'
    )
