"""Turbo-VBI (arXiv 2302.10483): a posterior for every weight, supports that come in clusters, then pruning by them."""

from __future__ import annotations

from typing import Any

import torch

from ...core import Allocation, OneShot, Pattern
from ...core.errors import RecipeError, nearest
from ..method import Method
from ..targets import Rules, eligible
from ..trainer import Trainer
from ..turbo import CUTS, Posterior, Support, Variational, bayesian_, plain_
from ._registry import register


@register("turbo-vbi")
def TurboVBI(
    sparsity: float = 0.9,
    *,
    chain: str = "row",
    a: float = 2.0,
    b: float | None = None,
    a_off: float | None = None,
    b_off: float | None = None,
    p01: float | None = 1e-3,
    p10: float = 0.3,
    order: str = "channel",
    allocation: Allocation | str = "erk",
    pattern: Pattern | str = "unstructured",
) -> Method:
    """The pruning step: keep the weights whose support is most probable under w | rho | s (see `Support`).

    chain: "row" (clusters along each neuron's weights), "col" (whole columns), "grid" or "iid". `turbo_vbi` runs the
    whole procedure on a Trainer; attached alone, this takes the weights as known and lets neighbours vote.

    >>> TurboVBI(0.9).criterion
    Support(a=2.0, p01=0.001)
    """
    return Method(
        name="turbo-vbi",
        pattern=pattern,  # type: ignore[arg-type]
        criterion=Support(chain, a, b, a_off, b_off, p01, p10, order),
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
    )


def turbo_vbi(
    trainer: Trainer,
    method: Method | None = None,
    *,
    images: int | None = None,
    infer: float = 2 / 3,
    ramp: float = 0.4,
    warmup: float = 0.2,
    every: int | float = 0.01,
    em: bool = False,
    log_var: float = -8.0,
    cut: str = "budget",
    targets: Rules = None,
    ignore: Rules = None,
) -> dict[str, Any]:
    """Infer a posterior for the first ``infer`` of the schedule, prune by it, train what is left for the rest.

    Args:
        trainer: see `Trainer`; its model ends plain, trained and sparse. Best without weight decay: the prior is one.
        method: pattern, prior (its criterion, a `Support`), allocation and final sparsity; default TurboVBI().
        images: N, the number of training images; None: what the trainer says (``trainer.images``).
        infer: share of the schedule, in (0, 1]; with 1 the posterior means are left untrained.
        ramp, warmup, every, em: see `Variational`; shares of the inference. log_var: ln sigma^2 to start from.
        cut: "budget" keeps the most probable weights of each layer, "snr" those with the largest mu^2/sigma^2, "half"
            all with s~ > 1/2, whatever the method's sparsity.
        targets, ignore: which layers get a posterior, as in `Method.attach`; the trainer must attach to the same.

    Returns:
        {"masks": MaskSet, "active": share with s~ > 1/2, "guards": see `Posterior.guards`, "steps": all steps trained}

    Raises:
        RecipeError, TargetError, InfeasibleBudget: before anything is trained; with "half" also where nothing of a
        layer is active.

    Differs from the paper, of which the abstract and the first page were read: the chains and their numbers are ours,
    an exchange is one sweep. A step of the inference costs two dense ones (means and variances); it is counted as one.
    """
    method, images = method or TurboVBI(), getattr(trainer, "images", None) if images is None else images
    if cut not in CUTS:
        raise RecipeError(f"cut is {cut!r}; {nearest(cut, CUTS)}")
    if not 0 < infer <= 1:
        raise RecipeError(f"infer is {infer!r}, the share of the schedule that infers a posterior; possible: (0, 1]")
    variational = Variational(criterion=method.criterion, images=images, ramp=ramp, warmup=warmup, every=every, em=em)
    variational.check()
    shapes = {name: target.shape for name, target in eligible(trainer.model, targets, ignore).items()}
    method.allocation.check(shapes, method.target_sparsity, method.pattern)
    stop = max(1, round(infer * trainer.steps))
    work = _with_posterior(trainer, targets, ignore, log_var)
    done = work.fit(variational, start=0, stop=stop)["steps"]
    found = Posterior(work.model, variational.criterion)
    masks, active, guards = found.masks(method, cut), found.active(), found.guards()
    plain_(work.model)
    trainer.load(work.state())
    with torch.no_grad():
        for name, target in eligible(trainer.model, targets, ignore).items():
            target.param.masked_fill_(~masks[name].to(target.param.device), 0)
    if stop < trainer.steps:
        keep = Method(name="turbo-vbi", pattern=method.pattern)  # masks given, nothing moves
        done += trainer.fit(keep, masks, start=stop)["steps"]
    return {"masks": masks, "active": active, "guards": guards, "steps": done}


def _with_posterior(trainer: Trainer, targets: Rules, ignore: Rules, log_var: float) -> Trainer:
    """A copy whose model has one, and whose checkpoints know it; the trainer's own model stays plain."""
    bayesian_(trainer.model, targets, ignore, log_var=log_var)
    try:
        return trainer.clone()
    finally:
        plain_(trainer.model)
