"""Where a run stands: what it did so far (`Record`), and the training at hand (`Fit`). Both are in every checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparseland.account import Meter
from sparseland.core.errors import ScheduleError, SparselandError
from sparseland.train.average import WeightAverage
from sparseland.train.config import TrainConfig
from sparseland.train.optim import lr_at
from sparseland.train.processes import Processes
from sparseland.train.randomness import random_state, set_random_state
from sparseland.weights import Method, Sparsifier


class Diverged(SparselandError):
    """The loss is no number any more."""


def last_step(start: int, stop: int | None, lrs: Sequence[float] | None, steps: int) -> int:
    """Where a fit ends: at ``stop``, after its own learning rates ``lrs``, or with the schedule of ``steps``.

    Raises:
        ScheduleError: it cannot begin or end there.

    >>> last_step(3, None, None, 10), last_step(12, None, [0.1, 0.05], 10)
    (10, 14)
    """
    if lrs is not None:
        if start < 0 or not lrs or stop not in (None, start + len(lrs)):
            raise ScheduleError(f"{len(lrs)} learning rates from step {start} to {stop}; possible: one per step")
        return start + len(lrs)
    stop = steps if stop is None else stop
    if not 0 <= start <= stop <= steps:
        raise ScheduleError(f"fit from step {start} to {stop}; possible: 0 ≤ start ≤ stop ≤ {steps}")
    return stop


@dataclass
class Record:
    """What a run did so far, over all its fits.

    Parameters:
        meter: FLOPs. steps: optimizer steps. history: one entry per evaluation. moves: one per mask update.
        counts: {"kept", "total", "layers"} of the masks at hand; explored: share of weights that were ever alive.
    """

    meter: Meter
    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    moves: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    explored: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        own = {k: getattr(self, k) for k in ("steps", "history", "moves", "counts", "explored")}
        return own | {"flops": self.meter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for name in ("steps", "history", "moves", "counts", "explored"):
            setattr(self, name, copy.deepcopy(state[name]))
        self.meter.load_state_dict(state["flops"])


@dataclass
class Window:
    """Training loss and accuracy since the last evaluation, summed on this rank's device."""

    loss: Tensor
    right: Tensor
    seen: int = 0

    @classmethod
    def empty(cls, device: torch.device) -> Window:
        """Nothing seen yet."""
        loss, right = torch.zeros(2, dtype=torch.float64, device=device).unbind()
        return cls(loss.clone(), right.clone())

    def add(self, loss: Tensor, output: Tensor, labels: Tensor) -> None:
        """Take in a batch: its mean loss, logits and labels."""
        self.loss += loss.detach().double() * len(labels)
        self.right += (output.detach().argmax(1) == labels).sum().double()
        self.seen += len(labels)

    def totals(self, processes: Processes) -> tuple[float, float, int]:
        """(sum of losses, right ones, images) over all ranks."""
        seen = torch.full_like(self.loss, self.seen)
        loss, right, count = processes.sum(torch.stack([self.loss, self.right, seen])).tolist()
        return loss, right, int(count)


@dataclass
class Fit:
    """One training from ``start`` to ``stop`` of the schedule.

    ``step`` counts steps that were taken (fp16 may skip some); (``epoch``, ``batch``) is the next batch. ``scored``:
    images on which a method measures, over all ranks. ``lrs``: instead of the schedule's, from ``start``.
    """

    method: Method
    sparsifier: Sparsifier
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: WeightAverage | None
    forward: Callable[..., Any]
    window: Window
    start: int
    stop: int
    step: int
    epoch: int
    batch: int
    skipped: int = 0
    scored: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    moves: int = -1
    lrs: Sequence[float] | None = None

    def lr(self, config: TrainConfig, step: int, steps: int) -> float:
        """The learning rate of a step of this training, in a schedule of ``steps``."""
        return lr_at(config, step, steps) if self.lrs is None else self.lrs[max(step - self.start, 0)]

    def living(self) -> dict[str, Any]:
        """`Sparsifier.counts`, computed anew only when masks moved."""
        if self.moves != len(self.sparsifier.history):
            self.moves, self.counts = len(self.sparsifier.history), self.sparsifier.counts()
        return self.counts

    def living_masks(self) -> dict[int, Tensor]:
        """{id(parameter): mask} where no update reaches dead weights; empty for flows in which they learn."""
        flow = self.method.flow
        if flow.learns:
            return {}
        return {id(target.param): self.sparsifier.masks[name] for name, target in self.sparsifier.targets.items()}

    def at_target(self, target: float | None) -> bool:
        """Whether the schedule has ended, at ``target`` if one is given (a procedure's fits end at different ones)."""
        schedule, sparsifier = self.method.schedule, self.sparsifier
        if schedule is not None and sparsifier.step < (schedule.last() or 0):
            return False
        return target is None or 1 - sparsifier.sparsity <= 1.02 * (1 - target)

    def state(self, record: Record, processes: Processes) -> dict[str, Any]:
        """Everything but the model's weights; every rank calls it, and tells its random state."""
        window = [float(self.window.loss), float(self.window.right), self.window.seen]
        position = {k: getattr(self, k) for k in ("start", "stop", "step", "epoch", "batch", "skipped")}
        return {
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "position": position,
            "record": record.state_dict(),
            "ranks": processes.gather({"window": window, "random": random_state()}),
        }

    def restore(self, saved: dict[str, Any], record: Record, processes: Processes) -> None:
        """Go on from a `state`; model, optimizer and sparsifier were given theirs when they were made."""
        for name, value in saved["position"].items():
            setattr(self, name, value)
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        record.load_state_dict(saved["record"])
        own = saved["ranks"][processes.rank]
        loss, right, self.window.seen = own["window"]
        self.window.loss += loss
        self.window.right += right
        set_random_state(own["random"])  # last: building and attaching may have drawn
