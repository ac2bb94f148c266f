"""The configuration: lossless, and errors that quote what was given and what was possible."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from sparseland import methods
from sparseland.core.errors import RecipeError
from sparseland.data import AUGMENTATIONS
from sparseland.train import TrainConfig, config


def test_round_trip_through_json() -> None:
    one = TrainConfig(
        method={"name": "granet", "sparsity": 0.9}, milestones=(0.3, 0.6), warmup=0.1, targets=("fc*",),
        checkpoint_every="200 steps", clip=1, ema=0.99, trackers=("tensorboard",), model_options={"width": 8},
    )  # fmt: skip
    again = TrainConfig.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert (again.clip, type(again.clip), again.warmup) == (1.0, float, 0.1)


def test_defaults_are_the_agreed_ones() -> None:
    c = TrainConfig()
    assert (c.model, c.data, c.optimizer, c.lr, c.epochs, c.batch_size) == (
        "lenet-300-100",
        "digits",
        "sgd",
        0.1,
        30,
        64,
    )
    assert c.method == {"name": "dense"}


def test_warmup_keeps_steps_and_fractions_apart() -> None:
    assert type(TrainConfig(warmup=3).warmup) is int
    assert type(TrainConfig(warmup=0.5).warmup) is float


def test_a_method_becomes_its_words() -> None:
    rigl = methods.RigL(0.9, end=100, every=10)
    assert TrainConfig(method=rigl).method == rigl.to_dict()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer", "adamm", ("adamm", "did you mean 'adam'", "adagrad")),
        ("lr", 0, ("lr is 0", "> 0")),
        ("lr", -1.0, ("-1.0", "> 0")),
        ("lr", float("nan"), ("nan", "no number")),
        ("lr", "fast", ("'fast'", "no number")),
        ("batch_size", 0, ("batch_size is 0", "≥ 1")),
        ("epochs", True, ("True", "no integer")),
        ("precision", "fp8", ("fp8", "bf16")),
        ("lr_schedule", "linear", ("linear", "cosine")),
        ("augment", "cutout", ("cutout", "crop+flip")),
        ("momentum", 1.0, ("1.0", "[0, 1)")),
        ("label_smoothing", 1.0, ("1.0", "[0, 1)")),
        ("warmup", 1.5, ("1.5", "fraction")),
        ("milestones", (0.5, 0.2), ("0.5, 0.2", "rising")),
        ("ema", 1.0, ("1.0", "(0, 1)")),
        ("clip", 0.0, ("0.0", "> 0")),
        ("accumulate", 0, ("0", "≥ 1")),
        ("checkpoint_every", "soon", ("'soon'", "200 steps")),
        ("checkpoint_every", 0, ("0", "200 steps")),
        ("method", {}, ("{}", "granet")),
        ("method", "rigl", ("'rigl'", "no mapping")),
        ("targets", 3, ("3", "list")),
        ("validation", 1.0, ("1.0", "[0, 1)")),
    ],
)
def test_errors_quote_given_and_possible(field: str, value: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        TrainConfig(**{field: value})
    assert field in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_unknown_fields_name_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'optimizer'"):
        TrainConfig.from_dict({"optimiser": "sgd"})
    with pytest.raises(RecipeError, match="did you mean 'epochs'"):
        TrainConfig().replace(epoch=3)
    with pytest.raises(RecipeError, match="mapping"):
        TrainConfig.from_dict([1])  # type: ignore[arg-type]


def test_first_change_ignores_what_computes_the_same() -> None:
    one = TrainConfig(method={"name": "rigl", "sparsity": 0.9})
    same = one.replace(threads=2, checkpoint_every=5)
    assert config.first_change(one.to_dict(), same.to_dict()) == ""
    other = one.replace(method={"name": "rigl", "sparsity": 0.8})
    assert config.first_change(one.to_dict(), other.to_dict()) == "method.sparsity was 0.9, now it is 0.8"


def test_augmentations_are_those_of_the_data() -> None:
    assert config.AUGMENTATIONS == AUGMENTATIONS


def test_reading_a_configuration_starts_nothing_heavy() -> None:
    code = "import sys; from sparseland.train import TrainConfig; TrainConfig(); print('accelerate' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
