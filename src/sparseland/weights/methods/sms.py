"""Sparse model soups (arXiv 2306.16788): prune, retrain several copies with the same zeros, average them, again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...core import Allocation, Criterion, MaskSet, OneShot, Pattern
from ...core.errors import RecipeError, nearest
from ..branches import Branch, Branching
from ..merge import geometry
from ..method import Method
from ..soups import Cycles, check_soup, pretrained, share
from ..targets import Rules
from ..trainer import trains
from ._registry import register

VARIED = ("seed", "weight_decay", "length", "peak")


@register("sms")
def SMS(
    sparsity: float = 0.9,
    *,
    criterion: Criterion | str = "magnitude",
    allocation: Allocation | str = "global",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """The pruning step of sparse model soups: magnitude, over all layers at once. `sms` runs the whole procedure.

    >>> SMS(0.9).target_sparsity
    0.9
    """
    return Method(
        name="sms",
        criterion=criterion,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        pattern=pattern,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
    )


@trains(lambda cycles, ingredients, retrain, log: share(retrain, cycles * ingredients, log))
def sms(
    trainer: Branching,
    method: Method | None = None,
    *,
    cycles: int = 1,
    ingredients: int = 3,
    vary: str = "seed",
    values: Sequence[Any] | None = None,
    retrain: int | float = 0.5,
    schedule: str = "LLR",
    soup: str = "uniform",
    recalibrate: float | None = 0.2,
    split: str = "validation",
    log: Sequence[float] | None = None,
    on: str = "inline",
    workers: int | None = None,
    targets: Rules = None,
    ignore: Rules = None,
) -> dict[str, Any]:
    """Pretrain; then ``cycles`` times: prune, retrain ``ingredients`` copies, average them, recalibrate batch norms.

    Equation: after cycle c the sparsity is 1 − (1 − s*)^(c/K); θ̄ = Σ_i θ_i / m over all floating state.
    ``ingredients=1`` is iterative magnitude pruning (IMP); with ``retrain`` m times as long it is IMP_{m×}.

    Args:
        trainer: see `Branching`; its model ends as the soup, sparse.
        method: how to prune (criterion, allocation, pattern, final sparsity); default SMS().
        ingredients: m ≥ 1. vary: what differs between them: seed (order of batches, augmentation), weight_decay, length
            (as ``retrain``) or peak (of the learning rate); values: one each; None: seeds 0 … m − 1 are added.
        retrain: steps of each retraining (int), or their share of the pretraining's (float). schedule: of its learning
            rate, see `retraining_lrs`: FT, LRW, SLR, CLR, LLR or ALLR.
        soup: uniform, or greedy on the accuracy of ``split``. recalibrate: share of the training images for norms,
            in (0, 1]; None warns. log: learning rates of a pretraining that is done; None: it is done now.
        on, workers: where ingredients train, as in `sparseland.train.fan_out`. targets, ignore: as in `Method.attach`.

    Returns:
        {"masks", "ingredients": states of the last cycle, "rounds": [{"cycle", "sparsity", "steps", "chosen",
        "geometry", "accuracy", …}], "steps": of all retrainings}

    Raises:
        MaskMismatch: ingredients with other zeros. RecipeError, ScheduleError: an impossible option, no learning rates.
        InfeasibleBudget: less sparsity than there is. All before training, where possible.

    Differs from the paper: the images for batch norms are shuffled; SLR does not repeat a warm-up of the pretraining.
    """
    given = _values(ingredients, vary, values)
    check_soup(trainer, soup, split)
    plan = Cycles(method or SMS(), cycles, schedule, retrain, recalibrate, targets, ignore)
    log = pretrained(trainer, plan.check(trainer, log))
    start, masks, rounds, states = len(log), None, list[dict[str, Any]](), list[dict[str, Tensor]]()
    for cycle, goal in enumerate(plan.goals(), 1):
        masks, change = plan.prune(trainer.model, goal, masks)
        branches = [_branch(plan, log, change, masks, vary, value) for value in given]
        states = trainer.branch(branches, start=start, on=on, workers=workers)
        start += max(branch.steps for branch in branches)
        chosen = plan.blend(trainer, states, masks, soup, split)
        entry: dict[str, Any] = {"cycle": cycle, "sparsity": masks.sparsity(), "steps": sum(b.steps for b in branches)}
        entry |= {"chosen": chosen, "geometry": geometry(states, masks) if len(states) > 1 else {}}
        rounds.append(entry | trainer.evaluate(split))
    return {"masks": masks, "ingredients": states, "rounds": rounds, "steps": sum(entry["steps"] for entry in rounds)}


def _values(ingredients: int, vary: str, values: Sequence[Any] | None) -> list[Any]:
    if vary not in VARIED:
        raise RecipeError(f"vary={vary!r}: {nearest(vary, VARIED)}")
    if ingredients < 1:
        raise RecipeError(f"ingredients={ingredients!r}; possible: 1 (plain iterative magnitude pruning) or more")
    if values is None and vary != "seed":
        raise RecipeError(f"vary={vary!r} needs values, one per ingredient ({ingredients})")
    given = list(range(ingredients)) if values is None else list(values)
    if len(given) != ingredients:
        raise RecipeError(f"{len(given)} values for {ingredients} ingredients: {given}")
    return given


def _branch(
    plan: Cycles, log: Sequence[float], change: dict[str, float], masks: MaskSet, vary: str, value: Any
) -> Branch:
    lrs = plan.lrs(log, change, value if vary == "length" else None, value if vary == "peak" else None)
    return Branch(lrs, masks, **{vary: value} if vary in ("seed", "weight_decay") else {})
