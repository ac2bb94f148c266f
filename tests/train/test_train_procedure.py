"""Procedures of several fits (iterative pruning with rewinding) in the same folder, with the same promises."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland import methods
from sparseland.core.errors import RecipeError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.train.checkpoint import read_weights
from sparseland.train.plans import compose

Tiny = Callable[..., TrainConfig]
IMP = {"name": "imp", "sparsity": 0.8, "rounds": 2}


class Stop(Exception):
    """A run that ends without a chance to save."""


def test_imp_trains_prunes_and_rewinds(tmp_path: Path, tiny: Tiny) -> None:
    result = run(tiny(method=IMP, epochs=2), tmp_path, progress=False)
    assert result["procedure"] == {"name": "imp", "rounds": 2}
    assert result["steps"] == 3 * 14
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert [round(entry["sparsity"], 2) for entry in result["history"]] == [0, 0, 0.55, 0.55, 0.8, 0.8]
    assert [entry["fit"] for entry in result["history"]] == [0, 0, 1, 1, 2, 2]
    assert [entry["step"] for entry in result["history"]] == [7, 14, 21, 28, 35, 42]
    assert [move["step"] for move in result["masks"]] == [0, 14, 28]
    assert result["checkpoints"]["best"]["step"] in (35, 42)  # never a round before the last
    dense, f_dense = 3 * 2 * 400, result["flops"]["inference_dense"]
    kept = [move["kept"] for move in result["masks"]]
    assert result["flops"]["training"] == dense * sum(2 * k for k in kept)  # all rounds count, the dense one too
    assert result["flops"]["training_dense"] == 3 * dense * f_dense
    assert result["explored"] == 1.0
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "last", "log.jsonl", "result.json"]
    tensors = read_weights(tmp_path / "best.safetensors")
    assert sum(int(t.count_nonzero()) for n, t in tensors.items() if n.endswith("weight")) <= result["kept"]


@pytest.mark.parametrize(
    "options", [{"rewind_to": 0.5}, {"rewind": "learning-rate", "rewind_to": 3}, {"rewind": "none"}]
)
def test_rewinding_options_reach_the_procedure(tmp_path: Path, tiny: Tiny, options: dict[str, Any]) -> None:
    result = run(tiny(method={**IMP, "rounds": 1, **options}, epochs=2), tmp_path, progress=False)
    steps = {0.5: 7 + 7 + 7, 3: 3 + 11 + 11, None: 14 + 1}[options.get("rewind_to")]
    assert result["steps"] == steps
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("evaluation", range(1, 6))
def test_an_interrupted_procedure_goes_on_in_its_round(
    tmp_path: Path, tiny: Tiny, comparable: Any, evaluation: int
) -> None:
    config = tiny(method={**IMP, "rewind_to": 3}, epochs=2, checkpoint_every="3 steps")
    whole = run(config, tmp_path / "whole", progress=False)
    seen: list[Any] = []

    def stop(entry: dict[str, Any]) -> None:
        seen.append(entry)
        if len(seen) == evaluation:
            raise Stop

    with pytest.raises(Stop):
        run(config, tmp_path / "broken", progress=False, callback=stop)
    trained: list[int] = []
    broken = run(config, tmp_path / "broken", progress=False, resume=True, callback=lambda e: trained.append(e["step"]))
    assert comparable(broken) == comparable(whole)
    assert trained == [e["step"] for e in whole["history"] if e["step"] >= seen[-1]["step"]]  # nothing twice
    one, two = (tmp_path / name / "best.safetensors" for name in ("whole", "broken"))
    assert one.read_bytes() == two.read_bytes()


def test_what_a_procedure_leaves_is_what_is_tested(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A procedure that changes the model after its last fit (an average, a last prune) is taken at its word."""
    from sparseland.train import session

    def halve(trainer: Trainer, method: Any) -> dict[str, Any]:
        trainer.fit(None)
        with torch.no_grad():
            trainer.model.fc1.weight[:16] = 0  # type: ignore[union-attr, operator, index]
        return {}

    plan = compose(IMP)
    monkeypatch.setattr(session, "compose", lambda _: type(plan)(plan.method, halve, {}))
    result = run(tiny(epochs=1), tmp_path, progress=False)
    assert result["layers"][0]["kept"] == 16 * 64
    assert result["kept"] == 16 * 64 + 320
    assert int(read_weights(tmp_path / "best.safetensors")["fc1.weight"][:16].count_nonzero()) == 0


def test_rules_reach_a_procedure_or_are_refused(tmp_path: Path, tiny: Tiny) -> None:
    import inspect

    config = tiny(method=IMP, epochs=1, ignore=("fc2*",))
    if "ignore" in inspect.signature(methods.imp).parameters:
        layers = run(config, tmp_path, progress=False)["layers"]
        assert [layer["name"] for layer in layers] == ["fc1.weight"]
    else:
        with pytest.raises(RecipeError, match="ignore=.*'imp' prunes every eligible layer"):
            run(config, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_compose_reads_names_and_words() -> None:
    rigl = methods.RigL(0.9, end=100)
    assert compose(rigl.to_dict()).method == rigl
    assert compose({"name": "rigl", "sparsity": 0.9, "end": 100}).method == rigl
    assert compose(methods.IMP(0.9).to_dict()).procedure is methods.imp
    with pytest.raises(RecipeError, match=r"no hyperparameter 'rouns': did you mean 'rounds'"):
        compose({"name": "imp", "rouns": 3})
    with pytest.raises(RecipeError, match="unknown method None"):
        compose({})


@pytest.mark.parametrize(
    "method",
    [
        {"name": "imp", "rounds": 2},
        {"name": "imp", "rounds": 2, "rewind": "none"},
        {"name": "bip", "tune": 0.5},
        {"name": "jackpots", "search": 0.5, "tune": 0.5},
        {"name": "sms", "cycles": 1, "ingredients": 2, "retrain": 0.5},
        {"name": "reprune", "copies": 2, "retrain": 0.5},
        {"name": "turbo-vbi"},
        {"name": "random-search", "candidates": 3},
        {"name": "masksparsity", "strength": 1e-2},
        {"name": "slimming", "strength": 1e-2, "trainings": 2},
        {"name": "group-lasso", "strength": 1e-2},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_a_procedure_trains_as_many_schedules_as_it_says(method: dict[str, Any], tmp_path: Path) -> None:
    """So that a comparison knows before it trains whether budgets are equal."""
    from sparseland.advisor.facts import Facts

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = "mlp-16" if method["name"] not in ("masksparsity", "slimming", "group-lasso") else "resnet-8-w4"
        config = TrainConfig(model=net, method=method, epochs=2, limit=160, batch_size=16, lr=0.05, threads=1)
        result = run(config, tmp_path / "run", progress=False)
    planned = Facts("planned", 0, config.to_dict()).passes
    assert planned is not None and result["steps"] == pytest.approx(10 * planned, abs=3)  # 160 images in batches of 16
