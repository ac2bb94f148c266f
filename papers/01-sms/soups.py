"""Sparse soups beside their baselines, all from one dense net: accuracy, calibration, corrupted images, geometry."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.data import Split, corrupt
from sparseland.train import TrainConfig, Trainer
from sparseland.train.randomness import seeded
from sparseland.train.result import machine, versions
from sparseland.train.supply import load_data
from sparseland.weights import recalibrate_
from sparseland.weights.merge import Ensemble, average, geometry
from sparseland.weights.methods import SMS, RePrune, reprune, sms
from sparseland.weights.retraining import SCHEDULES

CORRUPTIONS = ("gaussian_noise", "gaussian_blur")  # at severity 3; the paper's default is the first
WIDTHS = (16, 32, 32)
VALUES: dict[str, list[Any] | None] = {
    "seed": None,
    "weight_decay": [1e-5, 1e-4, 1e-3],
    "length": [0.4, 0.5, 0.6],
    "peak": [0.05, 0.1, 0.15],
}


def convnet(shape: tuple[int, int, int], classes: int, seed: int, norm: str = "batch") -> nn.Module:
    """Three 3 x 3 convolutions (16, 32, 32 channels), each with a norm and ReLU, two poolings, and a classifier."""
    with seeded(seed):
        layers: list[nn.Module] = []
        channels = shape[0]
        for width, pool in zip(WIDTHS, (True, True, False), strict=True):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(4, width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pool else []
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Bench:
    """One dense net of one seed, and what every arm is measured by.

    Parameters:
        config: of the dense training; its images are those of ``data``.
    """

    def __init__(self, config: TrainConfig, norm: str = "batch") -> None:
        self.config, self.data, self.norm = config, load_data(config), norm
        self.rows: list[dict[str, Any]] = []
        self.trainer = self.fresh(config)
        self.log = self.trainer.fit(None)["lrs"]
        self.dense, self.dense_flops = self.trainer.state(), self.trainer.record.meter.training
        self.spoilt = {kind: Split(corrupt(self.data.test.images, kind, 3), self.data.test.labels)
                       for kind in CORRUPTIONS}  # fmt: skip

    def fresh(self, config: TrainConfig) -> Trainer:
        """A trainer of the untrained net."""
        model = convnet(self.data.shape, self.data.classes, config.seed, self.norm)
        return Trainer(config, dataset=self.data, model=model)

    def pruned(self, procedure: Any, method: Any, **options: Any) -> tuple[Trainer, dict[str, Any]]:
        """A procedure from the dense net on, its cost without the dense training."""
        trainer = self.fresh(self.config)
        trainer.load(self.dense)
        return trainer, procedure(trainer, method, log=self.log, **options)

    def tested(self, model: nn.Module) -> dict[str, float]:
        """All measures of a model, in percent."""
        about = {"classes": self.data.classes, "mean": self.data.mean, "std": self.data.std}
        found = sl.train.evaluate(model, self.data.test, **about)
        values = {
            "test accuracy (%)": found["accuracy"],
            "worst class (%)": found["worst_class"],
            "ECE (%)": found["ece"],
            "MCE (%)": found["mce"],
        }
        for kind, split in self.spoilt.items():
            values[f"accuracy under {kind} 3 (%)"] = sl.train.evaluate(model, split, **about)["accuracy"]
        return {name: 100 * value for name, value in values.items()}

    def row(self, arm: str, values: dict[str, float], trainer: Trainer | None = None) -> None:
        """Keep an arm's measures, and its training FLOPs, dense training included, where it has a training."""
        if trainer is not None:
            flops = trainer.record.meter.training + (0 if arm.startswith("dense") else self.dense_flops)
            values = values | {"training FLOPs (x dense)": flops / self.dense_flops}
        self.rows += [{"arm": arm, "metric": name, "value": value} for name, value in values.items()]


def measure(
    sparsity: float, seed: int, ingredients: int = 3, cycles: int = 3, retrain: float = 2 / 3, **config: Any
) -> dict[str, Any]:
    """Every arm at one sparsity and seed."""
    began = time.monotonic()
    with seeded(seed, 1):
        bench = Bench(TrainConfig.from_dict(config | {"seed": seed, "threads": 1}))
        _baselines(bench, sparsity, cycles, retrain, ingredients)
        _soup(bench, sparsity, cycles, retrain, ingredients)
    about = {"seconds": round(time.monotonic() - began, 1), "machine": machine(torch.device("cpu"))}
    return {"measured": bench.rows, **about, "versions": versions()}


def _baselines(bench: Bench, sparsity: float, cycles: int, retrain: float, ingredients: int) -> None:
    bench.row("dense", bench.tested(bench.trainer.model), bench.trainer)
    longer = bench.fresh(bench.config.replace(epochs=round(bench.config.epochs * (1 + cycles * retrain))))
    longer.fit(None)
    bench.row("dense, as long as IMP", bench.tested(longer.model), longer)
    one = {"cycles": cycles, "ingredients": 1}
    for arm, method, length in (
        ("random", SMS(sparsity, criterion="random"), retrain),
        ("IMP", SMS(sparsity), retrain),
        (f"IMP {ingredients}x", SMS(sparsity), ingredients * retrain),
    ):
        trainer, _ = bench.pruned(sms, method, retrain=length, **one)
        bench.row(arm, bench.tested(trainer.model), trainer)
    trainer, told = bench.pruned(reprune, RePrune(sparsity), cycles=cycles, copies=ingredients, retrain=retrain)
    values = bench.tested(trainer.model) | {"density before pruning again (%)": 100 * told["union"]}
    bench.row("IMP-RePrune", values, trainer)


def _soup(bench: Bench, sparsity: float, cycles: int, retrain: float, ingredients: int) -> None:
    trainer, told = bench.pruned(
        sms, SMS(sparsity), cycles=cycles, ingredients=ingredients, retrain=retrain
    )  # fmt: skip
    bench.row("SMS", bench.tested(trainer.model), trainer)
    states, masks = told["ingredients"], told["masks"]
    members = [_recalibrated(trainer, state) for state in states]
    values = [bench.tested(member) for member in members]
    bench.row("mean ingredient", {name: sum(v[name] for v in values) / len(values) for name in values[0]})
    chosen = [trainer.supply.measure(member, "validation")["accuracy"] for member in members]
    bench.row("best ingredient (by validation)", values[chosen.index(max(chosen))])
    bench.row("prediction ensemble", bench.tested(Ensemble(members)))
    trainer.load(average(states, masks=masks))
    bench.row("SMS, averaged BN statistics", bench.tested(trainer.model))
    found = geometry(states, masks)
    bench.row("SMS", {"distance to the soup, mean (L2)": found["barycentre_mean"],
                      "angle between ingredients, mean (degrees)": found["angle_mean"]})  # fmt: skip


def _recalibrated(trainer: Trainer, state: dict[str, Tensor]) -> nn.Module:
    """An ingredient with its own batch norms measured anew, as the soup's are."""
    other = trainer.clone()
    other.load(state)
    recalibrate_(other.model, other.sample(0.2))
    return other.model.eval()


def small(seed: int, sparsity: float, ingredients: int, **config: Any) -> dict[str, Any]:
    """On a net without batch norm: every retrain schedule for IMP, and every thing that ingredients may differ in."""
    began, rows = time.monotonic(), []
    config = TrainConfig.from_dict(config | {"seed": seed, "threads": 1})
    with seeded(seed, 1):
        trainer = Trainer(config)
        log = trainer.fit(None)["lrs"]
        dense = trainer.state()
        rows.append(("dense", trainer.evaluate("test")["accuracy"]))
        arms: dict[str, dict[str, Any]] = {f"IMP, {name}": {"ingredients": 1, "schedule": name} for name in SCHEDULES}
        arms |= {f"SMS, {vary} varied": {"ingredients": ingredients, "vary": vary, "values": values}
                 for vary, values in VALUES.items()}  # fmt: skip
        arms["SMS, greedy"] = {"ingredients": ingredients, "soup": "greedy"}
        for arm, options in arms.items():
            trainer.load(dense)
            sms(trainer, SMS(sparsity), log=log, **options)
            rows.append((arm, trainer.evaluate("test")["accuracy"]))
        trainer.load(dense)
        sms(trainer, SMS(sparsity, criterion="random"), log=log, ingredients=1)
        rows.append(("random", trainer.evaluate("test")["accuracy"]))
    measured = [{"arm": arm, "metric": "test accuracy (%)", "value": 100 * value} for arm, value in rows]
    about = {"seconds": round(time.monotonic() - began, 1), "machine": machine(torch.device("cpu"))}
    return {"measured": measured, **about, "versions": versions()}
