"""Masks searched on one frozen dense net, beside masks that are not searched and weights that are trained.

Every arm of a seed starts from the same trained weights and is tested once, on its last step. Its cost is what came
after the dense training: FLOPs as the library's meter counts them (what sparse kernels would do), in epochs of dense
training, and seconds of this process's CPU time, which waiting for other processes does not lengthen.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

import sparseland as sl
from sparseland.core import MaskSet
from sparseland.data import Dataset
from sparseland.train import TrainConfig, Trainer
from sparseland.train.result import machine, versions
from sparseland.weights.pretrained import living
from sparseland.zoo import pretrained

ACCURACY, FLOPS, SECONDS = "test accuracy (%)", "training FLOPs (epochs of dense training)", "CPU seconds"
SHARED, SWAPS = "kept weights shared with the magnitude mask (%)", "swaps per step"
Rows = list[dict[str, Any]]


class Bench:
    """One dense net, and what each arm makes of it.

    Parameters:
        config: of one training of the arms; ``ignore`` names what no arm prunes.
    """

    def __init__(self, config: TrainConfig, data: Dataset, model: torch.nn.Module) -> None:
        self.config, self.data, self.model, self.rows = config, data, model, list[dict[str, Any]]()
        self.magnitude: dict[float, MaskSet] = {}

    def trainer(self, epochs: int) -> Trainer:
        """A schedule of so many epochs on a copy of the dense net."""
        fresh = sl.zoo.build(
            self.config.model, in_shape=self.data.shape, classes=self.data.classes, seed=0, **self.config.model_options
        )
        fresh.load_state_dict(self.model.state_dict())
        return Trainer(self.config.replace(epochs=epochs), dataset=self.data, model=fresh)

    def arm(self, setting: str, name: str, epochs: int, work: Callable[[Trainer], object], s: float = 0.0) -> None:
        """Do ``work`` on a trainer, and note how well it ends and what it cost."""
        trainer = self.trainer(epochs)
        began = time.process_time()
        work(trainer)
        seconds = time.process_time() - began
        dense = 3 * trainer.cost.dense() * len(self.data.train)
        found = {ACCURACY: 100 * trainer.evaluate("test")["accuracy"]}
        if trainer.steps and trainer.record.steps:
            found |= {FLOPS: trainer.record.meter.training / dense, SECONDS: seconds}
        if s:
            mine = living(trainer, self.config.targets, self.config.ignore)
            known = self.magnitude[s]
            found[SHARED] = 100 * sum(int((mine[n] & known[n]).sum()) for n in mine) / mine.kept()
            moved = [m["churn"] * m["total"] / 2 for m in trainer.record.moves if m["churn"] is not None]
            if moved:
                found[SWAPS] = sum(moved) / len(moved)
        self.rows += [{"setting": setting, "arm": name, "metric": m, "value": v} for m, v in found.items()]

    def prune(self, trainer: Trainer, how: sl.Method) -> MaskSet:
        """One shot, in place."""
        return sl.prune_(trainer.model, how, targets=self.config.targets, ignore=self.config.ignore)

    def recalibrate(self, trainer: Trainer) -> None:
        """BatchNorm's statistics anew, from training images."""
        sl.weights.recalibrate_(trainer.model, list(trainer.sample(1.0)))


def imp(bench: Bench, trainer: Trainer, s: float, rounds: int) -> None:
    """Iterative magnitude pruning with learning-rate rewinding: one whole schedule a round."""
    for i in range(1, rounds + 1):
        masks = bench.prune(trainer, sl.methods.Magnitude(1 - (1 - s) ** (i / rounds) if i < rounds else s))
        trainer.fit(sl.Method(name="imp"), masks)


def fashion(sparsities: list[float], long: int, short: int, rounds: int, seed: int, **common: Any) -> dict[str, Any]:
    """An MLP trained here, then every arm; ``long`` and ``short``: epochs of search, ``common``: the configuration."""
    began = time.monotonic()
    torch.manual_seed(seed)
    config = TrainConfig(**common, seed=seed)
    data = sl.data.load(config.data, limit=config.limit, seed=seed, size=tuple(config.data_options["size"]))
    first = Trainer(config, dataset=data)
    first.fit()
    bench, words = Bench(config, data, first.model), sl.methods
    bench.arm("", "dense", 1, lambda t: None)
    for s in sparsities:
        setting = f"{s:.0%}"
        probe = bench.trainer(1)
        bench.magnitude[s] = bench.prune(probe, words.Magnitude(s))
        bench.arm(setting, "magnitude mask", 1, lambda t, s=s: bench.prune(t, words.Magnitude(s)), s)
        bench.arm(setting, "random mask", 1, lambda t, s=s: bench.prune(t, words.RandomPruning(s)), s)
        searches = {
            f"jackpot, {short} epochs": (words.Jackpots(s), short),
            f"jackpot, {long} epochs": (words.Jackpots(s), long),
            f"jackpot, {long} epochs, restricted": (words.Jackpots(s, restriction="quartic"), long),
            f"random start, {short} epochs": (words.Jackpots(s, first="random"), short),
            f"random start, {long} epochs": (words.Jackpots(s, first="random"), long),
            f"magnitude, weights trained {long} epochs": (words.Magnitude(s), long),
            f"random, weights trained {long} epochs": (words.RandomPruning(s), long),
        }
        for name, (how, epochs) in searches.items():
            bench.arm(setting, name, epochs, lambda t, how=how: t.fit(how), s)
        bench.arm(setting, f"IMP, {rounds} rounds", long, lambda t, s=s: imp(bench, t, s, rounds), s)
    return told(bench.rows, began)


def resnet(sparsity: float, epochs: int, tested: int, seed: int, **common: Any) -> dict[str, Any]:
    """The given ResNet-20, all convolutions; masks as they are, with new BatchNorm statistics, and searched."""
    began = time.monotonic()
    torch.manual_seed(seed)
    config = TrainConfig(**common, seed=seed)
    data = sl.data.load(config.data, limit=config.limit, seed=seed)
    data = dataclasses.replace(data, validation=data.validation[:100], test=data.test[:tested])
    bench, words, s = Bench(config, data, pretrained(config.model)), sl.methods, sparsity
    setting = f"{s:.0%}"
    bench.arm("", "dense", 1, lambda t: None)
    bench.arm("", "dense, new statistics", 1, bench.recalibrate)
    bench.magnitude[s] = bench.prune(bench.trainer(1), words.Magnitude(s))
    for name, how in (("magnitude mask", words.Magnitude(s)), ("random mask", words.RandomPruning(s))):
        bench.arm(setting, name, 1, lambda t, how=how: bench.prune(t, how), s)
        bench.arm(
            setting, f"{name}, new statistics", 1, lambda t, how=how: (bench.prune(t, how), bench.recalibrate(t)), s
        )
    for name, how in (("jackpot", words.Jackpots(s)), ("magnitude, weights trained", words.Magnitude(s))):
        bench.arm(setting, name, epochs, lambda t, how=how: t.fit(how), s)
    return told(bench.rows, began)


def told(rows: Rows, began: float) -> dict[str, Any]:
    """What a job returns."""
    return {
        "measured": rows,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
