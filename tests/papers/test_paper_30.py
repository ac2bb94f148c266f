"""Paper 30: arms that differ in their penalty only, cuts that leave the net as it is, and the rule of the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "30-sparse-then-prune-vit"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def vit() -> Any:
    pytest.importorskip("transformers")
    return load(SLUG, "vit")


def rows_of(jobs: Any, **gains: float) -> list[dict[str, Any]]:
    made = []
    for part, gain in gains.items():
        numbers = [
            ("", jobs.PAPER, jobs.GAINED, gain), ("", "entropy - none", jobs.GAINED, 2.0),
            ("dense", jobs.PAPER, jobs.LOST, 0.1), ("dense", "none", jobs.ENTROPY, 2.5),
            ("dense", "none", jobs.ACCURACY, 80.0), ("pruned 30%", "none", jobs.ACCURACY, 70.0),
        ]  # fmt: skip
        for setting, arm, metric, mean in numbers:
            about = {"part": part, "setting": setting, "arm": arm, "metric": metric}
            made.append(about | {"mean": mean, "std": 0.4, "seeds": 5})
    return made


def test_what_decides(jobs: Any) -> None:
    half = 2.78 * 0.4 / 5**0.5
    verdict, why = jobs.judge(rows_of(jobs, fashion=half + 0.1, transfer=half - 0.1))
    assert verdict == "in part" and why.startswith("It holds in Fashion-MNIST; Fashion-MNIST: log, paper +0.60 ± 0.50")
    assert "entropy of a row 2.50 (none)" in why and "the paper's penalty alone +0.10" in why
    verdict, why = jobs.judge(rows_of(jobs, fashion=half - 0.1, transfer=-1.0))
    assert verdict == "does not" and why.startswith("The penalty gains nothing that can be told from zero;")
    assert "+0.60 ± 0.50 (Fashion-MNIST)" in jobs.headline(rows_of(jobs, fashion=half + 0.1))
    with pytest.raises(ValueError, match="parts fashion or transfer decide"):
        jobs.judge([])


def test_figures(jobs: Any) -> None:
    charts = jobs.figures(rows_of(jobs, fashion=0.0))
    assert set(charts) == {"accuracy-fashion.svg"}
    chart = charts["accuracy-fashion.svg"]
    assert chart["lines"] == [{"label": "none", "x": [70.0], "y": [70.0], "error": [0.4]}]
    assert chart["levels"][0]["y"] == 80.0


def test_names_and_jobs(jobs: Any, vit: Any) -> None:
    for name in ("ACCURACY", "MEAN", "ENTROPY", "LOST", "GAINED"):
        assert getattr(jobs, name) == getattr(vit, name)
    for part in jobs.PARTS.values():
        made = part()
        assert [job.pop("seed") for job in made.values()] == list(jobs.SEEDS) and len(
            {str(j) for j in made.values()}
        ) == 1
    assert vit.ARMS["log, paper"] == {"strength": 0.01, "kind": "log", "reduction": "mean", "layers": "last"}


def test_both_parts_on_digits(jobs: Any, vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm and ratio, differences of the very numbers, and fine-tuning from the net that was kept."""
    monkeypatch.setattr(vit, "VIT", vit.VIT | {"patch_size": 4, "hidden_size": 8, "num_hidden_layers": 2})
    common = {"data": "digits", "limit": 100, "validation": 0.1, "epochs": 1, "batch_size": 50, "lr": 1e-3}
    common |= {"warmup": 0.1, "ratios": [0.3, 0.5], "seed": 0, "place": str(tmp_path)}
    for source in (None, "digits"):
        made = vit.measure(**common, source=source)["measured"]
        found = {(m["setting"], m["arm"], m["metric"]): m["value"] for m in made}
        pruned = [found["pruned 30%", "entropy", vit.ACCURACY], found["pruned 50%", "entropy", vit.ACCURACY]]
        assert found["", "entropy", vit.MEAN] == pytest.approx(sum(pruned) / 2, abs=1e-3)
        gap = found["", "entropy", vit.MEAN] - found["", "none", vit.MEAN]
        assert found["", "entropy - none", vit.GAINED] == pytest.approx(gap, abs=2e-4)
        assert {arm for _, arm, metric in found if metric == vit.MEAN} == {
            *vit.ARMS,
            *vit.RULES,
            "log, paper, norms too",
        }
    assert (tmp_path / "weights" / "digits" / "0.safetensors").is_file()


def test_a_cut_leaves_the_net_as_it_is(vit: Any) -> None:
    data = vit.load("digits", 100, 0.1)
    sizes = vit.VIT | {"patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1}
    model = sl.zoo.build("hf:config:vit", in_shape=data.shape, classes=10, seed=0, **sizes)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert vit.pruned(model, 0.0, data, 0) == vit.accuracy(model, data)
    random = {vit.pruned(model, 0.7, data, seed, criterion="random") for seed in range(5)}
    assert len(random) > 1 and vit.pruned(model, 0.5, data, 0, norms=True) >= 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.skipif(not (FOLDER / "result.json").is_file(), reason="nothing is measured there yet")
def test_the_folder_is_fresh_and_its_verdict_the_rule_s(jobs: Any) -> None:
    check_folder(FOLDER, jobs)
