"""What a procedure of several runs (iterative pruning with rewinding, soups, searches) needs from whoever trains."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..core.mask import MaskSet
from .method import Method


@runtime_checkable
class Trainer(Protocol):
    """A training run that can be started anywhere in its schedule, copied, measured and put back."""

    model: nn.Module

    def fit(
        self, method: Method | None, masks: MaskSet | None = None, *, start: int = 0, stop: int | None = None
    ) -> dict[str, Any]:
        """Train from step ``start`` to ``stop`` (None: the end) of the learning-rate schedule, with a fresh optimizer.

        method: attached for the run (None: dense). masks: the method starts from these. Returns at least
        {"steps": steps done}.
        """
        ...

    def evaluate(self, split: str = "validation") -> dict[str, float]:
        """Metrics of the model as it is, at least {"accuracy", "loss"}; ``split``: train, validation or test."""
        ...

    def clone(self) -> Trainer:
        """An independent copy: same data, same configuration, own weights."""
        ...

    def state(self) -> dict[str, Any]:
        """The model's weights and buffers, to come back to with `load` (rewinding)."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Put a `state` back."""
        ...

    @property
    def steps(self) -> int:
        """Optimizer steps of one whole schedule."""
        ...
