"""Bi-level pruning beside one-shot and iterative magnitude pruning, all from one dense net.

Every arm of a seed starts from the same trained weights and is tested once, on its last step. Arms but IMP see as many
batches: two gradients a bi-level iteration, so half of BiP's are the scores'. Cost is what came after the dense
training: FLOPs as the library's meter counts them (what sparse kernels would do), in epochs of dense training, and
seconds of this process's CPU time, which waiting for other processes does not lengthen.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

import sparseland as sl
from sparseland.core import MaskSet
from sparseland.train import TrainConfig, Trainer
from sparseland.train.result import machine, versions
from sparseland.weights.pretrained import living

ACCURACY, FLOPS, SECONDS = "test accuracy (%)", "training FLOPs (epochs of dense training)", "CPU seconds"
SHARED = "kept weights shared with the magnitude mask (%)"
Work = Callable[[Trainer], object]


class Arms:
    """What becomes of one dense net."""

    def __init__(self, dense: Trainer, epochs: int, targets: list[str] | None) -> None:
        self.dense, self.epochs, self.targets = dense, epochs, targets
        self.rows: list[dict[str, Any]] = []

    def trainer(self) -> Trainer:
        """A schedule of ``epochs`` on a copy of the dense net."""
        config = self.dense.config.replace(epochs=self.epochs, targets=self.targets)
        made = Trainer(config, dataset=self.dense.supply.dataset)
        made.load(self.dense.state())
        return made

    def prune(self, trainer: Trainer, how: sl.Method) -> MaskSet:
        """One shot, in place."""
        return sl.prune_(trainer.model, how, targets=self.targets)

    def run(self, setting: str, arms: dict[str, Work], reference: sl.Method | None = None) -> None:
        """Do each arm's work on a trainer of its own; note how well it ends, and what it cost."""
        known = None if reference is None else self.prune(self.trainer(), reference)
        for name, work in arms.items():
            trainer = self.trainer()
            began = time.process_time()
            work(trainer)
            seconds = time.process_time() - began
            found = {ACCURACY: 100 * trainer.evaluate("test")["accuracy"]}
            if trainer.record.steps:
                epoch = 3 * trainer.cost.dense() * len(trainer.supply.dataset.train)
                found |= {FLOPS: trainer.record.meter.training / epoch, SECONDS: seconds}
            if known is not None:
                mine = living(trainer, self.targets)
                found[SHARED] = 100 * sum(int((mine[n] & known[n]).sum()) for n in mine) / mine.kept()
            self.rows += [{"setting": setting, "arm": name, "metric": m, "value": v} for m, v in found.items()]

    def imp(self, trainer: Trainer, sparsity: float, rounds: int) -> None:
        """Learning-rate rewinding: a round is half the schedule's epochs, the weight steps of a bi-level run."""
        short = Trainer(trainer.config.replace(epochs=self.epochs // 2), dataset=trainer.supply.dataset)
        short.load(trainer.state())
        for i in range(1, rounds + 1):
            goal = 1 - (1 - sparsity) ** (i / rounds) if i < rounds else sparsity
            short.fit(sl.Method(name="imp"), self.prune(short, sl.methods.Magnitude(goal)))
        trainer.load(short.state())
        trainer.record = short.record


def dense_net(config: TrainConfig, tested: int | None) -> Trainer:
    """The trained net that all arms start from."""
    size = config.data_options.get("size")
    data = sl.data.load(config.data, limit=config.limit, seed=config.seed, size=tuple(size) if size else None)
    if tested is not None:
        data = dataclasses.replace(data, validation=data.validation[:500], test=data.test[:tested])
    trainer = Trainer(config, dataset=data)
    trainer.fit()
    return trainer


def unstructured(
    kept: list[float], epochs: int, epochs_dense: int, rounds: dict[str, int], seed: int, **common: Any
) -> dict[str, Any]:
    """Global masks. ``kept``: k; ``epochs``: batches' worth of every arm; ``rounds``: of the long IMP, by k."""
    began = time.monotonic()
    arms, words = Arms(dense_net(TrainConfig(**common, epochs=epochs_dense, seed=seed), None), epochs, None), sl.methods
    arms.run("", {"dense": lambda t: None})
    for k in kept:
        s, many = round(1 - k, 6), rounds[f"{k:g}"]
        fits = {
            "random mask, trained": words.RandomPruning(s),
            "one shot (OMP)": words.Magnitude(s),
            "BiP": words.BiP(s),
            "BiP, 1/gamma = 1": words.BiP(s, gamma=1.0),
            "BiP, no implicit term": words.BiP(s, hyper="none"),
            "BiP, the code's term": words.BiP(s, hyper="code-compat"),
            "BiP, shared memory": words.BiP(s, alias_scores=True),
        }
        work: dict[str, Work] = {name: lambda t, how=how: t.fit(how) for name, how in fits.items()}
        work |= {f"IMP, {n} rounds": lambda t, s=s, n=n: arms.imp(t, s, n) for n in (5, many)}
        arms.run(f"k={k:g}", work, words.Magnitude(s))
    return told(arms, began)


def structured(
    kept: list[float], epochs: int, epochs_dense: int, tested: int, targets: list[str], seed: int, **common: Any
) -> dict[str, Any]:
    """Filters and channels: the same share of every convolution; linear layers stay dense."""
    began = time.monotonic()
    arms, words = (
        Arms(dense_net(TrainConfig(**common, epochs=epochs_dense, seed=seed), tested), epochs, targets),
        sl.methods,
    )
    arms.run("", {"dense": lambda t: None, "dense, trained on": lambda t: t.fit()})
    for mode in ("filter", "channel"):
        for k in kept:
            bip = words.BiP(round(1 - k, 6), mode=mode)
            once = {"kind": "one-shot", "value": round(1 - k, 6)}
            norm = bip.replace(name="norm", criterion="magnitude", schedule=once, flow="hard")
            drawn = norm.replace(criterion="random")
            work: dict[str, Work] = {
                "random, trained": lambda t, how=drawn: t.fit(how),
                "largest norm, trained": lambda t, how=norm: t.fit(how),
                "BiP": lambda t, how=bip: t.fit(how),
            }
            arms.run(f"{mode} k={k:g}", work, norm)
    return told(arms, began)


def told(arms: Arms, began: float) -> dict[str, Any]:
    """What a job returns."""
    return {
        "measured": arms.rows,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
