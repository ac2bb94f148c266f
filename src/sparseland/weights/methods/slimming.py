"""Network slimming (arXiv 1708.06519) and the group lasso (arXiv 1608.03665): penalise all, remove the small."""

from __future__ import annotations

from typing import Any

from ...core import Allocation, OneShot
from .. import structure
from ..channels import makers, norm_members, spread, told, tuning, vote
from ..method import Method
from ..penalty import Regularised
from ..scales import example_of, norm_scales
from ..trainer import Trainer, trains
from ._registry import register


@register("slimming")
def Slimming(sparsity: float = 0.5, *, strength: float = 5e-4, allocation: Allocation | str = "global") -> Method:
    """grad γ += strength sign(γ) on every norm scale; the ``sparsity`` smallest |γ| of all layers together go.

    Attach it with ``targets=sparseland.weights.scales.is_scale``, or let `slimming` run the whole procedure.

    >>> Slimming(0.7).flow
    Regularised(everywhere=True)
    """
    return Method(
        name="slimming",
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
        flow=Regularised(strength, everywhere=True),
    )


@register("group-lasso")
def GroupLasso(sparsity: float = 0.5, *, strength: float = 5e-4, allocation: Allocation | str = "uniform") -> Method:
    """grad w_o += strength √n w_o / ‖w_o‖₂ for every output channel o; those with the smallest norms go.

    allocation: "uniform" ranks the channels of each layer, "global" all of them.

    >>> GroupLasso(0.5).flow
    Regularised(norm='group', everywhere=True)
    """
    return Method(
        name="group-lasso",
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
        flow=Regularised(strength, "group", everywhere=True),
    )


@trains(lambda trainings, finetune: 1 + trainings + finetune)
def slimming(
    trainer: Trainer,
    method: Method | None = None,
    *,
    votes: str = "vote",
    flops: float | None = None,
    trainings: int = 1,
    fold: bool = False,
    round_to: int = 1,
    finetune: float = 0.1,
    example: Any = None,
) -> dict[str, Any]:
    """Train; train ``trainings`` times with all scales penalised; remove channels with small scales; tune.

    Arguments and result as of `masksparsity`; two trainings cost as much as its global and its masked one.
    """
    method, model = method or Slimming(), trainer.model
    sample = example_of(trainer, example)
    graph = structure.trace(model, sample)
    members, tail = norm_members(graph, norm_scales(model)), tuning(trainer, finetune)
    names = tuple(dict.fromkeys(name for group in members.values() for name, _ in group))
    steps = trainer.fit(None)["steps"]
    for _ in range(trainings):
        steps += trainer.fit(method, spread({}, members, model), targets=names)["steps"]
    keep = vote(method, members, model, votes, graph=graph, flops=flops, round_to=round_to)
    chosen = spread(keep, members, model)
    found = {"masks": chosen} | told(chosen, norm_scales(model))
    return found | _cut(trainer, graph.plan(keep=keep), sample if fold else None, tail, steps)


@trains(lambda finetune: 2 + finetune)
def group_lasso(
    trainer: Trainer,
    method: Method | None = None,
    *,
    flops: float | None = None,
    fold: bool = False,
    round_to: int = 1,
    finetune: float = 0.1,
    example: Any = None,
) -> dict[str, Any]:
    """Train; train with the group lasso on the layers that make channels; remove those with small norms; tune.

    Works without norms as well. Arguments and result as of `masksparsity`.
    """
    method, model = method or GroupLasso(), trainer.model
    sample = example_of(trainer, example)
    graph = structure.trace(model, sample)
    tail, names = tuning(trainer, finetune), makers(graph)
    steps = trainer.fit(None)["steps"]
    steps += trainer.fit(method, spread({}, {}, model, names), targets=names)["steps"]
    amount: dict[str, Any] = {"ratio": 1 - method.target_sparsity} if flops is None else {"flops": flops}
    scope = "global" if str(method.allocation) == "global" else "layer"
    plan = graph.plan(scores=graph.weight_norms(), scope=scope, round_to=round_to, **amount)
    return _cut(trainer, plan, sample if fold else None, tail, steps)


def _cut(trainer: Trainer, plan: Any, sample: Any, tail: int, steps: int) -> dict[str, Any]:
    """Remove (folding where there is a sample), and train the end of the schedule once more."""
    accuracy = [trainer.evaluate()["accuracy"]]
    plan.apply(trainer.model, fold=sample is not None, sample=sample)
    accuracy.append(trainer.evaluate()["accuracy"])
    steps += trainer.fit(None, start=tail)["steps"]
    accuracy.append(trainer.evaluate()["accuracy"])
    return {"plan": plan, "accuracy": accuracy, "steps": steps}
