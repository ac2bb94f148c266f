"""Sparse then Prune (arXiv 2307.11988): train a ViT with a penalty on its attention maps, then prune once."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...core import Allocation, OneShot, Pattern
from ...core.errors import RecipeError
from .. import attention
from ..method import Method
from ..oneshot import prune_
from ..targets import Rules, eligible
from ..trainer import Trainer
from ._registry import register


@register("sparse-then-prune")
def SparseThenPrune(
    sparsity: float = 0.1, *, allocation: Allocation | str = "global", pattern: Pattern | str = "unstructured"
) -> Method:
    """The pruning step: one global cut by |w|, not followed by training. `sparse_then_prune` trains with the penalty.

    >>> SparseThenPrune(0.1).criterion, SparseThenPrune().target_sparsity
    (Magnitude(), 0.1)
    """
    return Method(
        name="sparse-then-prune",
        pattern=pattern,  # type: ignore[arg-type]
        allocation=allocation,  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
    )


def sparse_then_prune(
    trainer: Trainer,
    method: Method | None = None,
    *,
    strength: float = 0.01,
    penalty: str = "log",
    reduction: str = "mean",
    layers: attention.Layers = "last",
    include_norms: bool = False,
    targets: Rules = None,
    ignore: Rules = None,
) -> dict[str, Any]:
    """Train the whole schedule with ``strength`` times a penalty on attention added to the loss; prune once; stop.

    Equation: loss = CE + strength R, R = mean over all entries of log(1 + A^2), A of the last block; then keep the
    round((1 - s) N) largest |w| over patch embedding, attention, MLP and classifier.

    Args:
        trainer: see `Trainer`; its model (any transformers ViT, or one whose attention modules return their maps) ends
            trained and sparse.
        method: how to prune; default SparseThenPrune().
        strength, penalty, reduction, layers: see `attention.penalised`. The defaults are the paper's; 0 is the control.
            The paper's penalty favours *even* attention; "entropy" and "square" favour sparse rows.
        include_norms: prune the LayerNorm scales of the blocks too, as the paper's code does.
        targets, ignore: what is pruned, as in `Method.attach`.

    Returns:
        {"masks": MaskSet, "rounds": [{"sparsity", "accuracy", …} before and after pruning], "steps", "penalty": last}

    Differs from the paper: the weights at the end of the run are pruned, not those of the lowest training loss.
    Differs from its code: LayerNorm scales stay; nothing else of the model is touched.
    """
    method, config = method or SparseThenPrune(), getattr(trainer, "config", None)
    if strength and getattr(config, "precision", "no") == "fp16":
        raise RecipeError("precision is 'fp16': the penalty would miss the loss scale; possible here: no, bf16")
    names = list(eligible(trainer.model, targets, ignore))
    rules: Rules = [*names, block_norms] if include_norms else names
    seen: dict[str, float] = {}
    if strength:
        words = {"kind": penalty, "reduction": reduction, "layers": layers}
        share = 1 / getattr(config, "accumulate", 1)
        with attention.penalised(trainer.model, strength, share=share, **words) as seen:  # type: ignore[arg-type]
            done = trainer.fit(None)["steps"]
    else:
        attention.check_words(penalty, reduction)
        done = trainer.fit(None)["steps"]
    log = [{"sparsity": 0.0} | trainer.evaluate("validation")]
    masks = prune_(trainer.model, method, targets=rules)
    log.append({"sparsity": masks.sparsity()} | trainer.evaluate("validation"))
    return {"masks": masks, "rounds": log, "steps": done, "penalty": seen.get("penalty")}


def block_norms(name: str, module: nn.Module, param: nn.Parameter) -> bool:
    """A rule for `eligible`: scales of LayerNorms inside numbered blocks (not the last norm of the model).

    >>> net = nn.Sequential(nn.LayerNorm(2))
    >>> block_norms("0.weight", net[0], net[0].weight), block_norms("norm.weight", net[0], net[0].weight)
    (True, False)
    """
    inside = any(part.isdigit() for part in name.split("."))
    return isinstance(module, nn.LayerNorm) and name.endswith("weight") and inside
