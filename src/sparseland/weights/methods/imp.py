"""Iterative magnitude pruning (arXiv 1803.03635, 1912.05671, 2003.02389): train, prune, rewind, again."""

from __future__ import annotations

from typing import Any

from ...core import Allocation, MaskSet, OneShot, Pattern
from ...core.errors import RecipeError, ScheduleError
from ..method import Method
from ..oneshot import prune_
from ..targets import Rules
from ..trainer import Trainer, trains
from ._registry import register


@register("imp")
def IMP(
    sparsity: float = 0.9, *, allocation: Allocation | str = "global", pattern: Pattern | str = "unstructured"
) -> Method:
    """The pruning step of IMP: magnitude, at the end of a training. `imp` runs the whole procedure on a Trainer.

    >>> IMP(0.9).name
    'imp'
    """
    return Method(
        name="imp",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
    )


@trains(lambda rounds, rewind: 1 + rounds * (0.1 if rewind == "none" else 1))
def imp(
    trainer: Trainer,
    method: Method | None = None,
    *,
    rounds: int = 5,
    rewind: str = "weights",
    rewind_to: int = 0,
    targets: Rules = None,
    ignore: Rules = None,
) -> dict[str, Any]:
    """``rounds`` times: train to the end, prune to density d^(i/rounds), rewind; then train the last ticket.

    Args:
        trainer: see `Trainer`; its model ends trained and sparse.
        method: how to prune (pattern, criterion, allocation, final sparsity); default IMP().
        rewind: "weights" restores weights and learning rate of step ``rewind_to`` (0: the lottery ticket);
            "learning-rate" keeps the trained weights and restarts the schedule there; "none" fine-tunes from the
            trained weights over the last tenth of the schedule.
        rewind_to: the step to go back to, in [0, trainer.steps).
        targets, ignore: what is pruned, as in `Method.attach`; the trainer must attach to the same.

    Returns:
        {"masks": MaskSet, "rounds": [{"round", "sparsity", "steps", "accuracy", …}], "steps": all steps trained}
    """
    if rewind not in ("weights", "learning-rate", "none"):
        raise RecipeError(f"rewind is {rewind!r}; possible: weights, learning-rate, none")
    if rounds < 1 or not 0 <= rewind_to < trainer.steps:
        raise ScheduleError(
            f"rounds {rounds} (possible: 1 …), rewind_to {rewind_to} (possible: 0 … {trainer.steps - 1})"
        )
    method = method or IMP()
    density = 1 - method.target_sparsity
    goals = [1 - density ** (i / rounds) for i in range(1, rounds)] + [method.target_sparsity]
    done = trainer.fit(None, start=0, stop=rewind_to)["steps"] if rewind_to else 0
    early = trainer.state()
    done += trainer.fit(None, start=rewind_to)["steps"]
    log, masks = [_entry(0, None, done, trainer)], None
    keep = Method(name="imp", pattern=method.pattern)  # masks given, nothing moves
    for i, sparsity in enumerate(goals, 1):
        once = method.replace(schedule=OneShot(sparsity))
        masks = prune_(trainer.model, once, targets=targets, ignore=ignore)
        if rewind == "weights":
            trainer.load(early)
        start = rewind_to if rewind != "none" else trainer.steps - max(1, trainer.steps // 10)
        steps = trainer.fit(keep, masks, start=start)["steps"]
        done += steps
        log.append(_entry(i, masks, steps, trainer))
    return {"masks": masks, "rounds": log, "steps": done}


def _entry(number: int, masks: MaskSet | None, steps: int, trainer: Trainer) -> dict[str, Any]:
    sparsity = 0.0 if masks is None else masks.sparsity()
    return {"round": number, "sparsity": sparsity, "steps": steps} | trainer.evaluate("validation")
