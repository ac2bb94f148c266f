"""Whether the sparse nets lie above the curve of the dense ones: straight lines between neighbouring dense nets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]  # (cost, accuracy)


def at(curve: Sequence[Point], x: float) -> float | None:
    """The curve at ``x`` by linear interpolation; None outside of it.

    >>> at([(1.0, 10.0), (3.0, 30.0)], 2.0), at([(1.0, 10.0), (3.0, 30.0)], 4.0)
    (20.0, None)
    """
    for (x0, y0), (x1, y1) in pairwise(sorted(curve)):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


def gap(dense: Sequence[Point], sparse: Point) -> float | None:
    """How far a sparse net lies above the dense curve at equal cost, in points; None where that cannot be said.

    Cheaper than every dense net: the gap to the cheapest, if it is not below it (then it is better in both). Dearer
    than every dense net: the gap to the dearest, if it is not above it (then it is worse in both).

    >>> dense = [(1.0, 10.0), (3.0, 30.0)]
    >>> gap(dense, (2.0, 25.0)), gap(dense, (0.5, 12.0)), gap(dense, (0.5, 8.0)), gap(dense, (4.0, 35.0))
    (5.0, 2.0, None, None)
    """
    x, y = sparse
    level = at(dense, x)
    if level is not None:
        return y - level
    first, last = min(dense), max(dense)
    if x < first[0]:
        return y - first[1] if y >= first[1] else None
    return y - last[1] if y <= last[1] else None


def cheaper(dense: Sequence[Point], sparse: Point) -> float | None:
    """How many times the cost a dense net of the same accuracy has; None if no dense net was so good, or so bad.

    >>> cheaper([(1.0, 10.0), (3.0, 30.0)], (1.0, 20.0))
    2.0
    """
    cost = at([(y, x) for x, y in dense], sparse[1])
    return None if cost is None else cost / sparse[0]
