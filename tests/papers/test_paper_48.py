"""Paper 48: what its jobs measure, the rule of the verdict, and the card's assertions in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "48-sns"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def measuring() -> Any:
    return load(SLUG, "measuring")


def values(found: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    return {(m["setting"], m["arm"], m["metric"]): m["value"] for m in found["measured"]}


def test_names_are_the_same_in_both_files(jobs: Any, measuring: Any) -> None:
    for name in ("NEWTON", "SINKHORN", "DIGITS", "SECONDS", "RATIO", "AGREE", "SHARE", "MASS", "PLAIN"):
        assert getattr(jobs, name) == getattr(measuring, name)
    assert f"{measuring.PLAIN}, 20 x the time" == jobs.MORE


def test_every_job_has_three_seeds_and_the_card_s_numbers(jobs: Any) -> None:
    counts = {part: len(function()) for part, function in jobs.PARTS.items()}
    assert counts == {"assignment": 3, "images": 18, "agreement": 3, "sweep": 3, "course": 3}
    first = jobs.assignment()["assignment//0"]
    assert (first["n"], first["eta"]) == (500, 1200.0) and first["arms"][jobs.MASS] == {"warmup": 20}
    assert first["arms"][jobs.PAPER] == {"rule": "density", "warmup": 20, "max_newton": 100, "density": 3.0}
    settings = {job["setting"] for job in jobs.images().values()}
    assert settings == set(jobs.CASES) and jobs.agreement()["agreement//1"]["etas"] == [10.0, 50.0, 100.0]


def test_assignment_measures_the_mass_rule_and_sinkhorn(measuring: Any) -> None:
    arms = {"mass rule": {"warmup": 20}, "fixed": {"warmup": 20, "rule": "density", "density": 8.0}}
    found = values(measuring.assignment(120, 300.0, arms, 50, 0))
    for arm in arms:
        assert found["", arm, measuring.NEWTON] <= 12 and found["", arm, measuring.DIGITS] >= 11
        assert found["", arm, measuring.SINKHORN] == 20 and found["", arm, measuring.SECONDS] > 0
    assert found["", measuring.PLAIN, measuring.SINKHORN] == 50
    assert found["", f"{measuring.PLAIN}, 20 x the time", measuring.SINKHORN] >= 200
    assert found["", "mass rule", measuring.RATIO] > 0


def test_densities_agreement_and_sweep_are_measured(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ot")
    monkeypatch.delenv("SPARSELAND_DATA", raising=False)
    found = values(measuring.images("gaussians", 2.0, 300.0, {"mass rule": {}}, 100, "here", 0))
    assert found["here", "mass rule", measuring.DIGITS] >= 11
    with pytest.raises(ValueError, match="set SPARSELAND_DATA"):
        measuring.images("mnist-test", 2.0, 300.0, {}, 1, "here", 0)
    found = values(measuring.agreement(10, [10.0, 50.0], 0))
    assert set(found) == {(f"eta {eta}", "mass rule", measuring.AGREE) for eta in (10, 50)}
    assert min(found.values()) >= 8
    found = values(measuring.sweep(60, [10.0, 900.0], [1e-3], {"mass rule": {"warmup": 1}}, 0))
    dense, sparse = (found[f"eta {eta}, to 0.001", "mass rule", measuring.SHARE] for eta in (10, 900))
    assert dense > 3 * sparse  # the plan of a large eta is sparse, that of a small one is not


def test_the_course_counts_passes(measuring: Any) -> None:
    found = values(measuring.course(100, 300.0, [5, 20, 200], 0))
    digits = {(setting, arm): value for (setting, arm, _), value in found.items()}
    assert digits["200 passes", "mass rule"] >= 11 > digits["200 passes", measuring.PLAIN]
    assert digits["5 passes", "mass rule"] == digits["5 passes", measuring.PLAIN] < digits["20 passes", measuring.PLAIN]


def test_images_are_those_of_the_files(measuring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 6), dtype=np.uint8)
    (tmp_path / "mnist-test").mkdir()
    np.savez(tmp_path / "mnist-test" / "test.npz", images=pixels)
    monkeypatch.setenv("SPARSELAND_DATA", str(tmp_path))
    one, other = (values(measuring.images("mnist-test", 1.0, 200.0, {"mass rule": {}}, 30, "s", k)) for k in (0, 1))
    assert one["s", "mass rule", measuring.DIGITS] >= 11 <= other["s", "mass rule", measuring.DIGITS]


def rows_of(jobs: Any, **change: float) -> list[dict[str, Any]]:
    at = {
        "steps": 8.0,
        "digits": 12.0,
        "late": 6.0,
        "ratio": 7.0,
        "agree": 9.0,
        "theirs": 60.0,
        "reached": 11.5,
    } | change
    shared = {"std": 0.1, "seeds": 3}
    made = []
    for arm in (jobs.MASS, jobs.EIGHT):
        made += [("assignment", "", arm, jobs.NEWTON, at["steps"]), ("assignment", "", arm, jobs.DIGITS, at["digits"])]
    made += [("assignment", "", jobs.MORE, jobs.DIGITS, at["late"]), ("assignment", "", jobs.PAPER, jobs.NEWTON, 15.0)]
    made += [
        ("assignment", "", jobs.PAPER, jobs.DIGITS, 12.0),
        ("agreement", "eta 10", jobs.MASS, jobs.AGREE, at["agree"]),
    ]
    for case in jobs.CASES:
        made.append(("images", case, jobs.MASS, jobs.RATIO, at["ratio"]))
        made.append(("images", case, jobs.PAPER, jobs.NEWTON, at["theirs"]))
        made.append(("images", case, jobs.PAPER, jobs.DIGITS, at["reached"]))
    keys = ("part", "setting", "arm", "metric", "mean")
    return [dict(zip(keys, row, strict=True)) | shared for row in made]


def test_the_rule(jobs: Any) -> None:
    verdict, why = jobs.judge(rows_of(jobs))
    assert verdict == "reproduces" and "8.0 Newton steps with the mass rule and 8.0 with 8 entries" in why
    assert why.endswith("MNIST, squared L2 60 steps to 1e-11.5, MNIST, L1 60 steps to 1e-11.5.")
    for change in ({"theirs": 70.0}, {"reached": 3.0}):  # 66 steps for squared L2 at the most
        assert jobs.judge(rows_of(jobs, **change))[0] == "in part"
    for change in ({"steps": 12.1}, {"digits": 10.9}, {"late": 8.0}, {"ratio": 1.0}, {"agree": 7.9}):
        assert jobs.judge(rows_of(jobs, **change))[0] == "does not"
    fewer = [row for row in rows_of(jobs) if row["setting"] != jobs.CASES[-1]]
    assert jobs.judge(fewer)[0] == "does not"  # every pair has to be there
    with pytest.raises(ValueError, match="part assignment decides"):
        jobs.judge([row for row in rows_of(jobs) if row["part"] != "assignment"])


def test_nothing_in_the_folder_is_stale(jobs: Any) -> None:
    check_folder(FOLDER, jobs)


@pytest.mark.slow
def test_the_card_s_densities(measuring: Any, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B on Fashion-MNIST: the mass rule is done, with both costs, in less time than Sinkhorn needs to 1e-9."""
    if not (data_folder / "fashion-mnist" / "test.npz").is_file():
        pytest.skip(f"no fashion-mnist in {data_folder}")
    monkeypatch.setenv("SPARSELAND_DATA", str(data_folder))
    for p, most in ((2.0, 5000), (1.0, 2000)):
        found = values(measuring.images("fashion-mnist", p, 1200.0, {"mass rule": {}}, most, "s", 0))
        assert found["s", "mass rule", measuring.DIGITS] >= 11
        passes = found["s", "mass rule", measuring.SINKHORN] + 4 * found["s", "mass rule", measuring.NEWTON]
        assert found["s", measuring.PLAIN, measuring.SINKHORN] > passes
