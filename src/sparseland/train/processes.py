"""The processes of a run, through Hugging Face Accelerate: who am I, where do tensors live, what do the others say.

The only file of this folder that imports `accelerate`. Precision is not left to it: on a CPU its fp16 is silently
float32, and a process may hold only one precision for its whole life, while a comparison trains many runs.
"""

from __future__ import annotations

import atexit
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparseland.core.errors import RecipeError, SparselandError, nearest

T = TypeVar("T")
PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Processes:
    """One process among ``world``; started by ``torchrun`` or ``accelerate launch``, or alone.

    Parameters:
        trackers: names of Accelerate's trackers, or `accelerate.tracking.GeneralTracker` objects.
        folder: where trackers write.

    >>> alone = Processes()
    >>> alone.rank, alone.world, alone.main
    (0, 1, True)
    """

    def __init__(self, trackers: Sequence[Any] = (), folder: str | None = None) -> None:
        from accelerate import Accelerator

        # Without cpu=True Accelerate takes two processes on a machine without GPU for two runs that do not know each
        # other. The precision is named, so that a launcher's setting cannot override the recipe's.
        known = _known(trackers)
        try:
            self.accelerator = Accelerator(
                mixed_precision="no",
                cpu=not torch.accelerator.is_available(),
                log_with=known or None,
                project_dir=folder if trackers else None,
            )
        except ValueError as error:
            raise SparselandError(
                f"this process has an Accelerator with other settings already, and Accelerate allows one kind per "
                f"process: {error}"
            ) from error
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.main = self.rank == 0
        self.trackers = bool(trackers)
        if self.world > 1:
            atexit.unregister(let_gloo_finish)  # at most once, however many runs
            atexit.register(let_gloo_finish)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the model to this process's device; with several processes, wrapped so that gradients are averaged."""
        wrapped: nn.Module = self.accelerator.prepare_model(model)
        return wrapped

    def alone(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Do not average gradients in this block (all but the last batch of an accumulated step)."""
        context: contextlib.AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return context

    def precision(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Autocast for a forward pass."""
        if name not in PRECISION:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, PRECISION[name])

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes, on each."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def gather(self, value: T) -> list[T]:
        """Everybody's value, on each, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def on_main(self, act: Callable[[], T]) -> T:
        """``act()`` on rank 0 only; every rank gets its result, or its error."""
        if self.world == 1:
            return act()
        box: list[Any] = [None, None]
        if self.main:
            try:
                box = [act(), None]
            except SparselandError as error:
                box = [None, error]
        failure = box[1]
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise failure or box[1]
        result: T = box[0]
        return result

    def same_buffers_(self, model: nn.Module) -> None:
        """Rank 0's buffers (BatchNorm statistics) on every rank, so that all evaluate the same model."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def start_trackers(self, name: str, config: dict[str, Any]) -> None:
        """Open the trackers, with the fields of ``config`` that they can show."""
        if self.trackers:
            flat = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in config.items()}
            self.accelerator.init_trackers(name, config=flat)

    def track(self, values: dict[str, Any], step: int) -> None:
        """Send numbers to the trackers."""
        if self.trackers:
            numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            self.accelerator.log(numbers, step=step)

    def stop_trackers(self) -> None:
        """Close the trackers (the process group stays: it is not this run's)."""
        for tracker in self.accelerator.trackers if self.trackers and self.main else ():
            tracker.finish()


def let_gloo_finish(timeout: float = 10.0, threads: str = "pt_gloo") -> None:
    """Wait until gloo's threads sleep: one that drops its last tensor after Python has begun to end aborts the process.

    Destroying the process group does not join them, for DistributedDataParallel keeps the group alive. Sleeping here
    gives away the lock of the interpreter that they need.
    """
    end, asleep = time.monotonic() + timeout, 0
    while time.monotonic() < end and asleep < 2:  # seen once it may be waiting for us
        time.sleep(0.002)
        asleep = 0 if "R" in _states(threads) else asleep + 1


def _states(threads: str) -> list[str]:
    """What the threads of this process whose names begin with ``threads`` do (R: runs, S: sleeps); Linux only."""
    states = []
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):  # it may end while we look
            if (task / "comm").read_text().startswith(threads):
                states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return states


def _known(trackers: Sequence[Any]) -> list[Any]:
    """Accelerate drops trackers that are not installed without a word; here that is an error."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    names = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    for tracker in trackers:
        if isinstance(tracker, GeneralTracker):
            continue
        if tracker not in names:
            raise RecipeError(f"unknown tracker {tracker!r}: {nearest(tracker, names)}")
        if tracker not in [str(name) for name in get_available_trackers()]:
            raise RecipeError(f"tracker {tracker!r} needs its package, which is not installed: pip install {tracker}")
    return list(trackers)
