"""A trained net, pruned to one pattern and fine-tuned for a short while; the rows that share atoms are chosen first.

The procedure of the system's card: group the output channels once, prune every layer to the same sparsity along a cubic
over the first 40 % of the steps (what is pruned stays pruned), keep the mask for the rest, then estimate BatchNorm's
statistics anew. Scores are sums of |w| over an atom. The first convolution, depthwise convolutions and the classifier
stay dense.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.core import Cubic, Pattern, pattern
from sparseland.data import Dataset, batches
from sparseland.kernels.grouping import group_rows
from sparseland.train import TrainConfig, evaluate
from sparseland.train.optim import lr_at, make_optimizer
from sparseland.train.result import machine, versions
from sparseland.zoo import load_weights, pretrained

ACCURACY, ONCE = "test accuracy (%)", "test accuracy, one shot, BatchNorm estimated anew (%)"
KEPT = "kept share of the weights' sizes (%)"
TARGETS = {"resnet-20": "layer", "mobilenet-v1-0.5": ".pointwise."}  # what the names of pruned weights contain
STATISTICS = 10  # batches from which BatchNorm's statistics are estimated


@functools.lru_cache(maxsize=1)  # runs of one seed follow each other, and 60,000 JPEGs take seconds
def load(data: str, limit: int, seed: int) -> Dataset:
    """A data set with so many training images; the test images do not depend on the seed."""
    return sl.data.load(data, limit=limit, seed=seed)


def trained(net: str, data: Dataset, source: str | None) -> nn.Module:
    """The given ResNet-20, or a MobileNetV1 of width 0.5 from a weights file of papers/23-fast-sparse-convnets."""
    if source is None:
        return pretrained(net)
    model = sl.zoo.build(net, in_shape=data.shape, classes=data.classes, seed=0, stem_stride=2)
    return load_weights(model, source)


def weights_of(net: str, model: nn.Module) -> dict[str, nn.Parameter]:
    """The convolutions that become sparse: all 3x3 but the first, or all 1x1."""
    return {name: p for name, p in model.named_parameters() if p.ndim == 4 and TARGETS[net] in name}


def orders(
    weights: dict[str, nn.Parameter], shape: Pattern, grouping: str, sparsity: float, seed: int
) -> dict[str, Tensor]:
    """For each weight the order of its output rows in which rows that share atoms stand together."""
    size = getattr(shape, "out", 1)
    made = {}
    for name, weight in weights.items():
        scores = weight.detach().abs().flatten(2).sum(2).numpy()
        groups = group_rows(scores, size, grouping, seed, sparsity=sparsity)
        made[name] = torch.tensor([row for group in groups for row in group])
    return made


def masks(
    weights: dict[str, nn.Parameter], shape: Pattern, order: dict[str, Tensor], p: float, before: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The masks at sparsity ``p``, inside those of ``before``; atoms are cut after the rows are put in ``order``.

    >>> weight = nn.Parameter(torch.tensor([[3.0, 0.1], [0.2, 2.0], [2.0, 0.1], [0.3, 3.0]]))
    >>> made = masks({"w": weight}, pattern("kernel 2x1"), {"w": torch.tensor([0, 2, 1, 3])}, 0.5, {})
    >>> made["w"].tolist()
    [[True, False], [False, True], [True, False], [False, True]]
    """
    made = {}
    for name, weight in weights.items():
        scores = weight.detach().abs()[order[name]]
        among = before[name][order[name]] if before else None
        count = shape.reachable(scores.shape, (1 - p) * scores.numel())
        mask = torch.empty_like(scores, dtype=torch.bool)
        mask[order[name]] = shape.project(scores, count, among=among, name=name)
        made[name] = mask
    return made


@torch.no_grad()
def apply_(weights: dict[str, nn.Parameter], mask: dict[str, Tensor]) -> None:
    """Write the zeros."""
    for name, weight in weights.items():
        weight.mul_(mask[name])


@torch.no_grad()
def recalibrate_(model: nn.Module, data: Dataset, seed: int) -> None:
    """BatchNorm's running statistics anew: the plain mean over `STATISTICS` batches of training images."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    order = {"shuffle": True, "seed": seed, "epoch": 1000}
    for i, (images, _) in enumerate(batches(data.train, 128, mean=data.mean, std=data.std, **order)):
        if i < STATISTICS:
            model(images.contiguous(memory_format=torch.channels_last))
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def finetune_(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig,
    weights: dict[str, nn.Parameter],
    shape: Pattern | None,
    order: dict[str, Tensor],
    p: float,
) -> None:
    """Cubic over the first 40 % of the steps, a fixed mask for the rest; ``shape`` None: no zeros."""
    optimizer, steps = make_optimizer(config, model), config.epochs * -(-len(data.train) // config.batch_size)
    ramp = Cubic(p, end=max(1, round(0.4 * steps)))
    mask: dict[str, Tensor] = {}
    done = 0
    model.train()
    for epoch in range(config.epochs):
        drawn = {"shuffle": True, "seed": config.seed, "epoch": epoch, "augment": config.augment}
        for images, labels in batches(data.train, config.batch_size, mean=data.mean, std=data.std, **drawn):
            if shape is not None and done <= ramp.end and (done % 2 == 0 or done == ramp.end):
                mask = masks(weights, shape, order, ramp(done) or 0.0, mask)
                apply_(weights, mask)
            for group in optimizer.param_groups:
                group["lr"] = lr_at(config, done, steps)
            optimizer.zero_grad()
            F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
            done += 1
            if mask:
                apply_(weights, mask)


def measure(
    dataset: str,
    net: str,
    source: str | None,
    limit: int,
    tested: int,
    epochs: int,
    lr: float,
    arm: str,
    shape: str,
    grouping: str,
    sparsity: float,
    once: bool,
    tuned: bool,
    seed: int,
    name: str,
    place: str,
) -> dict[str, Any]:
    """One run, tested on a prefix of the test images; its weights stay in ``place/weights``.

    once: prune in one shot too, and look. tuned: fine-tune.
    """
    from safetensors.torch import save_file

    began = time.monotonic()
    torch.manual_seed(seed)
    data = load(dataset, limit, seed)
    model = trained(net, data, None if source is None else str(Path(place).parent / source))
    model.to(memory_format=torch.channels_last)
    weights = weights_of(net, model)
    cut = None if shape == "dense" else pattern(shape)
    order = orders(weights, cut, grouping, sparsity, seed) if cut is not None else {}
    values: dict[str, float] = {}
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def accuracy() -> float:
        recalibrate_(model, data, seed)
        found = evaluate(model, data.test[torch.arange(tested)], classes=data.classes, mean=data.mean, std=data.std)
        return 100 * float(found["accuracy"])

    if cut is not None:
        mask = masks(weights, cut, order, sparsity, {})
        total = sum(float(w.detach().abs().sum()) for w in weights.values())
        values[KEPT] = 100 * sum(float((w.detach().abs() * mask[n]).sum()) for n, w in weights.items()) / total
        if once:
            apply_(weights, mask)
            values[ONCE] = accuracy()
            model.load_state_dict(before)
    if tuned:
        config = TrainConfig(
            epochs=epochs,
            batch_size=128,
            lr=lr,
            nesterov=False,
            weight_decay=4e-5,
            augment="crop+flip" if data.shape[0] == 3 else None,
            seed=seed,
        )
        finetune_(model, data, config, weights, cut, order, sparsity)
        values[ACCURACY] = accuracy()
        folder = Path(place) / "weights" / name
        folder.mkdir(parents=True, exist_ok=True)
        state = model.to(memory_format=torch.contiguous_format).state_dict()
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    setting = f"{sparsity:.0%}" if sparsity else ""
    return {
        "measured": [{"setting": setting, "arm": arm, "metric": m, "value": round(v, 4)} for m, v in values.items()],
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
