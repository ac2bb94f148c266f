"""Time as a ratio: rivals take turns in one process, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any

UNSTABLE = 1.5  # p90 / p10 above which the machine was too busy to say anything


def take_turns(
    rivals: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every call: each round calls every rival once, and every round starts with another one.

    Parameters:
        rivals: functions by name.
        rounds: timed calls of each, ≥ 1; ``warm_up`` more before them are not timed.
        clock: for tests.

    >>> sorted(take_turns({"a": lambda: 1, "b": lambda: 2}, rounds=3)), len(take_turns({"a": int}, rounds=3)["a"])
    (['a', 'b'], 3)
    """
    names = list(rivals)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = clock()
            rivals[name]()
            taken = clock() - began
            if number >= 0:
                times[name].append(taken)
    return times


def summary(times: Mapping[str, list[float]], reference: str) -> dict[str, dict[str, Any]]:
    """Median, 10th and 90th percentile in seconds, and the time as a ratio of the reference's.

    The ratio is the median of the ratios within each round. ``stable`` is False where p90 / p10 exceeds 1.5.

    >>> found = summary({"ours": [1.0, 1.0, 1.1], "theirs": [2.0, 2.0, 2.0]}, "ours")
    >>> found["theirs"]["ratio"], found["ours"]["stable"]
    (2.0, True)
    """
    out = {}
    for name, taken in times.items():
        tenths = quantiles(taken, n=10, method="inclusive") if len(taken) > 1 else [taken[0]] * 9
        out[name] = {
            "median": median(taken),
            "p10": tenths[0],
            "p90": tenths[-1],
            "ratio": median(a / b for a, b in zip(taken, times[reference], strict=True)),
            "stable": tenths[-1] <= UNSTABLE * tenths[0],
        }
    return out
