"""Lottery jackpots (arXiv 2104.08700): search a mask on frozen trained weights, starting from the magnitude mask."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...core import Allocation, Constant, Cosine, Global, Magnitude, OneShot, Pattern, Quartic, Random, Ratios, Schedule
from ...core.errors import InfeasibleBudget, RecipeError, ScheduleError, nearest
from ...core.flow import Product
from ...core.growth import GrowScore
from ...core.selection import kept
from ..learned import Learned
from ..method import Method
from ..pretrained import entry, living, looks_trained
from ..targets import Rules
from ..trainer import Trainer, trains
from ._registry import register

RESTRICTIONS: dict[str, Schedule] = {
    "none": Constant(1.0),
    "quartic": Quartic(0.0, initial=1.0),
    "cosine": Cosine(0.0, initial=1.0),
}
FIRST = ("magnitude", "random")


@register("jackpots")
def Jackpots(
    sparsity: float = 0.9,
    *,
    rates: str | Sequence[float] = "global",
    restriction: str | Schedule = "none",
    first: str = "magnitude",
    lr: float = 0.1,
    momentum: float = 0.9,
    decay: float = 5e-4,
    pattern: Pattern | str = "unstructured",
) -> Method:
    """Scores S learn by SGD on dL/dS := (dL/d(W m)) W in every step, and no weight, bias or norm moves at all.

    Start: the magnitude mask, S = 1 where alive and 0.99 where dead. After each step ceil(r_t N) of the N swaps per
    layer that S asks for are made; layer counts never change. `jackpots` runs the whole procedure on a Trainer.

    Parameters:
        rates: layer sparsities: "global" (of one magnitude ranking), "uniform", or one number a layer, each in [0, 1).
        restriction: r_t: "none" (1: m is the top of S), "quartic" (1 - t/T)^4, "cosine" (1 + cos πt/T)/2, a schedule.
        first: "magnitude", or "random": a random mask and small random scores at the same layer rates.
        lr, momentum, decay: of the scores; lr falls to 0 along a cosine.

    Differs from the paper: the classifier is pruned too unless it is ignored (``ignore=``, as everywhere here).
    Differs from the code: the weights searched are the trained ones, and ceil is taken of the count, not of the rate.

    >>> Jackpots(0.9).flow, Jackpots(0.9, restriction="quartic").exchange
    (Product(), Quartic(value=0.0, initial=1.0))
    """
    if isinstance(restriction, str) and restriction not in RESTRICTIONS:
        raise RecipeError(f"unknown restriction {restriction!r}: {nearest(restriction, RESTRICTIONS)}")
    if first not in FIRST:
        raise RecipeError(f"the search starts from first={first!r}: {nearest(first, FIRST)}")
    word = {"global": Ratios(Magnitude()) if first == "random" else Global(), "uniform": "uniform"}
    if isinstance(rates, str) and rates not in word:
        raise RecipeError(f"unknown rates {rates!r}: {nearest(rates, word)}, or one sparsity a layer")
    return Method(
        name="jackpots",
        pattern=pattern,  # type: ignore[arg-type]
        criterion=Learned(lr, momentum, decay, first="mask" if first == "magnitude" else "random"),
        allocation=word[rates] if isinstance(rates, str) else Listed(tuple(rates)),  # type: ignore[arg-type]
        schedule=OneShot(sparsity),
        initial=Magnitude() if first == "magnitude" else Random(),
        growth=GrowScore(),
        exchange=RESTRICTIONS[restriction] if isinstance(restriction, str) else restriction,
        flow=Product(),
    )


@dataclass(frozen=True, repr=False)
class Listed(Allocation):
    """One sparsity per tensor, in network order; the overall one follows from them.

    >>> Listed((0.5, 0.75))({"a": (2, 2), "b": (4, 4)}, 0.5)
    {'a': 2, 'b': 4}
    """

    kind: ClassVar[str] = "listed"
    rates: tuple[float, ...]

    def __call__(
        self,
        shapes: Mapping[str, Sequence[int]],
        sparsity: float,
        *,
        pattern: Pattern | None = None,
        scores: Mapping[str, Tensor] | None = None,
        relaxed: bool = False,
        total: int | None = None,
        alive: Mapping[str, Tensor] | None = None,
    ) -> dict[str, int]:
        if len(self.rates) != len(shapes):
            raise InfeasibleBudget(
                f"{len(self.rates)} layer rates for {len(shapes)} layers ({', '.join(shapes)}); possible: one each"
            )
        counts = {n: kept(math.prod(s), p) for (n, s), p in zip(shapes.items(), self.rates, strict=True)}
        dead = [n for n, k in counts.items() if not k]
        if dead:
            raise InfeasibleBudget(f"the rate of {dead[0]!r} leaves none of its {math.prod(shapes[dead[0]])} weights")
        return {n: k if pattern is None else pattern.reachable(tuple(shapes[n]), k) for n, k in counts.items()}


@trains(lambda pretrain, search, tune: pretrain + search + tune)
def jackpots(
    trainer: Trainer,
    method: Method | None = None,
    *,
    pretrain: bool = True,
    search: float = 1.0,
    tune: float = 0.0,
    targets: Rules = None,
    ignore: Rules = None,
) -> dict[str, Any]:
    """Train densely (``pretrain``), search over the first ``search`` of the schedule, train the ticket over its last
    ``tune`` (0: not at all).

    Returns:
        {"masks": MaskSet, "rounds": [{"round", "sparsity", "steps", "accuracy", …}], "steps": all steps trained}
    """
    if not 0 < search <= 1 or not 0 <= tune <= 1:
        raise ScheduleError(f"search is {search!r} (possible: in (0, 1]), tune {tune!r} (possible: in [0, 1])")
    method = method or Jackpots()
    done = trainer.fit(None)["steps"] if pretrain else 0
    if not pretrain and not looks_trained(trainer, targets, ignore):
        warnings.warn(
            "the given model answers like an untrained one: a jackpot is searched in trained weights", stacklevel=2
        )
    log = [entry(0, None, done, trainer)]
    steps = trainer.fit(method, start=0, stop=max(1, round(search * trainer.steps)))["steps"]
    masks = living(trainer, targets, ignore)
    log.append(entry(1, masks, steps, trainer))
    if tune:
        keep, start = (
            Method(name="jackpots", pattern=method.pattern),
            trainer.steps - max(1, round(tune * trainer.steps)),
        )
        log.append(entry(2, masks, trainer.fit(keep, masks, start=start)["steps"], trainer))
    return {"masks": masks, "rounds": log, "steps": done + sum(e["steps"] for e in log[1:])}
