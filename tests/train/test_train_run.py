"""One run into a folder: it learns, chooses, tests once, and says everything in its result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland import methods
from sparseland.core.errors import OutputError, RecipeError, ScheduleError, SparselandError, TargetError
from sparseland.train import Diverged, TrainConfig, Trainer, evaluation, run
from sparseland.train.checkpoint import read_weights
from sparseland.train.journal import Journal
from sparseland.train.processes import Processes
from sparseland.zoo import load_weights

Tiny = Callable[..., TrainConfig]


def _log(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["dense", "granet"])
def test_training_improves(tmp_path: Path, name: str) -> None:
    options = {"sparsity": 0.9, "every": 10} if name == "granet" else {}
    config = TrainConfig(model="mlp-64", method={"name": name, **options}, epochs=6, lr=0.05)
    result = run(config, tmp_path, progress=False)
    losses = [entry["loss"] for entry in result["history"]]
    assert losses[-1] < 0.5 * losses[0]
    assert result["test"]["accuracy"] > 0.85
    assert result["validation"]["accuracy"] > 0.85
    assert result["sparsity"] == pytest.approx(options.get("sparsity", 0), abs=1e-3)


def test_the_result_says_everything(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny()
    result = run(config, tmp_path, progress=False)
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result)) == result
    assert set(result) == {
        "schema", "config", "method", "procedure", "steps", "epochs", "seed", "data", "validation", "test",
        "checkpoints", "kept", "total", "sparsity", "parameters", "layers", "history", "masks", "explored", "flops",
        "bytes", "seconds", "resumed", "versions", "machine", "selection", "counts", "dead_units", "memory", "card",
    }  # fmt: skip
    assert TrainConfig.from_dict(result["config"]) == config
    assert (result["steps"], result["epochs"], result["seed"], result["resumed"]) == (28, 4, 0, 0)
    assert set(result["validation"]) == {"accuracy", "loss", "per_class"}
    assert set(result["test"]) >= {"accuracy", "loss", "per_class", "confusion", "ece", "checkpoint"}
    assert sum(map(sum, result["test"]["confusion"])) == result["test"]["images"] == 359
    assert result["total"] == 64 * 32 + 320 and result["parameters"] == result["total"] + 42
    assert sum(layer["kept"] for layer in result["layers"]) == result["kept"] == round(0.2 * result["total"])
    assert result["layers"][0] == {
        "name": "fc1.weight",
        "shape": [32, 64],
        "kept": result["layers"][0]["kept"],
        "total": 2048,
        "operator": "linear",
        "flops": 2 * result["layers"][0]["kept"],
        "flops_dense": 4096,
        "pattern": "unstructured",
        "dead_units": result["layers"][0]["dead_units"],
    }
    assert [entry["step"] for entry in result["history"]] == [7, 14, 21, 28]
    assert set(result["history"][0]) == {
        "step", "epoch", "loss", "accuracy", "validation_accuracy", "validation_loss", "sparsity", "lr",
    }  # fmt: skip
    assert [move["step"] for move in result["masks"]] == [0, 3, 6, 9, 12, 15, 18]
    flops = result["flops"]
    assert flops["inference"] == 2 * result["kept"] and flops["inference_dense"] == 2 * result["total"]
    assert flops["training_dense"] == 3 * flops["inference_dense"] * 4 * 400
    assert 0.2 < flops["training"] / flops["training_dense"] < 0.35
    assert result["bytes"]["dense"] == 4 * result["parameters"] > result["bytes"]["packed"]
    assert 0.2 < result["explored"] < 1
    assert {"python", "torch"} <= set(result["versions"])
    assert not any(str(tmp_path) in line for line in (tmp_path / "result.json").read_text().splitlines())
    assert _log(tmp_path) == result["history"]


def test_the_folder_holds_both_checkpoints(tmp_path: Path, tiny: Tiny) -> None:
    result = run(tiny(), tmp_path, progress=False)
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "last", "log.jsonl", "result.json"]
    assert sorted(os.listdir(tmp_path / "last")) == ["best.safetensors", "state.json", "state.pt"]
    told = json.loads((tmp_path / "last" / "state.json").read_text())
    assert (told["position"]["step"], told["position"]["stop"]) == (28, 28)
    trainer = Trainer(tiny())
    load_weights(trainer.model, tmp_path / "best.safetensors")
    zeros = sum(int((p == 0).sum()) for n, p in trainer.model.named_parameters() if n.endswith("weight"))
    assert zeros == result["total"] - result["kept"]
    assert trainer.evaluate("test") == {k: v for k, v in result["test"].items() if k != "checkpoint"}
    assert trainer.evaluate() == result["validation"]


def test_denser_checkpoints_are_no_candidates(tmp_path: Path, tiny: Tiny) -> None:
    """Gradual pruning to 98 % hurts: the best validation accuracy is a denser one's, which must not be chosen."""
    config = tiny(method={"name": "gmp", "sparsity": 0.98, "every": 7, "end": 21}, epochs=4, lr=0.1)
    result = run(config, tmp_path, progress=False)
    accuracies = {entry["step"]: entry["validation_accuracy"] for entry in result["history"]}
    assert max(accuracies[7], accuracies[14]) > max(accuracies[21], accuracies[28])
    assert result["checkpoints"]["best"]["step"] in (21, 28)
    assert result["validation"]["accuracy"] == max(accuracies[21], accuracies[28])
    assert result["sparsity"] == pytest.approx(0.98, abs=1e-3)


def test_a_target_that_is_never_reached_is_said(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(method=methods.GMP(0.9, every=7, end=28).to_dict() | {"schedule": {
        "kind": "cubic", "value": 0.9, "start": 0, "end": 28, "every": 7, "stop": "before"}})  # fmt: skip
    trainer = Trainer(config)
    assert trainer.steps == 28
    result = run(config, tmp_path, progress=False)
    assert result["sparsity"] < 0.9 and result["checkpoints"]["chosen"] == "best"  # the schedule ended, short of it


def test_the_best_is_the_best_and_the_earliest(tmp_path: Path, tiny: Tiny) -> None:
    result = run(tiny(method={"name": "dense"}), tmp_path, progress=False)
    history = result["history"]
    best = max(history, key=lambda e: (e["validation_accuracy"], -e["validation_loss"]))
    assert result["checkpoints"]["best"]["step"] == best["step"]
    assert result["checkpoints"]["last"]["step"] == 28
    assert result["test"]["checkpoint"] == result["checkpoints"]["chosen"] == "best"


def test_ties_go_to_the_lower_loss_then_to_the_earlier(tiny: Tiny) -> None:
    journal = Journal(tiny(), Processes())
    about = {"step": 1, "accuracy": 0.5, "loss": 1.0}
    for step, accuracy, loss, best in (
        (1, 0.5, 1.0, 1),
        (2, 0.5, 0.9, 2),
        (3, 0.5, 0.9, 2),
        (4, 0.4, 0.1, 2),
        (5, 0.6, 2.0, 5),
    ):
        journal.candidate(about | {"step": step, "accuracy": accuracy, "loss": loss}, {}, eligible=True)
        assert journal.best is not None and journal.best["step"] == best
    journal.candidate(about | {"step": 6, "accuracy": 0.9}, {}, eligible=False)
    assert (
        journal.best is not None
        and journal.best["step"] == 5
        and journal.last is not None
        and journal.last["step"] == 6
    )


def test_the_test_split_is_looked_at_once(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseland.train import supply

    sizes: list[int] = []

    def spy(model: Any, split: Any, **kw: Any) -> Any:
        sizes.append(len(split))
        return evaluation.evaluate(model, split, **kw)

    monkeypatch.setattr(supply, "evaluate", spy)
    run(tiny(), tmp_path, progress=False)
    assert sizes == [144] * 4 + [359]


def test_without_validation_images_the_last_is_taken(tmp_path: Path, tiny: Tiny) -> None:
    result = run(tiny(validation=0.0), tmp_path, progress=False)
    assert result["checkpoints"]["best"]["step"] == 28
    assert result["validation"] == {"accuracy": None, "loss": None, "per_class": None}
    assert result["history"][0]["validation_accuracy"] is None
    assert result["test"]["accuracy"] > 0


def test_average_weights_are_evaluated_with_zeros_in_place(tmp_path: Path, tiny: Tiny) -> None:
    plain = run(tiny(), tmp_path / "plain", progress=False)
    averaged = run(tiny(ema=0.9), tmp_path / "ema", progress=False)
    assert [e["loss"] for e in plain["history"]] == [e["loss"] for e in averaged["history"]]
    assert plain["history"][0]["validation_loss"] != averaged["history"][0]["validation_loss"]
    tensors = read_weights(tmp_path / "ema" / "best.safetensors")
    alive = sum(int(t.count_nonzero()) for n, t in tensors.items() if n.endswith("weight"))
    assert alive <= averaged["kept"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains(tmp_path: Path, tiny: Tiny, precision: str) -> None:
    exact = run(tiny(), tmp_path / "no", progress=False)
    result = run(tiny(precision=precision), tmp_path / precision, progress=False)
    losses = [e["loss"] for e in result["history"]]
    assert losses != [e["loss"] for e in exact["history"]]
    assert losses == pytest.approx([e["loss"] for e in exact["history"]], rel=0.05)
    assert result["kept"] == exact["kept"]


def test_steps_that_fp16_skips_are_taken_later(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale beyond fp16's range overflows at first: schedule and learning rate wait, the run has all its steps."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=2.0**40, enabled=enabled)
    )
    trainer = Trainer(tiny(precision="fp16", method={"name": "gmp", "sparsity": 0.8, "every": 7, "end": 1.0}))
    done = trainer.fit(methods.GMP(0.8, every=7, end=1.0))
    assert done["steps"] == trainer.steps == trainer.record.steps == 28
    assert trainer.record.meter.training_dense > 28 * 3 * trainer.cost.dense() * 50  # the skipped ones cost too
    assert [move["step"] for move in trainer.record.moves] == [0, 7, 14, 21, 28]
    assert done["sparsity"] == pytest.approx(0.8, abs=1e-3)


def test_fp16_that_never_works_is_given_up(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler
    huge = {"init_scale": 2.0**100, "backoff_factor": 0.9999}
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, enabled=enabled, **huge))
    with pytest.raises(Diverged, match="100 steps in a row"):
        Trainer(tiny(precision="fp16", epochs=20)).fit()


def test_accumulation_equals_the_large_batch(tmp_path: Path, tiny: Tiny) -> None:
    large = run(tiny(batch_size=96, epochs=2), tmp_path / "large", progress=False)
    small = run(tiny(batch_size=32, accumulate=3, epochs=2), tmp_path / "small", progress=False)
    assert large["steps"] == small["steps"] == 10  # 400 images: four steps of 96 and one of 16 in each epoch
    assert [e["loss"] for e in small["history"]] == pytest.approx([e["loss"] for e in large["history"]], rel=1e-5)
    assert small["flops"] == large["flops"]


def test_label_smoothing_and_clipping_act(tmp_path: Path, tiny: Tiny) -> None:
    losses = {}
    for name, changes in {"plain": {}, "smooth": {"label_smoothing": 0.2}, "clip": {"clip": 0.01}}.items():
        losses[name] = [e["loss"] for e in run(tiny(**changes), tmp_path / name, progress=False)["history"]]
    assert losses["smooth"][-1] > losses["plain"][-1]
    assert losses["clip"][-1] > losses["plain"][-1]  # hardly moves


def test_the_learning_rate_is_applied(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(lr_schedule="step", milestones=(0.5,), lr=0.1, warmup=7)
    rates = [e["lr"] for e in run(config, tmp_path, progress=False)["history"]]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_evaluations_are_as_rare_as_asked(tmp_path: Path, tiny: Tiny) -> None:
    result = run(tiny(epochs=5, evaluate_every=2), tmp_path, progress=False)
    assert [e["epoch"] for e in result["history"]] == [2, 4, 5]
    assert [e["step"] for e in result["history"]] == [14, 28, 35]


def test_one_shot_methods_get_data(tmp_path: Path, tiny: Tiny) -> None:
    result = run(tiny(method={"name": "snip", "sparsity": 0.8}), tmp_path, progress=False)
    static = 3 * result["flops"]["inference"] * 4 * 400
    assert result["flops"]["training"] == static + 3 * result["flops"]["inference_dense"] * 128
    assert result["masks"][0]["kept"] == result["kept"]


def test_ignored_layers_stay_dense(tmp_path: Path, tiny: Tiny) -> None:
    result = run(tiny(ignore=("fc2*",)), tmp_path, progress=False)
    assert [layer["name"] for layer in result["layers"]] == ["fc1.weight"]


def test_callbacks_and_trackers_get_the_history(tmp_path: Path, tiny: Tiny) -> None:
    from accelerate.tracking import GeneralTracker

    class Memory(GeneralTracker):
        name = "memory"
        requires_logging_directory = False

        def __init__(self) -> None:
            super().__init__()
            self.logged: list[tuple[int | None, dict[str, Any]]] = []
            self.config: dict[str, Any] = {}
            self.finished = False

        @property
        def tracker(self) -> Any:
            return self.logged

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.config = values

        def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
            self.logged.append((step, values))

        def finish(self) -> None:
            self.finished = True

    memory, seen = Memory(), []
    result = run(tiny(), tmp_path, progress=False, callback=seen.append, trackers=[memory])
    assert seen == result["history"]
    assert [step for step, _ in memory.logged] == [7, 14, 21, 28]
    assert memory.logged[0][1]["validation_accuracy"] == result["history"][0]["validation_accuracy"]
    assert memory.config["model"] == "mlp-32" and memory.finished


def test_trackers_by_name(tmp_path: Path, tiny: Tiny) -> None:
    run(tiny(epochs=1, trackers=("tensorboard",)), tmp_path, progress=False)
    assert [f for _, _, files in os.walk(tmp_path / "sparseland") for f in files if "tfevents" in f]
    with pytest.raises(RecipeError, match=r"unknown tracker 'tensorbord'.*did you mean 'tensorboard'"):
        run(tiny(trackers=("tensorbord",)), tmp_path / "b", progress=False)
    with pytest.raises(RecipeError, match="pip install swanlab"):
        run(tiny(trackers=("swanlab",)), tmp_path / "c", progress=False)


def test_global_states_are_as_before(tmp_path: Path, tiny: Tiny) -> None:
    torch.manual_seed(5)
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    run(tiny(threads=1, epochs=1), tmp_path, progress=False)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == 2


def test_the_seed_decides_everything(tmp_path: Path, tiny: Tiny, comparable: Any) -> None:
    torch.manual_seed(1)
    one = run(tiny(), tmp_path / "one", progress=False)
    torch.manual_seed(2)
    two = run(tiny(), tmp_path / "two", progress=False)
    other = run(tiny(seed=1), tmp_path / "other", progress=False)
    assert comparable(one) == comparable(two)
    assert (tmp_path / "one/best.safetensors").read_bytes() == (tmp_path / "two/best.safetensors").read_bytes()
    assert one["history"] != other["history"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"method": {"name": "rigll"}}, RecipeError, "did you mean 'rigl'"),
        ({"method": {"name": "rigl", "sparsty": 0.9}}, RecipeError, "did you mean 'sparsity'"),
        ({"method": {"name": "gmp", "sparsity": 0.9, "end": 1000}}, ScheduleError, "28 steps"),
        ({"model": "mlq-32"}, SparselandError, "unknown model"),
        ({"data": "digit"}, SparselandError, "did you mean 'digits'"),
        ({"targets": ("conv*",)}, TargetError, "conv"),
        ({"data_options": {"seed": 3}}, RecipeError, "'seed', which the run sets itself"),
        ({"data_options": {"sise": 3}}, RecipeError, "did you mean 'size'"),
        ({"model_options": {"classes": 3}}, RecipeError, "'classes', which the run sets itself"),
        ({"model_options": {"depth": 3}}, SparselandError, "no option 'depth'"),
    ],
)
def test_mistakes_are_found_before_training(
    tmp_path: Path, tiny: Tiny, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(tiny(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists() or os.listdir(tmp_path / "run") == []


def test_divergence_is_an_error_that_says_what_to_do(tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(Diverged, match=r"loss is (nan|inf) at step \d of 28.*lower the learning rate"):
        run(tiny(lr=1e30), tmp_path, progress=False)


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path, tiny: Tiny) -> None:
    first = run(tiny(), tmp_path, progress=False)
    with pytest.raises(OutputError, match="holds a run already"):
        run(tiny(lr=0.1), tmp_path, progress=False)
    assert json.loads((tmp_path / "result.json").read_text()) == first
    second = run(tiny(lr=0.1), tmp_path, progress=False, overwrite=True)
    assert second["config"]["lr"] == 0.1 and json.loads((tmp_path / "result.json").read_text()) == second


def test_an_unwritable_folder_is_known_before_training(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(OutputError, match="Not a directory"):
        run(tiny(), tmp_path / "file" / "run", progress=False)


def test_compiled_equals_eager_to_rounding(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is really captured; the backend that runs it is the cheap one."""
    real, graphs = torch.compile, []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=backend))
    eager = run(tiny(epochs=2), tmp_path / "eager", progress=False)
    compiled = run(tiny(epochs=2, compile=True), tmp_path / "compiled", progress=False)
    assert graphs
    assert [e["loss"] for e in compiled["history"]] == pytest.approx([e["loss"] for e in eager["history"]], rel=1e-5)
    assert compiled["layers"] == eager["layers"]


def test_models_of_transformers_train(tmp_path: Path, tiny: Tiny) -> None:
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 4,
    }
    config = tiny(model="hf:config:vit", model_options=small, optimizer="adamw", lr=0.003, epochs=2)
    result = run(config, tmp_path, progress=False)
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert result["history"][1]["loss"] < result["history"][0]["loss"]
    assert result["flops"]["inference"] > 4 * 5**2 * 16  # five tokens attend to each other, whatever the mask
