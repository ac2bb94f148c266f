"""Prune, retrain, again: the cycle that sparse soups and their baselines share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InfeasibleBudget, RecipeError, ScheduleError, nearest
from ..core.mask import MaskSet
from ..core.schedule import OneShot
from ..core.selection import kept
from .batchnorm import recalibrate_
from .branches import Branching
from .merge import average, greedy
from .method import Method
from .oneshot import prune_
from .retraining import norm_drop, retraining_lrs
from .targets import Rules, eligible

SOUPS = ("uniform", "greedy")


@dataclass(frozen=True)
class Cycles:
    """What stays the same over the cycles of one procedure.

    Parameters:
        method: how to prune; its target sparsity is that of the last cycle. cycles: K ≥ 1.
        schedule: of the retraining's learning rate, see `retraining_lrs`. retrain: its length, a share of the
            pretraining (float) or steps (int). recalibrate: share of the training images from which batch norms are
            measured anew, in (0, 1]; None: not at all, which warns. targets, ignore: what is pruned.
    """

    method: Method
    cycles: int = 1
    schedule: str = "LLR"
    retrain: int | float = 0.5
    recalibrate: float | None = 0.2
    targets: Rules = None
    ignore: Rules = None

    def check(self, trainer: Branching, log: Sequence[float] | None) -> Sequence[float] | None:
        """Everything that can be known to be wrong before training; gives the log back."""
        if self.cycles < 1:
            raise ScheduleError(f"cycles={self.cycles!r}; possible: 1 or more")
        if self.recalibrate is not None and not 0 < self.recalibrate <= 1:
            raise RecipeError(f"recalibrate={self.recalibrate!r}; possible: a share in (0, 1], or None")
        assumed = [1.0] * trainer.steps if log is None else list(log)
        steps = self.length(len(assumed)) if assumed else 1
        retraining_lrs(self.schedule, assumed, steps, drop=0.5, pruned=0.5)
        weights = [t.param.detach() for t in eligible(trainer.model, self.targets, self.ignore).values()]
        total, alive = sum(w.numel() for w in weights), sum(int(w.count_nonzero()) for w in weights)
        if kept(total, self.method.target_sparsity) >= alive:
            raise InfeasibleBudget(
                f"sparsity {self.method.target_sparsity:g} keeps {kept(total, self.method.target_sparsity):,} weights, "
                f"and only {alive:,} of {total:,} are alive: the model has a sparsity of {1 - alive / total:g} already"
            )
        return log

    def length(self, pretraining: int, retrain: int | float | None = None) -> int:
        """Steps of a retraining after a pretraining of so many."""
        wanted = self.retrain if retrain is None else retrain
        steps = wanted if isinstance(wanted, int) else round(wanted * pretraining)
        if steps < 1:
            raise ScheduleError(f"retrain={wanted!r} of {pretraining} steps is no step; possible: more")
        return steps

    def goals(self) -> list[float]:
        """The sparsity after each cycle: the same share of the living goes each time, 1 − (1 − s*)^(c/K).

        >>> [round(s, 6) for s in Cycles(Method(schedule=OneShot(0.875)), cycles=3).goals()]
        [0.5, 0.75, 0.875]
        """
        target = self.method.target_sparsity
        return [1 - (1 - target) ** (c / self.cycles) for c in range(1, self.cycles)] + [target]

    def prune(self, model: nn.Module, sparsity: float, masks: MaskSet | None) -> tuple[MaskSet, dict[str, float]]:
        """Prune in place within ``masks``; the new masks, and what ALLR must know of the change."""
        once = self.method.replace(schedule=OneShot(sparsity))
        before = _norm(model)
        new = prune_(model, once, targets=self.targets, ignore=self.ignore, masks=masks)
        alive = new.numel() if masks is None else masks.kept()
        return new, {"drop": norm_drop(before, _norm(model)), "pruned": 1 - new.kept() / alive}

    def lrs(
        self, log: Sequence[float], change: dict[str, float], retrain: int | float | None = None,
        peak: float | None = None,
    ) -> list[float]:  # fmt: skip
        """Learning rates of one retraining."""
        return retraining_lrs(self.schedule, log, self.length(len(log), retrain), peak=peak, **change)

    def settle(self, trainer: Branching) -> None:
        """Measure the batch norms of the trainer's model anew."""
        recalibrate_(trainer.model, None if self.recalibrate is None else trainer.sample(self.recalibrate))

    def blend(
        self, trainer: Branching, states: Sequence[dict[str, Tensor]], masks: MaskSet, soup: str, split: str
    ) -> list[int]:
        """Leave the soup of ``states`` in the trainer's model, batch norms measured anew; which states are in it."""

        def accuracy(state: Any) -> float:
            trainer.load(state)
            self.settle(trainer)
            return float(trainer.evaluate(split)["accuracy"])

        if soup == "greedy":
            mixed, chosen, _ = greedy(states, accuracy, masks=masks)
        else:
            mixed, chosen = average(states, masks=masks), list(range(len(states)))
        trainer.load(mixed)
        self.settle(trainer)
        return chosen


def check_soup(trainer: Branching, soup: str, split: str) -> None:
    """Whether ingredients can be chosen that way: never on test images, greedily only where there are some."""
    if soup not in SOUPS:
        raise RecipeError(f"soup={soup!r}: {nearest(soup, SOUPS)}")
    if split == "test":
        raise RecipeError("split='test': ingredients are chosen on validation images, never on test; use 'validation'")
    measured: dict[str, Any] = trainer.evaluate(split) if soup == "greedy" else {}
    if "per_class" in measured and set(measured["per_class"]) == {None}:  # no class has an image
        raise RecipeError(
            f"soup='greedy' chooses on {split} images, and there are none: set a share of the training images apart, "
            f"or use soup='uniform'"
        )


def share(retrain: int | float, times: int, log: Any) -> float | None:
    """Schedules that a pretraining (unless its ``log`` is given) and ``times`` retrainings are; None for steps.

    >>> share(0.5, 3, None), share(100, 3, None)
    (2.5, None)
    """
    return None if isinstance(retrain, int) else (log is None) + times * retrain


def pretrained(trainer: Branching, log: Sequence[float] | None) -> list[float]:
    """The learning rates of the pretraining, which is done now unless its ``log`` is given.

    Raises:
        ScheduleError: the trainer's ``fit`` does not return them.
    """
    if log is not None:
        return list(log)
    told: dict[str, Any] = trainer.fit(None)
    if not told.get("lrs"):
        raise ScheduleError(
            f"the trainer's fit returned {sorted(told)} without 'lrs', the learning rate of each step: retrain "
            f"schedules are derived from that record; return it, or give log=[…]"
        )
    return list(told["lrs"])


@torch.no_grad()
def _norm(model: nn.Module) -> float:
    return float(torch.stack([p.detach().double().norm() for p in model.parameters()]).norm())
