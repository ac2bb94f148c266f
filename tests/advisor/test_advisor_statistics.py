"""Student's t against SciPy, intervals against a hand-made table, Holm and Pareto against their definitions."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from sparseland.advisor.statistics import holm, paired, pareto_front, t_quantile, t_two_sided
from sparseland.core.errors import SparselandError


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 29, 200, 5000])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.995, 0.9999])
def test_quantiles_are_scipys(p: float, freedom: int) -> None:
    from scipy import stats

    wanted = stats.t.ppf(p, freedom)
    assert t_quantile(p, freedom) == pytest.approx(wanted, rel=1e-9)
    assert t_quantile(1 - p, freedom) == pytest.approx(-wanted, rel=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 4, 30])
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.3, 1.0, 2.776, 12.7, 500.0])
def test_tails_are_scipys(t: float, freedom: int) -> None:
    from scipy import stats

    assert t_two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-9)
    assert t_two_sided(-t, freedom) == t_two_sided(t, freedom)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_the_interval_is_the_one_of_a_paired_test(seeds: int) -> None:
    from scipy import stats

    draw = random.Random(seeds)
    a, b = ({seed: draw.gauss(0.8, 0.05) for seed in range(seeds)} for _ in range(2))
    test = stats.ttest_rel(list(a.values()), list(b.values()))
    wanted = test.confidence_interval(0.95)
    found = paired(a, b)
    assert found is not None and found.low is not None
    assert (found.low, found.high, found.p) == pytest.approx((wanted.low, wanted.high, test.pvalue), rel=1e-9)


def test_only_common_seeds_count() -> None:
    found = paired({0: 1.0, 1: 2.0, 7: 9.0}, {1: 1.0, 0: 0.5, 3: 100.0})
    assert found is not None
    assert found.seeds == (0, 1) and found.difference == 0.75
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_one_seed_has_no_interval() -> None:
    found = paired({3: 0.5}, {3: 0.25})
    assert found is not None
    assert (found.difference, found.low, found.high, found.p) == (0.25, None, None, None)
    assert "one common seed" in found.note


def test_no_variance_is_no_certainty() -> None:
    found = paired({s: 0.5 + s / 10 for s in range(3)}, {s: 0.3 + s / 10 for s in range(3)})
    assert found is not None and found.low is None and "do the seeds take effect" in found.note
    equal = paired({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6})
    assert equal is not None and equal.difference == 0 and equal.note == "no difference in any seed"


@pytest.mark.parametrize(("call", "word"), [
    (lambda: t_quantile(1.0, 3), "p is 1.0"),
    (lambda: t_quantile(0.9, 0), "freedom is 0"),
    (lambda: paired({0: 1.0}, {0: 1.0}, level=95), "level is 95"),
    (lambda: pareto_front({}, {"flops": "low"}), "min, max"),
])  # fmt: skip
def test_bad_input(call: Any, word: str) -> None:
    with pytest.raises(SparselandError, match=word):
        call()


def test_holm_by_hand() -> None:
    assert holm([0.005, 0.04, None, 0.03, 0.9]) == pytest.approx([0.02, 0.09, None, 0.09, 0.9])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_front_is_what_nothing_beats() -> None:
    draw = random.Random(0)
    for _ in range(50):
        points: dict[str, dict[str, float | None]] = {
            str(i): {"accuracy": draw.randint(0, 4), "flops": draw.randint(0, 4)} for i in range(8)
        }
        points["unknown"] = {"accuracy": 99, "flops": None}
        beaten = {
            b
            for a, b in itertools.permutations(points, 2)
            if "unknown" not in (a, b)
            and points[a] != points[b]
            and points[a]["accuracy"] >= points[b]["accuracy"]  # type: ignore[operator]
            and points[a]["flops"] <= points[b]["flops"]  # type: ignore[operator]
        }
        front = pareto_front(points, {"accuracy": "max", "flops": "min"})
        assert front == [name for name in points if name not in beaten and name != "unknown"]
