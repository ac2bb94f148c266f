"""From a goal to a method and a pattern, by what we measured; where we did not, it says "not measured here"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..core.errors import SparselandError, nearest
from .guards.baselines import is_toy
from .patterns import pattern_for
from .reasons import UNMEASURED, Reason
from .tables import Table, packaged

GOALS = ("accuracy", "speed", "memory", "training")
HARDWARE = ("cpu", "gpu")
STARTS = ("scratch", "trained", "frozen")
NO_DATA = "none"

# Card of arXiv 2302.02596, "before, during or after": what is possible from each starting point.
FROM_START = {
    "scratch": ("random", "set", "rigl", "gmp", "granet", "snip", "grasp", "synflow"),
    "trained": ("gmp", "imp"),
    "frozen": ("magnitude",),
}
WITHOUT_DATA = ("random", "synflow")  # their masks need no image; ratios measured on data (snip, grasp) are left out


@dataclass(frozen=True)
class Goal:
    """What somebody wants.

    Parameters:
        goal: "accuracy" (as good as dense), "speed" (of inference), "memory" (a small file) or "training" (cheap).
        hardware: where it shall run, "cpu" or "gpu".
        sparsity: fraction of zeros, in (0, 1).
        budget: most training FLOPs, as a multiple of one dense training; None: no limit.
        loss: most accuracy points below dense; None: no limit. With it, the sparsity is only a wish.
        start: "scratch", "trained" (a trained model that may be trained on) or "frozen" (it may not).
        data: a data set; "none": there is none when the mask is chosen; None: any.
        shape: (outputs, inputs) of the layers that matter, for speed; batch: columns at a time.

    Raises:
        SparselandError: a value that is not possible, with those that are.

    >>> try:
    ...     Goal("fast")
    ... except SparselandError as error:
    ...     print(error)
    goal is 'fast'; possible: accuracy, memory, speed, training
    """

    goal: str
    hardware: str = "cpu"
    sparsity: float = 0.9
    budget: float | None = None
    loss: float | None = None
    start: str = "scratch"
    data: str | None = None
    shape: tuple[int, int] = (1024, 1024)
    batch: int = 1

    def __post_init__(self) -> None:
        for name, words in (("goal", GOALS), ("hardware", HARDWARE), ("start", STARTS)):
            if getattr(self, name) not in words:
                raise SparselandError(f"{name} is {getattr(self, name)!r}; {nearest(getattr(self, name), words)}")
        shape = self.shape if isinstance(self.shape, list | tuple) else ()
        whole = len(shape) == 2 and all(type(side) is int and side >= 1 for side in shape)
        if whole:
            object.__setattr__(self, "shape", tuple(shape))
        for name, fits, possible in (
            ("sparsity", _is_number(self.sparsity) and 0 < self.sparsity < 1, "a number in (0, 1)"),
            ("budget", self.budget is None or (_is_number(self.budget) and self.budget > 0), "a number > 0, or none"),
            ("loss", self.loss is None or (_is_number(self.loss) and self.loss >= 0), "points >= 0, or none"),
            ("data", self.data is None or isinstance(self.data, str), "a name, or 'none'"),
            ("shape", whole, "two integers >= 1, outputs and inputs"),
            ("batch", type(self.batch) is int and self.batch >= 1, "an integer >= 1"),
        ):
            if not fits:
                raise SparselandError(f"{name} is {getattr(self, name)!r}; possible: {possible}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "goal") -> Goal:
        """A goal from plain data; unknown keys are refused, and "goal" must be there.

        >>> Goal.from_dict({"goal": "speed", "shape": [300, 784]}).shape
        (300, 784)
        """
        if not isinstance(data, Mapping):
            raise SparselandError(f"{source}: a goal is a mapping of keys to values, not {data!r}")
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise SparselandError(f"{source}: unknown key {key!r}; {nearest(key, known)}")
        if "goal" not in data:
            raise SparselandError(f"{source}: 'goal' is missing; possible: {', '.join(GOALS)}")
        try:
            return cls(**data)
        except SparselandError as error:
            raise SparselandError(f"{source}: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Advice:
    """What to do, and why.

    Parameters:
        method: a registered name, or None where nothing measured fits.
        options: its further hyperparameters, as measured.
        pattern: as `core.pattern` reads it.
        sparsity: fraction of zeros to aim at.
        reasons: each with the table it rests on; those without one say "not measured here".
    """

    method: str | None
    options: dict[str, Any]
    pattern: str
    sparsity: float
    reasons: tuple[Reason, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "reasons": [asdict(reason) for reason in self.reasons]}


def advise(
    goal: Goal | Mapping[str, Any] | str,
    *,
    measured: Sequence[Mapping[str, Any]] = (),
    tables: Iterable[Table] | None = None,
    **wishes: Any,
) -> Advice:
    """A method and a pattern for a goal, from measured tables only.

    Parameters:
        goal: a `Goal`, its plain data, or the goal's name with the other fields as keywords.
        measured: rows of `latency.measure` on the device at hand; they go before the tables.
        tables: default: those that ship.

    Raises:
        SparselandError: an impossible wish; see `Goal`.

    >>> advice = advise("accuracy", sparsity=0.95, data="fashion-mnist")
    >>> advice.method is not None, advice.pattern, advice.reasons[0].link is not None
    (True, 'unstructured', True)
    >>> advise("speed", hardware="gpu").reasons[-1].text.startswith("not measured here")
    True
    """
    if isinstance(goal, str):
        wish = Goal.from_dict({"goal": goal, **wishes})
    else:
        wish = goal if isinstance(goal, Goal) else Goal.from_dict({**goal, **wishes})
    known = tuple(packaged() if tables is None else tables)
    row, reasons = _method(wish, known)
    sparsity = row["sparsity"] if row is not None and wish.loss is not None else wish.sparsity
    pattern, more = pattern_for(wish.goal, wish.hardware, sparsity, wish.shape, wish.batch, known, measured)
    return Advice(
        method=None if row is None else row["method"],
        options={} if row is None else dict(row["options"]),
        pattern=pattern,
        sparsity=sparsity,
        reasons=(*reasons, *_overhead(row, known), *more),
    )


def _method(wish: Goal, tables: Sequence[Table]) -> tuple[dict[str, Any] | None, list[Reason]]:
    """The measured row that serves the wish best, and why."""
    possible = WITHOUT_DATA if wish.data == NO_DATA and wish.start == "scratch" else FROM_START[wish.start]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    where: dict[str, Table] = {}
    for table in tables:
        if table.kind == "accuracy":
            where[table.name] = table
            for row in table.rows:
                if row["method"] in possible and not (wish.data == NO_DATA and _needs_data(row)):
                    groups.setdefault((table.name, row["data"], row["setting"]), []).append(row)
    groups = {key: kept for key, rows in groups.items() if (kept := [row for row in rows if _fits(row, wish)])}
    if not groups:
        limits = [f"a training budget of {wish.budget:g}x dense"] if wish.budget is not None else []
        limits += [f"at most {wish.loss:g} points below dense"] if wish.loss is not None else []
        text = f"no method among {', '.join(possible)}" + (f" with {' and '.join(limits)}" if limits else "")
        return None, [Reason(f"{UNMEASURED}: {text}")]
    key = min(groups, key=lambda k: (*_far(k, wish), _distance(groups[k], wish), -_methods(groups[k]), k))
    row = _choose(groups[key], wish)
    return row, _why(row, groups[key], where[key[0]], key, wish)


def _needs_data(row: Mapping[str, Any]) -> bool:
    return row["options"].get("ratios") in ("snip", "grasp")


def _fits(row: Mapping[str, Any], wish: Goal) -> bool:
    spent = row.get("training_flops")
    cheap = wish.budget is None or (spent is not None and spent <= wish.budget)
    return cheap and (wish.loss is None or 100 * (row["dense"] - row["accuracy"]) <= wish.loss)


def _far(key: tuple[str, str, str], wish: Goal) -> tuple[bool, bool, bool]:
    """Other data than asked for, handwritten digits, and longer or shorter runs of a series come later."""
    _, data, setting = key
    other = wish.data not in (None, NO_DATA, data)
    return other, is_toy(data), setting != ""


def _distance(rows: Sequence[Mapping[str, Any]], wish: Goal) -> float:
    """How far the nearest measured density is from the one asked for, as a ratio; 0 where only the loss counts."""
    if wish.loss is not None:
        return 0.0
    return round(min(abs(math.log((1 - row["sparsity"]) / (1 - wish.sparsity))) for row in rows), 6)


def _methods(rows: Sequence[Mapping[str, Any]]) -> int:
    return len({row["method"] for row in rows})


def _choose(rows: Sequence[dict[str, Any]], wish: Goal) -> dict[str, Any]:
    """At the nearest sparsity: the most accurate, or a cheaper one within the spread; for cheap training the cheapest.

    With a limit on the loss: the sparsest row that keeps it.
    """
    if wish.loss is not None:
        most = max(row["sparsity"] for row in rows)
        level = [row for row in rows if row["sparsity"] == most]
    else:
        near = _distance(rows, wish)
        level = [row for row in rows if _distance([row], wish) == near]
    if wish.goal == "training":
        return min(level, key=lambda row: (row["training_flops"] or math.inf, -row["accuracy"]))
    best = max(level, key=lambda row: row["accuracy"])
    alike = [row for row in level if best["accuracy"] - row["accuracy"] <= max(best["std"] or 0.0, row["std"] or 0.0)]
    return min(alike, key=lambda row: (row["training_flops"] or math.inf, -row["accuracy"]))


def _why(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], table: Table, key: tuple[str, str, str], wish: Goal
) -> list[Reason]:
    """The row in words, its rivals, and how far it is from what was asked."""
    data = key[1] + (f", {key[2]}" if key[2] else "")
    dense = f"dense {100 * row['dense']:.2f} %"
    why = {"training": "the cheapest to train", "accuracy": "the most accurate, or the cheapest within its spread"}
    chosen = why.get(wish.goal, why["accuracy"])
    text = f"{chosen} on {data} at {100 * row['sparsity']:g} % zeros: {_cell(row)}; {dense} ({row['seeds']} seeds)"
    out = [Reason(text, table.name, table.link)]
    level = [other for other in rows if other["sparsity"] == row["sparsity"] and other is not row]
    rivals = sorted(level, key=lambda other: -other["accuracy"])
    if rivals:
        out.append(Reason(f"the others there: {'; '.join(map(_cell, rivals))}", table.name, table.link))
    if table.verdict and table.verdict != "reproduces":
        out.append(Reason(f"that folder's verdict on its paper is {table.verdict!r}", table.name, table.link))
    if wish.loss is None and _distance([row], wish) > 0:
        out.append(Reason(f"{UNMEASURED}: {100 * wish.sparsity:g} % zeros; {100 * row['sparsity']:g} % is the nearest"))
    if wish.data not in (None, NO_DATA, key[1]):
        out.append(Reason(f"{UNMEASURED}: data {wish.data!r}; {key[1]} stands in for it"))
    elif is_toy(key[1]):
        out.append(Reason(f"{key[1]} is easy data: repeat it on yours before you rely on it", table.name, table.link))
    return out


def _cell(row: Mapping[str, Any]) -> str:
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.2f}"
    cost = "" if row.get("training_flops") is None else f" for {row['training_flops']:.3g}x dense training FLOPs"
    return f"{row['arm']} {100 * row['accuracy']:.2f}{spread} %{cost}"


def _overhead(row: Mapping[str, Any] | None, tables: Sequence[Table]) -> list[Reason]:
    """What keeping the masks costs per step, where it was measured for the method."""
    return [
        Reason(f"training step with its masks: {found['ratio']:.2f}x the dense step's time", table.name, table.link)
        for table in tables
        if row is not None and table.kind == "overhead"
        for found in table.rows
        if found["method"] == row["method"]
    ]
