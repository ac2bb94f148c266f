"""Pruning plasticity (arXiv 2106.10404): prune a checkpoint once, train on at a fixed learning rate, look again.

plasticity = accuracy after pruning and a fixed amount of training - accuracy before pruning. The nets that are pruned
are checkpoints of one dense run; each is pruned by magnitude, globally, in one shot. With regrowth, the share
``regrow`` of the weights that are left in each layer (the smallest) moves once, right after the first step, to where
that step's gradient is largest: as many are regrown as are removed, so the number of non-zeros stays the same.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.core import Constant, OneShot
from sparseland.data import Dataset, Split
from sparseland.train.optim import lr_at, make_optimizer
from sparseland.train.result import machine, versions

WITHOUT, GRADIENT, CONTROL = "magnitude only", "gradient regrowth", "random regrowth"
PLASTICITY = "plasticity (points)"
DIFFERENCE = "paired difference in plasticity (points)"
AT = 0.9  # the sparsity at which the differences are formed, and the control is run


def method(sparsity: float, arm: str, regrow: float) -> sl.Method:
    """One prune by magnitude, and for the arms with regrowth one exchange after the first step.

    >>> method(0.9, WITHOUT, 0.5).exchange is None, method(0.9, GRADIENT, 0.5).exchange(1)
    (True, 0.5)
    """
    pruned = sl.Method(name="plasticity", schedule=OneShot(sparsity))
    if arm == WITHOUT:
        return pruned
    growth = {GRADIENT: "gradient", CONTROL: "random"}[arm]
    return pruned.replace(growth=growth, exchange=Constant(regrow, start=1, end=2))


class Images:
    """A split as float images [n, C, H, W], normalised once, in batches whose order depends on (seed, epoch) alone."""

    def __init__(self, data: Dataset, split: Split) -> None:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
        pixels = split.images.float() / (255 if split.images.dtype == torch.uint8 else 1)
        self.images, self.labels = (pixels - mean) / std, split.labels

    def epoch(self, size: int, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """All batches of an epoch."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        return [(self.images[i], self.labels[i]) for i in order.split(size)]

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """In percent."""
        return 100 * float((model(self.images).argmax(1) == self.labels).float().mean())


def train(model: nn.Module, images: Images, config: Any, epochs: range, after: Any = None) -> None:
    """Dense training along the configuration's schedule; ``after(epoch)`` is called with the count of epochs done."""
    optimizer, done = make_optimizer(config, model), 0
    per_epoch = -(-len(images.labels) // config.batch_size)
    for epoch in epochs:
        for batch in images.epoch(config.batch_size, config.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = lr_at(config, done, per_epoch * len(epochs))
            _step(model, optimizer, batch)
            done += 1
        if after is not None:
            after(epoch + 1)


def retrained(
    model: nn.Module, images: Images, test: Images, config: Any, how: sl.Method, epochs: int
) -> tuple[float, int]:
    """Prune a copy by ``how``, train it on for ``epochs``; its test accuracy in percent, and its non-zero weights."""
    model = copy.deepcopy(model)
    optimizer = make_optimizer(config, model)  # lr is constant from here on
    per_epoch = -(-len(images.labels) // config.batch_size)
    sparsifier = how.attach(model, optimizer, steps=epochs * per_epoch, seed=config.seed)
    for epoch in range(epochs):
        for batch in images.epoch(config.batch_size, config.seed, 100 + epoch):
            _step(model, optimizer, batch)
    sparsifier.finalize_()
    return test.accuracy(model), sparsifier.masks.kept()


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def measure(
    data: str,
    model: str,
    limit: int | None,
    epochs: int,
    checkpoints: list[int],
    retrain: int,
    lrs: list[float],
    sparsities: list[float],
    regrow: float,
    batch_size: int,
    weight_decay: float,
    seed: int,
) -> dict[str, Any]:
    """One seed: plasticity at every checkpoint (an epoch), learning rate and sparsity, and the paired differences.

    lrs: high and low; the high one trains the dense run (to 0 along a cosine); each is then used, constant, after it.
    """
    began = time.monotonic()
    torch.manual_seed(seed)
    loaded = sl.data.load(data, limit=limit, seed=seed)
    images, test = Images(loaded, loaded.train), Images(loaded, loaded.test)
    net = sl.zoo.build(model, in_shape=loaded.shape, classes=loaded.classes, seed=seed)
    config = sl.train.TrainConfig(
        model=model, data=data, lr=lrs[0], epochs=epochs, batch_size=batch_size, weight_decay=weight_decay, seed=seed
    )
    kept: dict[int, nn.Module] = {}

    def keep(epoch: int) -> None:
        if epoch in checkpoints:
            kept[epoch] = copy.deepcopy(net)

    train(net, images, config, range(epochs), keep)
    found: dict[tuple[int, float, float, str], float] = {}
    for epoch, checkpoint in kept.items():
        before = test.accuracy(checkpoint)
        for lr in lrs:
            fixed = config.replace(lr=lr, lr_schedule="constant")
            for p in sparsities:
                for arm in (WITHOUT, GRADIENT, *((CONTROL,) if p == AT else ())):
                    after, _ = retrained(checkpoint, images, test, fixed, method(p, arm, regrow), retrain)
                    found[epoch, lr, p, arm] = after - before
    measured = [
        {"setting": f"epoch {epoch}, lr {lr:g}", "arm": f"{p:.0%} {arm}", "metric": PLASTICITY, "value": value}
        for (epoch, lr, p, arm), value in found.items()
    ]
    return {
        "measured": measured + differences(found),
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }


def differences(found: dict[tuple[int, float, float, str], float]) -> list[dict[str, Any]]:
    """At 90 %, averaged over checkpoints: high learning rate less low, regrowth less none, and less its control."""
    epochs = sorted({epoch for epoch, *_ in found})
    lrs = sorted({lr for _, lr, *_ in found})
    low, high = lrs[0], lrs[-1]

    def gap(one: tuple[float, str], other: tuple[float, str]) -> float:
        return statistics.fmean(found[e, one[0], AT, one[1]] - found[e, other[0], AT, other[1]] for e in epochs)

    rows = [(f"{AT:.0%}, {WITHOUT}", "high - low lr", gap((high, WITHOUT), (low, WITHOUT)))]
    for lr, word in ((low, "low"), (high, "high")):
        for a, b in ((GRADIENT, WITHOUT), (GRADIENT, CONTROL)):
            rows.append((f"{AT:.0%}, {word} lr", f"{a} - {b}", gap((lr, a), (lr, b))))
    return [{"setting": s, "arm": a, "metric": DIFFERENCE, "value": v} for s, a, v in rows]
