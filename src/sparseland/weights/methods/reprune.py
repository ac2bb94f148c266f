"""IMP-RePrune (arXiv 2306.16788, a baseline): average nets that were pruned independently, and prune the average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core import Allocation, MaskSet, OneShot, Pattern
from ...core.errors import RecipeError
from ..branches import Branch, Branching
from ..merge import average
from ..method import Method
from ..soups import Cycles, pretrained, share
from ..targets import Rules
from ..trainer import trains
from ._registry import register


@register("reprune")
def RePrune(
    sparsity: float = 0.9, *, allocation: Allocation | str = "global", pattern: Pattern | str = "unstructured"
) -> Method:
    """The pruning step of IMP-RePrune: magnitude, over all layers at once. `reprune` runs the whole procedure.

    >>> RePrune(0.9).name
    'reprune'
    """
    return Method(
        name="reprune",
        allocation=allocation,  # type: ignore[arg-type]
        pattern=pattern,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
    )


@trains(lambda cycles, copies, retrain, log: share(retrain, cycles * copies, log))
def reprune(
    trainer: Branching,
    method: Method | None = None,
    *,
    cycles: int = 1,
    copies: int = 3,
    retrain: int | float = 0.5,
    schedule: str = "LLR",
    recalibrate: float | None = 0.2,
    log: Sequence[float] | None = None,
    on: str = "inline",
    workers: int | None = None,
    targets: Rules = None,
    ignore: Rules = None,
) -> dict[str, Any]:
    """Pretrain once; prune and retrain ``copies`` nets apart from each other; average them, and prune to the target.

    The control of sparse model soups: from the second cycle on the copies have masks of their own, so their average is
    denser than they are. Options as in `sms`.

    Returns:
        {"masks": MaskSet, "union": density of the average before it was pruned, "steps": all steps trained}
    """
    if copies < 1:
        raise RecipeError(f"copies={copies!r}; possible: 1 or more")
    plan = Cycles(method or RePrune(), cycles, schedule, retrain, recalibrate, targets, ignore)
    log = pretrained(trainer, plan.check(trainer, log))
    start, done = len(log), 0
    states: list[dict[str, Any]] = [trainer.state() for _ in range(copies)]
    masks: list[MaskSet | None] = [None] * copies
    for goal in plan.goals():
        branches = []
        for i, state in enumerate(states):
            trainer.load(state)
            masks[i], change = plan.prune(trainer.model, goal, masks[i])
            branches.append(Branch(plan.lrs(log, change), masks[i], trainer.state(), seed=i))
        states = trainer.branch(branches, start=start, on=on, workers=workers)
        for i, state in enumerate(states):
            trainer.load(state)
            plan.settle(trainer)
            states[i] = trainer.state()
        start += branches[0].steps
        done += sum(branch.steps for branch in branches)
    trainer.load(average(states, same_zeros=False))
    union = MaskSet({name: trainer.state()[name] != 0 for name in masks[0] or ()})
    final, _ = plan.prune(trainer.model, plan.method.target_sparsity, None)
    plan.settle(trainer)
    return {"masks": final, "union": 1 - union.sparsity(), "steps": done}
