"""The word *schedule*: when, and how much by then.

``schedule(step)`` is a value at the steps where something happens and None elsewhere. ``start`` and ``end`` are steps,
or fractions of the whole run in (0, 1] until `resolve` is told its length. Updates happen at start, start + every, …
and once more exactly at ``end``, so that the final value is reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from .errors import ScheduleError
from .selection import check_sparsity
from .word import Word

S = TypeVar("S", bound="Schedule")


class Schedule(Word):
    """A value at some steps, None at all others."""

    def __call__(self, step: int) -> float | None:
        """The value at ``step`` (an int from 0), or None if nothing happens there."""
        raise TypeError(f"{type(self).__name__} must define its values")

    def resolve(self: S, steps: int | None) -> S:
        """Turn fractions of the run into steps, and refuse an end beyond it. ``steps``: length of the run, if known."""
        changes: dict[str, Any] = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Schedule):
                changes[f.name] = value.resolve(steps)
            elif f.name in ("start", "end", "at") and not isinstance(value, tuple):
                changes[f.name] = resolve_step(value, steps, f"{self.kind}.{f.name}")
        return self.replace(**changes)

    def last(self) -> int | None:
        """The step of the last update (None: it never ends)."""
        return None

    def final(self) -> float:
        """The value at the last update."""
        raise TypeError(f"{type(self).__name__} must define its final value")

    def __str__(self) -> str:
        return repr(self)


def resolve_step(value: int | float | None, steps: int | None, name: str) -> int | None:
    """A step from an int, a fraction in (0, 1] of ``steps``, or None (= ``steps``).

    >>> resolve_step(0.75, 1000, "end"), resolve_step(30, 1000, "end"), resolve_step(None, 1000, "end")
    (750, 30, 1000)
    """
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ScheduleError(f"{name} is {value!r}: give an int (a step) or a fraction of the run in (0, 1]")
        if steps is None:
            raise ScheduleError(
                f"{name} is the fraction {value!r} of a run whose length is unknown: give an int, "
                f"or attach(…, steps=total number of optimizer steps)"
            )
        return round(value * steps)
    if value is not None and value < 0:
        raise ScheduleError(f"{name} is {value}; steps count from 0")
    if value is not None and steps is not None and value > steps:
        raise ScheduleError(f"{name} is step {value}, beyond the end of the run ({steps} steps): possible 0 … {steps}")
    return steps if value is None else value


@dataclass(frozen=True, repr=False)
class OneShot(Schedule):
    """One prune at step ``at``, in ``rounds`` exponential parts: density d^(i/rounds), i = 1 … rounds.

    >>> OneShot(0.9, at=5)(5), OneShot(0.9, at=5)(6)
    (0.9, None)
    """

    kind: ClassVar[str] = "one-shot"
    value: float
    at: int | float = 0
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ScheduleError(f"one-shot.rounds is {self.rounds}; possible: 1 or more")

    def __call__(self, step: int) -> float | None:
        return self.value if step == self.at else None

    def parts(self) -> list[float]:
        """Sparsities of the rounds, the last one exact."""
        density = 1 - self.value
        return [1 - density ** (i / self.rounds) for i in range(1, self.rounds)] + [self.value]

    def last(self) -> int | None:
        return int(self.at)

    def final(self) -> float:
        return self.value


@dataclass(frozen=True, repr=False)
class _Timed(Schedule):
    """Base of schedules on a grid start, start + every, …, and once more at the end."""

    value: float
    start: int | float = field(default=0, kw_only=True)
    end: int | float | None = field(default=None, kw_only=True)
    every: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ScheduleError(f"{self.kind}.every is {self.every}; possible: 1 or more steps")
        if isinstance(self.start, int) and isinstance(self.end, int) and self.end < self.start:
            raise ScheduleError(f"{self.kind}: end {self.end} lies before start {self.start}")

    def _due(self, step: int) -> bool:
        if isinstance(self.start, float) or isinstance(self.end, float):
            raise ScheduleError(f"{self!r} still holds fractions of a run; resolve(steps) it first")
        if step < self.start or (self.end is not None and step > self.end):
            return False
        return step == self.end or (step - self.start) % self.every == 0

    def last(self) -> int | None:
        return None if self.end is None else int(self.end)

    def final(self) -> float:
        return self.value


@dataclass(frozen=True, repr=False)
class Constant(_Timed):
    """The same value every ``every`` steps from ``start`` until before ``end`` (None: for ever).

    >>> [Constant(0.3, start=2, end=8, every=3)(t) for t in range(9)]
    [None, None, 0.3, None, None, 0.3, None, None, None]
    """

    kind: ClassVar[str] = "constant"

    def resolve(self, steps: int | None) -> Constant:
        return super().resolve(steps) if self.end is not None else super().resolve(steps).replace(end=None)

    def __call__(self, step: int) -> float | None:
        return self.value if step != self.end and self._due(step) else None


@dataclass(frozen=True, repr=False)
class _Ramp(_Timed):
    """From ``initial`` at ``start`` to ``value`` at ``end``; the shape is `curve`."""

    initial: float = field(default=0.0, kw_only=True)

    @staticmethod
    def curve(progress: float) -> float:
        """Share of the way done, 0 … 1, at ``progress`` 0 … 1 of the time."""
        raise TypeError("a ramp must define its curve")

    def __call__(self, step: int) -> float | None:
        if not self._due(step):
            return None
        if step == self.end:
            return self.value
        if self.end is None:
            raise ScheduleError(f"{self!r} does not know its end; resolve(steps) it first")
        return self.initial + (self.value - self.initial) * self.curve((step - self.start) / (self.end - self.start))

    def resolve(self: S, steps: int | None) -> S:
        out: Any = super().resolve(steps)
        if out.end is None:
            raise ScheduleError(
                f"{self.kind}.end is the end of a run of unknown length: give end, or attach(…, steps=…)"
            )
        if out.end - out.start < out.every and out.initial != out.value:
            raise ScheduleError(
                f"{self.kind}: the window from step {out.start} to {out.end} is shorter than one interval "
                f"(every={out.every}); possible: every = 1 … {max(1, out.end - out.start)}, or a longer run"
            )
        return out  # type: ignore[no-any-return]


@dataclass(frozen=True, repr=False)
class Linear(_Ramp):
    """initial + (value - initial) * p, p = (t - start) / (end - start)."""

    kind: ClassVar[str] = "linear"

    @staticmethod
    def curve(progress: float) -> float:
        return progress


@dataclass(frozen=True, repr=False)
class Cosine(_Ramp):
    """initial + (value - initial) * (1 - cos(pi p)) / 2: the annealing of drop fractions (arXiv 1911.11134).

    >>> round(Cosine(0.0, initial=0.3, end=100)(50), 6)
    0.15
    """

    kind: ClassVar[str] = "cosine"

    @staticmethod
    def curve(progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, repr=False)
class Cubic(_Ramp):
    """value + (initial - value) * (1 - p)^3: gradual pruning, fast first (arXiv 1710.01878).

    ``stop="before"`` leaves out the update at ``end`` (as GraNet's code does: the target is then never quite reached).

    >>> [round(Cubic(0.8, end=2)(t), 6) for t in range(3)]
    [0.0, 0.7, 0.8]
    """

    kind: ClassVar[str] = "cubic"
    stop: str = field(default="at", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop not in ("at", "before"):
            raise ScheduleError(f"cubic.stop is {self.stop!r}; possible: 'at', 'before'")

    @staticmethod
    def curve(progress: float) -> float:
        return 1 - (1 - progress) ** 3

    def __call__(self, step: int) -> float | None:
        return None if self.stop == "before" and step == self.end else super().__call__(step)


@dataclass(frozen=True, repr=False)
class Quartic(_Ramp):
    """value + (initial - value) * (1 - p)^4.

    >>> Quartic(0.0, initial=1.0, end=2)(1)
    0.0625
    """

    kind: ClassVar[str] = "quartic"

    @staticmethod
    def curve(progress: float) -> float:
        return 1 - (1 - progress) ** 4


@dataclass(frozen=True, repr=False)
class MultiCycle(Schedule):
    """``cycles`` repetitions of an inner schedule, ``length`` steps each (the step at a border opens the next cycle).

    >>> inner = OneShot(0.5, at=1)
    >>> [MultiCycle(inner, cycles=2, length=3)(t) for t in range(6)]
    [None, 0.5, None, None, 0.5, None]
    """

    kind: ClassVar[str] = "multi-cycle"
    inner: Schedule
    cycles: int
    length: int

    def __post_init__(self) -> None:
        if self.cycles < 1 or self.length < 1:
            raise ScheduleError(f"multi-cycle needs cycles >= 1 and length >= 1; got {self.cycles} and {self.length}")

    def __call__(self, step: int) -> float | None:
        return self.inner(step % self.length) if 0 <= step < self.cycles * self.length else None

    def resolve(self, steps: int | None) -> MultiCycle:
        total = self.cycles * self.length
        if steps is not None and total > steps:
            raise ScheduleError(f"multi-cycle ends at step {total}, beyond the end of the run ({steps} steps)")
        return self.replace(inner=self.inner.resolve(self.length))

    def last(self) -> int | None:
        inner = self.inner.last()
        return (self.cycles - 1) * self.length + min(self.length - 1 if inner is None else inner, self.length - 1)

    def final(self) -> float:
        return self.inner.final()


@dataclass(frozen=True, repr=False)
class Steps(Schedule):
    """A table: ``values[i]`` at step ``at[i]``.

    >>> [Steps((0.5, 0.75), at=(0, 10))(t) for t in (0, 1, 10)]
    [0.5, None, 0.75]
    """

    kind: ClassVar[str] = "steps"
    values: tuple[float, ...]
    at: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.at or len(self.values) != len(self.at) or list(self.at) != sorted(set(self.at)):
            raise ScheduleError(f"steps needs as many values as rising steps; got {self.values} at {self.at}")

    def __call__(self, step: int) -> float | None:
        return self.values[self.at.index(step)] if step in self.at else None

    def resolve(self, steps: int | None) -> Steps:
        resolve_step(self.at[-1], steps, "steps.at")
        return self

    def last(self) -> int | None:
        return self.at[-1]

    def final(self) -> float:
        return self.values[-1]


def check_sparsity_schedule(schedule: Schedule) -> None:
    """Raise unless the values that a sparsity schedule starts from and ends at are fractions in [0, 1)."""
    for f in fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, f.name)
        if f.name in ("value", "initial"):
            check_sparsity(value)
        elif f.name == "values":
            for item in value:
                check_sparsity(item)
        elif isinstance(value, Schedule):
            check_sparsity_schedule(value)
