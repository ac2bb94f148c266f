"""What a procedure of several runs (iterative pruning with rewinding, soups, searches) needs from whoever trains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

from ..core.mask import MaskSet
from .method import Method
from .targets import Rules

P = TypeVar("P", bound=Callable[..., Any])


def trains(schedules: Callable[..., float | None]) -> Callable[[P], P]:
    """Decorator of a procedure: how many schedules it trains in all, given those of its options that it names.

    A comparison is fair where all train as long: a method of two schedules gets half of the epochs. None: not known
    before the run. Searching and measuring do not count.

    >>> @trains(lambda rounds: 1 + rounds)
    ... def mine(trainer, method=None, *, rounds=4): ...
    >>> schedules_of(mine, {}), schedules_of(mine, {"rounds": 1}), schedules_of(print, {})
    (5.0, 2.0, 1.0)
    """

    def keep(procedure: P) -> P:
        procedure.schedules = schedules  # type: ignore[attr-defined]
        return procedure

    return keep


def schedules_of(procedure: Callable[..., Any], options: Mapping[str, Any]) -> float | None:
    """Schedules that a procedure trains with these options, the others at their defaults; see `trains`."""
    count = getattr(procedure, "schedules", None)
    if count is None:
        return 1.0
    every = {name: one.default for name, one in inspect.signature(procedure).parameters.items()} | dict(options)
    found = count(**{name: every[name] for name in inspect.signature(count).parameters})
    return None if found is None else float(found)


@runtime_checkable
class Trainer(Protocol):
    """A training run that can be started anywhere in its schedule, copied, measured and put back."""

    model: nn.Module

    def fit(
        self,
        method: Method | None,
        masks: MaskSet | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        targets: Rules = None,
    ) -> dict[str, Any]:
        """Train from step ``start`` to ``stop`` (None: the end) of the learning-rate schedule, with a fresh optimizer.

        method: attached for the run (None: dense). masks: the method starts from these. targets: what it acts on,
        where that is not what the run says (only procedures that need it give it). The model may have lost units since
        the last fit. Returns at least {"steps": steps done}.
        """
        ...

    def evaluate(self, split: str = "validation", *, limit: int | None = None) -> dict[str, float]:
        """Metrics of the model as it is, at least {"accuracy", "loss"}; ``split``: train, validation or test.

        limit: on so many samples only, the same at every call, for searches that compare many models (not of test).
        """
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
