"""A method is a frozen composition of the words; `attach` makes it act on a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..core.allocation import Allocation, Global
from ..core.criterion import Criterion, Magnitude
from ..core.errors import ScheduleError
from ..core.flow import Flow, Hard
from ..core.growth import GrowNone, Growth
from ..core.mask import MaskSet
from ..core.pattern import NM, Pattern, Unstructured
from ..core.schedule import Schedule, check_sparsity_schedule
from ..core.word import Word

if TYPE_CHECKING:
    from .sparsifier import Sparsifier
    from .targets import Rules

WORDS: dict[str, type[Word]] = {
    "pattern": Pattern,
    "criterion": Criterion,
    "allocation": Allocation,
    "schedule": Schedule,
    "growth": Growth,
    "exchange": Schedule,
    "flow": Flow,
    "initial": Criterion,
    "initial_allocation": Allocation,
}


@dataclass(frozen=True, repr=False)
class Method(Word):
    """Words that together say how a network becomes and stays sparse.

    schedule: sparsity by step (None: the masks given at attach never change). exchange: share of living weights dropped
    and regrown, by step (None: never). initial, initial_allocation: how the mask of step 0 is chosen, if not by
    ``criterion`` and ``allocation``. Words may be given as strings or dicts; ``replace`` swaps one.

    >>> from sparseland.core import OneShot
    >>> m = Method(name="mine", schedule=OneShot(0.5), pattern="2:4")
    >>> m == Method.from_dict(m.to_dict()), str(m.replace(pattern="row").pattern)
    (True, 'row')
    """

    kind: ClassVar[str] = "method"
    name: str = "method"
    pattern: Pattern = Unstructured()
    criterion: Criterion = Magnitude()
    allocation: Allocation = Global()
    schedule: Schedule | None = None
    growth: Growth = GrowNone()
    exchange: Schedule | None = None
    flow: Flow = Hard()
    initial: Criterion | None = None
    initial_allocation: Allocation | None = None

    def __post_init__(self) -> None:
        for field, family in WORDS.items():
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, family.from_dict(value))
        if self.schedule is not None:
            check_sparsity_schedule(self.schedule)
        if self.exchange is not None and isinstance(self.growth, GrowNone):
            raise ScheduleError(f"{self.name}: exchange drops weights, but growth 'none' brings none back")

    @property
    def target_sparsity(self) -> float:
        """The sparsity at the end of the schedule (0 without one)."""
        return 0.0 if self.schedule is None else self.schedule.final()

    def relaxed(self, sparsity: float) -> bool:
        """Whether masks at this sparsity are still on their way to an N:M pattern."""
        return isinstance(self.pattern, NM) and sparsity < self.target_sparsity

    def requires(self, at_start: bool = False) -> frozenset[str]:
        """Statistics needed by the updates (or by the mask of step 0)."""
        criterion = (self.initial if at_start else None) or self.criterion
        allocation = (self.initial_allocation if at_start else None) or self.allocation
        own = getattr(allocation, "criterion", None)
        inner = own.requires() if own is not None else frozenset()
        if at_start:
            return criterion.requires() | inner
        grown = self.growth.needs if self.exchange is not None or self.schedule is not None else frozenset()
        return criterion.requires() | inner | grown

    @property
    def needs_data(self) -> bool:
        """Whether `attach` wants ``data=`` to choose the mask of step 0 (SNIP, GraSP, SynFlow, their ratios)."""
        word = self.schedule
        if word is None or getattr(word, "start", getattr(word, "at", 0)) != 0 or getattr(word, "initial", 1) == 0:
            return False
        return bool(self.requires(at_start=True) - {"movement", "momentum", "score"})

    def share(self, step: int) -> float | None:
        """The share of living weights exchanged at ``step``; never at the end, where nothing would train what grew."""
        if self.exchange is None or step == getattr(self.exchange, "end", None):
            return None
        return self.exchange(step)

    def resolve(self, steps: int | None) -> Method:
        """The same method with fractions of the run turned into steps; ScheduleError if an end lies beyond it."""
        changes: dict[str, Any] = {"flow": self.flow.resolve(steps) if _has_start(self.flow) else self.flow}
        changes["criterion"] = self.criterion.resolve(steps)
        for field in ("schedule", "exchange"):
            word = getattr(self, field)
            if word is not None:
                changes[field] = word.resolve(steps)
        return self.replace(**changes)

    def attach(
        self,
        model: nn.Module,
        optimizer: Any,
        targets: Rules = None,
        ignore: Rules = None,
        *,
        data: Iterable[Any] | None = None,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        steps: int | None = None,
        seed: int = 0,
        masks: MaskSet | None = None,
        state: dict[str, Any] | None = None,
    ) -> Sparsifier:
        """Make ``model`` sparse while ``optimizer`` trains it; your loop stays as it is.

        Args:
            model: any module; may be wrapped by DDP, sharded by FSDP2, or compiled, before or after.
            optimizer: any torch.optim.Optimizer that holds the model's parameters.
            targets, ignore: see `eligible`.
            data: batches to measure on, for methods that score with data at the start (SNIP, GraSP, …).
            loss: ``loss(model, batch) -> scalar``; default: cross-entropy of (input, label) batches, or ``.loss`` of
                models that take a dict batch.
            steps: optimizer steps of the whole run; resolves fractions and checks ends.
            seed: of everything random here; rank 0's counts.
            masks: start from these masks instead of choosing some.
            state: a saved ``state_dict()``: continue where it stopped (nothing is chosen or zeroed anew).

        Raises:
            TargetError, OwnershipError, InfeasibleBudget, PatternError, ScheduleError, ScoreError, ResumeError: before
            any weight is touched.
        """
        from .sparsifier import Sparsifier

        return Sparsifier(
            self,
            model,
            optimizer,
            targets,
            ignore,
            data=data,
            loss=loss,
            steps=steps,
            seed=seed,
            masks=masks,
            state=state,
        )

    def describe(self) -> str:
        """The composition, one word a line.

        >>> print(Method(name="mine").describe().splitlines()[0])
        mine
        """
        lines = [self.name]
        for field in WORDS:
            value = getattr(self, field)
            if value is not None:
                lines.append(f"  {field.replace('_', ' '):<18} {value}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.describe()

    def to_python(self) -> str:
        """Python that rebuilds the method, with its import."""
        homes: dict[str, set[str]] = {}
        for word in (type(w) for w in _inner_words(self) if type(w) is not Method):
            home = "sparseland.core" if word.__module__.startswith("sparseland.core.") else word.__module__
            homes.setdefault(home, set()).add(word.__name__)
        imports = "".join(f"from {home} import {', '.join(sorted(names))}\n" for home, names in sorted(homes.items()))
        return f"{imports}from sparseland.weights import Method\n\nmethod = {self!r}\n"


def _has_start(word: Word) -> bool:
    return any(f.name in ("start", "until") and getattr(word, f.name) is not None for f in dataclasses.fields(word))  # type: ignore[arg-type]


def _inner_words(word: Word) -> Iterable[Word]:
    yield word
    for f in dataclasses.fields(word):  # type: ignore[arg-type]
        value = getattr(word, f.name)
        if isinstance(value, Word):
            yield from _inner_words(value)
