"""Paper 31: every arm starts from the same weights, costs are counted, and each clause of the rule can turn it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from sparseland.train import TrainConfig, Trainer
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "31-lottery-jackpots"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def search() -> Any:
    return load(SLUG, "search")


def bench(search: Any) -> Any:
    config = TrainConfig(model="mlp-16", data="digits", epochs=1, limit=64, batch_size=32, lr=0.05)
    data = sl.data.load("digits", limit=64, seed=0)
    return search.Bench(config, data, Trainer(config, dataset=data).model)


def test_arms_start_alike_and_are_counted(search: Any) -> None:
    made = bench(search)
    one, two = made.trainer(1), made.trainer(2)
    assert two.steps == 2 * one.steps and one.model is not two.model
    assert all(torch.equal(v, two.state()[k]) for k, v in one.state().items())
    made.magnitude[0.5] = made.prune(made.trainer(1), sl.methods.Magnitude(0.5))
    made.arm("", "dense", 1, lambda t: None)
    made.arm("50%", "search", 2, lambda t: t.fit(sl.methods.Jackpots(0.5)), 0.5)
    made.arm("50%", "IMP", 1, lambda t: search.imp(made, t, 0.5, 2), 0.5)
    found = {(r["arm"], r["metric"]): r["value"] for r in made.rows}
    assert ("dense", search.FLOPS) not in found and ("dense", search.ACCURACY) in found
    assert 2 * (2 * 0.45 + 1) / 3 < found["search", search.FLOPS] < 2 * (2 * 0.55 + 1) / 3  # 2 f_S + f_D a step
    assert found["IMP", search.FLOPS] == pytest.approx(0.707 + 0.5, abs=0.02)
    assert 0 <= found["search", search.SHARED] <= 100 and ("search", search.SWAPS) in found
    for arm in ("search", "IMP"):
        assert found[arm, search.SECONDS] > 0


def rows_of(jobs: Any, **changes: float) -> list[dict[str, Any]]:
    accuracy = {
        "dense": 86.0, "magnitude mask": 45.0, jobs.JACKPOT: 81.0, jobs.QUICK: 80.0, jobs.SLOW: 78.0,
        f"{jobs.JACKPOT}, restricted": 81.0, jobs.IMP: 86.0, f"magnitude, weights trained {jobs.LONG} epochs": 84.0,
    }  # fmt: skip
    flops, seconds = {jobs.QUICK: 0.7, jobs.IMP: 7.0}, {jobs.QUICK: 1.0, jobs.IMP: 6.0}
    for key, value in changes.items():
        where, name = key.split("_")
        {"a": accuracy, "f": flops, "s": seconds}[where][getattr(jobs, name)] = value
    made = []
    for setting in ("95%", "98%"):
        for metric, table in ((jobs.ACCURACY, accuracy), (jobs.FLOPS, flops), (jobs.SECONDS, seconds)):
            made += [
                {"part": "fashion", "setting": "" if arm == "dense" else setting, "arm": arm, "metric": metric,
                 "mean": mean, "std": 0.3, "seeds": 3}
                for arm, mean in table.items()
                if arm != "dense" or setting == "95%"
            ]  # fmt: skip
    return made


def test_what_decides(jobs: Any) -> None:
    verdict, why = jobs.judge(rows_of(jobs))
    assert verdict == "in part" and "gains +36.0 to +36.0 points without moving a weight" in why
    assert "10.0 times their training FLOPs and 6.0 times their seconds" in why
    assert "ends +3.0 to +3.0 points from the searched mask" in why
    for change in ({"a_JACKPOT": 59.0}, {"a_SLOW": 80.5}, {"f_IMP": 2.0}, {"s_IMP": 2.9}):
        assert jobs.judge(rows_of(jobs, **change))[0] == "does not", change
    with pytest.raises(ValueError, match="part fashion decides"):
        jobs.judge([])
    assert "45.0 to 81.0 at 95%" in jobs.headline(rows_of(jobs))
    charts = jobs.figures(rows_of(jobs))
    assert set(charts) == {"cost-95.svg", "cost-98.svg"}
    lines = {line["label"]: line for line in charts["cost-95.svg"]["lines"]}
    assert lines["jackpot"]["y"] == [81.0, 80.0] and lines["IMP"]["x"] == [7.0]


def test_jobs_differ_by_seed_only(jobs: Any) -> None:
    for part in jobs.PARTS.values():
        assert len({str({k: v for k, v in job.items() if k != "seed"}) for job in part().values()}) == 1


@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="the paper's runs are not there yet")
def test_the_folder_is_its_numbers(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
