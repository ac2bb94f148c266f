"""Random search over node space (arXiv 2403.08265): of N random sub-networks train the one that starts best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core import Allocation, Criterion, MaskSet, OneShot, Row
from ...core.errors import MaskMismatch, RecipeError, ScheduleError, nearest
from .. import nodes, ranks
from ..method import Method
from ..search import search
from ..targets import eligible
from ..trainer import Trainer
from ._registry import register

OBJECTIVES = ("loss", "after-steps")
KEEP = Method(name="random-search")  # masks given, nothing moves


@register("random-search")
def RandomSearch(
    sparsity: float = 0.9, *, scope: Allocation | str = "uniform", criterion: Criterion | str = "random"
) -> Method:
    """What draws a candidate: max(1, round((1 - s) H_l)) whole nodes of each hidden layer, at random.

    scope: "uniform" (the same share of each layer) or "global" (of all hidden nodes together, at least one a layer).
    criterion: "magnitude" keeps the nodes with the largest incoming weights instead, a control without any chance.
    `random_search` runs the whole procedure on a Trainer and applies these words to nodes: rows, the columns that read
    them, their biases; inputs and outputs are never masked. Attached by itself the method drops rows of every target.

    >>> RandomSearch(0.9).pattern, RandomSearch(0.9, scope="global").target_sparsity
    (Row(), 0.9)
    """
    return Method(
        name="random-search",
        pattern=Row(),
        criterion=criterion,  # type: ignore[arg-type]
        allocation=scope,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
    )


def random_search(
    trainer: Trainer,
    method: Method | None = None,
    *,
    candidates: int = 100,
    objective: str = "loss",
    images: int = 1000,
    on: str = "train",
    steps: int = 10,
    redraw: bool = False,
    coupled: Iterable[Iterable[str]] = (),
    seed: int | None = None,
) -> dict[str, Any]:
    """Draw ``candidates`` node masks of the untrained net, keep the one with the lowest loss, and train it.

    Equation: z* = argmin_i L(theta_0 * z_i; D), W_l <- W_l * (z_l z_(l-1)^T), b_l <- b_l * z_l; train theta_0 * z*.

    Args:
        trainer: see `Trainer`; its model is fully connected and ends trained and sparse.
        method: how candidates are drawn; default RandomSearch().
        candidates: N ≥ 1; 1 is the random control, drawn independently of any search.
        objective: "loss" of the untrained sub-network, or "after-steps": after so many training ``steps``.
        images: D: so many samples of the split ``on`` ("train" or "validation"), the same for all candidates.
        redraw: initialise the weights anew once z* is chosen: what is left of the search is its structure.
        coupled: names of linear layers whose units are the same nodes, see `nodes.hidden`.
        seed: of the draws; None: torch's, which a run sets to its own.

    Returns:
        {"masks": MaskSet, "nodes": {layer: bool [H]}, "sparsity": of the nodes, "search": Found, "steps": all trained}

    Raises:
        TargetError: the model is not fully connected, or a skip connection is not declared. RecipeError: an unknown
        objective, or a split that is not for choosing. Others as `search`.

    Differs from the paper: its text gives no N, no subset and no sparsities; the defaults are ours.
    """
    method = method or RandomSearch()
    if objective not in OBJECTIVES:
        raise RecipeError(f"objective is {objective!r}: {nearest(objective, OBJECTIVES)}")
    if objective == "after-steps" and steps < 1:
        raise ScheduleError(f"steps is {steps!r}; possible: 1 or more")
    if on not in ("train", "validation"):
        raise RecipeError(f"on is {on!r}: candidates are chosen on train or validation, never on test images")
    layers = nodes.hidden(trainer.model, coupled)
    _check_targets(trainer.model, [f"{name}.weight" for layer in layers for name in (*layer.makes, *layer.reads)])
    norms, seed = nodes.norms(trainer.model, layers), ranks.shared_seed(torch.initial_seed() if seed is None else seed)
    trials = _Trials(trainer, layers, on, images, steps if objective == "after-steps" else 0, trainer.state())
    found = search(lambda g: nodes.choose(method, norms, g), trials.value, candidates, seed=seed)
    if redraw:
        trials.start = _redrawn(trainer, trials.start, seed)
    masks = trials.prepare(found.best)
    done = trials.done + trainer.fit(KEEP, masks)["steps"]
    sparsity = 1 - sum(int(z.sum()) for z in found.best.values()) / sum(len(z) for z in found.best.values())
    return {"masks": masks, "nodes": found.best, "sparsity": sparsity, "search": found, "steps": done}


@dataclass
class _Trials:
    """What every candidate goes through: the same start, the same images, the same steps."""

    trainer: Trainer
    layers: tuple[nodes.Layer, ...]
    on: str
    images: int
    steps: int
    start: dict[str, Any]
    done: int = 0

    def prepare(self, alive: dict[str, Tensor]) -> MaskSet:
        """The parent's weights again, biases of dead nodes zero; the masks to train with."""
        self.trainer.load(self.start)
        nodes.silence_(self.trainer.model, self.layers, alive)
        return nodes.masks(self.trainer.model, self.layers, alive)

    @torch.no_grad()
    def value(self, alive: dict[str, Tensor]) -> float:
        """The loss of the sub-network, untrained or after a few steps."""
        masks = self.prepare(alive)
        if self.steps:
            with torch.enable_grad():
                self.done += self.trainer.fit(KEEP, masks, stop=self.steps)["steps"]
        for name, target in eligible(self.trainer.model).items():
            target.param.mul_(masks[name].to(target.param.device))
        return self.trainer.evaluate(self.on, limit=self.images)["loss"]


def _check_targets(model: torch.nn.Module, names: list[str]) -> None:
    """Masks are kept on the default targets: all weights that nodes cut must be among them."""
    absent = [name for name in names if name not in eligible(model)]
    if absent:
        raise MaskMismatch(f"{absent[0]!r} is shared with another layer and no target: its nodes cannot be masked")


def _redrawn(trainer: Trainer, start: dict[str, Any], seed: int) -> dict[str, Any]:
    """A state with freshly initialised layers."""
    trainer.load(start)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        for module in trainer.model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return trainer.state()
