"""MobileNetV1 of one width, dense or with sparse 1x1 convolutions, trained for a fixed number of steps.

Sparse: gradual magnitude pruning along a cubic from 10 % to 75 % of the run, the same sparsity in every 1x1
convolution, everything else dense; in the last block the atom is 4 output channels x 1 input channel, as published.
Random: the same counts at random places, never moved. All arms of a part take the same steps on the same images.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.account import trace
from sparseland.data import Dataset, batches
from sparseland.train import TrainConfig, evaluate
from sparseland.train.optim import lr_at, make_optimizer
from sparseland.train.result import machine, versions
from sparseland.weights import methods

ACCURACY, MACS = "test accuracy (%)", "multiply-adds (million)"
VALIDATION, ZEROS = "validation accuracy (%)", "zeros in 1x1 convolutions (%)"
LAST = "layers.12.pointwise.weight"  # of the 1x1 convolutions the one whose outputs share inputs in fours
FIRST = tuple(f"layers.{i}.pointwise.weight" for i in range(12))


@functools.lru_cache(maxsize=1)  # runs of one seed follow each other, and 60,000 JPEGs take seconds
def load(data: str, limit: int, seed: int) -> Dataset:
    """The data set; its validation images depend on the seed, its test images do not."""
    return sl.data.load(data, limit=limit, seed=seed)


def build(data: Dataset, width: float, stem: int, seed: int = 0) -> nn.Module:
    """MobileNetV1 for this data set; ``stem`` is the stride of its first convolution."""
    return sl.zoo.build(
        "mobilenet-v1", in_shape=data.shape, classes=data.classes, seed=seed, width=width, stem_stride=stem
    )


def words(arm: str, sparsity: float, every: int) -> dict[str, sl.Method]:
    """The methods of an arm, by the pattern they prune with; none for a dense net.

    >>> [str(method.pattern) for method in words("sparse", 0.9, 10).values()]
    ['unstructured', 'block 4x1']
    """
    if arm == "dense":
        return {}
    if arm == "random":
        made = {p: methods.RandomPruning(sparsity, ratios="uniform") for p in ("unstructured", "block 4x1")}
        return {p: method.replace(pattern=p) for p, method in made.items()}
    shared = {"start": 0.1, "end": 0.75, "every": every, "allocation": "uniform"}
    return {p: methods.GMP(sparsity, pattern=p, **shared) for p in ("unstructured", "block 4x1")}


def fit(data: Dataset, model: nn.Module, config: TrainConfig, arm: str, sparsity: float, every: int) -> None:
    """Train ``model`` in place; at the end its zeros are in its weights."""
    model.to(memory_format=torch.channels_last)  # faster, equal up to rounding
    optimizer = make_optimizer(config, model)
    steps = config.epochs * -(-len(data.train) // config.batch_size)
    attached = [
        method.attach(model, optimizer, targets=FIRST if pattern == "unstructured" else LAST, steps=steps, seed=seed)
        for (pattern, method), seed in zip(
            words(arm, sparsity, every).items(), (config.seed, config.seed + 1000), strict=False
        )
    ]
    done = 0
    model.train()
    for epoch in range(config.epochs):
        order = {"shuffle": True, "seed": config.seed, "epoch": epoch, "augment": config.augment}
        for images, labels in batches(data.train, config.batch_size, mean=data.mean, std=data.std, **order):
            for group in optimizer.param_groups:
                group["lr"] = lr_at(config, done, steps)
            optimizer.zero_grad()
            logits = model(images.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
            done += 1
    for sparsifier in attached:
        sparsifier.finalize_()
    model.to(memory_format=torch.contiguous_format).eval()


def counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(non-zeros, all) of every 1x1 convolution."""
    state = model.state_dict()
    return {name: (int(state[name].count_nonzero()), state[name].numel()) for name in (*FIRST, LAST)}


def measure(
    data: str,
    limit: int,
    epochs: int,
    batch_size: int,
    lr: float,
    augment: str | None,
    stem: int,
    width: float,
    arm: str,
    sparsity: float,
    seed: int,
    split: str,
    name: str,
    place: str,
    tested: int | None = None,
) -> dict[str, Any]:
    """One run: accuracy on ``split`` (its first ``tested`` images), multiply-adds, zeros; weights go to ``place``."""
    from safetensors.torch import save_file

    began = time.monotonic()
    torch.manual_seed(seed)
    loaded = load(data, limit, seed)
    config = TrainConfig(
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        warmup=0.05,
        weight_decay=5e-4,
        augment=augment,
        seed=seed,
    )
    model = build(loaded, width, stem, seed)
    fit(loaded, model, config, arm, sparsity, every=10)
    asked = loaded.split(split)
    asked = asked if tested is None else asked[torch.arange(tested)]
    found = evaluate(model, asked, classes=loaded.classes, mean=loaded.mean, std=loaded.std)
    kept = counts(model)
    folder = Path(place) / "weights" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    cost = trace(model, torch.zeros(1, *loaded.shape)).sparse(kept)
    zeros = 1 - sum(k for k, _ in kept.values()) / sum(n for _, n in kept.values())
    label = f"{arm} {width:g}" + (f" {sparsity:.0%}" if sparsity else "") + (f" lr {lr:g}" if split != "test" else "")
    values = {
        (ACCURACY if split == "test" else VALIDATION): 100 * found["accuracy"],
        MACS: cost / 2e6,
        ZEROS: 100 * zeros,
    }
    return {
        "measured": [{"setting": "", "arm": label, "metric": m, "value": round(v, 4)} for m, v in values.items()],
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
