"""Paper 26: its data, its runs on few patches, and the rule of its verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "26-mc-fc-sae"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def measuring() -> Any:
    sys.path.append(str(FOLDER))
    try:
        return load(SLUG, "measuring")
    finally:
        sys.path.remove(str(FOLDER))


def test_patches_of_the_splits_never_overlap(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos whose pixels are their own numbers: no pixel of a test patch is in a training patch."""
    number = torch.arange(427 * 640, dtype=torch.float32).view(427, 640)
    monkeypatch.setattr(measuring, "photos", lambda: (number, number + number.numel()))
    seen = {part: set(measuring.patches(4000, 0, part).flatten().tolist()) for part in ("train", "validation", "test")}
    assert not (seen["train"] & seen["test"] or seen["train"] & seen["validation"] or seen["test"] & seen["validation"])
    assert len(seen["train"]) > len(seen["test"]) > len(seen["validation"])


def test_whitened_patches_are_white_and_scaled_ones_have_norm(measuring: Any) -> None:
    x, test = measuring.data("rms", 0, 8000)
    torch.testing.assert_close(x.square().mean(1), torch.ones(8000), rtol=1e-4, atol=1e-4)
    assert test.shape == (8192, 64)
    white, _ = measuring.data("whitened", 0, 8000)
    spread = torch.linalg.eigvalsh(torch.cov(white.t().double()))  # 1, or less where noise is not blown up
    assert float(spread.max()) == pytest.approx(1.0, abs=1e-3) and int((spread > 0.99).sum()) >= 20
    assert float(white.mean(0).abs().max()) < 1e-3


def few(measuring: Any, label: str, activation: str, **more: Any) -> dict[str, float]:
    given = {"tokens": 6000, "steps": 250, "batch": 512, "lr": 5e-3, "seed": 0, "split": "validation"} | more
    sae = {"d_sae": 128, "k": 5, "activation": activation, "dead_window": 50_000, **given.pop("sae", {})}
    found = measuring.measure(label, sae, given.pop("source", "rms"), **given)
    return {item["metric"]: item["value"] for item in found["measured"]}


def test_mutual_choice_beats_topk_at_the_same_budget(measuring: Any, jobs: Any) -> None:
    """Assertion A in seconds: one seed, 128 features, 250 steps."""
    found = {label: few(measuring, label, arm["activation"]) for label, arm in jobs.ARMS.items()}
    assert found["MC"][jobs.NMSE] < 0.95 * found["TopK"][jobs.NMSE]
    for label in ("TopK", "MC"):
        assert found[label][jobs.L0] == pytest.approx(5, rel=0.02)
    assert found["MC"][jobs.SPREAD] > 0 and found["TopK"][jobs.SPREAD] == 0
    assert found["MC then FC"][jobs.L0] <= 5.0 and found["MC then FC"][jobs.SPREAD] > 0


@pytest.mark.slow
def test_the_card_s_assertions_a_at_its_size(measuring: Any, jobs: Any) -> None:
    """60,000 patches, 256 features, 1,200 steps, three seeds."""
    nmse: dict[str, float] = {}
    for label, arm in jobs.ARMS.items():
        for seed in range(3):
            sae = {"d_sae": 256, "k": 5, "dead_window": 100_000} | arm
            found = measuring.measure(label, sae, "rms", seed=seed, **jobs.COMMON)["measured"]
            nmse[label] = nmse.get(label, 0.0) + next(m["value"] for m in found if m["metric"] == jobs.NMSE) / 3
    assert nmse["MC"] <= 0.95 * nmse["TopK"] and nmse["MC then FC"] <= 0.97 * nmse["TopK"]


@pytest.mark.slow
def test_the_card_s_assertions_b_at_its_size(measuring: Any, jobs: Any) -> None:
    """1,024 features on patches as they are: hardly a feature falls silent with aux_k, none under feature choice."""
    sae = {"d_sae": 1024, "k": 5, "dead_window": 100_000}
    found = {}
    for label, arm in {"MC + aux_k": jobs.SECOND["MC + aux_k"], "MC then FC": jobs.ARMS["MC then FC"]}.items():
        values = measuring.measure(label, sae | arm, "patches", seed=0, **jobs.COMMON)["measured"]
        found[label] = next(m["value"] for m in values if m["metric"] == jobs.SILENT)
    assert found["MC + aux_k"] <= 2 and found["MC then FC"] == 0


# ------------------------------------------------------------------------------------------------------- the verdict
def rows(jobs: Any, mc: float = 18.0, fc: float = 19.0, **dead: float) -> list[dict[str, Any]]:
    """Parts patches and dead as the card would have them, with TopK at 20 %."""
    base = {"TopK": 20.0, "MC": mc, "MC then FC": fc}
    found = []
    for arm, value in base.items():
        spread = 0.0 if arm == "TopK" else 3.0
        metrics = {jobs.NMSE: value, jobs.L0: 5.0, jobs.SPREAD: spread, jobs.THRESHOLD: value, jobs.SILENT: 0.0}
        found += [{"part": "patches", "arm": arm, "metric": m, "mean": v, "std": 0.1} for m, v in metrics.items()]
    silent = {"TopK": 6.0, "MC": 3.0, "MC then FC": 0.0, "MC + aux_k": 1.0} | dead
    found += [{"part": "dead", "arm": a, "metric": jobs.SILENT, "mean": v, "std": 0.1} for a, v in silent.items()]
    return found


def test_all_assertions_held_is_in_part(jobs: Any) -> None:
    verdict, why = jobs.judge(rows(jobs, fc=18.5))
    assert verdict == "in part" and "all of the card's assertions hold" in why and "11 of 11" in why


@pytest.mark.parametrize(
    ("given", "verdict", "text"),
    [
        ({"mc": 19.5}, "does not", "Mutual choice does not gain"),
        ({"fc": 19.6}, "in part", "Mutual choice gains, feature choice does not"),
        ({"fc": 19.0}, "in part", "MC then FC at most 1.04 of MC's"),
        ({"fc": 18.5, "MC + aux_k": 2.5}, "in part", "not held: MC + aux_k at most 2 % dead"),
        ({"fc": 18.5, "TopK": 4.0}, "in part", "TopK without aux at least 5 % dead"),
        ({"fc": 18.5, "MC then FC": 0.1}, "in part", "FC 0 dead"),
    ],
)
def test_what_fails_is_named(jobs: Any, given: dict[str, float], verdict: str, text: str) -> None:
    found, why = jobs.judge(rows(jobs, **given))
    assert found == verdict and text in why


def test_without_its_deciding_part_there_is_no_verdict(jobs: Any) -> None:
    with pytest.raises(ValueError, match="part patches decides"):
        jobs.judge([r for r in rows(jobs) if r["part"] == "dead"])


def test_the_parts_have_three_seeds_or_more_and_equal_budgets(jobs: Any) -> None:
    for part in jobs.PARTS:
        tasks = jobs.PARTS[part]()
        assert len({key.rpartition("/")[2] for key in tasks}) >= 3
        assert {(t["steps"], t["batch"], t["lr"], t["sae"]["k"]) for t in tasks.values()} == {(1200, 512, 2e-3, 5)}


@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="the runs are not finished")
def test_the_folder_keeps_what_it_says(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
