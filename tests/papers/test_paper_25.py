"""Paper 25: its runs on a few pictures, its baselines, and the rule of its verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "25-prosper"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def learning() -> Any:
    return load(SLUG, "learning")


@pytest.fixture(scope="module")
def pictures(learning: Any) -> Any:
    sys.path.append(str(FOLDER))
    try:
        return load(SLUG, "pictures")
    finally:
        sys.path.remove(str(FOLDER))


def values(measured: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(item["arm"], item["metric"]): item["value"] for item in measured}


# -------------------------------------------------------------------------------------------------------- the measures
def test_bars_are_measured(learning: Any, jobs: Any) -> None:
    """Two models, few steps: every metric of the rule is there, and one start is the first of the three."""
    small = {"candidates": 3, "gamma": 2, "max_iter": 3, "n_restarts": 2}
    models = {
        m: {"data": jobs.BAR_DATA[m] | {"n": 60}, "fit": jobs.BAR_FIT[m] | small} for m in ("BSC", "DSC", "MCA", "GSC")
    }
    found = learning.bars(models, seed=0)
    got = values(found["measured"])
    assert found["seconds"] > 0 and found["versions"]["scikit-learn"]
    for model in models:
        assert got[model, jobs.ALL] in (0.0, 100.0) and 0 <= got[model, jobs.BARS] <= 10
        assert 0 <= got[model, jobs.WORST] <= 10 and got[model, jobs.SIGMA] > 0 and 0 < got[model, jobs.CAUSES] < 10
        assert (f"{model}, one start", jobs.ALL) in got


def test_causes_and_noise_are_those_of_the_truth(learning: Any) -> None:
    """Read off models that are given what made the data."""
    from sparseland.features.prosper import sample_bars

    class Told:
        components_ = np.zeros((10, 25))

    bsc, dsc, gsc = (type(name, (Told,), {})() for name in ("BSC", "DSC", "GSC"))
    bsc.pi_, bsc.sigma_ = 0.2, 2.0
    dsc.pi_ = np.array([0.8, 0.15, 0.05])
    gsc.pi_, gsc.noise_covariance_ = np.full(10, 0.2), 4.0
    assert learning.causes(bsc, (0.0, 1.0)) == pytest.approx(2.0) and learning.noise_of(bsc) == 2.0
    assert learning.causes(dsc, (0.0, 1.0, 2.0)) == pytest.approx(2.0)
    assert learning.causes(gsc, (0.0, 1.0)) == pytest.approx(2.0) and learning.noise_of(gsc) == 2.0
    assert (sample_bars(2000, seed=0).states.sum(1)).mean() == pytest.approx(2.0, abs=0.1)


def test_the_maximum_is_measured(learning: Any, jobs: Any) -> None:
    fits = {m: jobs.BAR_FIT[m] | {"max_iter": 3, "candidates": 4, "gamma": 2} for m in ("MCA", "BSC")}
    got = values(learning.maximum(fits, {"n": 150}, seed=0)["measured"])
    for arm in ("MCA", "BSC", "FastICA", "NMF"):
        assert got[arm, jobs.ALL] == 100.0 * (got[arm, jobs.BARS] == 10)
    assert {arm for arm, metric in got if metric == jobs.SIGMA} == {"MCA", "BSC"}


def test_patches_are_measured(pictures: Any, jobs: Any) -> None:
    """Every kind of arm on few patches; what the added noise does is the same for all."""
    fit = jobs.PATCH_FIT | {"max_iter": 10, "candidates": 3, "gamma": 2}
    arms = {m: {"n": 150, "h": 4, "fit": fit} for m in ("BSC", "GSC", "MCA", "MMCA")}
    arms |= {a: {"n": 150, "h": 4} for a in ("L1 dictionary", "FastICA", "NMF, ON and OFF", "noise")}
    got = values(pictures.measure(arms, seed=0)["measured"])
    for arm in arms:
        assert 0 <= got[arm, jobs.GABOR] <= 100
        if arm != "noise":
            assert -20 < got[arm, jobs.GAIN] < 20
    for arm in ("BSC", "GSC", "MCA", "MMCA"):
        assert (arm, jobs.RISE) in got and got[arm, jobs.CAUSES] > 0 and got[arm, jobs.SIGMA] > 0


def test_patches_come_back_to_pixels(pictures: Any) -> None:
    for raw in (False, True):
        photos = pictures.Photos(300, 0, raw=raw)
        assert photos.x.std() == pytest.approx(1.0)
        kept = photos.pixels_of(photos.code(photos.pixels))
        assert ((kept - photos.pixels) ** 2).mean() < 0.02 * (photos.pixels**2).mean()
        noise = np.random.default_rng(0).normal(0, pictures.NOISE, (4000, 144))
        there = photos.code(photos.pixels[:1] + noise)
        assert there.var(0).mean() == pytest.approx(photos.noise(), rel=0.05)
        perfect = photos.code(photos.held)
        assert photos.gain(lambda y, perfect=perfect: perfect, photos.held, 0) > 5  # what whitening leaves out is lost
        assert abs(photos.gain(lambda y: y, photos.held, 0)) < 1.5


# ------------------------------------------------------------------------------------------------------- the verdict
def row(part: str, arm: str, metric: str, mean: float, std: float = 0.0) -> dict[str, Any]:
    return {"part": part, "setting": "", "arm": arm, "metric": metric, "mean": mean, "std": std, "seeds": 3}


def good(jobs: Any) -> list[dict[str, Any]]:
    """Rows of a proof that holds."""
    rows = []
    for m in jobs.MODELS:
        for metric, value in ((jobs.ALL, 100.0), (jobs.BARS, 10.0), (jobs.CAUSES, 2.0), (jobs.SIGMA, 2.05)):
            rows += [row("bars", m, metric, value)]
        rows += [row("bars", f"{m}, one start", jobs.BARS, 9.0)]
        rows += [row("parallel", m, f"difference, {n} processes (1e-10)", 0.01) for n in (2, 4)]
    for m in ("BSC", "DSC", "GSC"):
        rows += [row("patches", m, jobs.GABOR, 60.0), row("patches", m, jobs.RISE, 0.4)]
        rows += [row("patches", m, jobs.CAUSES, 2.0, 0.1), row("patches", m, jobs.GAIN, 3.0)]
    for arm, every, sigma in (("MCA", 100.0, 2.0), ("BSC", 100.0, 3.0), ("FastICA", 0.0, None), ("NMF", 33.3, None)):
        rows += [row("maximum", arm, jobs.ALL, every)]
        rows += [row("maximum", arm, jobs.SIGMA, sigma)] if sigma else []
    return rows


def changed(jobs: Any, part: str, arm: str, metric: str, mean: float, std: float = 0.0) -> list[dict[str, Any]]:
    """`good`, but for one row."""
    rows = good(jobs)
    assert any((r["part"], r["arm"], r["metric"]) == (part, arm, metric) for r in rows)
    return [
        r | {"mean": mean, "std": std} if (r["part"], r["arm"], r["metric"]) == (part, arm, metric) else r for r in rows
    ]


def test_the_rule(jobs: Any) -> None:
    verdict, why = jobs.judge(good(jobs))
    assert verdict == "in part" and "holds in all four" in why and "BSC 10, TSC 10" in why
    bad = [
        ("bars", "MCA", jobs.ALL, 80.0, 0.0, "A fails (MCA 80 % of the runs)"),
        ("bars", "BSC", jobs.SIGMA, 2.2, 0.0, "BSC sigma 2.20 against 2"),
        ("bars", "MCA", jobs.CAUSES, 1.7, 0.0, "MCA causes a picture 1.70"),
        ("patches", "GSC", jobs.GABOR, 39.0, 0.0, "B fails (GSC 39 % Gabor-like)"),
        ("patches", "DSC", jobs.RISE, -0.1, 0.0, "DSC L -0.10"),
        ("patches", "BSC", jobs.CAUSES, 2.0, 0.3, "BSC causes 2.00 ± 0.30"),
        ("maximum", "MCA", jobs.ALL, 66.7, 0.0, "C fails (MCA 67 % of the runs)"),
        ("maximum", "BSC", jobs.SIGMA, 2.1, 0.0, "BSC finds all with 1.05 times"),
        ("maximum", "NMF", jobs.ALL, 100.0, 0.0, "NMF finds all"),
    ]
    for *change, said in bad:
        verdict, why = jobs.judge(changed(jobs, *change))
        assert verdict == "in part" and said in why and "does not hold" in why
    for model in ("TSC", "MMCA"):  # told, but they turn nothing
        assert "holds in all four" in jobs.judge(changed(jobs, "bars", model, jobs.ALL, 0.0))[1]
    two = changed(jobs, "bars", "MCA", jobs.ALL, 80.0)
    two = [r | {"mean": 0.0} if (r["part"], r["arm"], r["metric"]) == ("bars", "GSC", jobs.ALL) else r for r in two]
    assert jobs.judge(two)[0] == "does not"
    apart = changed(jobs, "parallel", "GSC", "difference, 4 processes (1e-10)", 1.5)
    assert jobs.judge(apart)[0] == "does not" and "GSC apart by 1.5e-10" in jobs.judge(apart)[1]
    assert "part patches is not there" in jobs.judge([r for r in good(jobs) if r["part"] != "patches"])[1]
    with pytest.raises(ValueError, match="decides"):
        jobs.judge([r for r in good(jobs) if r["part"] != "bars"])
    assert "BSC 100" in jobs.headline(good(jobs)) and set(jobs.figures(good(jobs))) == {"bars.svg", "patches.svg"}


def test_arms_are_alike(jobs: Any) -> None:
    """Every model sees as many pictures and starts as the others; baselines as many components."""
    bars = jobs.bars()
    assert len(bars) == 10 and {len(job["models"]) for job in bars.values()} == {6}
    assert {m["data"]["n"] for job in bars.values() for m in job["models"].values()} == {1000}
    assert {m["fit"]["n_restarts"] for job in bars.values() for m in job["models"].values()} == {jobs.RESTARTS}
    assert {arm["h"] for job in jobs.patches().values() for arm in job["arms"].values()} == {64}


def test_the_folder_is_that_of_its_numbers(jobs: Any) -> None:
    check_folder(FOLDER, jobs)


@pytest.mark.slow
def test_the_card_s_bars(learning: Any, jobs: Any) -> None:
    """The part as it is recorded, for two seeds: all bars by the four models of the claim."""
    for job in list(jobs.bars().values())[:2]:
        job = job | {"models": {m: job["models"][m] for m in jobs.SURE}}
        got = values(learning.bars(**job)["measured"])
        assert all(got[m, jobs.ALL] == 100.0 for m in jobs.SURE)


@pytest.mark.slow
def test_the_card_s_processes(learning: Any, jobs: Any) -> None:
    measured = learning.parallel(**next(iter(jobs.parallel().values())))["measured"]
    assert len(measured) == 6 * 2 * 3 and max(item["value"] for item in measured) <= 1.0
