"""Sub-networks of one untrained parent, cut out small and dense, and trained alike: searched, random, and controls."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.account import trace
from sparseland.data import Dataset, Split
from sparseland.train import TrainConfig, Trainer, evaluate
from sparseland.train.result import machine, versions
from sparseland.weights import nodes
from sparseland.weights.search import search

TEST, FIRST, AREA = "test accuracy (%)", "validation accuracy after epoch 1 (%)", "mean validation accuracy (%)"
EPOCHS, LOSS = (
    "epochs to 80 % validation accuracy (one more than trained: never)",
    "loss before training (thousandths of a nat)",
)
COST = "search, share of the dense training FLOPs (%)"
COMPARED = (TEST, FIRST, AREA, EPOCHS, LOSS)
REACHED = 0.8


def paired(metric: str) -> str:
    """The name of a difference between two arms of one seed.

    >>> paired("test accuracy (%)")
    'paired difference: test accuracy (points)'
    """
    return f"paired difference: {metric.replace('(%)', '(points)')}"


@functools.lru_cache(maxsize=1)  # jobs of one worker share it
def load(data: str, limit: int, validation: float) -> Dataset:
    """The data set; its splits are the same for all seeds."""
    return sl.data.load(data, limit=limit, validation=validation, seed=0)


def loss_of(model: nn.Module, split: Split, data: Dataset) -> float:
    """Mean cross-entropy on a split."""
    found = evaluate(model, split, classes=data.classes, mean=data.mean, std=data.std, batch_size=len(split))
    return float(found["loss"])


def alive(
    how: str, parent: nn.Module, layers: Any, sparsity: float, candidates: int, subset: Split, data: Dataset, seed: int
) -> tuple[dict[str, Tensor], int]:
    """Which nodes an arm keeps, and the FLOPs of choosing them."""
    criterion = "magnitude" if how == "magnitude" else "random"
    words = sl.methods.RandomSearch(sparsity, criterion=criterion)
    values = nodes.norms(parent, layers)
    spent = 0

    def objective(z: dict[str, Tensor]) -> float:
        nonlocal spent
        small = nodes.cut(parent, layers, z)
        spent += len(subset) * trace(small, torch.zeros(1, *data.shape)).dense()
        return loss_of(small, subset, data)

    if how == "search":
        return search(lambda g: nodes.choose(words, values, g), objective, candidates, seed=seed).best, spent
    return search(lambda g: nodes.choose(words, values, g), lambda z: 0.0, 1, seed=seed).best, 0


def train(model: nn.Module, config: TrainConfig, data: Dataset, subset: Split) -> dict[str, float]:
    """Train with a linearly falling rate; the last weights are tested, the curve is on validation."""
    before = loss_of(model, subset, data)
    curve: list[float] = []
    trainer = Trainer(
        config, dataset=data, model=model, callback=lambda entry: curve.append(entry["validation_accuracy"])
    )
    steps = trainer.steps
    trainer.fit(None, lrs=[config.lr * (1 - t / steps) for t in range(steps)])
    reached = next((i for i, value in enumerate(curve, 1) if value >= REACHED), len(curve) + 1)
    return {
        TEST: 100 * trainer.evaluate("test")["accuracy"],
        FIRST: 100 * curve[0],
        AREA: 100 * sum(curve) / len(curve),
        EPOCHS: float(reached),
        LOSS: 1000 * before,
    }


def measure(
    data: str,
    hidden: list[int],
    limit: int,
    validation: float,
    epochs: int,
    batch_size: int,
    lr: float,
    images: int,
    candidates: int,
    sparsities: list[float],
    arms: list[str],
    seed: int,
) -> dict[str, Any]:
    """All arms at all sparsities for one seed; arms differ in the nodes (and, "redrawn", in the weights) only."""
    began = time.monotonic()
    dataset = load(data, limit, validation)
    name = "mlp-" + "-".join(map(str, hidden))
    config = TrainConfig(
        model=name, data=data, epochs=epochs, batch_size=batch_size, lr=lr, nesterov=False, weight_decay=0.0, seed=seed
    )
    build = functools.partial(sl.zoo.build, name, in_shape=dataset.shape, classes=dataset.classes)
    parent, again = build(seed=seed), build(seed=seed + 10_000)
    layers = nodes.hidden(parent)
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    subset = dataset.train[order[:images]]
    whole = 3 * trace(parent, torch.zeros(1, *dataset.shape)).dense() * len(dataset.train) * epochs
    measured = []

    def add(setting: str, arm: str, values: dict[str, float]) -> None:
        for metric, value in values.items():
            measured.append({"setting": setting, "arm": arm, "metric": metric, "value": round(value, 4)})

    def run(model: nn.Module) -> dict[str, float]:
        return train(model, config, dataset, subset)

    add("0%", "dense", run(nodes.cut(parent, (), {})))
    for sparsity in sparsities:
        setting, found, kept = f"{sparsity:.0%}", {}, {}
        for arm in arms:
            how = "search" if arm == "redrawn" else arm
            if how not in kept:
                kept[how] = alive(how, parent, layers, sparsity, candidates, subset, dataset, seed)
            found[arm] = run(nodes.cut(again if arm == "redrawn" else parent, layers, kept[how][0]))
            add(setting, arm, found[arm])
        add(setting, "search", {COST: 100 * kept["search"][1] / whole})
        for arm in ("search", "redrawn", "magnitude"):
            if arm in found:
                gaps = {paired(m): found[arm][m] - found["random"][m] for m in COMPARED}
                add(setting, f"{arm} - random", gaps)
    return {
        "measured": measured,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
