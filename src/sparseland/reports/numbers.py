"""Numbers as people read them: percentages with their spread, FLOPs, bytes, times."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1); None for the latter of a single value.

    >>> spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    >>> spread([1.0])
    (1.0, None)
    """
    return mean(values), stdev(values) if len(values) > 1 else None


def percent(values: Sequence[float], digits: int = 2) -> str:
    """Fractions as a percentage, mean ± std over seeds.

    >>> percent([0.96, 0.98]), percent([0.9712])
    ('97.00 ± 1.41 %', '97.12 %')
    """
    middle, deviation = spread([100 * value for value in values])
    return f"{middle:.{digits}f} %" if deviation is None else f"{middle:.{digits}f} ± {deviation:.{digits}f} %"


def count(value: float) -> str:
    """An integer with thin groups.

    >>> count(269722)
    '269,722'
    """
    return f"{round(value):,}"


def scaled(value: float, unit: str = "", step: int = 1000) -> str:
    """Three digits and a prefix.

    >>> scaled(5.27e11, "FLOP"), scaled(812, "B"), scaled(0, "B")
    ('527 GFLOP', '812 B', '0 B')
    """
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:
        value, power = value / step, power + 1
    text = f"{value:.3g}" if power else f"{value:.0f}"
    return f"{text} {prefixes[power]}{unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds, minutes or hours.

    >>> duration(4.21), duration(75), duration(7322)
    ('4.2 s', '1 min 15 s', '2 h 02 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ratio(value: float, reference: float) -> str:
    """A share of a reference.

    >>> ratio(42, 100), ratio(1, 0)
    ('0.42×', '–')
    """
    return f"{value / reference:.3g}×" if reference else "–"
