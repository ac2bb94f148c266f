"""Verdicts on two methods, and what `review` makes of a whole comparison."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparseland.advisor import preflight, review, verdict

ROOT = Path(__file__).resolve().parents[2]
Runs = list[dict[str, Any]]


def only(runs: Runs, *labels: str) -> Runs:
    return [run for run in runs if run["label"] in labels]


def test_better_worse_and_neither(fair: Runs) -> None:
    gmp, random, rigl = only(fair, "gmp"), only(fair, "random"), only(fair, "rigl")
    assert (verdict(gmp, random)["verdict"], verdict(random, gmp)["verdict"]) == ("better", "worse")
    for run, accuracy in zip(gmp, (0.84, 0.87, 0.85), strict=True):
        run["result"]["test"]["accuracy"] = accuracy
    found = verdict(gmp, rigl)
    assert found["verdict"] == "indistinguishable" and found["low"] < 0 < found["high"]


def test_the_interval_decides_not_the_mean(fair: Runs) -> None:
    gmp, rigl = only(fair, "gmp"), only(fair, "rigl")
    for a, b, difference in zip(gmp, rigl, (0.01, 0.011, 0.012), strict=True):
        a["result"]["test"]["accuracy"] = b["result"]["test"]["accuracy"] + difference
    assert verdict(gmp, rigl)["verdict"] == "better"
    gmp[0]["result"]["test"]["accuracy"] += 0.1  # a higher mean, and a wider interval
    assert verdict(gmp, rigl)["verdict"] == "indistinguishable"


@pytest.mark.parametrize(("change", "reason"), [
    (lambda r: r["config"].update(epochs=9), None),
    (lambda r: r.update(steps=999), "UnequalBudget"),
    (lambda r: r["config"].update(augment="flip"), "DataMismatch"),
    (lambda r: r["data"]["images"].update(test=3), "DataMismatch"),
    (lambda r: r["config"].update(ignore=["fc1.weight"]), "ScopeMismatch"),
    (lambda r: r.update(selection={"split": "test"}), "TestSelection"),
    (lambda r: r.update(sparsity=0.5), "SparsityMismatch"),
])  # fmt: skip
def test_what_cannot_be_compared(change: Callable[[Any], None], reason: str | None, fair: Runs) -> None:
    a, b = only(fair, "gmp"), only(fair, "random")
    for run in a:
        change(run["result"])
    found = verdict(a, b)
    if reason is None:  # epochs alone are a plan; the steps that were made are the budget
        assert found["verdict"] == "better"
    else:
        assert found["verdict"] == "not comparable" and reason in found["why"]
        assert found["difference"] == pytest.approx(0.15, abs=0.02)  # said all the same


def test_unequal_seeds_cannot_be_compared(fair: Runs) -> None:
    found = verdict(only(fair, "gmp"), only(fair, "random")[:2])
    assert found["verdict"] == "not comparable" and "UnequalSeeds" in found["why"] and found["seeds"] == [0, 1]


def test_few_seeds_tell_nothing_apart(fair: Runs) -> None:
    two = [run for run in fair if run["seed"] < 2]
    found = verdict(only(two, "gmp"), only(two, "random"))
    assert found["verdict"] == "indistinguishable" and "3 are needed" in found["why"]
    one = [run for run in fair if run["seed"] < 1]
    found = verdict(only(one, "gmp"), only(one, "random"))
    assert found["low"] is None and found["why"] == "one common seed: no interval"


def test_equal_differences_are_suspicious(fair: Runs) -> None:
    a, b = only(fair, "gmp"), only(fair, "random")
    for one, other in zip(a, b, strict=True):
        one["result"]["test"]["accuracy"] = other["result"]["test"]["accuracy"] + 0.125
    found = verdict(a, b)
    assert found["verdict"] == "not comparable" and "seeds take effect" in found["why"]


def test_every_pair_once_and_the_best_against_all(fair: Runs) -> None:
    found = review(fair)
    pairs = [(pair["a"], pair["b"]) for pair in found["paired"]]
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert {(a, "dense") for a in ("random", "rigl", "gmp")} <= set(pairs)
    assert {("rigl", "random"), ("gmp", "random"), ("gmp", "rigl")} <= set(pairs)
    assert [v["verdict"] for v in found["verdicts"]] == [p["verdict"] for p in found["paired"]]
    said = {(v["label"], v["against"]): v["says"] for v in found["verdicts"]}
    assert said["gmp", "random"] == "gmp is better than random: +14.97 points, 95 % interval +13.51 to +16.42, 3 seeds"


def test_a_sweep_is_compared_level_by_level(fair: Runs) -> None:
    more = copy.deepcopy(only(fair, "random", "gmp"))
    for run in more:
        run["label"] += " 80 %"
        run["result"]["sparsity"] = 0.8
    pairs = {(p["a"], p["b"]): p for p in review([*fair, *more])["paired"]}
    assert ("gmp 80 %", "random 80 %") in pairs and ("gmp", "random") in pairs
    assert not any({a.endswith("80 %"), b.endswith("80 %")} == {True, False} for a, b in pairs if "dense" not in b)
    assert all(pair["verdict"] != "not comparable" for pair in pairs.values())


def test_only_what_can_be_compared_counts_in_holm(fair: Runs) -> None:
    for run in only(fair, "gmp"):
        run["result"]["selection"] = {"split": "test"}
    pairs = review(fair)["paired"]
    spoiled = [pair for pair in pairs if "gmp" in (pair["a"], pair["b"])]
    assert spoiled and all(pair["verdict"] == "not comparable" and pair["p_holm"] is None for pair in spoiled)
    others = [pair["p"] for pair in pairs if pair not in spoiled]
    assert min(p["p_holm"] for p in pairs if p not in spoiled) == pytest.approx(len(others) * min(others))


def test_holm_is_said(fair: Runs) -> None:
    gmp, rigl = only(fair, "gmp"), only(fair, "rigl")
    for a, b, difference in zip(gmp, rigl, (0.01, 0.012, 0.015), strict=True):
        a["result"]["test"]["accuracy"] = b["result"]["test"]["accuracy"] + difference
    pair = next(p for p in review(fair)["paired"] if {p["a"], p["b"]} == {"gmp", "rigl"})
    assert pair["verdict"] == "better" and pair["p"] < 0.05
    assert pair["p_holm"] >= pair["p"]
    assert ("Holm" in pair["why"]) == (pair["p_holm"] > 0.05)


def test_the_fronts(fair: Runs) -> None:
    points = {point["label"]: point for point in review(fair)["pareto"]}
    assert set(points["dense"]["front"]) == {"training_flops", "inference_flops", "bytes"}  # the most accurate
    assert "training_flops" in points["random"]["front"]  # the cheapest of as many weights
    assert points["small dense"]["accuracy"] < points["random"]["accuracy"]
    for point in points.values():  # by definition
        for axis in ("training_flops", "inference_flops", "bytes"):
            beaten = any(
                o["accuracy"] >= point["accuracy"] and o[axis] <= point[axis]
                and (o["accuracy"], o[axis]) != (point["accuracy"], point[axis])
                for o in points.values()
            )  # fmt: skip
            assert (axis in point["front"]) != beaten


def test_everything_is_plain_data(fair: Runs) -> None:
    found = review(fair)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"findings", "paired", "verdicts", "pareto"}


def test_nothing_given_is_changed(fair: Runs) -> None:
    before = copy.deepcopy(fair)
    review(fair)
    assert fair == before


@pytest.mark.parametrize("broken", [
    {}, {"label": "a"}, {"label": "a", "seed": 0, "result": None}, {"label": "a", "seed": 0, "result": {"test": 3}},
    {"label": "a", "seed": None, "result": {"config": "x", "layers": [1, {"name": "w"}], "flops": [], "method": 7}},
    {"label": "a", "seed": 0, "result": {"test": {"accuracy": float("nan"), "per_class": [None, "x"]}, "masks": {}}},
    {"label": "a", "seed": 0, "config": {"method": {"name": "no such method"}, "epochs": "many"}},
    {"label": "a", "seed": 0, "config": {"method": "rigl"}, "printed": 3, "claims": "2x faster"},
])  # fmt: skip
def test_what_is_missing_is_unknown(broken: dict[str, Any], fair: Runs) -> None:
    for runs in ([broken], [broken, broken], [*fair, broken]):
        assert json.loads(json.dumps(review(runs)))["findings"] is not None
        preflight(runs)


def schema_1(fair: Runs) -> Runs:
    """The same runs as the first version of run.json held them: without card, memory, counts and selection."""
    for run in fair:
        for key in ("card", "memory", "counts", "selection", "dead_units"):
            run["result"].pop(key, None)
        for key in ("by_operator", "phases", "rounds"):
            run["result"]["flops"].pop(key, None)
        run["result"]["test"].pop("bins", None)
    return fair


def test_old_records_are_read(fair: Runs) -> None:
    found = review(schema_1(fair))
    assert [finding["guard"] for finding in found["findings"]] == ["CostScope"]  # its memory is unknown
    assert len(found["paired"]) == 9


@pytest.mark.parametrize("path", sorted(ROOT.glob("papers/*/result.json")), ids=lambda path: path.parent.name)
def test_rows_of_papers_do_not_crash(path: Path) -> None:
    rows = json.loads(path.read_text(encoding="utf-8"))["ours"]
    assert set(review(rows)) == {"findings", "paired", "verdicts", "pareto"}
