"""Retrain schedules against their definitions, on logs whose answer can be worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from sparseland.core.errors import RecipeError, ScheduleError
from sparseland.weights.retraining import SCHEDULES, norm_drop, retraining_lrs

LINEAR = [0.1 * (1 - t / 100) for t in range(100)]
WARMED = [0.02, 0.06, *LINEAR]  # a pretraining with a warm-up of its own


def test_fine_tuning_takes_the_smallest_rate_after_the_warmup() -> None:
    assert retraining_lrs("FT", [0.0001, *LINEAR], 5) == [LINEAR[-1]] * 5


def test_rewinding_replays_the_end() -> None:
    assert retraining_lrs("LRW", WARMED, 30) == LINEAR[-30:]
    assert retraining_lrs("LRW", WARMED, 102) == WARMED
    with pytest.raises(ScheduleError, match="LRW replays the last 103 learning rates of a pretraining that had 102"):
        retraining_lrs("LRW", WARMED, 103)


@pytest.mark.parametrize("name", ["SLR", "CLR", "LLR", "ALLR"])
def test_a_tenth_is_half_a_cosine_up_to_the_peak(name: str) -> None:
    lrs = retraining_lrs(name, WARMED, 50, drop=10.0, pruned=0.5)
    assert lrs[:5] == pytest.approx([0.1 * (1 - math.cos(math.pi * t / 5)) / 2 for t in range(5)])
    assert lrs[5] == max(lrs) == 0.1 and len(lrs) == 50
    assert all(one >= two for one, two in itertools.pairwise(lrs[5:]))


def test_what_comes_after_the_peak() -> None:
    assert retraining_lrs("LLR", LINEAR, 20)[2:] == pytest.approx([0.1 * (1 - t / 18) for t in range(18)])
    clr = retraining_lrs("CLR", LINEAR, 20)[2:]
    assert clr == pytest.approx([0.001 + 0.099 * (1 + math.cos(math.pi * t / 18)) / 2 for t in range(18)])
    step = [0.1] * 50 + [0.01] * 25 + [0.001] * 25
    assert retraining_lrs("SLR", step, 40)[4:] == [0.1] * 18 + [0.01] * 9 + [0.001] * 9
    assert (
        max(retraining_lrs("SLR", step, 40, peak=0.2)) == 0.2
        and min(retraining_lrs("SLR", step, 40, peak=0.2)[4:]) == 0.002
    )


@pytest.mark.parametrize(
    ("drop", "pruned", "steps", "top"),
    [
        (0.4, 0.64, 10, 0.05),  # 0.4 / 0.8 · 0.1
        (0.1, 0.64, 50, 0.05),  # 0.0125, raised to 50 / 100 of 0.1
        (0.1, 0.64, 300, 0.1),  # the share of the length counts as 1 at most
        (0.9, 0.25, 10, 0.1),  # 0.18, lowered to the largest
    ],
)
def test_allr_peak(drop: float, pruned: float, steps: int, top: float) -> None:
    assert max(retraining_lrs("ALLR", LINEAR, steps, drop=drop, pruned=pruned)) == pytest.approx(top)


def test_norm_drop() -> None:
    assert norm_drop(5, 4) == pytest.approx(0.6) and norm_drop(0, 0) == 0 and norm_drop(4, 5) == pytest.approx(0.75)


def test_short_ones_and_bad_input() -> None:
    assert all(len(retraining_lrs(name, LINEAR, n, drop=0.1, pruned=0.5)) == n for name in SCHEDULES for n in (1, 2, 7))
    for name in SCHEDULES:
        for log in (None, []):
            with pytest.raises(ScheduleError, match=f"{name} is derived from .* that record is missing"):
                retraining_lrs(name, log, 5)
    with pytest.raises(RecipeError, match="'LRR': did you mean"):
        retraining_lrs("LRR", LINEAR, 5)
    with pytest.raises(RecipeError, match="ALLR needs drop"):
        retraining_lrs("ALLR", LINEAR, 5)
    with pytest.raises(ScheduleError, match="retraining of 0 steps"):
        retraining_lrs("LLR", LINEAR, 0)
