"""Looking at a comparison: before it is trained (`preflight`) and when it is done (`review`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from .facts import Facts, by_label, facts, look, number
from .finding import Finding
from .guards import find
from .guards.fairness import same
from .statistics import LEVEL, holm, pareto_front
from .verdicts import compare

AXES = ("training_flops", "inference_flops", "bytes")
Run = Mapping[str, Any]


def preflight(runs: Iterable[Run], *, tuned_on: str | None = None) -> list[Finding]:
    """What is unfair about runs that nobody has trained yet; the refusals first.

    Parameters:
        runs: {"label", "seed", "config": a TrainConfig as plain data}, and optionally "claims" (texts that will be
            said about it) and "tuned_on".
        tuned_on: the split on which hyperparameters were chosen, for all runs.

    >>> def run(label, **config):
    ...     return {"label": label, "seed": 0, "config": {"method": {"name": label}, "epochs": 2, **config}}
    >>> [f.guard for f in preflight([run("dense"), run("random", epochs=4)]) if f.level == "refuse"]
    ['UnequalBudget', 'ExtendedTraining']
    """
    # Of a finished run only its plan counts here: steps that were made are not compared with epochs that are meant.
    plans = [
        {**run, "result": None, "config": run.get("config") or look(run, "result", "config"),
         "tuned_on": run.get("tuned_on") or look(run, "result", "selection", "tuned_on")}
        for run in runs
    ]  # fmt: skip
    return find(facts(plans, tuned_on))


def review(runs: Iterable[Run]) -> dict[str, Any]:
    """What finished runs say, and what keeps them from saying it.

    Parameters:
        runs: the "runs" of a run.json: {"label", "seed", "result", "packed", …}. What old files lack is unknown.

    Returns:
        {"findings": `Finding` as dicts, refusals first,
        "paired": [{"a", "b", "metric", "difference" (fraction), "low", "high", "p", "p_holm", "seeds", "verdict",
        "why"}] for each method against dense, and at equal sparsity against random and for the best against the others,
        "verdicts": [{"label", "against", "verdict", "says"}], the same in sentences,
        "pareto": [{"label", "accuracy", "training_flops", "inference_flops", "bytes", "front": axes}]}, where a label
        is on the front of an axis if no other is at least as accurate for less of it.

    >>> def run(label, seed, accuracy):
    ...     return {"label": label, "seed": seed, "result": {"test": {"accuracy": accuracy}, "method": {"name": label}}}
    >>> found = review([run("gmp", s, 0.9 + 0.01 * s) for s in range(3)] + [run("random", s, 0.5) for s in range(3)])
    >>> found["verdicts"][0]["says"][:40], [finding["guard"] for finding in found["findings"]][:1]
    ('gmp is better than random: +41.00 points', ['NoDenseBaseline'])
    """
    given = list(runs)
    known = facts(given)
    pairs = [_pair(known, a, b) for a, b in _pairs(known)]
    family = [pair["p"] if pair["verdict"] != "not comparable" else None for pair in pairs]
    tested = sum(p is not None for p in family)
    for pair, adjusted in zip(pairs, holm(family), strict=True):
        pair["p_holm"] = adjusted
        if adjusted is not None and adjusted > 1 - LEVEL and pair["verdict"] in ("better", "worse"):
            more = f"not after Holm's correction for {tested} comparisons (p = {adjusted:.2g})"
            pair["why"] = "; ".join(filter(None, (pair["why"], more)))
    return {
        "findings": [finding.to_dict() for finding in find(known)],
        "paired": pairs,
        "verdicts": [_sentence(pair) for pair in pairs],
        "pareto": _pareto(given, known),
    }


def _pair(known: Sequence[Facts], a: str, b: str) -> dict[str, Any]:
    groups = by_label(known)
    return {"a": a, "b": b, "metric": "accuracy", **compare(groups[a], groups[b])}


def _pairs(known: Sequence[Facts]) -> list[tuple[str, str]]:
    """Every sparse method against dense, and at its sparsity against random and the best; each pair once."""
    tested = {label: mine for label, mine in by_label(known).items() if any(r.accuracy is not None for r in mine)}
    sparse = [label for label, mine in tested.items() if not mine[0].dense]
    pairs = [(a, b) for b, mine in tested.items() if mine[0].dense for a in sparse]
    for level in _levels({label: tested[label][0].sparsity for label in sparse}):
        random = [label for label in level if tested[label][0].random]
        pairs += [(a, b) for b in random for a in level if a != b]
        best = max(level, key=lambda label: _mean(run.accuracy for run in tested[label]) or 0.0)
        pairs += [(best, other) for other in level if other != best]
    once: dict[frozenset[str], tuple[str, str]] = {}
    for pair in pairs:
        once.setdefault(frozenset(pair), pair)
    return list(once.values())


def _levels(sparsities: Mapping[str, float | None]) -> list[list[str]]:
    """Labels in groups of equal sparsity, in order of appearance; those of unknown sparsity together."""
    levels: list[tuple[float | None, list[str]]] = []
    for label, value in sparsities.items():
        for level, members in levels:
            if level == value or (level is not None and value is not None and same(1 - level, 1 - value)):
                members.append(label)
                break
        else:
            levels.append((value, [label]))
    return [members for _, members in levels]


def _sentence(pair: Mapping[str, Any]) -> dict[str, str]:
    a, b, verdict = pair["a"], pair["b"], pair["verdict"]
    if verdict == "not comparable":
        says = f"{a} and {b} cannot be compared: {pair['why']}"
    else:
        link = "is indistinguishable from" if verdict == "indistinguishable" else f"is {verdict} than"
        points = f"{100 * pair['difference']:+.2f} points" if pair["difference"] is not None else "no common seed"
        interval = (
            "" if pair["low"] is None else f", 95 % interval {100 * pair['low']:+.2f} to {100 * pair['high']:+.2f}"
        )
        says = f"{a} {link} {b}: {points}{interval}, {len(pair['seeds'])} seeds"
        says += f" ({pair['why']})" if pair["why"] else ""
    return {"label": a, "against": b, "verdict": verdict, "says": says}


def _pareto(given: Sequence[Run], known: Sequence[Facts]) -> list[dict[str, Any]]:
    packed = {id(run): number(raw.get("packed")) for raw, run in zip(given, known, strict=True)}
    points: dict[str, dict[str, Any]] = {}
    for label, mine in by_label(known).items():
        points[label] = {
            "accuracy": _mean(run.accuracy for run in mine),
            "training_flops": _mean(run.flops("training") for run in mine),
            "inference_flops": _mean(run.flops("inference") for run in mine),
            "bytes": _mean(packed[id(run)] for run in mine),
        }
    fronts = {axis: pareto_front(points, {"accuracy": "max", axis: "min"}) for axis in AXES}
    return [
        {"label": label, **point, "front": [axis for axis in AXES if label in fronts[axis]]}
        for label, point in points.items()
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
