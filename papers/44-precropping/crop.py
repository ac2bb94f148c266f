"""One run of card 44's proof: a net that is masked, shuffled, cropped, uniformly narrower or whole, and trained."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.account import take_turns
from sparseland.core import MaskSet
from sparseland.train import TrainConfig, Trainer
from sparseland.train.result import machine, versions
from sparseland.weights import Method, eligible, structure
from sparseland.weights.cropping import crop_, densities, densities_masks, edges_of
from sparseland.weights.widths import real_widths

ACCURACY, PARAMETERS, FLOPS = "test accuracy (%)", "parameters left (%)", "FLOPs left (%)"
WIDEST, NARROWEST = "widest layer (% of its channels)", "narrowest layer (% of its channels)"
STEP = "a training step, dense / this (times)"
CROPS = {  # arm: (whose densities, rule)
    "crop": ("global", "sqrt"),
    "crop, chain rule": ("global", "chain"),
    "crop, least squares": ("global", "least-squares"),
    "crop, equal counts": ("equal-count", "sqrt"),
}


def fresh(net: str, shape: tuple[int, int, int], seed: int) -> nn.Module:
    """The dense net, from its seed."""
    options = {"shortcut": "B"} if net.startswith("resnet") else {}
    return sl.zoo.build(net, in_shape=shape, classes=10, seed=seed, **options)


def shuffled(masks: MaskSet, seed: int) -> MaskSet:
    """The same number of weights in each layer, at random places.

    >>> shuffled(MaskSet({"w": torch.tensor([True, False, False, True])}), 0).kept()
    2
    """
    generator = torch.Generator().manual_seed(seed)

    def mixed(mask: Tensor) -> Tensor:
        return mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view_as(mask)

    return MaskSet({name: mixed(mask) for name, mask in masks.items()})


@functools.lru_cache(maxsize=8)
def masks_of(net: str, shape: tuple[int, int, int], p: float, allocation: str, seed: int) -> MaskSet:
    """The masks whose densities are used; several arms ask for the same."""
    method = sl.methods.PreCropping(1 - p, allocation=allocation)
    return densities_masks(fresh(net, shape, seed), method, torch.zeros(1, *shape), seed=seed)


def prepare(
    net: str, model: nn.Module, arm: str, p: float, example: Tensor, seed: int
) -> tuple[Method | None, MaskSet | None]:
    """Make the fresh model what the arm says: narrower in place, or the method and masks that it is trained with."""
    if arm == "dense":
        return None, None
    if arm == "uniform width":
        crop_(model, p, example, dict.fromkeys(eligible(model), p))
        return None, None
    if arm in CROPS:
        allocation, rule = CROPS[arm]
        masks = masks_of(net, tuple(example.shape[1:]), p, allocation, seed)
        found = {name: kept / size for name, (kept, size) in masks.counts().items()}
        crop_(model, p, example, found, rule=rule)
        return None, None
    if arm in ("magnitude", "random"):
        build = sl.methods.Magnitude if arm == "magnitude" else sl.methods.RandomPruning
        return build(1 - p), None
    masks = masks_of(net, tuple(example.shape[1:]), p, "global", seed)
    return Method(name="static"), shuffled(masks, seed) if arm == "SynFlow, shuffled" else masks


def measure(
    data: str,
    net: str,
    limit: int,
    epochs: int,
    lr: float,
    arms: list[list[Any]],
    seed: int,
    size: int | None = None,
    batch: int = 128,
) -> dict[str, Any]:
    """Train all arms ([name, p]) of one seed, and test each once, at the end."""
    began = time.monotonic()
    dataset = sl.data.load(data, limit=limit, seed=seed, size=size)
    config = TrainConfig(
        data=data, limit=limit, epochs=epochs, lr=lr, seed=seed, batch_size=batch, evaluate_every=epochs, threads=1,
        augment="crop+flip" if dataset.shape[0] == 3 else None,
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for arm, p in arms:
        torch.manual_seed(seed)
        model = fresh(net, dataset.shape, seed)
        values = one(Trainer(config, dataset=dataset, model=model), net, arm, p, seed)
        setting = f"{p:.0%} of parameters" if arm != "dense" else ""
        rows += [{"setting": setting, "arm": arm, "metric": m, "value": round(v, 4)} for m, v in values.items()]
    return {
        "measured": rows,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }


def one(trainer: Trainer, net: str, arm: str, p: float, seed: int) -> dict[str, float]:
    """The numbers of one arm."""
    model = trainer.model
    dense, flops = sum(q.numel() for q in model.parameters()), trainer.cost.dense()
    sizes = {n: q.shape[0] for n, q in model.named_parameters() if q.ndim > 1}
    method, masks = prepare(net, model, arm, p, trainer.example, seed)
    trainer.fit(method, masks)
    left = sum(int(q.count_nonzero()) if method else q.numel() for q in model.parameters())
    counts = {n: (int(t.param.count_nonzero()), t.param.numel()) for n, t in eligible(model).items()} if method else {}
    shares = [model.get_parameter(n).shape[0] / size for n, size in sizes.items()][:-1]
    return {
        ACCURACY: 100 * float(trainer.evaluate("test")["accuracy"]),
        PARAMETERS: 100 * left / dense,
        FLOPS: 100 * trainer.cost.sparse(counts) / flops,
        WIDEST: 100 * max(shares),
        NARROWEST: 100 * min(shares),
    }


def step_time(net: str, shape: list[int], p: float, batch: int, rounds: int, seed: int) -> dict[str, Any]:
    """One optimizer step of the dense, the masked and the cropped net, in turns, on random numbers."""
    began = time.monotonic()
    torch.manual_seed(seed)
    images, labels = torch.randn(batch, *shape), torch.randint(10, (batch,))
    rivals = {}
    for arm in ("dense", "SynFlow mask", "crop"):
        model = fresh(net, (shape[0], shape[1], shape[2]), seed)
        method, masks = prepare(net, model, arm, p, images[:1] * 0, seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        if method is not None:
            method.attach(model, optimizer, masks=masks)

        def step(model: nn.Module = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

        rivals[arm] = step
    times = take_turns(rivals, rounds=rounds, warm_up=2)
    setting = f"{p:.0%} of parameters"
    ratios = {arm: sorted(a / b for a, b in zip(times["dense"], taken, strict=True)) for arm, taken in times.items()}
    return {
        "measured": [
            {"setting": setting, "arm": arm, "metric": STEP, "value": round(r[len(r) // 2], 3)}
            for arm, r in ratios.items()
            if arm != "dense"
        ],
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }


def widths_by_rule(net: str, shape: list[int], p: float, seed: int) -> dict[str, dict[str, float]]:
    """The real widths that each rule asks for, before the common factor: where the chain rule oscillates."""
    model = fresh(net, (shape[0], shape[1], shape[2]), seed)
    example = torch.zeros(1, *shape)
    found = densities(model, sl.methods.PreCropping(1 - p), example, seed=seed)
    graph = structure.trace(model, example)
    sizes = {g.name: g.size for g in graph.prunable}
    return {r: real_widths(edges_of(graph, model), sizes, found, r) for r in ("sqrt", "chain", "least-squares")}
