"""PreCropping (arXiv 2203.02549): the layer densities of SynFlow as widths of a dense net, before training."""

from __future__ import annotations

from typing import Any

from ...core import Allocation, Criterion, OneShot
from ...core import SynFlow as SynFlowScore
from ..cropping import crop_, densities
from ..method import Method
from ..scales import example_of
from ..trainer import Trainer
from ._registry import register


@register("precropping")
def PreCropping(
    sparsity: float = 0.9,
    *,
    rounds: int = 100,
    criterion: Criterion | str | None = None,
    allocation: Allocation | str = "global",
) -> Method:
    """The masks whose layer densities `precropping` turns into widths: SynFlow's, in ``rounds`` exponential rounds.

    allocation: "global" (SynFlow decides), "equal-count" (its closed form, no scores: every layer that is not full
    keeps as many weights), "uniform", "erk", …. Attached as it is, the method keeps a mask: the baseline that cropping
    is compared with.

    >>> PreCropping(0.9).requires(), PreCropping(0.9, allocation="equal-count").requires()
    (frozenset({'synflow'}), frozenset())
    """
    shares = Allocation.from_dict(allocation)
    scored = shares.scored or criterion is not None
    return Method(
        name="precropping",
        criterion=(criterion or SynFlowScore()) if scored else "magnitude",  # type: ignore[arg-type]
        allocation=shares,
        schedule=OneShot(sparsity, rounds=rounds if scored else 1),
    )


def precropping(
    trainer: Trainer,
    method: Method | None = None,
    *,
    rule: str = "sqrt",
    budget: str = "params",
    least: int = 4,
    round_to: int = 1,
    init: str = "fan-in",
    seed: int = 0,
    example: Any = None,
) -> dict[str, Any]:
    """Crop the trainer's fresh model to 1 - sparsity of its cost, widths from the method's densities, and train it.

    Equation: p_l = density of layer l under the method; widths c_l = f C_l √p_l, one factor f for the exact budget.

    Args:
        trainer: see `Trainer`; its model is made narrower in place, and ends trained. No mask is left anywhere.
        method: whose densities; default PreCropping().
        rule: "sqrt", "chain" (c_l = p_l C_l C_{l-1} / c_{l-1}, which oscillates) or "least-squares".
        budget: "params" or "flops": what shall be 1 - sparsity of what it was.
        least, round_to: every width is at least ``least`` and a multiple of ``round_to``.
        init: "fan-in" draws for the new widths, "slice" keeps the draw. seed: of ties in the masks.
        example: a batch of the model's input; default: the trainer's.

    Returns:
        {"densities": {weight: p_l}, "widths": {group: channels}, "parameters": (before, after), "steps"}

    Differs from the paper: its body was not read; the rule from densities to widths is ours, and scores are in float64.
    """
    method = method or PreCropping()
    sample, model = example_of(trainer, example), trainer.model
    shares = densities(model, method, sample, seed=seed)
    before = sum(p.numel() for p in model.parameters())
    options: dict[str, Any] = {"rule": rule, "budget": budget, "least": least, "round_to": round_to, "init": init}
    plan = crop_(model, 1 - method.target_sparsity, sample, shares, **options)
    after = sum(p.numel() for p in model.parameters())
    widths = {name: int(keep.sum()) for name, keep in plan.keep.items()}
    steps = trainer.fit(None)["steps"]
    return {"densities": shares, "widths": widths, "parameters": (before, after), "steps": steps}
