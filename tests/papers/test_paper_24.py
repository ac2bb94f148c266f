"""Paper 24: all arms end in one shape, the rule of the verdict, and the card's acceptance in full (slow)."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from sparseland.train import TrainConfig, Trainer
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "24-masksparsity"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def slim() -> Any:
    return load(SLUG, "slim")


def test_all_arms_end_in_one_shape_and_say_everything(slim: Any, jobs: Any) -> None:
    config = TrainConfig(data="digits", limit=100, epochs=1, lr=0.05, seed=0, evaluate_every=1, threads=1)
    data = sl.data.load("digits", limit=100)
    torch.manual_seed(0)
    one = slim.Seed(Trainer(config, dataset=data, model=slim.net("resnet-8-w4", data.shape)), 0.3, 1e-3)
    one.shared()
    one.arms(0.5, one.trainer.steps, 0)
    rows = {(r["arm"], r["metric"]): r["value"] for r in one.rows}
    arms = ("MaskSparsity", "slimming", "slimming twice", "magnitude", "group lasso", "random")
    assert {arm for arm, _ in rows} == set(arms)
    assert len({rows[arm, slim.FLOPS] for arm in arms}) == 1
    assert {m for arm, m in rows if arm == "magnitude"} == {slim.BEFORE, slim.CUT, slim.TUNED, slim.FLOPS}
    assert {slim.KEPT, slim.REMOVED} <= {m for arm, m in rows if arm == "MaskSparsity"}
    assert (slim.TUNED, slim.CUT, slim.KEPT, slim.REMOVED) == (jobs.ACCURACY, jobs.CUT, jobs.KEPT, jobs.REMOVED)


def test_the_net_of_the_card(slim: Any) -> None:
    model = slim.net("conv4", (1, 8, 8))
    assert [m.out_channels for m in model if isinstance(m, torch.nn.Conv2d)] == [32, 32, 64, 64]
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_as_many_of_the_best(slim: Any) -> None:
    keep = {"a": torch.tensor([True, False, True, False])}
    assert slim.as_many({"a": torch.tensor([0.1, 0.4, 0.2, 0.3])}, keep)["a"].tolist() == [False, True, False, True]


# ------------------------------------------------------------------------------------------------------------- verdict
def rows_of(jobs: Any, kept: float = 1.1, removed: float = 0.02, **means: float) -> list[dict[str, Any]]:
    found = {
        "MaskSparsity": 99.0, "slimming": 93.0, "slimming twice": 97.0, "magnitude": 84.0, "random": 80.0,
        "group lasso": 75.0, "dense": 99.2,
    } | {name.replace("_", " "): value for name, value in means.items()}  # fmt: skip

    def row(setting: str, arm: str, metric: str, mean: float) -> dict[str, Any]:
        return {
            "part": "digits",
            "setting": setting,
            "arm": arm,
            "metric": metric,
            "mean": mean,
            "std": 0.3,
            "seeds": 5,
        }

    made = [row("", "dense", jobs.ACCURACY, found["dense"])]
    for setting in (jobs.QUARTER, jobs.EIGHTH):
        made += [row(setting, arm, metric, mean) for arm, mean in found.items() for metric in (jobs.ACCURACY, jobs.CUT)]
        made += [row(setting, "slimming", jobs.KEPT, 0.2), row(setting, "MaskSparsity", jobs.KEPT, kept)]
        made += [row(setting, "slimming", jobs.REMOVED, 0.3), row(setting, "MaskSparsity", jobs.REMOVED, removed)]
    return made


def test_what_decides(jobs: Any) -> None:
    verdict, why = jobs.judge(rows_of(jobs))
    assert verdict == "in part"
    assert "MaskSparsity is +6.0 points from slimming, +2.0 from slimming trained as long, +15.0 from magnitude" in why
    assert "with an eighth it is +6.0 from slimming" in why
    assert jobs.judge(rows_of(jobs, slimming=96.1))[0] == "does not"
    assert jobs.judge(rows_of(jobs, kept=0.79))[0] == "does not"
    assert jobs.judge(rows_of(jobs, removed=0.05))[0] == "does not"
    with pytest.raises(ValueError, match="part digits decides"):
        jobs.judge([])


def test_figures_and_headline(jobs: Any) -> None:
    charts = jobs.figures(rows_of(jobs))
    assert set(charts) == {"accuracy-digits.svg", "cut-digits.svg"}
    lines = charts["accuracy-digits.svg"]["lines"]
    assert len(lines) == 6 and lines[0]["x"] == [25.0, 12.5]
    assert jobs.headline(rows_of(jobs)).endswith("99.0 %, slimming 93.0 %, dense 99.2 %")


def test_jobs_differ_in_the_seed_only(jobs: Any) -> None:
    for part in jobs.PARTS.values():
        assert len({str({k: v for k, v in job.items() if k != "seed"}) for job in part().values()}) == 1


@pytest.mark.slow
def test_the_acceptance_of_the_card(slim: Any, jobs: Any) -> None:
    """Three seeds, a quarter of the channels: 3 points above slimming, kept scales ≥ 0.8, removed ones < 0.05."""
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(3):
        job = jobs.digits()[f"digits/{seed}"] | {"left": [0.25], "everything": False}
        for row in slim.measure(**job)["measured"]:
            found.setdefault((row["arm"], row["metric"]), []).append(row["value"])
    mean = {key: statistics.mean(values) for key, values in found.items()}
    assert mean["MaskSparsity", slim.TUNED] >= mean["slimming", slim.TUNED] + 3
    assert mean["MaskSparsity", slim.KEPT] >= 0.8 and mean["MaskSparsity", slim.REMOVED] < 0.05


# ---------------------------------------------------------------------------------------------------------- the folder
@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="nothing is measured there yet")
def test_the_folder_is_fresh_and_its_verdict_the_rule_s(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
