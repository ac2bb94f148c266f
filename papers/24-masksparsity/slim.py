"""One seed of card 24's proof: the shared trainings once, then every arm cuts the same share of channels and is tuned.

All arms of one seed start from the same trained net. Arms that train as long as MaskSparsity (baseline, two more whole
schedules, tuning) are "dense", "magnitude", "random" and "slimming twice"; "slimming" and "group lasso" have one
schedule less, as in the card.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

import sparseland as sl
from sparseland.train import TrainConfig, Trainer
from sparseland.train.result import machine, versions
from sparseland.weights import structure
from sparseland.weights.channels import makers, norm_members, spread, told, vote
from sparseland.weights.scales import norm_scales

BEFORE, CUT, TUNED = (
    "accuracy before the cut (%)", "accuracy right after the cut (%)", "test accuracy (%)",
)  # fmt: skip
KEPT, REMOVED, FLOPS = "mean scale of kept channels", "largest scale of removed channels", "FLOPs left (%)"


def net(name: str, shape: tuple[int, int, int]) -> nn.Module:
    """The card's net of four convolutions (32, 32, 64, 64) with BatchNorm, or one of the zoo."""
    if name != "conv4":
        width = int(name.rpartition("-w")[2])
        return sl.zoo.build(name.rpartition("-w")[0], in_shape=shape, classes=10, width=width, shortcut="B")
    layers: list[nn.Module] = []
    into = shape[0]
    for i, out in enumerate((32, 32, 64, 64)):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i == 1 else []
        into = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, 10))


def as_many(scores: dict[str, torch.Tensor], keep: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As many channels of each group as MaskSparsity keeps, those with the highest scores: all arms end in one shape.

    >>> as_many({"a": torch.tensor([0.1, 0.9, 0.5])}, {"a": torch.tensor([True, False, True])})["a"].tolist()
    [False, True, True]
    """
    chosen = {}
    for g, mask in keep.items():
        chosen[g] = torch.zeros_like(mask)
        chosen[g][scores[g].argsort(descending=True, stable=True)[: int(mask.sum())]] = True
    return chosen


class Seed:
    """The trainings that arms share, and what each arm ends with."""

    def __init__(self, trainer: Trainer, strength: float, lasso: float) -> None:
        self.trainer, self.rows = trainer, list[dict[str, Any]]()
        self.graph = structure.trace(trainer.model, trainer.example)
        self.members = norm_members(self.graph, norm_scales(trainer.model))
        self.names = tuple(dict.fromkeys(n for mine in self.members.values() for n, _ in mine))
        self.strength, self.lasso, self.states = strength, lasso, dict[str, Any]()

    def train(self, name: str, start: str, method: Any = None, masks: Any = None, targets: Any = None) -> None:
        """One whole schedule from the state ``start``; the end is kept under ``name``."""
        if start:
            self.trainer.load(self.states[start])
        self.trainer.fit(method, masks, targets=targets)
        self.states[name] = self.trainer.state()

    def shared(self, everything: bool = True) -> None:
        """What does not depend on the share that is cut."""
        self.train("baseline", "")
        if everything:
            self.train("dense twice", "baseline")
            self.train("dense", "dense twice")
        slim = sl.methods.Slimming(0.5, strength=self.strength)
        whole = spread({}, self.members, self.trainer.model)
        self.train("slimming", "baseline", slim, whole, self.names)
        if not everything:
            return
        self.train("slimming twice", "slimming", slim, whole, self.names)
        rows = makers(self.graph)
        every = spread({}, {}, self.trainer.model, rows)
        self.train("group lasso", "baseline", sl.methods.GroupLasso(0.5, strength=self.lasso), every, rows)

    def arms(self, left: float, tail: int, seed: int) -> None:
        """Cut all but the share ``left`` of each layer's channels, in every way."""
        setting = f"{left:.1%} of channels left"
        method = sl.methods.MaskSparsity(1 - left, strength=self.strength)
        self.trainer.load(self.states["slimming"])
        keep = vote(method, self.members, self.trainer.model)
        chosen = spread(keep, self.members, self.trainer.model)
        self.train("MaskSparsity", "baseline", method, chosen, self.names)
        for arm in ("slimming", "slimming twice", "MaskSparsity"):
            if arm not in self.states:
                continue
            self.trainer.load(self.states[arm])
            own = keep if arm != "slimming twice" else as_many(self.worth(), keep)
            scales = told(spread(own, self.members, self.trainer.model), norm_scales(self.trainer.model))
            self.note(setting, arm, KEPT, scales["kept_scale"])
            self.note(setting, arm, REMOVED, scales["removed_scale"])
            self.finish(setting, arm, arm, self.graph.plan(keep=own), tail)
        for arm, start in (("magnitude", "dense"), ("group lasso", "group lasso"), ("random", "dense")):
            if start not in self.states:
                continue
            self.trainer.load(self.states[start])
            found = self.graph.random(seed) if arm == "random" else self.graph.weight_norms()
            self.finish(setting, arm, start, self.graph.plan(keep=as_many(found, keep)), tail)

    def worth(self) -> dict[str, torch.Tensor]:
        """The mean scale of every channel over the norms that share it."""
        scales = norm_scales(self.trainer.model)
        return {
            g: torch.stack([scales[n].detach().abs()[at].mean(1) for n, at in mine]).mean(0)
            for g, mine in self.members.items()
        }

    def finish(self, setting: str, arm: str, start: str, plan: Any, tail: int) -> None:
        """Cut, tune, measure on the test images at every stage."""
        trainer = self.trainer.clone()
        trainer.load(self.states[start])
        self.note(setting, arm, BEFORE, 100 * trainer.evaluate("test")["accuracy"])
        plan.apply(trainer.model)
        self.note(setting, arm, CUT, 100 * trainer.evaluate("test")["accuracy"])
        trainer.fit(None, start=tail)
        self.note(setting, arm, TUNED, 100 * trainer.evaluate("test")["accuracy"])
        self.note(setting, arm, FLOPS, 100 * plan.after[0] / plan.before[0])

    def note(self, setting: str, arm: str, metric: str, value: float) -> None:
        """One number."""
        self.rows.append({"setting": setting, "arm": arm, "metric": metric, "value": round(float(value), 4)})


def measure(
    data: str,
    model: str,
    limit: int | None,
    epochs: int,
    tuned: int,
    lr: float,
    strength: float,
    lasso: float,
    left: list[float],
    seed: int,
    size: int | None = None,
    everything: bool = True,
) -> dict[str, Any]:
    """All arms of one seed; ``tuned``: epochs at the schedule's end that are trained again after the cut.

    everything: False leaves out all arms but MaskSparsity and slimming.
    """
    began = time.monotonic()
    torch.manual_seed(seed)
    dataset = sl.data.load(data, limit=limit, seed=seed, size=size)
    config = TrainConfig(
        data=data, limit=limit, epochs=epochs, lr=lr, seed=seed, batch_size=64, evaluate_every=epochs, threads=1
    )
    trainer = Trainer(config, dataset=dataset, model=net(model, dataset.shape))
    one = Seed(trainer, strength, lasso)
    one.shared(everything)
    tail = trainer.steps - tuned * trainer.supply.steps_per_epoch
    trainer.load(one.states["dense" if everything else "baseline"])
    trainer.fit(None, start=tail)
    for setting in ("", *(f"{share:.1%} of channels left" for share in left)):
        one.note(setting, "dense", TUNED, 100 * trainer.evaluate("test")["accuracy"])
    for share in left:
        one.arms(share, tail, seed)
    return {
        "measured": one.rows,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
