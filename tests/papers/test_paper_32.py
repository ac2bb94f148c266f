"""Paper 32: its runs on a made-up text, beta = 0 is TopK bit for bit, and the rule of its verdict."""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland.core.errors import DataNotFound
from sparseland.features import SAEConfig, SparseAutoencoder, train
from sparseland.features.activations import ActivationStream
from tests.papers.conftest import load
from tests.papers.folders import check_folder

SLUG = "32-gsae"
FOLDER = Path(__file__).resolve().parents[2] / "papers" / SLUG
TINY = {"n_embd": 16, "n_layer": 2, "n_head": 2, "steps": 30, "batch": 8, "lr": 5e-3, "seed": 0}
SHORT = {"tokens": 2000, "features": 64, "steps": 20, "batch": 64, "sequences": 6, "latents": 8, "pairs": 10}


@pytest.fixture(scope="module")
def jobs() -> Any:
    return load(SLUG, "jobs")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A text of made-up words, and a folder for what is made of it."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("paper-32")
    (folder / "text").mkdir()
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 5))) for _ in range(20)]
    (folder / "text" / "tinyshakespeare.txt").write_text(" ".join(draw.choices(words, k=12_000)))
    before = os.environ.get("SPARSELAND_DATA")
    os.environ["SPARSELAND_DATA"] = str(folder)
    yield folder
    os.environ.pop("SPARSELAND_DATA")
    if before is not None:
        os.environ["SPARSELAND_DATA"] = before


@pytest.fixture(scope="module")
def modules(place: Path) -> Iterator[dict[str, Any]]:
    """The folder's modules, with a language model that trains in a second."""
    names = ("language_model", "measuring", "choices")
    sys.path.append(str(FOLDER))
    try:
        for name in names:
            sys.modules.pop(name, None)
        made = {name: __import__(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
    before, made["language_model"].SETTING = made["language_model"].SETTING, TINY
    yield made
    made["language_model"].SETTING = before
    for name in names:
        sys.modules.pop(name, None)


def numbers(found: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(item["arm"], item["metric"]): item["value"] for item in found["measured"]}


def test_parts_of_the_text_do_not_overlap_and_the_model_learns(modules: dict[str, Any], place: Path) -> None:
    lm = modules["language_model"]
    model, letters, said = lm.small_gpt(place / "runs" / "gpt", place)
    words = lm.text(place)
    parts = [lm.sequences(words, split, letters) for split in ("train", "validation", "test")]
    assert sum(part.numel() for part in parts) <= len(words)
    low = int(0.9 * len(words))
    assert letters.decode(parts[1].flatten()) == words[low : low + parts[1].numel()]
    assert said["test loss"] < math.log(len(letters.letters)) - 0.03
    assert lm.cross_entropy(model, parts[2]) == pytest.approx(said["test loss"], abs=1e-3)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    with pytest.raises(DataNotFound, match="SPARSELAND_DATA"):
        lm.text(place / "nowhere")


def test_without_beta_it_is_topk_bit_for_bit(modules: dict[str, Any], place: Path) -> None:
    data = modules["measuring"].collected(str(place / "runs"), 2000)
    assert data.pairs and data.rows == 2000
    made = []
    for options, source in (
        ({}, modules["measuring"].Plain(data)),
        ({"select": "gradient", "beta": 0.0, "grad_norm": "token_l2"}, data),
    ):
        sae = SparseAutoencoder(SAEConfig(16, 64, k=4, aux="aux_k", dead_window=500, seed=1, **options))
        train(sae, ActivationStream(source, batch=64, buffer=512), steps=30, lr=1e-3, progress=False)
        made.append(sae.state_dict())
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_an_arm_differs_with_beta(modules: dict[str, Any], place: Path) -> None:
    found = modules["measuring"].compare(4, [3.0], "test", 0, str(place / "runs"), dead_window=500, **SHORT)
    measuring, got = modules["measuring"], numbers(found)
    assert {arm for arm, _ in got} == {"TopK", "g-SAE, beta=3"}
    base = got["TopK", measuring.DELTA.format("activation")]
    for select in ("activation", "self", "gradient"):
        delta = got["g-SAE, beta=3", measuring.DELTA.format(select)]
        over = got["g-SAE, beta=3", measuring.OVER.format(select)]
        assert over == pytest.approx(delta - base)
        assert got["g-SAE, beta=3", measuring.WINS.format(select)] == 100.0 * (delta < base)
    assert got["TopK", "NMSE (%)"] != got["g-SAE, beta=3", "NMSE (%)"]
    assert got["g-SAE, beta=3", measuring.SIZE] > 0 and got["TopK", "L0"] <= 4
    again = numbers(modules["measuring"].compare(4, [3.0], "test", 0, str(place / "runs"), dead_window=500, **SHORT))
    assert again == got


def test_the_allocation_rules_on_the_small_model(modules: dict[str, Any], place: Path) -> None:
    choices = modules["choices"]
    found = choices.compare("gpt", 4, 0, str(place / "runs"), steps=20, batch=64, tokens=2000, held=4, expansion=2)
    got = numbers(found)
    assert {arm for arm, _ in got} == set(choices.ARMS)
    for arm in choices.ARMS:
        assert got[arm, "NMSE, batch (%)"] > 0 and got[arm, "L0, batch"] <= 4 + 1e-6
        assert got[arm, "CE recovered (%)"] < 101
    assert got["TopK", "standard deviation of L0, batch"] <= got["mutual choice", "standard deviation of L0, batch"]


# ---------------------------------------------------------------------------------------------------------- the verdict
def rows(k: int, jobs: Any, **change: float) -> list[dict[str, Any]]:
    """A budget's rows: less loss in all seeds by activation, fewer dead, stronger latents; then the changes."""
    given = {"activation": 100.0, "self": 60.0, "gradient": 100.0, "nmse": 3.0, "dead": 1.0, "steer": 12.0} | change
    mine = {jobs.WINS.format(s): given[s] for s in ("activation", "self", "gradient")}
    mine |= {jobs.OVER.format(s): -5.0 for s in ("activation", "self", "gradient")}
    mine |= {jobs.DELTA.format(s): 95.0 for s in ("activation", "self", "gradient")}
    mine |= {
        jobs.NMSE: 10.3,
        jobs.NMSE_OVER: given["nmse"],
        jobs.DEAD: given["dead"],
        jobs.RMS.format(4): given["steer"],
    }
    base = {jobs.DELTA.format("activation"): 100.0, jobs.NMSE: 10.0, jobs.DEAD: 1.0, jobs.RMS.format(4): 10.0}
    return [
        {"part": "gpt", "setting": f"k={k}", "arm": arm, "metric": metric, "mean": mean, "std": 1.0, "seeds": 5}
        for arm, values in ((jobs.TOPK, base), (jobs.arm(jobs.BETA), mine))
        for metric, mean in values.items()
    ]


def test_the_rule(jobs: Any) -> None:
    verdict, why = jobs.judge(rows(4, jobs) + rows(8, jobs, activation=80))
    assert verdict == "in part" and "hold at k=4:" in why and "k=8: loss added" in why
    assert jobs.judge(rows(4, jobs, activation=80, self=100))[0] == "in part"  # either selection without labels
    assert jobs.judge(rows(4, jobs, activation=80))[0] == "does not"  # 60 % of the seeds by self
    assert jobs.judge(rows(4, jobs, activation=0, self=0, gradient=100))[0] == "does not"  # what sees the answer
    assert jobs.judge(rows(4, jobs, nmse=10.1))[0] == "does not"
    for bad, says in (
        ({"dead": 1.1}, "more latents are dead:"),
        ({"steer": 10.0}, "latents move the logits no further:"),
    ):
        verdict, why = jobs.judge(rows(4, jobs, **bad))
        assert verdict == "in part" and why.startswith(f"Less loss at k=4, but at k=4 {says}")
    mixed = rows(4, jobs, dead=1.1) + rows(8, jobs, activation=0)  # never from two budgets
    assert jobs.judge(mixed)[1].startswith("Less loss at k=4, but")
    few = [row | {"seeds": 3} for row in rows(16, jobs)]  # three seeds turn nothing
    assert jobs.judge(few + rows(4, jobs, activation=0))[0] == "does not"
    with pytest.raises(ValueError, match="decides"):
        jobs.judge([])
    assert "k=4 -5.0 (activation) and -5.0 (self)" in jobs.headline(rows(4, jobs))
    assert jobs.figures(rows(4, jobs))["loss.svg"]["lines"][0]["label"] == "TopK"


def test_intervals_are_students(jobs: Any) -> None:
    _, why = jobs.judge(rows(4, jobs))
    assert "-5.0 ± 1.2 activation" in why  # 2.78 / sqrt(5)


def test_jobs_are_equal_but_for_budget_and_seed(jobs: Any) -> None:
    deciding, tried = jobs.PARTS["gpt"](), jobs.PARTS["tuning"]()
    assert {j["split"] for j in deciding.values()} == {"test"}
    assert {k: tuple(j["seed"] for j in deciding.values() if j["k"] == k) for k in jobs.BUDGETS} == jobs.BUDGETS
    assert {tuple(j["betas"]) for j in deciding.values()} == {(jobs.BETA,)} and jobs.BETA in jobs.TRIED
    for job in tried.values():
        assert job["split"] == "validation" and job["seed"] not in jobs.SEEDS


def test_the_folder_is_that_of_its_numbers(jobs: Any) -> None:
    check_folder(FOLDER, jobs)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SPARSELAND_DATA"), reason="needs tinyshakespeare: SPARSELAND_DATA")
def test_the_comparison_in_full(jobs: Any, tmp_path: Path) -> None:
    """One seed of the deciding part from the language model on: everything within its bounds."""
    sys.path.append(str(FOLDER))
    try:
        got = numbers(load(SLUG, "measuring").compare(8, [jobs.BETA], "test", 0, str(tmp_path)))
    finally:
        sys.path.remove(str(FOLDER))
    mine = jobs.arm(jobs.BETA)
    assert got[mine, jobs.NMSE_OVER] < 10
    for arm in ("TopK", mine):
        assert got[arm, "CE recovered, select=activation (%)"] > 80 and got[arm, "NMSE (%)"] < 40
        assert got[arm, "attribution against ablation, Spearman (0.01)"] > 40
