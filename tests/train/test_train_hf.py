"""The callback in a real `transformers.Trainer`, on a model made from a configuration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland import methods
from sparseland.core.errors import RecipeError, ResumeError, TargetError

transformers = pytest.importorskip("transformers")
from sparseland.train.hf import SparsityCallback  # noqa: E402 - needs transformers

GMP = {"name": "gmp", "sparsity": 0.8, "end": 0.75, "every": 4}


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The label is the first token modulo 4."""

    def __init__(self) -> None:
        self.x = torch.randint(0, 20, (256, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.x[index], "labels": self.x[index, 0] % 4}


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Any]:
    def make(callback: SparsityCallback, name: str = "a", model: Any = None, **changes: Any) -> Any:
        if model is None:
            torch.manual_seed(0)
            config = transformers.BertConfig(
                vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                num_labels=4, max_position_embeddings=8,
            )  # fmt: skip
            model = transformers.BertForSequenceClassification(config)
        settings = {
            "max_steps": 16, "per_device_train_batch_size": 32, "learning_rate": 1e-2, "save_steps": 8, "seed": 0,
            "logging_steps": 4, "report_to": [], "use_cpu": True, "disable_tqdm": True, "weight_decay": 0.01,
        }  # fmt: skip
        arguments = transformers.TrainingArguments(output_dir=str(tmp_path / name), **{**settings, **changes})
        return transformers.Trainer(
            model, arguments, train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=[callback]
        )

    return make


def _zeros(model: torch.nn.Module) -> int:
    return sum(int((p == 0).sum()) for n, p in model.named_parameters() if p.ndim == 2 and "embeddings" not in n)


def _equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_trains_sparse_logs_and_ends_plain(trainer: Any, tmp_path: Path) -> None:
    callback = SparsityCallback(GMP)
    run = trainer(callback)
    keys = list(run.model.state_dict())
    run.train()
    sp = callback.sparsifier
    assert sp is not None and (sp.step, sp.sparsity) == (16, pytest.approx(0.8, abs=1e-3))
    assert _zeros(run.model) >= sp.masks.numel() - sp.masks.kept()
    assert list(run.model.state_dict()) == keys
    logged = [entry["sparsity"] for entry in run.state.log_history]
    assert logged == sorted(logged) and logged[0] < logged[-1] == pytest.approx(0.8, abs=1e-3)
    for step in (8, 16):
        assert "sparseland.pt" in os.listdir(tmp_path / "a" / f"checkpoint-{step}")


@pytest.mark.parametrize("method", [GMP, {"name": "rigl", "sparsity": 0.8, "every": 3}, {"name": "sr-ste"}],
                         ids=lambda m: m["name"])  # fmt: skip
def test_resumed_equals_unbroken(trainer: Any, tmp_path: Path, method: dict[str, Any]) -> None:
    whole = trainer(SparsityCallback(method))
    whole.train()
    shutil.copytree(tmp_path / "a" / "checkpoint-8", tmp_path / "b" / "checkpoint-8")
    callback = SparsityCallback(method)
    resumed = trainer(callback, "b")
    resumed.train(resume_from_checkpoint=True)
    assert callback.sparsifier is not None and callback.sparsifier.step == 16
    assert _equal(whole.model, resumed.model)


def test_keeps_zeros_and_resumes(trainer: Any, tmp_path: Path) -> None:
    first = trainer(SparsityCallback(GMP))
    first.train()
    zeros, model = _zeros(first.model), first.model
    callback = SparsityCallback()
    tuned = trainer(callback, "k", model=model)
    tuned.train()
    assert callback.sparsifier is not None and callback.sparsifier.method.name == "keep-zeros"
    assert _zeros(tuned.model) == zeros
    again = trainer(SparsityCallback(), "k")  # a fresh, dense model: weights and masks come from the checkpoint
    again.train(resume_from_checkpoint=str(tmp_path / "k" / "checkpoint-8"))
    assert _equal(again.model, tuned.model)
    with pytest.raises(TargetError, match="nothing to keep"):
        trainer(SparsityCallback(), "dense").train()


def test_measures_on_the_first_batch_without_moving_the_data(trainer: Any) -> None:
    plain = trainer(SparsityCallback({"name": "random", "sparsity": 0.5}), "p", max_steps=4)
    snip = trainer(SparsityCallback({"name": "snip", "sparsity": 0.5}), "s", max_steps=4)
    orders: dict[str, list[Any]] = {"p": [], "s": []}
    for name, run in (("p", plain), ("s", snip)):
        original = run.compute_loss

        def spy(
            model: Any, inputs: Any, *args: Any, _seen: Any = orders[name], _real: Any = original, **kw: Any
        ) -> Any:
            _seen.append(inputs["input_ids"].tolist())
            return _real(model, inputs, *args, **kw)

        run.compute_loss = spy
        run.train()
    assert orders["p"] == orders["s"]


def test_mistakes(trainer: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'rigl'"):
        SparsityCallback({"name": "rigll"})
    trainer(SparsityCallback(GMP)).train()
    place = tmp_path / "a" / "checkpoint-8"
    other = trainer(SparsityCallback({"name": "set", "sparsity": 0.8, "every": 4}))
    with pytest.raises(ResumeError, match="another method"):
        other.train(resume_from_checkpoint=str(place))
    with pytest.raises(ResumeError, match="trained with 'gmp'; this callback keeps zeros"):
        trainer(SparsityCallback()).train(resume_from_checkpoint=str(place))
    shutil.copy(tmp_path / "a" / "checkpoint-16" / "sparseland.pt", place / "sparseland.pt")
    with pytest.raises(ResumeError, match="does not belong to the checkpoint"):
        trainer(SparsityCallback(GMP)).train(resume_from_checkpoint=str(place))
    (place / "sparseland.pt").unlink()
    with pytest.raises(ResumeError, match=r"no sparseland\.pt was found; looked for .*checkpoint-8"):
        trainer(SparsityCallback(GMP)).train(resume_from_checkpoint=str(place))


def test_a_moved_checkpoint_is_found_where_one_says(trainer: Any, tmp_path: Path) -> None:
    whole = trainer(SparsityCallback(GMP))
    whole.train()
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "a" / "checkpoint-8", moved)
    run = trainer(SparsityCallback(GMP, folder=str(moved)), "b")
    run.train(resume_from_checkpoint=str(moved))
    assert _equal(whole.model, run.model)


def test_callback_states_restored_by_the_trainer(trainer: Any, tmp_path: Path) -> None:
    """The Trainer may build the callback anew from what it wrote; it then has the same method."""
    callback = SparsityCallback(methods.GMP(0.8, end=0.75, every=4), targets="*.query.weight")
    whole = trainer(callback)
    whole.train()
    shutil.copytree(tmp_path / "a" / "checkpoint-8", tmp_path / "b" / "checkpoint-8")
    run = trainer(SparsityCallback(GMP, targets="*.query.weight"), "b", restore_callback_states_from_checkpoint=True)
    run.train(resume_from_checkpoint=True)
    assert _equal(whole.model, run.model)


def test_the_best_checkpoint_keeps_its_own_masks(trainer: Any) -> None:
    callback = SparsityCallback(GMP)
    changes = {
        "eval_strategy": "steps",
        "eval_steps": 8,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    }
    run = trainer(callback, **changes, greater_is_better=True)  # the worst is "best": the denser one, at step 8
    with pytest.warns(UserWarning) as caught:
        run.train()
    said = " ".join(str(w.message) for w in caught)
    assert "a denser one may be chosen" in said and "training went on to 0.7998" in said
    assert callback.sparsifier is not None and callback.sparsifier.sparsity < 0.79
    dead = callback.sparsifier.masks.numel() - callback.sparsifier.masks.kept()
    assert _zeros(run.model) == dead
