"""A small ViT trained with and without penalties on its attention, then pruned at several ratios without retraining."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparseland as sl
from sparseland.core import OneShot
from sparseland.data import Dataset
from sparseland.train import TrainConfig, Trainer, evaluate
from sparseland.train.result import machine, versions
from sparseland.weights import attention, eligible, prune_
from sparseland.weights.methods import SparseThenPrune
from sparseland.weights.methods.l1_then_prune import block_norms

ACCURACY, MEAN = "test accuracy (%)", "mean test accuracy over the ratios (%)"
ENTROPY, HOYER, GINI = "entropy of a row, last block (nats)", "Hoyer sparsity, last block", "Gini, last block"
LOST, GAINED = "paired difference: accuracy before pruning (points)", "paired difference: mean over the ratios (points)"
VIT = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "patch_size": 7}
ARMS: dict[str, dict[str, Any]] = {
    "none": {"strength": 0.0},
    "log, paper": {"strength": 0.01, "kind": "log", "reduction": "mean", "layers": "last"},
    "log, strong": {"strength": 1.0, "kind": "log", "reduction": "row_sum", "layers": "all"},
    "entropy": {"strength": 0.1, "kind": "entropy", "reduction": "row_sum", "layers": "all"},
}
RULES = {  # how the weights of arm "none" are pruned beside the paper's global magnitude
    "none, magnitude per layer": {"allocation": "uniform"},
    "none, random": {"criterion": "random"},
}


@functools.lru_cache(maxsize=1)  # jobs of one worker share it
def load(data: str, limit: int | None, validation: float) -> Dataset:
    """The data set; its splits are the same for all seeds."""
    return sl.data.load(data, limit=limit, validation=validation, seed=0)


def accuracy(model: nn.Module, data: Dataset) -> float:
    """On test images, in percent."""
    return 100 * float(evaluate(model, data.test, classes=data.classes, mean=data.mean, std=data.std)["accuracy"])


def train(config: TrainConfig, data: Dataset, model: nn.Module, arm: dict[str, Any]) -> nn.Module:
    """The whole schedule with the arm's penalty."""
    trainer = Trainer(config, dataset=data, model=model)
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.filterwarnings("ignore", message="attention is computed by 'eager'")
        if arm["strength"]:
            stack.enter_context(attention.penalised(trainer.model, **arm))
        trainer.fit(None)
    return trainer.model


def pruned(model: nn.Module, ratio: float, data: Dataset, seed: int, *, norms: bool = False, **words: Any) -> float:
    """Accuracy right after one cut; the model stays as it is."""
    other = copy.deepcopy(model)
    method = SparseThenPrune(ratio).replace(schedule=OneShot(ratio), **words)
    prune_(other, method, targets=[*eligible(other), block_norms] if norms else None, seed=seed)
    return accuracy(other, data)


def measures(model: nn.Module, data: Dataset) -> dict[str, float]:
    """How sparse the rows of the last block's attention are, on 500 test images."""
    images = data.test.images[:500].float() / 255 if data.test.images.dtype == torch.uint8 else data.test.images[:500]
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    last = list(attention.attention_maps(model, (images - mean) / std).values())[-1]
    found = {ENTROPY: attention.row_entropy, HOYER: attention.hoyer, GINI: attention.gini}
    return {name: float(measure(last)) for name, measure in found.items()}


def measure(
    data: str,
    limit: int | None,
    validation: float,
    epochs: int,
    batch_size: int,
    lr: float,
    warmup: float,
    ratios: list[float],
    source: str | None,
    seed: int,
    place: str,
) -> dict[str, Any]:
    """All arms for one seed, from scratch or from the weights of ``source`` (with a new classifier).

    The net of arm "none" is kept in ``place/weights`` for others to start from.
    """
    from safetensors.torch import load_file, save_file

    began = time.monotonic()
    dataset = load(data, limit, validation)
    config = TrainConfig(
        model="hf:config:vit", model_options=VIT, data=data, optimizer="adamw", lr=lr, weight_decay=0.01,
        warmup=warmup, epochs=epochs, batch_size=batch_size, evaluate_every=epochs, seed=seed,
    )  # fmt: skip
    start = sl.zoo.build("hf:config:vit", in_shape=dataset.shape, classes=dataset.classes, seed=seed, **VIT)
    if source is not None:
        given = load_file(Path(place) / "weights" / source / f"{seed}.safetensors")
        start.load_state_dict({k: v for k, v in given.items() if not k.startswith("classifier")}, strict=False)
    measured: list[dict[str, Any]] = []

    def add(setting: str, arm: str, metric: str, value: float) -> None:
        measured.append({"setting": setting, "arm": arm, "metric": metric, "value": round(value, 4)})

    def cut(arm: str, model: nn.Module, **words: Any) -> float:
        values = []
        for ratio in ratios:
            values.append(pruned(model, ratio, dataset, seed, **words))
            add(f"pruned {ratio:.0%}", arm, ACCURACY, values[-1])
        add("", arm, MEAN, sum(values) / len(values))
        return sum(values) / len(values)

    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for arm, words in ARMS.items():
        model = train(config, dataset, copy.deepcopy(start), words)
        before[arm] = accuracy(model, dataset)
        add("dense", arm, ACCURACY, before[arm])
        for name, value in measures(model, dataset).items():
            add("dense", arm, name, value)
        after[arm] = cut(arm, model)
        if arm == "none":
            for name, rule in RULES.items():
                cut(name, model, **rule)
            folder = Path(place) / "weights" / data
            folder.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{seed}.safetensors")
        else:
            add("dense", f"{arm} - none", LOST, before[arm] - before["none"])
            add("", f"{arm} - none", GAINED, after[arm] - after["none"])
        if arm == "log, paper":
            cut("log, paper, norms too", model, norms=True)
    return {
        "measured": measured,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
