"""Paper 54: equal gradients, IMP's cost over all its rounds, whole filters, and each clause of the rule can turn it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from sparseland.train import TrainConfig
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "54-bip"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def solve() -> Any:
    return load(SLUG, "solve")


def test_arms_start_alike_and_all_rounds_count(solve: Any) -> None:
    config = TrainConfig(model="mlp-16", data="digits", epochs=1, limit=64, batch_size=32, lr=0.05)
    dense = solve.dense_net(config, 20)
    assert len(dense.supply.dataset.test) == 20
    arms, words = solve.Arms(dense, 2, None), sl.methods
    assert all(torch.equal(v, arms.trainer().state()[k]) for k, v in dense.state().items())
    arms.run("", {"dense": lambda t: None})
    work = {"BiP": lambda t: t.fit(words.BiP(0.5)), "IMP": lambda t: arms.imp(t, 0.5, 2)}
    arms.run("k=0.5", work, words.Magnitude(0.5))
    found = {(r["arm"], r["metric"]): r["value"] for r in arms.rows}
    assert ("dense", solve.FLOPS) not in found
    assert found["IMP", solve.FLOPS] == pytest.approx(0.707 + 0.5, abs=0.02)  # two rounds of one epoch
    assert found["BiP", solve.FLOPS] == pytest.approx(0.5 + (2 * 0.5 + 1) / 3, abs=0.05)  # an epoch each
    assert 0 <= found["BiP", solve.SHARED] <= 100


def rows_of(jobs: Any, **changes: float) -> list[dict[str, Any]]:
    made = []
    for k in jobs.KEPT:
        long = f"IMP, {jobs.ROUNDS[f'{k:g}']} rounds"
        accuracy = dict.fromkeys(jobs.VARIANTS, 82.0) | {jobs.OMP: 80.0, jobs.SHORT: 82.5, long: 82.4}
        flops, seconds = (
            {"BiP": 2.5, jobs.SHORT: 7.0, long: 8.0},
            dict.fromkeys(accuracy, 3.0) | {jobs.SHORT: 7.0, long: 18.0},
        )
        shared = {"BiP": 62.0}
        for key, value in changes.items():
            where, _, name = key.partition("_")
            table = {"a": accuracy, "f": flops, "s": seconds, "m": shared}[where]
            table[{"long": long, "omp": jobs.OMP, "bip": "BiP"}[name]] = value
        tables = ((jobs.ACCURACY, accuracy), (jobs.FLOPS, flops), (jobs.SECONDS, seconds), (jobs.SHARED, shared))
        made += [
            {
                "part": "fashion",
                "setting": f"k={k:g}",
                "arm": arm,
                "metric": metric,
                "mean": mean,
                "std": 0.3,
                "seeds": 3,
            }
            for metric, table in tables
            for arm, mean in table.items()
        ]
    return made


def test_what_decides(jobs: Any) -> None:
    verdict, why = jobs.judge(rows_of(jobs))
    assert verdict == "in part" and "BiP is +2.0 points from one-shot" in why and "shares 62 %" in why
    assert "costs 3.2 to 3.2 times its training FLOPs and 6.0 to 6.0 times its seconds" in why
    for change in ({"a_omp": 80.6}, {"m_bip": 91.0}, {"a_long": 82.6}, {"f_long": 4.9}, {"s_long": 5.9}):
        assert jobs.judge(rows_of(jobs, **change))[0] == "does not", change
    with pytest.raises(ValueError, match="part fashion decides"):
        jobs.judge([])
    assert "2% left +2.0 against one shot, -0.4 against IMP" in jobs.headline(rows_of(jobs))
    assert set(jobs.figures(rows_of(jobs))) >= {"cost-0.05.svg", "cost-0.02.svg"}


def test_filters_are_told(jobs: Any) -> None:
    extra = [
        {"part": "filters", "setting": "filter k=0.5", "arm": arm, "metric": jobs.ACCURACY, "mean": mean, "std": 0.1}
        for arm, mean in (("BiP", 80.0), ("largest norm, trained", 81.0))
    ]  # fmt: skip
    assert "against the largest norms: filter k=0.5 -1.0" in jobs.judge(rows_of(jobs) + extra)[1]


def test_jobs_differ_by_seed_only(jobs: Any) -> None:
    for part in jobs.PARTS.values():
        assert len({str({k: v for k, v in job.items() if k != "seed"}) for job in part().values()}) == 1


@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="the paper's runs are not there yet")
def test_the_folder_is_its_numbers(jobs: Any) -> None:
    check_folder(FOLDER, jobs)


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="the card's assertion: measured are 1.2 points, see the folder's verdict"
)
def test_the_cards_gain_over_one_shot_pruning() -> None:
    result = sl.papers.read(FOLDER)
    mean = {r.arm: r.mean for r in result.ours if (r.setting, r.metric) == ("k=0.02", "test accuracy (%)")}
    assert mean["BiP"] >= mean["one shot (OMP)"] + 1.5
