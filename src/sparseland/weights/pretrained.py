"""Procedures that begin with a trained dense net: train it first, or take the one that is given and look at it."""

from __future__ import annotations

from typing import Any

import torch

from ..core.mask import MaskSet
from . import ranks
from .targets import Rules, eligible
from .trainer import Trainer

MARGIN = 0.1  # share of the way from a constant answer to a perfect one that a trained net has gone at least


def looks_trained(trainer: Trainer, targets: Rules = None, ignore: Rules = None, split: str = "train") -> bool:
    """Whether the model answers better than one whose eligible weights are all zero (a constant answer).

    Equation: accuracy > constant + 0.1 (1 − constant).
    """
    found = {n: t.param for n, t in eligible(trainer.model, targets, ignore).items()}
    before, accuracy = trainer.state(), trainer.evaluate(split)["accuracy"]
    try:
        with torch.no_grad():
            for param in found.values():
                ranks.local(param).zero_()
        constant = trainer.evaluate(split)["accuracy"]
    finally:
        trainer.load(before)
    return accuracy > constant + MARGIN * (1 - constant)


def living(trainer: Trainer, targets: Rules = None, ignore: Rules = None) -> MaskSet:
    """Masks of what is not zero now."""
    found = eligible(trainer.model, targets, ignore)
    return MaskSet({n: ranks.full(t.param.detach()) != 0 for n, t in found.items()})


def entry(number: int, masks: MaskSet | None, steps: int, trainer: Trainer) -> dict[str, Any]:
    """What a procedure notes when a training has ended: its number, sparsity, steps, and how well it does."""
    sparsity = 0.0 if masks is None else masks.sparsity()
    return {"round": number, "sparsity": sparsity, "steps": steps} | trainer.evaluate("validation")
