"""Paper 01: the verdict's rule on rows made by hand, and both measuring functions on digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "01-sms"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG
ACCURACY, NOISE = "test accuracy (%)", "accuracy under gaussian_noise 3 (%)"
SMALL: dict[str, Any] = {"data": "digits", "limit": 120, "epochs": 2, "batch_size": 64, "lr": 0.1}
ARMS = {
    "dense": 80.0, "dense, as long as IMP": 83.0, "random": 50.0, "IMP": 82.0, "IMP 3x": 84.0, "IMP-RePrune": 79.0,
    "SMS": 83.0, "mean ingredient": 82.8, "best ingredient (by validation)": 83.1, "prediction ensemble": 83.2,
    "SMS, averaged BN statistics": 81.5,
}  # fmt: skip


@pytest.fixture
def jobs() -> Any:
    return load(SLUG, "jobs")


def rows(**changes: float) -> list[dict[str, Any]]:
    named = {name.replace(" ", "_").replace("-", "_"): name for name in ARMS}
    values = ARMS | {named[name]: value for name, value in changes.items()}
    row = {"part": "fashion", "seeds": 5, "std": 0.5}
    return [
        row | {"setting": setting, "arm": arm, "metric": metric, "mean": value - below}
        for setting, below in (("90%", 0.0), ("95%", 4.0))
        for metric in (ACCURACY, NOISE)
        for arm, value in values.items()
    ]


def test_the_cards_assertions_give_in_part_and_no_more(jobs: Any) -> None:
    verdict, why = jobs.judge(rows())
    assert verdict == "in part" and "+0.20 to its mean ingredient" in why and "-1.00 to IMP 3x" in why
    assert "is not shown" in why
    assert jobs.judge(rows(IMP_3x=82.0))[0] == "in part"  # a toy cannot show more
    assert "holds here, on a toy" in jobs.judge(rows(IMP_3x=82.0))[1]


@pytest.mark.parametrize(
    "change", [{"mean_ingredient": 83.4}, {"IMP_RePrune": 82.6}, {"SMS,_averaged_BN_statistics": 83.1}]
)
def test_each_assertion_can_fail(jobs: Any, change: dict[str, float]) -> None:
    verdict, why = jobs.judge(rows(**change))
    assert verdict == "does not" and "not as the card asserts" in why


def test_no_verdict_without_the_part(jobs: Any) -> None:
    with pytest.raises(ValueError, match="fashion is not there"):
        jobs.judge([{"part": "schedules", "setting": "", "arm": "dense", "metric": ACCURACY, "mean": 1.0}])


def test_the_folder_keeps_what_it_says(jobs: Any) -> None:
    check_folder(FOLDER, jobs)


def test_charts_and_headline(jobs: Any) -> None:
    charts = jobs.figures(rows())
    assert set(charts) == {"accuracy.svg", "noise.svg"}
    assert [line["x"] for line in charts["accuracy.svg"]["lines"]] == [[10.0, 5.0]] * 7
    assert "SMS 83.0" in jobs.headline(rows())


def test_every_arm_is_measured_and_repeats_itself() -> None:
    soups = load(SLUG, "soups")
    told = soups.measure(0.9, 0, ingredients=2, cycles=1, retrain=0.5, **SMALL)
    found = {(m["arm"], m["metric"]): m["value"] for m in told["measured"]}
    assert {arm for arm, _ in found} == {"IMP 2x" if arm == "IMP 3x" else arm for arm in ARMS}
    assert len(found) == len(told["measured"])
    flops = {arm: value for (arm, metric), value in found.items() if metric == "training FLOPs (x dense)"}
    assert flops["dense"] == 1 and flops["dense, as long as IMP"] == 1.5
    assert 1 < flops["IMP"] < flops["IMP 2x"] and flops["SMS"] == pytest.approx(flops["IMP 2x"])
    mean = found["mean ingredient", ACCURACY]
    assert found["best ingredient (by validation)", ACCURACY] == pytest.approx(mean, abs=15)
    assert found["IMP-RePrune", "density before pruning again (%)"] == pytest.approx(10, abs=0.1)  # one cycle: one mask
    assert found["SMS", "angle between ingredients, mean (degrees)"] > 0


def test_the_small_part_measures_every_schedule_and_every_kind(jobs: Any) -> None:
    soups = load(SLUG, "soups")
    told = soups.small(seed=0, sparsity=0.9, ingredients=3, model="mlp-16", **SMALL)
    arms = [m["arm"] for m in told["measured"]]
    assert arms == [
        "dense", *(f"IMP, {name}" for name in ("FT", "LRW", "SLR", "CLR", "LLR", "ALLR")),
        *(f"SMS, {name} varied" for name in ("seed", "weight_decay", "length", "peak")), "SMS, greedy", "random",
    ]  # fmt: skip
    assert len(jobs.schedules()) == 5 and len(jobs.fashion()) == 6
