"""MaskSparsity (arXiv 2201.06776): penalise the scales of just the channels that will be removed, then remove them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...core import Allocation, MaskSet, OneShot
from ...core.errors import RecipeError
from .. import structure
from ..channels import norm_members, spread, told, tuning, vote
from ..method import Method
from ..penalty import Regularised
from ..scales import check_masks, example_of, norm_scales, warn_if_out_of_reach
from ..trainer import Trainer, trains
from ._registry import register


@register("masksparsity")
def MaskSparsity(
    sparsity: float = 0.5,
    *,
    strength: float = 5e-4,
    norm: str = "l1",
    knee: float = 0.0,
    allocation: Allocation | str = "uniform",
) -> Method:
    """grad γ += strength r(γ) (1 - m): scales that the mask m gives up are pulled to zero, the others are left alone.

    sparsity: share of the channels to remove (not used by allocations that read it off the scales: "above", the paper's
    τ, and "energy", its "optimal thresholding"). strength: λ; see `weights.penalty.reach` for what it can move.
    norm, knee: r is "l1", "l2" or "smooth-l1" (w below the knee). The masks are of norm scales: attach it with
    ``targets=sparseland.weights.scales.is_scale``, or let `masksparsity` run the whole procedure.

    >>> MaskSparsity(0.75, strength=3e-2).flow
    Regularised(strength=0.03)
    """
    return Method(
        name="masksparsity",
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
        flow=Regularised(strength, norm, knee=knee),
    )


@trains(lambda masks, finetune: 2 + (masks is None) + finetune)
def masksparsity(
    trainer: Trainer,
    method: Method | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    start: str = "baseline",
    votes: str = "vote",
    flops: float | None = None,
    threshold: float | None = None,
    fold: bool = False,
    round_to: int = 1,
    finetune: float = 0.1,
    example: Any = None,
) -> dict[str, Any]:
    """Train; train with all scales penalised, to see which are small; train with only those penalised; remove; tune.

    Args:
        trainer: see `Trainer`; its model loses the channels in place and ends trained.
        method: penalty, and how the masks follow from the scales; default MaskSparsity().
        masks: {scale's name: keep-mask}; instead of those of the globally penalised training, which is left out then.
        start: of the masked training: the "baseline" (no channel saw a penalty), or the "global" one.
        votes: how layers whose channels are added agree (see `merge_votes`). flops: share of the FLOPs to keep, by a
            threshold on all scales, instead of what the method's allocation says.
        threshold: remove by |γ| ≤ threshold after the masked training (the paper: 0.01); None: what the mask says.
        fold: the constants of removed channels into what follows, where exact. round_to: of channels kept per layer.
        finetune: share of the schedule, its end, trained after the removal. example: a batch of inputs.

    Returns:
        {"masks" of the scales, "plan", "kept_scale": mean |γ| of kept channels, "removed_scale": max |γ| of removed,
        "accuracy": before removal, right after, after tuning (validation), "steps"}

    Raises:
        TargetError, MaskMismatch, RecipeError, InfeasibleBudget: before a training that would be lost, where possible.

    Differs from the paper: coupled layers are traced; a layer keeps its largest scale; norms take no weight decay.
    """
    if start not in ("baseline", "global"):
        raise RecipeError(f"start is {start!r}; possible: baseline, global")
    method, model, sample = method or MaskSparsity(), trainer.model, example_of(trainer, example)
    graph = structure.trace(model, sample)
    members, tail = norm_members(graph, norm_scales(model)), tuning(trainer, finetune)
    scales = {name: norm_scales(model)[name] for group in members.values() for name, _ in group}
    given, names = None if masks is None else check_masks(masks, scales), tuple(scales)
    done = trainer.fit(None)
    steps, base = done["steps"], trainer.state()
    if given is None:
        every = method.replace(flow=method.flow.replace(everywhere=True))
        steps += trainer.fit(every, spread({}, members, model), targets=names)["steps"]
    source, share = (method, flops) if given is None else (given, None)
    keep = vote(source, members, model, votes, graph=graph, flops=share, round_to=round_to)
    if start == "baseline":
        trainer.load(base)
    chosen = spread(keep, members, model)
    _warn(trainer, method, chosen, done.get("lrs"))
    steps += trainer.fit(method, chosen, targets=names)["steps"]
    if threshold is not None:
        keep = vote(_above(threshold, chosen, model), members, model, votes, round_to=round_to)
    sizes, plan = told(chosen, norm_scales(model)), graph.plan(keep=keep)
    accuracy, tuned = _remove(trainer, plan, tail, fold=fold, sample=sample)
    return {"masks": chosen, "plan": plan, "accuracy": accuracy, "steps": steps + tuned, **sizes}


def _remove(trainer: Trainer, plan: structure.Plan, tail: int, **how: Any) -> tuple[list[float], int]:
    """Accuracies before the removal, right after it and after tuning, and the steps of tuning."""
    accuracy = [trainer.evaluate()["accuracy"]]
    plan.apply(trainer.model, **how)
    accuracy.append(trainer.evaluate()["accuracy"])
    steps = trainer.fit(None, start=tail)["steps"]
    return [*accuracy, trainer.evaluate()["accuracy"]], steps


def _warn(trainer: Trainer, method: Method, chosen: MaskSet, lrs: Any) -> None:
    """Where the L1 penalty cannot reach zero in the steps it has."""
    flow = method.flow
    if isinstance(flow, Regularised) and flow.norm == "l1" and lrs is not None:
        momentum = getattr(getattr(trainer, "config", None), "momentum", 0.0)
        scales = {n: p.detach() for n, p in norm_scales(trainer.model).items() if n in chosen}
        warn_if_out_of_reach(scales, chosen, flow.strength, lrs, momentum)


def _above(threshold: float, chosen: MaskSet, model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().abs() > threshold for n, p in norm_scales(model).items() if n in chosen}
