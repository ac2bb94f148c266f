"""Paper 08: arms that differ in their nodes only, paired differences, and the rule of the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from sparseland.weights import nodes
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "08-random-search"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def arms() -> Any:
    return load(SLUG, "arms")


def row(setting: str, arm: str, metric: str, mean: float, std: float = 0.3) -> dict[str, Any]:
    return {
        "part": "fashion", "setting": setting, "arm": arm, "metric": metric, "mean": mean, "std": std, "seeds": 20,
    }  # fmt: skip


def rows_of(jobs: Any, final: float = 0.1, area: float = -0.1, spread: float = 0.5, dense: float = 86) -> Any:
    made = [row("0%", "dense", jobs.TEST, dense)]
    for setting in ("50%", "90%"):
        made += [row(setting, arm, jobs.TEST, 84.0) for arm in ("search", "random")]
        for metric, mean in ((jobs.TEST, final), (jobs.AREA, area), (jobs.FIRST, 1.0)):
            name = f"paired difference: {metric.replace('(%)', '(points)')}"
            made.append(row(setting, "search - random", name, mean, spread))
    return made


def test_names_agree(jobs: Any, arms: Any) -> None:
    assert (jobs.TEST, jobs.FIRST, jobs.AREA, jobs.LOSS) == (arms.TEST, arms.FIRST, arms.AREA, arms.LOSS)
    assert jobs.difference(rows_of(jobs), jobs.TEST)["90%"]["metric"] == arms.paired(arms.TEST)


def test_what_decides(jobs: Any) -> None:
    verdict, why = jobs.judge(rows_of(jobs))
    assert verdict == "reproduces" and "2.0 points below dense at 90 %" in why
    assert "+0.10 (d +0.20) at 50%, +0.10 (d +0.20) at 90% points from a random one over 20 pairs" in why
    assert jobs.judge(rows_of(jobs, area=0.5))[0] == "in part"  # ahead: 0.5 - 2.093 * 0.5 / sqrt(20) > 0
    assert "ahead on average over the epochs at 50%, 90%" in jobs.judge(rows_of(jobs, area=0.5))[1]
    assert jobs.judge(rows_of(jobs, area=0.2))[0] == "reproduces"  # not told from zero
    assert jobs.judge(rows_of(jobs, final=0.4))[0] == "does not"  # 0.4 + 1.729 * 0.5 / sqrt(20) > 0.5
    assert jobs.judge(rows_of(jobs, final=-0.4))[0] == "does not"
    assert (
        "equal within 0.5 points not at 50%, 90% (by the weaker rule everywhere)"
        in jobs.judge(rows_of(jobs, final=0.4))[1]
    )
    assert jobs.judge(rows_of(jobs, dense=87.5))[0] == "does not"  # 3.5 below dense
    with pytest.raises(ValueError, match="part fashion decides"):
        jobs.judge([])


def test_quantiles_are_student_s(jobs: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    for table, level in ((jobs.T_90, 0.95), (jobs.T_95, 0.975)):
        assert all(value == pytest.approx(stats.t.ppf(level, df), abs=6e-4) for df, value in table.items())


def test_figures_and_headline(jobs: Any) -> None:
    charts = jobs.figures(rows_of(jobs))
    assert set(charts) == {"accuracy.svg", "first-epoch.svg", "difference.svg"}
    assert {line["label"]: line["x"] for line in charts["accuracy.svg"]["lines"]} == {
        "search": [50.0, 10.0],
        "random": [50.0, 10.0],
    }
    assert jobs.headline(rows_of(jobs)).endswith("+0.10 points after training (50%), +1.00 after one epoch (50%)")


def test_jobs_differ_in_the_seed_only(jobs: Any) -> None:
    made = jobs.fashion()
    assert [job.pop("seed") for job in made.values()] == list(range(20)) and len({str(j) for j in made.values()}) == 1


def test_one_job_on_digits(arms: Any) -> None:
    """Every arm at its sparsity, differences of the very numbers, and what the search costs."""
    names = ["search", "random", "redrawn", "magnitude"]
    made = arms.measure("digits", [20, 20], 200, 0.2, 2, 50, 0.05, 100, 5, [0.5], names, seed=3)["measured"]
    found = {(m["setting"], m["arm"], m["metric"]): m["value"] for m in made}
    assert ("0%", "dense", arms.TEST) in found and all(("50%", arm, arms.AREA) in found for arm in names)
    for arm in ("search", "redrawn", "magnitude"):
        gap = found["50%", arm, arms.TEST] - found["50%", "random", arms.TEST]
        assert found["50%", f"{arm} - random", arms.paired(arms.TEST)] == pytest.approx(gap, abs=2e-4)
    small, dense = 64 * 10 + 10 * 10 + 10 * 10, 64 * 20 + 20 * 20 + 20 * 10
    share = 5 * 100 * 2 * small / (3 * 2 * dense * 200 * 2)
    assert found["50%", "search", arms.COST] == pytest.approx(100 * share, rel=0.02)


def test_searched_nodes_start_lower_and_the_control_is_independent(arms: Any) -> None:
    data = arms.load("digits", 300, 0.2)
    parent = sl.zoo.build("mlp-20-20", in_shape=data.shape, classes=10, seed=0)
    layers = nodes.hidden(parent)

    def losses(how: str) -> list[float]:
        kept = [arms.alive(how, parent, layers, 0.5, 30, data.train, data, s)[0] for s in range(5)]
        return [arms.loss_of(nodes.cut(parent, layers, z), data.train, data) for z in kept]

    assert max(losses("search")) < sum(losses("random")) / 5
    chosen = arms.alive("magnitude", parent, layers, 0.5, 1, data.train, data, 0)[0]["fc1"]
    assert torch.equal(chosen, parent.fc1.weight.norm(dim=1) >= parent.fc1.weight.norm(dim=1).sort().values[10])


@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="nothing is measured there yet")
def test_the_folder_is_fresh_and_its_verdict_the_rule_s(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
