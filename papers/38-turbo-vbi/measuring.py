"""One run: a mask by some posterior, score or chance, as many weights in every layer as in any other arm; training.

Of the epochs two thirds choose (mean-field inference, gates, a penalty, or plain training for magnitude), one third
trains the chosen weights on; dense and random train all the time. All with Adam, a cosine for each of the two.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from typing import Any

import baselines
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.account import Clusters
from sparseland.core import ERK, MaskSet, Unstructured
from sparseland.data import Dataset, batches
from sparseland.train import evaluate
from sparseland.train.result import machine, versions
from sparseland.weights import Method, eligible
from sparseland.weights.turbo import Inference, Support, Variational, bayesian_, plain_

ACCURACY = "test accuracy (%)"
RUN, CHANCE = "mean run length", "mean run length at random places"
CODED, OWN = "cluster coding / CSR (bytes)", "active, s > 1/2 (%)"
UNTRAINED, EMPTY = "test accuracy before training on (%)", "empty rows and columns (%)"


@functools.lru_cache(maxsize=1)
def load(data: str, limit: int | None, seed: int) -> tuple[Dataset, Tensor, Tensor]:
    """The data set, and its training images and labels as two tensors."""
    found = sl.data.load(data, limit=limit, seed=seed)
    parts = list(batches(found.train, 1000, mean=found.mean, std=found.std, shuffle=False))
    return found, torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def train_(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    batch: int,
    seed: int,
    *,
    method: Method | None = None,
    masks: MaskSet | None = None,
    arm: baselines.Arm | None = None,
) -> Any:
    """Adam, cosine to zero; returns the sparsifier (None without a method)."""
    steps = epochs * -(-len(images) // batch)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    sparsifier = None if method is None else method.attach(net, optimizer, steps=steps, seed=seed, masks=masks)
    generator, done = torch.Generator().manual_seed(seed), 0
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(batch):
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * done / steps)) / 2
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images[chosen]), labels[chosen])
            if arm is not None:
                loss = loss + arm.penalty(min(1.0, done / (0.4 * steps)))
            loss.backward()
            optimizer.step()
            done += 1
    if sparsifier is not None:
        sparsifier.finalize_()
    net.eval()
    return sparsifier


def counts(net: nn.Module, density: float) -> dict[str, int]:
    """How many weights each layer keeps, in every arm: Erdős–Rényi–kernel."""
    shapes = {name: tuple(t.shape) for name, t in eligible(net).items()}
    return dict(ERK()(shapes, 1 - density, pattern=Unstructured()))


def top(scores: dict[str, Tensor], keep: dict[str, int]) -> MaskSet:
    """The best of each layer."""
    return MaskSet({name: Unstructured().project(score, keep[name]) for name, score in scores.items()})


def choose_(
    net: nn.Module,
    arm: str,
    method: Method,
    work: dict[str, Any],
    images: Tensor,
    labels: Tensor,
    density: float,
) -> tuple[MaskSet, dict[str, float]]:
    """Train ``net`` in the way of an arm; the masks, and what else is worth a row. The net is plain in the end."""
    keep = counts(net, density)
    if arm == "magnitude":
        train_(net, images, labels, **work)
        return top({n: t.param.detach().abs() for n, t in eligible(net).items()}, keep), {}
    if arm in baselines.ARMS:
        made = baselines.ARMS[arm](net, len(images))
        train_(net, images, labels, **work, arm=made)
        return top(made.finish_(), keep), {}
    bayesian_(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # guards that do not hold are told by `guards`
        found: Inference = train_(net, images, labels, **work, method=method)
    scores, active = found.posterior.scores(), found.posterior.active()
    plain_(net)
    return top(scores, keep), {OWN: 100 * active}


def shape_of(net: nn.Module, masks: MaskSet, seed: int) -> dict[str, float]:
    """Cluster statistics over all masked layers, beside as many weights at random places of the same layers."""
    generator = torch.Generator().manual_seed(seed)
    runs = chance = coded = csr = empty = units = 0
    for name, target in eligible(net).items():
        mask = masks[name]
        here = Clusters.of(target.param, mask)
        order = torch.randperm(mask.numel(), generator=generator)
        chance += len(Clusters.of(target.param, mask.flatten()[order].view(mask.shape)).runs)
        runs, coded, csr = runs + len(here.runs), coded + here.bytes(), csr + here.csr_bytes()
        empty, units = empty + here.empty_rows + here.empty_columns, units + sum(here.shape)
    kept = masks.kept()
    return {RUN: kept / runs, CHANCE: kept / chance, CODED: coded / csr, EMPTY: 100 * empty / units}


def measure(
    data: str,
    net: str,
    limit: int | None,
    epochs: int,
    batch: int,
    lr: float,
    density: float,
    arm: str,
    label: str,
    prior: dict[str, Any],
    every: float,
    split: str,
    seed: int,
) -> dict[str, Any]:
    """One run of an arm; ``split``: where the accuracy is measured."""
    began = time.monotonic()
    torch.manual_seed(seed)
    dataset, images, labels = load(data, limit, seed)
    model = sl.zoo.build(net, in_shape=dataset.shape, classes=dataset.classes, seed=seed)
    first, both = round(epochs * 2 / 3), {"batch": batch, "lr": lr, "seed": seed}

    def accuracy() -> float:
        found = evaluate(model, dataset.split(split), classes=dataset.classes, mean=dataset.mean, std=dataset.std)
        return 100 * float(found["accuracy"])

    values: dict[str, float] = {}
    if arm == "dense":
        train_(model, images, labels, epochs, **both)
    else:
        if arm == "random":
            draw = torch.Generator().manual_seed(seed)
            masks = top({n: torch.rand(t.param.shape, generator=draw) for n, t in eligible(model).items()},
                        counts(model, density))  # fmt: skip
            first = 0
        else:
            work = {"epochs": first, **both}
            method = Variational(criterion=Support(**prior), images=len(images), every=every)
            masks, values = choose_(model, arm, method, work, images, labels, density)
            with torch.no_grad():
                for name, target in eligible(model).items():
                    target.param.mul_(masks[name])
            model.eval()
            values[UNTRAINED] = accuracy()
        train_(model, images, labels, epochs - first, **both, method=Method(name="keep"), masks=masks)
        values |= shape_of(model, masks, seed)
    values[ACCURACY] = accuracy()
    setting = "" if arm == "dense" else f"{density:.0%}"
    return {
        "measured": [{"setting": setting, "arm": label, "metric": m, "value": round(v, 4)} for m, v in values.items()],
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
