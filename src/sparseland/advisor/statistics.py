"""Paired differences over seeds, Student's t without SciPy, Holm's correction, and Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from ..core.errors import SparselandError

LEVEL = 0.95  # of the intervals
ENOUGH = 3  # seeds below which an interval says next to nothing


@dataclass(frozen=True)
class Paired:
    """The mean of paired differences a − b and what it is worth.

    Parameters:
        difference: mean over the common seeds.
        low, high: the 95 % t-interval; None with one seed, or where all differences are the same.
        p: two-sided p-value of "no difference"; None where there is no interval.
        seeds: the common seeds.
        note: why there is no interval; empty otherwise.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    seeds: tuple[Any, ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "seeds": list(self.seeds)}


def paired(a: Mapping[Any, float], b: Mapping[Any, float], level: float = LEVEL) -> Paired | None:
    """Differences a − b over the seeds both have: d̄ ± t_{n−1}(level) s_d / √n.

    Parameters:
        a, b: {seed: value}.
        level: of the interval, in (0, 1).

    Returns:
        None where no seed is common.

    Raises:
        SparselandError: level outside (0, 1).

    >>> found = paired({0: 0.9, 1: 0.8, 2: 0.85}, {0: 0.8, 1: 0.7, 2: 0.78})
    >>> round(found.difference, 3), round(found.low, 3), round(found.high, 3)
    (0.09, 0.047, 0.133)
    >>> paired({0: 0.9}, {0: 0.8}).note
    'one common seed: no interval'
    """
    if not 0 < level < 1:
        raise SparselandError(f"level is {level!r}; possible: a number in (0, 1)")
    seeds = tuple(seed for seed in a if seed in b)
    if not seeds:
        return None
    differences = [a[seed] - b[seed] for seed in seeds]
    middle, n = mean(differences), len(seeds)
    if n == 1:
        return Paired(middle, None, None, None, seeds, "one common seed: no interval")
    spread = stdev(differences)
    if spread <= 1e-12 * max(1.0, abs(middle)):  # rounding of equal differences
        if middle == 0:
            return Paired(0.0, None, None, None, seeds, "no difference in any seed")
        return Paired(middle, None, None, None, seeds, "the same difference in every seed: do the seeds take effect?")
    error = spread / math.sqrt(n)
    half = t_quantile(0.5 + level / 2, n - 1) * error
    return Paired(middle, middle - half, middle + half, t_two_sided(middle / error, n - 1), seeds)


def t_two_sided(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|) of Student's t: the regularised incomplete beta function I_{ν/(ν+t²)}(ν/2, 1/2).

    Parameters:
        t: any number; freedom: ν > 0.

    >>> round(t_two_sided(12.706, 1), 4), t_two_sided(0.0, 5)
    (0.05, 1.0)
    """
    _check_freedom(freedom)
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(p: float, freedom: float) -> float:
    """The t with P(T ≤ t) = p, by bisection.

    Parameters:
        p: in (0, 1); freedom: ν > 0.

    Raises:
        SparselandError: p or freedom out of range.

    >>> round(t_quantile(0.975, 2), 3), round(t_quantile(0.975, 4), 3), t_quantile(0.5, 3)
    (4.303, 2.776, 0.0)
    """
    _check_freedom(freedom)
    if not 0 < p < 1:
        raise SparselandError(f"p is {p!r}; possible: a number in (0, 1)")
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_two_sided(high, freedom) / 2 > 1 - p:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_two_sided(middle, freedom) / 2 > 1 - p else (low, middle)
    return (low + high) / 2


def _check_freedom(freedom: float) -> None:
    if not freedom > 0:
        raise SparselandError(f"freedom is {freedom!r}; possible: a number > 0 (seeds minus one)")


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the mirrored function converges faster
        return 1 - math.exp(log) * _fraction(1 - x, b, a) / b
    return math.exp(log) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            change = c * d
            value *= change
        if abs(change - 1) < 1e-15:
            break
    return value


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values: sorted p_(i) times (k − i + 1), running maximum, at most 1. None stays None.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    out: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        out[i] = highest
    return out


def pareto_front(points: Mapping[str, Mapping[str, float | None]], axes: Mapping[str, str]) -> list[str]:
    """The names that no other point beats: as good on every axis and better on one.

    Parameters:
        points: {name: {axis: value}}; a point without a value on an axis is not on the front.
        axes: {axis: "min" or "max"}.

    Raises:
        SparselandError: an axis that is neither min nor max.

    >>> a, b, c = ({"acc": acc, "flops": flops} for acc, flops in ((0.9, 10), (0.8, 5), (0.8, 9)))
    >>> pareto_front({"a": a, "b": b, "c": c}, {"acc": "max", "flops": "min"})
    ['a', 'b']
    """
    for axis, wanted in axes.items():
        if wanted not in ("min", "max"):
            raise SparselandError(f"axis {axis!r} is {wanted!r}; possible: min, max")
    signs = {axis: 1.0 if wanted == "max" else -1.0 for axis, wanted in axes.items()}
    known: dict[str, list[float]] = {}
    for name, point in points.items():
        values = [sign * value for axis, sign in signs.items() if (value := point.get(axis)) is not None]
        if len(values) == len(signs):
            known[name] = values
    return [name for name, own in known.items() if not any(_beats(other, own) for other in known.values())]


def _beats(one: list[float], other: list[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other
