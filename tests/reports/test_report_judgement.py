"""Findings, forest, fronts, calibration and further tables against hand-computed values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sparseland.reports.calibration import add_up, calibration, diagram, lean
from sparseland.reports.judgement import findings, forest, on_front, pareto, signed
from sparseland.reports.ledger import cards, further, layer_table, operators, scopes
from sparseland.reports.summary import answer, tiles
from tests.reports.records import comparison, run

ROWS = [{"label": label, "name": label.split()[0], "seeds": [0]} for label in ("dense", "random", "rigl", "rigl b")]


def pair(
    a: str, b: str, difference: float | None, low: float | None, high: float | None, **more: Any
) -> dict[str, Any]:
    given = {"p": 0.1, "p_holm": 0.2, "seeds": [0, 1, 2], "verdict": "indistinguishable", "why": "the interval holds 0"}
    return {"a": a, "b": b, "metric": "accuracy", "difference": difference, "low": low, "high": high, **given, **more}


def test_the_forest_by_hand() -> None:
    found = forest(ROWS, {"paired": [
        pair("rigl", "dense", -0.02, -0.03, -0.01, verdict="worse", p_holm=0.01, why=""),
        pair("rigl", "random", 0.01, -0.01, 0.03),
        pair("rigl", "rigl b", 0.04, 0.02, 0.06, verdict="better", why="odd; not after Holm's correction for 3 pairs"),
        pair("rigl b", "dense", None, None, None, verdict="not comparable", why="UnequalBudget: 5 and 9 epochs"),
    ]})  # fmt: skip
    assert found is not None
    assert [group["title"] for group in found["groups"]] == [
        "Against dense",
        "Against random",
        "rigl against the others",
    ]
    assert found["limit"] == "6" and not found["cut"] and found["starred"] == 1 and found["pairs"] == 4
    worse, lacking = found["groups"][0]["rows"]
    assert (worse["at"], worse["low"], worse["high"]) == (34.0, 26.0, 42.0)  # 50 + 48 × value / 0.06
    assert worse["sign"] == "bad" and worse["text"] == "−2.00" and worse["interval"] == "−3.00 to −1.00"
    assert lacking["at"] is lacking["low"] is None and lacking["text"] == "–" and lacking["interval"] == "no interval"
    assert lacking["why"] == "UnequalBudget: 5 and 9 epochs"
    assert found["groups"][1]["rows"][0]["why"] == ""
    better = found["groups"][2]["rows"][0]
    assert better["sign"] == "good star" and better["why"] == "odd"


def test_one_wide_interval_does_not_hide_the_others() -> None:
    found = forest(ROWS, {"paired": [
        pair("rigl", "dense", 0.01, -0.5, 0.52), pair("rigl b", "dense", -0.005, -0.01, 0.0),
    ]})  # fmt: skip
    assert found is not None and found["cut"]
    wide, narrow = found["groups"][0]["rows"]
    assert wide["cut"] and (wide["low"], wide["high"]) == (2.0, 98.0)
    assert not narrow["cut"] and narrow["low"] == pytest.approx(50 - 48 * 0.01 / 0.04)
    assert forest(ROWS, {"paired": []}) is None and forest(ROWS, {}) is None


def test_signs_of_differences() -> None:
    assert [signed(v) for v in (0.5, -0.123456, 0.0, 4e-5, -4e-5)] == ["+50.00", "−12.35", "0.00", "0.00", "0.00"]


def test_findings_in_order_of_weight() -> None:
    said = [
        {"guard": guard, "level": level, "says": "it is so", "fix": "do"}
        for guard, level in (("OneSeed", "flag"), ("UnequalBudget", "refuse"), ("TestSelection", "refuse"))
    ]
    found = findings({"review": {"findings": said}, "allowed": ["UnequalBudget"]})
    assert [(one["guard"], one["allowed"]) for one in found["refuse"]] == [
        ("UnequalBudget", True),
        ("TestSelection", False),
    ]
    assert [one["guard"] for one in found["flag"]] == ["OneSeed"]
    old = findings({"warnings": ["as it was"]})
    assert [one["says"] for one in old["flag"]] == ["as it was"] and old["refuse"] == []


def test_fronts() -> None:
    record = comparison(("dense", "random", "gmp"))
    review = record["review"]
    table = pareto(record["aggregate"], review)
    assert table is not None
    assert table["columns"] == ["method", "test accuracy", "training FLOPs", "inference FLOPs", "bytes packed"]
    for line, point in zip(table["rows"], review["pareto"], strict=True):
        marked = {key for key, cell in zip(("training_flops", "inference_flops", "bytes"), line[2:], strict=True)
                  if cell["front"]}  # fmt: skip
        assert marked == set(point["front"])
    for cost in ("training_flops", "bytes"):  # by the definition
        points = {p["label"]: p for p in review["pareto"]}
        for label, own in points.items():
            beaten = any(
                other["accuracy"] >= own["accuracy"] and other[cost] <= own[cost]
                and (other["accuracy"] > own["accuracy"] or other[cost] < own[cost]) for other in points.values()
            )  # fmt: skip
            assert (label in on_front(review, cost)) == (not beaten)
    assert pareto(record["aggregate"][:1], review) is None


def test_calibration_by_hand() -> None:
    bins = [[0, 0, 0.0]] * 9 + [[20, 5, 12.6]] + [[0, 0, 0.0]] * 4 + [[80, 79, 78.0]]
    test = {"accuracy": 0.84, "ece": (7.6 + 1.0) / 100, "bins": bins}
    runs = [{"label": "dense", "seed": seed, "result": {"test": test}} for seed in (0, 1)]
    assert add_up([bins, bins])[9] == (40.0, 10.0, 25.2)
    found = calibration(
        [{"label": "dense"}, {"label": "no bins"}], [*runs, {"label": "no bins", "result": {"test": None}}]
    )
    assert [one["label"] for one in found] == ["dense"]
    assert found[0]["ece"] == "8.6 %" and found[0]["lean"] == "overconfident by 6.6 points"
    assert found[0]["mce"] == "38.0 %"  # 20 images: 5 right, 12.6 said
    without = [{**one, "result": {"test": {"bins": bins}}} for one in runs]
    assert calibration([{"label": "dense"}], without)[0]["ece"] == "8.6 %"  # from the bins themselves
    assert lean(add_up([bins])) == "overconfident by 6.6 points"


def test_the_diagram_by_hand() -> None:
    svg = diagram([(10, 5, 8.0), (90, 90, 81.0)], 3, 'of "x"')
    bars = [
        (float(h), colour)
        for h, colour in re.findall(r'height="([\d.]+)" fill="(var\([^)]*\))"', svg)
    ]  # fmt: skip
    assert bars == [
        (78.0, "var(--m3)"), (46.8, "var(--bad)"), (3.3, "var(--soft)"),  # right 50 %, said 80 %, 10 of 90 images high
        (140.4, "var(--m3)"), (15.6, "var(--m3)"), (30.0, "var(--soft)"),  # right 100 %, said 90 %
    ]  # fmt: skip
    assert """aria-label='of "x"'""" in svg


def test_further_tables() -> None:
    record = comparison(("dense", "gmp"), (0, 1))
    rows, runs = record["aggregate"], record["runs"]
    more = further(rows)
    assert more is not None and more["columns"][-3:] == ["dead units", "peak memory", "training time"]
    assert [cell["text"] for cell in more["rows"][1]][-3:] == ["1", "300 MB", "2.0 s"]
    assert operators(rows, runs) == {
        "columns": ["method", "linear"],
        "rows": [["dense", "200 (1×)"], ["gmp", "20 (0.1×)"]],
    }
    counted = scopes(rows, runs)
    assert counted is not None and counted["rows"][1] == ["gmp", "20 of 110 (81.82 %)", "10 of 100 (90.00 %)"]
    layers = layer_table(rows, runs)
    assert layers is not None and layers["rows"][0] == ["fc1", "5 × 10", "0.00 %", "90.00 %"]
    assert cards(rows, runs)[1]["fields"] == [("method", "gmp"), ("when", "during"), ("scope", "fc1.weight")]


def test_tables_that_nobody_has_numbers_for() -> None:
    runs = [run("rigl", 0, flops=None, counts=None, card=None, layers=[])]
    rows = [{"label": "rigl", "name": "rigl"}]
    assert further(rows) is operators(rows, runs) is scopes(rows, runs) is layer_table(rows, runs) is None
    assert cards(rows, runs) == []
    odd = [run("rigl", 0, counts={"all": "many"})]
    assert scopes(rows, odd) is None


def test_the_answer_says_what_the_seeds_can_tell() -> None:
    record = comparison(("dense", "random", "gmp"))
    rows, review = record["aggregate"], record["review"]
    best = max(rows[1:], key=lambda row: row["accuracy"]["mean"])
    text = answer(rows, review)
    assert text.startswith(f"Highest of the 2 sparse nets: {best['label']} keeps 10 % of the weights")
    verdict = next(p["verdict"] for p in review["paired"] if (p["a"], p["b"]) == (best["label"], "dense"))
    wanted = {"worse": "it is worse", "better": "it is better", "indistinguishable": "cannot tell the two apart"}
    assert wanted[verdict] in text
    assert len(tiles(rows, review)) == 4 and tiles(rows, review)[3]["value"] == f"{440 / best['bytes']['mean']:.1f}"
    assert answer(rows[:1], {}).startswith("Dense: ") and answer([], {}) == "" and tiles([], {}) == []
