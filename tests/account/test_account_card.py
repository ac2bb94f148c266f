"""The taxonomy record of every method we ship, and what a run's result says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparseland import methods
from sparseland.account import SparsityCard, card_of
from sparseland.core.errors import RecipeError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.train.plans import compose

# name: (when, route, mask, needs dense)
EVERYTHING = ("weights", "gradients", "optimizer")
KNOWN: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "dense": ("never", "dense", "none", EVERYTHING),
    "random": ("before", "sparse→sparse", "static", ()),
    "magnitude": ("before", "sparse→sparse", "static", ()),
    "lamp": ("before", "sparse→sparse", "static", ()),
    "snip": ("before", "sparse→sparse", "static", ("weights", "gradients", "data")),
    "grasp": ("before", "sparse→sparse", "static", ("weights", "gradients", "data")),
    "synflow": ("before", "sparse→sparse", "static", ("weights", "gradients", "data")),
    "set": ("during", "sparse→sparse", "dynamic (random)", ()),
    "rigl": ("during", "sparse→sparse", "dynamic (gradient)", ("gradients",)),
    "granet": ("during", "sparse→sparse", "dynamic (gradient)", ("gradients",)),
    "gmp": ("during", "dense→sparse", "gradual", EVERYTHING),
    "movement": ("during", "dense→sparse", "dynamic (dead weights learn)", EVERYTHING),
    "sr-ste": ("during", "sparse→sparse", "dynamic (dead weights learn)", EVERYTHING),
    "imp": ("after", "dense→sparse", "static", EVERYTHING),
    "sms": ("after", "dense→sparse", "static", EVERYTHING),
    "reprune": ("after", "dense→sparse", "static", EVERYTHING),
    "iss-p": ("during", "dense→sparse", "dynamic (dead weights learn)", EVERYTHING),
    "greg": ("during", "dense→sparse", "static", EVERYTHING),
    "random-search": ("before", "sparse→sparse", "static", ()),
    "masksparsity": ("after", "dense→sparse", "static", EVERYTHING),
    "slimming": ("after", "dense→sparse", "static", EVERYTHING),
    "group-lasso": ("after", "dense→sparse", "static", EVERYTHING),
    "sparse-then-prune": ("after", "dense→sparse", "static", EVERYTHING),
    "jackpots": ("after", "dense→sparse", "dynamic (score)", EVERYTHING),
    "turbo-vbi": ("after", "dense→sparse", "static", EVERYTHING),
    "precropping": ("before", "sparse→sparse", "static", ("weights", "gradients", "data")),
    "bip": ("after", "dense→sparse", "static", EVERYTHING),
}
PENALISED = ("iss-p", "greg", "masksparsity", "slimming", "group-lasso")  # dense until the end of a penalty


def test_every_registered_method_has_its_row() -> None:
    assert set(KNOWN) == set(methods.registry)


@pytest.mark.parametrize("name", KNOWN)
def test_cards(name: str) -> None:
    procedure = compose({"name": name}).procedure
    card = card_of(methods.build(name), procedure=procedure and procedure.__name__)
    assert (card.when, card.route, card.mask, card.needs_dense) == KNOWN[name]
    assert card.kernel == "none (masked)"
    assert card.forward_sparse == card.backward_sparse == (name not in ("dense", *PENALISED))
    assert card.update_sparse == (name not in ("dense", "movement", "sr-ste", *PENALISED))
    assert SparsityCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_a_card_is_read_strictly() -> None:
    with pytest.raises(RecipeError, match="a card has no 'patterns': did you mean 'pattern'"):
        SparsityCard.from_dict({"patterns": "2:4"})


def test_words_change_the_card() -> None:
    assert card_of(methods.RigL(0.9, every=50)).every == 50 and card_of(methods.GMP(0.9)).every is None
    assert card_of(methods.SRSTE()).family == "N:M" and card_of(methods.SRSTE()).pattern == "2:4"
    assert card_of(methods.SET(0.9).replace(growth="momentum")).needs_dense == ("gradients", "optimizer")
    assert card_of(methods.SET(0.9), teacher=True).needs_dense == ("teacher",)
    assert card_of(None).method == "dense"
    card = card_of(methods.SET(0.9), ["a", "b"], dense_layers=["a"], train_steps=7)
    assert (card.scope, card.dense_layers, card.train_steps) == (("a", "b"), ("a",), 7)


# -------------------------------------------------------------------------------------------------------- in the result
def _run(place: Path, **changes: Any) -> dict[str, Any]:
    method = {"name": "rigl", "sparsity": 0.8, "every": 3}
    settings = {"model": "mlp-32", "method": method, "epochs": 2, "limit": 400, "lr": 0.05, "threads": 1}
    return run(TrainConfig(**{**settings, **changes}), place, progress=False)


def test_a_result_accounts_for_itself(tmp_path: Path) -> None:
    result = _run(tmp_path, ignore="fc2")
    total = 64 * 32
    assert result["counts"]["all"][1] == result["parameters"]
    assert result["counts"]["maskable"][1] == result["total"] == total
    assert result["counts"]["weights"][1] == total + 320
    assert result["counts"]["maskable"][0] <= result["kept"]
    assert result["card"]["scope"] == ["fc1.weight"] and result["card"]["dense_layers"] == ["fc2.weight"]
    assert result["card"]["train_steps"] == result["steps"] and result["card"]["every"] == 3
    assert result["selection"] == {"split": "validation", "tuned_on": None}
    flops = result["flops"]
    assert flops["by_operator"] == {"linear": {"dense": flops["inference_dense"], "sparse": flops["inference"]}}
    assert flops["by_pattern"]["linear"]["dense"] == {"dense": 640, "sparse": 640}
    assert sum(flops["phases"].values()) == flops["training"] and "rounds" not in flops
    memory = result["memory"]
    assert memory["peak_bytes"] > memory["as_implemented"] > memory["if_sparse"] > memory["activations"] > 0
    sizes = result["parameters"]
    assert (
        memory["as_implemented"] == 4 * 4 * sizes + 3 * total + memory["activations"]
    )  # w, g, momentum, evaluated copy
    assert [move["overlap"] is None for move in result["masks"]] == [True] + [False] * (len(result["masks"]) - 1)
    assert result["dead_units"] == sum(layer["dead_units"] for layer in result["layers"])


def test_bins_are_the_calibration_curve(tmp_path: Path) -> None:
    test = _run(tmp_path)["test"]
    bins = test["bins"]
    assert len(bins) == 15 and sum(images for images, _, _ in bins) == test["images"]
    assert sum(right for _, right, _ in bins) == round(test["accuracy"] * test["images"])
    assert sum(abs(right - sure) for _, right, sure in bins) / test["images"] == pytest.approx(test["ece"], abs=1e-12)
    for number, (images, right, sure) in enumerate(bins):
        assert 0 <= right <= images
        assert number / 15 * images - 1e-6 <= sure <= (number + 1) / 15 * images + 1e-6


def test_without_validation_the_last_is_chosen_and_said(tmp_path: Path) -> None:
    result = _run(tmp_path, validation=0.0, method={"name": "dense"})
    assert result["selection"]["split"] == "last"
    assert result["card"]["route"] == "dense" and result["card"]["dense_layers"] == ["fc1.weight", "fc2.weight"]


def test_a_trainer_knows_its_operators() -> None:
    config = TrainConfig(model="mlp-16", method={"name": "dense"}, limit=100)
    trainer = Trainer(config)
    assert trainer.cost.operators == {"fc1.weight": "linear", "fc2.weight": "linear"}
