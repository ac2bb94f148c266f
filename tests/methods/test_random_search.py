"""Random search over nodes on a Trainer: what is drawn, what is measured on what, and the card's assertions."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import RecipeError, ScheduleError, SparselandError, TargetError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.weights import nodes
from sparseland.weights.methods import RandomSearch, random_search

CONFIG = TrainConfig(model="mlp-24-24", data="digits", epochs=2, batch_size=64, lr=0.05, limit=300)


def test_the_composition() -> None:
    words = str(RandomSearch(0.9))
    assert all(word in words for word in ("random-search", "row", "random", "uniform", "0.9"))


def test_the_best_of_the_candidates_is_trained_and_dead_nodes_stay_dead() -> None:
    trainer = Trainer(CONFIG)
    start = trainer.state()
    out = random_search(trainer, RandomSearch(0.75), candidates=12, images=150, seed=4)
    found, masks = out["search"], out["masks"]
    assert len(found.values) == 12 and found.value == min(found.values) and found.skipped == 0
    assert out["sparsity"] == 0.75 and out["steps"] == trainer.steps
    layers = nodes.hidden(trainer.model)
    assert masks == nodes.masks(trainer.model, layers, out["nodes"])
    for name, target in sl.weights.eligible(trainer.model).items():
        assert not bool(target.param[~masks[name]].any()) and bool(target.param[masks[name]].any())
    dead = ~out["nodes"]["fc1"]
    assert not bool(trainer.model.fc1.bias[dead].any())
    # what was chosen is the initial loss of exactly this sub-network, on the same images
    trainer.load(start)
    small = nodes.cut(trainer.model, layers, out["nodes"])
    data = trainer.supply
    loss = sl.train.evaluate(
        small, data.subset("train", 150), classes=10, mean=data.dataset.mean, std=data.dataset.std
    )["loss"]
    assert loss == pytest.approx(found.value, abs=1e-5)


def test_redrawn_weights_keep_the_nodes_and_change_the_values() -> None:
    outs = {}
    for redraw in (False, True):
        trainer = Trainer(CONFIG)
        start = trainer.state()
        outs[redraw] = random_search(trainer, RandomSearch(0.5), candidates=3, redraw=redraw, seed=1)
        assert torch.equal(start["fc1.weight"], Trainer(CONFIG).state()["fc1.weight"])
        outs[redraw]["weight"] = trainer.model.fc1.weight.detach()
    assert outs[False]["masks"] == outs[True]["masks"]
    assert float((outs[False]["weight"] - outs[True]["weight"]).abs().max()) > 0.05


def test_after_steps_counts_its_training() -> None:
    trainer = Trainer(CONFIG)
    out = random_search(trainer, RandomSearch(0.5), candidates=3, objective="after-steps", steps=2, images=100)
    assert out["steps"] == 3 * 2 + trainer.steps
    assert trainer.record.meter.phases["search"] > 0


def test_a_run_searches_and_resumes_to_the_same() -> None:
    method = {"name": "random-search", "sparsity": 0.75, "candidates": 5, "images": 100}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        first = run(CONFIG.replace(method=method), one, progress=False)
        again = run(CONFIG.replace(method=method), two, progress=False)
    assert first["kept"] == 6 * 64 + 6 * 6 + 6 * 10 and first["total"] == 24 * 64 + 24 * 24 + 24 * 10
    assert first["test"] == again["test"]
    assert first["flops"]["phases"]["search"] == 5 * 100 * 2 * first["kept"]  # N forward passes of the sub-network


def test_test_images_choose_nothing() -> None:
    trainer = Trainer(CONFIG)
    with pytest.raises(RecipeError, match="never on test images"):
        random_search(trainer, on="test")
    with pytest.raises(SparselandError, match="'test' holds the test images"):
        trainer.evaluate("test", limit=10)
    same = replace(trainer.supply.dataset, test=trainer.supply.dataset.train)
    with pytest.raises(SparselandError, match="'train' holds the test images"):
        random_search(Trainer(CONFIG, dataset=same), candidates=2)


def test_bad_input() -> None:
    with pytest.raises(RecipeError, match="objective is 'los': did you mean 'loss'"):
        random_search(Trainer(CONFIG), objective="los")
    with pytest.raises(TargetError, match="go through 'Conv2d'"):
        random_search(Trainer(CONFIG.replace(model="lenet-5")))
    with pytest.raises(ScheduleError, match="steps is 0; possible: 1 or more"):
        random_search(Trainer(CONFIG), objective="after-steps", steps=0)


def test_divergence_on_all_candidates_is_an_error() -> None:
    trainer = Trainer(CONFIG)
    nn.init.constant_(trainer.model.fc3.bias, float("nan"))
    with pytest.raises(sl.core.errors.ScoreError, match="none of 2 candidates has a finite value"):
        random_search(trainer, candidates=2, images=50)


def arms(config: TrainConfig, sparsity: float, seeds: int, candidates: int) -> dict[str, list[float]]:
    """Test accuracies in percent of dense, searched and random nets."""
    found: dict[str, list[float]] = {"dense": [], "search": [], "random": []}
    for seed in range(seeds):
        for arm, count in (("dense", 0), ("search", candidates), ("random", 1)):
            trainer = Trainer(config.replace(seed=seed))
            if count:
                random_search(trainer, RandomSearch(sparsity), candidates=count, seed=seed)
            else:
                trainer.fit(None)
            found[arm].append(100 * trainer.evaluate("test")["accuracy"])
    return found


def assert_the_card_s_rule(found: dict[str, list[float]], drop: float) -> None:
    gaps = [a - b for a, b in zip(found["search"], found["random"], strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5
    assert abs(statistics.mean(gaps)) <= max(0.5, 2 * error), gaps
    assert statistics.mean(found["dense"]) - statistics.mean(found["search"]) <= drop, found


def test_searched_is_random_after_training_short() -> None:
    config = CONFIG.replace(model="mlp-128-128", limit=None, epochs=8, evaluate_every=8)
    assert_the_card_s_rule(arms(config, 0.8, 4, 20), 3.0)


@pytest.mark.slow
def test_searched_is_random_after_training(data_folder: Path) -> None:
    """The card's proof: Fashion-MNIST, 90 % of the nodes, 100 candidates, four seeds."""
    config = CONFIG.replace(
        model="mlp-256-256", data="fashion-mnist", folder=str(data_folder), limit=10_000, epochs=6, batch_size=128,
        nesterov=False, weight_decay=0.0, evaluate_every=6,
    )  # fmt: skip
    found: Any = arms(config, 0.9, 4, 100)
    assert_the_card_s_rule(found, 3.0)
