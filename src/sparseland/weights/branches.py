"""One pruned state, several retrainings of it: what a soup needs from whoever trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..core.mask import MaskSet
from .trainer import Trainer


@dataclass(frozen=True)
class Branch:
    """A training of its own, from a given state.

    Parameters:
        lrs: the learning rate of every step; as many steps as these.
        masks: stay as they are; None: dense. state: where to begin; None: the trainer's model as it is.
        seed: added to the trainer's own (order of the batches, augmentation). weight_decay: None: the trainer's own.

    >>> Branch([0.1, 0.05]).steps
    2
    """

    lrs: Sequence[float]
    masks: MaskSet | None = None
    state: dict[str, Tensor] | None = None
    seed: int = 0
    weight_decay: float | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.lrs)


@runtime_checkable
class Branching(Trainer, Protocol):
    """A `Trainer` that can also train several branches at once, and give images to recalibrate batch norms with."""

    def branch(
        self, branches: Sequence[Branch], *, start: int = 0, on: str = "inline", workers: int | None = None
    ) -> list[dict[str, Tensor]]:
        """Train every branch, each with a fresh optimizer and a fresh copy of the model; the states they end in.

        ``start``: the first step's number, for the order of batches. The trainer's own model does not change. ``on``,
        ``workers``: where, as in `sparseland.train.fan_out`. All places give the same bits.
        """
        ...

    def sample(self, share: float) -> Iterable[Any]:
        """Batches of this share of the training images, shuffled with a fixed seed, not augmented."""
        ...
