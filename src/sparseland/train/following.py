"""A procedure may remove units of the model between two fits; the trainer takes that in before it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from sparseland.account import trace
from sparseland.weights import eligible

if TYPE_CHECKING:
    from sparseland.train.loop import Trainer


def follow(trainer: Trainer) -> None:
    """If the model has other shapes now: renew what evaluations fill, and what a sample costs; count what is gone."""
    if [p.shape for p in trainer.model.parameters()] == [p.shape for p in trainer.shadow.parameters()]:
        return

    def weights(model: nn.Module) -> int:
        return sum(t.param.numel() for t in eligible(model, trainer.config.targets, trainer.config.ignore).values())

    trainer.removed += weights(trainer.shadow) - weights(trainer.model)
    trainer.place(trainer.model)
    trainer.record.meter.shrink(trace(trainer.model, trainer.example))
