"""The verdict engine: better, worse, indistinguishable, or not comparable and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .facts import Facts, facts
from .guards import find
from .statistics import ENOUGH, paired

VERDICTS = ("better", "worse", "indistinguishable", "not comparable")
UNTRUE = ("UnequalBudget", "ExtendedTraining", "TestSelection", "DataMismatch", "ScopeMismatch", "IdenticalSeeds")
ALSO = ("SparsityMismatch", "UnequalSeeds")  # weaker in a table, untrue between two rows


def verdict(a_runs: Iterable[Mapping[str, Any]], b_runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether a's test accuracy is better or worse than b's, by the paired 95 % t-interval over seeds.

    Not comparable: budgets, data, splits, augmentation, the scope of the sparsity, sparsities or seeds differ, or a
    test split was used to choose. Fewer than three common seeds tell nothing apart.

    Parameters:
        a_runs, b_runs: runs of one method each, as in a run.json; several seeds.

    Returns:
        {"verdict": one of `VERDICTS`, "why", "difference" (mean of a − b, a fraction), "low", "high", "p", "seeds"}.

    >>> def runs(name, *accuracies):
    ...     return [{"label": name, "seed": s, "result": {"test": {"accuracy": a}}} for s, a in enumerate(accuracies)]
    >>> verdict(runs("a", 0.9, 0.91, 0.92), runs("b", 0.8, 0.82, 0.81))["verdict"]
    'better'
    >>> verdict(runs("a", 0.9), runs("b", 0.8))["why"]
    'one common seed: no interval'
    """
    return compare(facts(a_runs), facts(b_runs))


def compare(a: Sequence[Facts], b: Sequence[Facts]) -> dict[str, Any]:
    """`verdict` of facts."""
    found = paired(_values(a), _values(b))
    numbers: dict[str, Any] = {"difference": None, "low": None, "high": None, "p": None, "seeds": []}
    if found is not None:
        numbers = {key: value for key, value in found.to_dict().items() if key != "note"}
    reasons = [f"{finding.guard}: {finding.says}" for finding in find([*a, *b], (*UNTRUE, *ALSO))]
    if found is None and not reasons:
        reasons = ["no seed in common with a test accuracy"]
    if reasons:
        return {**numbers, "verdict": "not comparable", "why": "; ".join(reasons)}
    assert found is not None
    return {**numbers, **_decide(found.difference, found.low, found.high, len(found.seeds), found.note)}


def _decide(difference: float, low: float | None, high: float | None, seeds: int, note: str) -> dict[str, str]:
    if low is None or high is None:
        odd = seeds > 1 and difference != 0
        return {"verdict": "not comparable" if odd else "indistinguishable", "why": note}
    if seeds < ENOUGH:
        return {"verdict": "indistinguishable", "why": f"{seeds} seeds tell nothing apart; {ENOUGH} are needed"}
    if low > 0 or high < 0:
        return {"verdict": "better" if low > 0 else "worse", "why": ""}
    return {"verdict": "indistinguishable", "why": "the interval holds 0"}


def _values(runs: Sequence[Facts]) -> dict[Any, float]:
    return {run.seed: run.accuracy for run in runs if run.accuracy is not None}
