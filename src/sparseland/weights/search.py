"""Random search: draw candidates, measure each, keep the best. Any sampler of masks, nodes or widths may draw."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from ..core.errors import ScheduleError, ScoreError

T = TypeVar("T")


@dataclass(frozen=True)
class Found(Generic[T]):
    """What a search found.

    Parameters:
        best: the candidate with the lowest value, the first of equals. value: its value.
        values: of all candidates in order; NaN or infinite where the objective had none.
        skipped: how many had none.

    >>> Found("a", 1.0, (1.0, 2.0)).skipped
    0
    """

    best: T
    value: float
    values: tuple[float, ...]
    skipped: int = 0


def search(
    draw: Callable[[torch.Generator], T], objective: Callable[[T], float], candidates: int = 100, *, seed: int = 0
) -> Found[T]:
    """argmin over ``candidates`` independent draws; the budget is that number of calls of ``objective``.

    Equation: i* = argmin_i objective(z_i), z_i = draw(generator), i = 1 … candidates.

    Args:
        draw: makes a candidate from a CPU generator; called once for each.
        objective: the lower the better; NaN and infinity are skipped and counted.
        candidates: ≥ 1. One candidate is the random control: its draw is not the first one of a longer search, for
            the generator's seed depends on ``candidates`` too.
        seed: of the generator.

    Raises:
        ScheduleError: candidates < 1. ScoreError: no candidate has a finite value.

    >>> found = search(lambda g: int(torch.randint(100, (), generator=g)), lambda z: abs(z - 40), 500)
    >>> found.best, len(found.values)
    (40, 500)
    """
    if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
        raise ScheduleError(f"candidates is {candidates!r}; possible: 1 or more")
    digest = hashlib.sha256(f"{seed}/{candidates}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    best: tuple[float, T] | None = None
    values = []
    for _ in range(candidates):
        candidate = draw(generator)
        value = float(objective(candidate))
        values.append(value)
        if math.isfinite(value) and (best is None or value < best[0]):
            best = (value, candidate)
    skipped = sum(not math.isfinite(value) for value in values)
    if best is None:
        raise ScoreError(
            f"none of {candidates} candidates has a finite value (the first: {values[0]}): it diverges on all"
        )
    return Found(best[1], best[0], tuple(values), skipped)
