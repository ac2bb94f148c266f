"""Paper 44: what each arm does to the net, the rule of the verdict, and the card's acceptance in full (slow)."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from sparseland.train import TrainConfig, Trainer
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "44-precropping"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def crop() -> Any:
    return load(SLUG, "crop")


@pytest.mark.parametrize(
    "arm", ["dense", "uniform width", "crop", "crop, equal counts", "SynFlow mask", "SynFlow, shuffled", "random"]
)
def test_arms_have_the_size_they_say(crop: Any, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = sl.methods.PreCropping
    monkeypatch.setattr(sl.methods, "PreCropping", lambda sparsity, **options: few(sparsity, rounds=3, **options))
    config = TrainConfig(data="digits", limit=50, epochs=1, lr=0.05, evaluate_every=1, threads=1)
    data = sl.data.load("digits", limit=50)
    one = Trainer(config, dataset=data, model=crop.fresh("resnet-8-w16", data.shape, 0))
    values = crop.one(one, "resnet-8-w16", arm, 0.25, 0)
    assert values[crop.PARAMETERS] == pytest.approx(100 if arm == "dense" else 25, abs=1.5)
    narrow = arm not in ("dense", "SynFlow mask", "SynFlow, shuffled", "random")
    assert (values[crop.NARROWEST] < 100) == narrow
    assert values[crop.FLOPS] <= 100 and values[crop.WIDEST] >= values[crop.NARROWEST]


def test_shuffling_keeps_the_counts_of_each_layer_and_moves_the_weights(crop: Any) -> None:
    masks = sl.core.MaskSet({"a": torch.rand(20, 30) < 0.1, "b": torch.rand(5, 6) < 0.5})
    mixed = crop.shuffled(masks, 0)
    assert mixed.counts() == masks.counts() and mixed.overlap(masks) < 0.5
    assert crop.shuffled(masks, 0) == mixed


@pytest.mark.slow
def test_the_chain_rule_oscillates_as_in_the_card(crop: Any) -> None:
    """784-512-512-512-10 at p = 0.10: 44-504-63 there."""
    widths = crop.widths_by_rule("mlp-512-512-512", [1, 28, 28], 0.1, 0)["chain"]
    assert 40 < widths["fc1"] < 48 and 480 < widths["fc2"] < 512 and 58 < widths["fc3"] < 70


def test_a_step_is_timed_in_turns(crop: Any, jobs: Any) -> None:
    found = crop.step_time("resnet-8-w8", [1, 8, 8], 0.5, 2, 1, 0)["measured"]
    assert [(r["arm"], r["metric"]) for r in found] == [("SynFlow mask", jobs.STEP), ("crop", jobs.STEP)]


# ------------------------------------------------------------------------------------------------------------- verdict
def rows_of(jobs: Any, crop: float = 50.0, mask: float = 48.0, speed: float | None = 2.0) -> list[dict[str, Any]]:
    def row(part: str, setting: str, arm: str, mean: float, metric: str = jobs.ACCURACY) -> dict[str, Any]:
        return {"part": part, "setting": setting, "arm": arm, "metric": metric, "mean": mean, "std": 0.3, "seeds": 3}

    made = []
    for part, densities in (("cifar", (50, 25, 10)), ("mlp", (10, 3))):
        made.append(row(part, "", "dense", 60.0))
        for p in densities:
            means = {"SynFlow mask": mask, "SynFlow, shuffled": 40.0, "crop": crop, "uniform width": 50.5}
            made += [row(part, f"{p}% of parameters", arm, mean) for arm, mean in means.items()]
    if speed is not None:
        setting = "25% of parameters"
        made += [row("speed", setting, "crop", speed, jobs.STEP), row("speed", setting, "SynFlow mask", 0.9, jobs.STEP)]
    return made


def test_what_decides(jobs: Any) -> None:
    verdict, why = jobs.judge(rows_of(jobs))
    assert verdict == "in part"
    assert "mask of as many weights +2.0 at 50 %, +2.0 at 25 %, +2.0 at 10 %" in why
    assert "against a uniformly narrower one -0.5 to -0.5" in why and "2.00 times as fast cropped and 0.90 times" in why
    assert jobs.judge(rows_of(jobs, mask=50.4))[0] == "in part"
    assert jobs.judge(rows_of(jobs, mask=50.6))[0] == "does not"
    assert jobs.judge(rows_of(jobs, speed=1.4))[0] == "does not"
    assert "not measured yet" in jobs.judge(rows_of(jobs, speed=None))[1]
    with pytest.raises(ValueError, match="parts mlp or cifar decide"):
        jobs.judge([])


def test_figures_and_headline(jobs: Any) -> None:
    charts = jobs.figures(rows_of(jobs))
    assert set(charts) == {"accuracy-mlp.svg", "accuracy-cifar.svg"}
    assert charts["accuracy-cifar.svg"]["lines"][0]["x"] == [50.0, 25.0, 10.0]
    assert "ResNet-8, CIFAR-10 (JPEG) +2.0 points; a step at 25 % 2.0 times as fast" in jobs.headline(rows_of(jobs))


def test_arms_and_metrics_are_named_alike(jobs: Any, crop: Any) -> None:
    assert (crop.ACCURACY, crop.FLOPS, crop.STEP, crop.WIDEST) == (jobs.ACCURACY, jobs.FLOPS, jobs.STEP, jobs.WIDEST)
    known = {*crop.CROPS, *jobs.MASKED, "dense", "uniform width", "magnitude", "random"}
    for part in (jobs.mlp, jobs.cifar):
        assert len({str({k: v for k, v in job.items() if k != "seed"}) for job in part().values()}) == 1
        assert {arm for job in part().values() for arm, _ in job["arms"]} <= known


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SPARSELAND_DATA"), reason="SPARSELAND_DATA is not set: no cifar10-jpeg")
@pytest.mark.parametrize(
    "part",
    [
        "mlp",
        pytest.param("cifar", marks=pytest.mark.xfail(reason="1 to 5 points below here: see the folder", strict=True)),
    ],
)
def test_the_acceptance_of_the_card(crop: Any, jobs: Any, part: str) -> None:
    """Three seeds, all densities: the cropped net is at most half a point below SynFlow's mask."""
    found: dict[tuple[str, str], list[float]] = {}
    for job in jobs.PARTS[part]().values():
        arms = [[arm, p] for arm, p in job["arms"] if arm in ("SynFlow mask", "crop")]
        for row in crop.measure(**job | {"arms": arms})["measured"]:
            if row["metric"] == crop.ACCURACY:
                found.setdefault((row["setting"], row["arm"]), []).append(row["value"])
    for setting in {setting for setting, _ in found}:
        gap = statistics.mean(found[setting, "crop"]) - statistics.mean(found[setting, "SynFlow mask"])
        assert gap >= -0.5, (setting, gap)


# ---------------------------------------------------------------------------------------------------------- the folder
@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="nothing is measured there yet")
def test_the_folder_is_fresh_and_its_verdict_the_rule_s(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
