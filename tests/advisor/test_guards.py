"""Every guard fires on a comparison spoiled in its way, and is silent on the fair one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from sparseland.advisor import GUARDS, Finding, preflight, review
from sparseland.advisor.facts import facts
from sparseland.advisor.guards import find
from sparseland.core.errors import RecipeError, SparselandError

Runs = list[dict[str, Any]]
Spoil = Callable[[Runs], Runs]


def only(runs: Runs, *labels: str) -> Runs:
    return [run for run in runs if run["label"] in labels]


def without(*labels: str) -> Spoil:
    return lambda runs: [run for run in runs if run["label"] not in labels]


def at(label: str, *path: str | int, value: Any) -> Spoil:
    """The value at a path of the runs of one label, replaced."""

    def spoil(runs: Runs) -> Runs:
        for run in only(runs, label):
            place: Any = run
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value(place.get(path[-1])) if callable(value) else value
        return runs

    return spoil


def every(*path: str | int, value: Any) -> Spoil:
    def spoil(runs: Runs) -> Runs:
        for label in {run["label"] for run in runs}:
            at(label, *path, value=value)(runs)
        return runs

    return spoil


def longer(label: str, times: int) -> Spoil:
    """A run of so many times the epochs, with all that follows from it."""

    def spoil(runs: Runs) -> Runs:
        for run in only(runs, label):
            result = run["result"]
            result["config"]["epochs"] *= times
            result["steps"] *= times
            for key in ("training", "training_dense"):
                result["flops"][key] *= times
        return runs

    return spoil


def copied(label: str, name: str, spoil: Spoil) -> Spoil:
    """A further arm: one that is there under a new name, changed."""

    def add(runs: Runs) -> Runs:
        more = copy.deepcopy(only(runs, label))
        for run in more:
            run["label"] = name
        return runs + spoil(more)

    return add


def then(*spoils: Spoil) -> Spoil:
    def all_of(runs: Runs) -> Runs:
        for spoil in spoils:
            runs = spoil(runs)
        return runs

    return all_of


def empty_layer(runs: Runs) -> Runs:
    for run in only(runs, "rigl"):
        run["result"]["layers"][0]["kept"] = 0
    return runs


def dense_first_layer(runs: Runs) -> Runs:
    for run in only(runs, "rigl"):
        run["result"]["layers"][0]["kept"] = run["result"]["layers"][0]["total"]
    return runs


def one_class_gone(runs: Runs) -> Runs:
    for run in only(runs, "gmp"):
        classes = run["result"]["test"]["per_class"]
        classes[3] -= 0.5 + 0.01 * run["seed"]
    return runs


def other_ratios(runs: Runs) -> Runs:
    """The random mask has a layer's weights elsewhere."""
    for run in only(runs, "random"):
        first, second = run["result"]["layers"]
        first["kept"], second["kept"] = first["kept"] - 20, second["kept"] + 20
    return runs


def same_seeds(runs: Runs) -> Runs:
    first = only(runs, "rigl")[0]["result"]
    for run in only(runs, "rigl"):
        run["result"]["test"] = copy.deepcopy(first["test"])
        run["result"]["validation"] = copy.deepcopy(first["validation"])
    return runs


def close(runs: Runs) -> Runs:
    for i, run in enumerate(run for run in runs if "dense" not in run["label"]):
        run["result"]["test"]["accuracy"] = 0.8 + 0.03 * (run["seed"] - 1) + 0.0001 * i
    return runs


def named(old: str, new: str) -> Spoil:
    return at(old, "label", value=new)


def seeds(most: int) -> Spoil:
    return lambda runs: [run for run in runs if run["seed"] < most]


FULL_CARD = {"kernel": "csr", "needs_dense": ["data"]}

# guard, what is unfair, how the fair comparison is spoiled, the level
UNFAIR: list[tuple[str, str, Spoil, str]] = [
    ("UnequalBudget", "rigl trains twice as long", longer("rigl", 2), "refuse"),
    ("UnequalBudget", "dense trains twice as long", longer("dense", 2), "refuse"),
    ("UnequalBudget", "the small dense net trains for longer", longer("small dense", 2), "refuse"),
    ("UnequalBudget", "gmp has larger batches", at("gmp", "result", "config", "batch_size", value=80), "refuse"),
    ("UnequalBudget", "an iterative method trains five rounds more", longer("gmp", 6), "refuse"),
    ("ExtendedTraining", "every sparse run is 5x as long", then(*(longer(n, 5) for n in ("random", "rigl", "gmp"))),
     "refuse"),
    ("TestSelection", "rigl was tuned on test", at("rigl", "tuned_on", value="test"), "refuse"),
    ("TestSelection", "the result says so", at("rigl", "result", "selection", value={"tuned_on": "test"}), "refuse"),
    ("TestSelection", "the checkpoint was chosen on test", at("gmp", "result", "selection", value={"split": "test"}),
     "refuse"),
    ("DataMismatch", "fewer training images", at("rigl", "result", "data", "images", "train", value=100), "refuse"),
    ("DataMismatch", "augmentation for one", at("gmp", "result", "config", "augment", value="flip"), "refuse"),
    ("DataMismatch", "another validation share", at("gmp", "result", "config", "validation", value=0.5), "refuse"),
    ("DataMismatch", "other data", at("gmp", "result", "data", "name", value="mnist-test"), "refuse"),
    ("DataMismatch", "another hash", then(every("result", "data", "hash", value="a"),
                                          at("gmp", "result", "data", "hash", value="b")), "refuse"),
    ("DataMismatch", "one was never tested", at("gmp", "result", "test", value=None), "refuse"),
    ("ScopeMismatch", "rigl ignores a layer", at("rigl", "result", "config", "ignore", value=["fc1.weight"]), "refuse"),
    ("ScopeMismatch", "gmp counts fewer weights", at("gmp", "result", "total", value=1000), "refuse"),
    ("ScopeMismatch", "another model", at("gmp", "result", "config", "model", value="mlp-64"), "refuse"),
    ("SparsityMismatch", "gmp at 80 %", at("gmp", "result", "sparsity", value=0.8), "flag"),
    ("RecipeMismatch", "gmp with another learning rate", at("gmp", "result", "config", "lr", value=0.5), "flag"),
    ("RecipeMismatch", "gmp's last checkpoint beside best ones",
     at("gmp", "result", "selection", value={"split": "last"}), "flag"),
    ("UnequalSeeds", "two seeds of rigl are missing", lambda r: [x for x in r if x["label"] != "rigl" or not x["seed"]],
     "flag"),
    ("IdenticalSeeds", "rigl is the same under all seeds", same_seeds, "refuse"),
    ("IdenticalSeeds", "a seed is counted twice", lambda runs: runs + copy.deepcopy(only(runs, "gmp")[:1]), "refuse"),
    ("OneSeed", "one seed", seeds(1), "flag"),
    ("FewSeeds", "two seeds", seeds(2), "flag"),
    ("NoDenseBaseline", "no dense run", without("dense", "small dense"), "flag"),
    ("NoDenseBaseline", "only a dense run of another model", without("dense"), "flag"),
    ("NoRandomBaseline", "no random mask", without("random"), "flag"),
    ("NoSmallDenseBaseline", "no small dense net", without("small dense"), "flag"),
    ("DynamicWin", "no static mask at all", without("random"), "flag"),
    ("DynamicWin", "the static mask has other ratios", other_ratios, "flag"),
    ("ToyOnly", "digits only", then(every("result", "config", "data", value="digits"),
                                    every("result", "data", "name", value="digits")), "flag"),
    ("Undecided", "saturated", at("dense", "result", "test", "accuracy", value=0.995), "flag"),
    ("Undecided", "closer than the spread", close, "flag"),
    ("LayerCollapse", "a dead layer", empty_layer, "flag"),
    ("LayerCollapse", "a first layer that stays dense", dense_first_layer, "flag"),
    ("AverageHides", "a class is lost", one_class_gone, "flag"),
    ("FlopsNotLatency", "a label that promises speed", named("rigl", "rigl, 10x speed-up"), "refuse"),
    ("FlopsNotLatency", "a claim of speed, not measured", then(
        at("rigl", "claims", value=["2x faster"]), at("rigl", "result", "card", value=FULL_CARD)), "refuse"),
    ("PretendSparse", "gradients are dense", at("rigl", "claims", value=["never dense"]), "refuse"),
    ("CostScope", "no memory of gmp", at("gmp", "result", "memory", value=None), "flag"),
    ("CostScope", "one starts from a trained model", at("gmp", "result", "config", "model", value="hf:vit"), "refuse"),
    ("WhenMismatch", "before and after in one table, no FLOPs", then(
        at("gmp", "result", "card", value={"when": "after"}), at("gmp", "result", "flops", value={})), "refuse"),
    ("CopiedNumber", "training FLOPs that masks do not give",
     at("rigl", "result", "flops", "training", value=lambda old: old // 3), "refuse"),
    ("CopiedNumber", "gmp below its sparsest mask", at("gmp", "result", "flops", "training", value=10), "refuse"),
    ("CopiedNumber", "phases that do not add up", at("gmp", "result", "flops", "phases", value={"steps": 7}), "refuse"),
    ("CopiedNumber", "a printed multiple", at("rigl", "printed", value={"training_flops": 0.25}), "refuse"),
    ("CopiedNumber", "a dense run that costs too little",
     at("dense", "result", "flops", "training", value=lambda old: old // 2), "refuse"),
]  # fmt: skip


def test_the_fair_comparison_is_fair(fair: Runs) -> None:
    assert review(fair)["findings"] == []


@pytest.mark.parametrize(("guard", "what", "spoil", "level"), UNFAIR, ids=lambda x: x if isinstance(x, str) else "")
def test_fires(guard: str, what: str, spoil: Spoil, level: str, fair: Runs) -> None:
    found = {finding["guard"]: finding for finding in review(spoil(fair))["findings"]}
    assert guard in found, f"{what}: only {sorted(found)}"
    assert found[guard]["level"] == level
    assert found[guard]["says"] and found[guard]["fix"].endswith(".")


def test_every_guard_has_a_case() -> None:
    assert {guard for guard, *_ in UNFAIR} == set(GUARDS)
    assert len(UNFAIR) >= 20
    graves = {guard for guard, _, _, level in UNFAIR if level == "refuse"}
    assert graves == {name for name, guard in GUARDS.items() if guard.level == "refuse"}


def sweep(runs: Runs) -> Runs:
    """Every sparse method at a second level, too."""
    for label in ("random", "rigl", "gmp"):
        runs = copied(label, f"{label} 80 %", at(f"{label} 80 %", "result", "sparsity", value=0.8))(runs)
    return runs


# Comparisons that look as if they were unfair, and are not: the guard named must be silent.
FAIR: list[tuple[str, str, Spoil]] = [
    ("SparsityMismatch", "a sweep: all methods at all levels", sweep),
    ("UnequalBudget", "a second, longer dense run", copied("dense", "dense 5x", longer("dense 5x", 5))),
    ("ExtendedTraining", "longer sparse runs beside a dense run as long", then(
        *(longer(n, 5) for n in ("random", "rigl", "gmp")), copied("dense", "dense 5x", longer("dense 5x", 5)))),
    ("ScopeMismatch", "a smaller dense net counts other weights", lambda runs: runs),
    ("LayerCollapse", "erk+ says that it keeps a layer", then(
        dense_first_layer, at("rigl", "result", "method", "allocation", value={"kind": "erk+"}))),
    ("AverageHides", "one image in one seed", lambda runs: at("gmp", "result", "test", "per_class", value=[0.9] * 10)(
        [run for run in runs if run["seed"] or run["label"] != "gmp"]) + only(runs, "gmp")[:1]),
    ("FlopsNotLatency", "a speed that was measured", then(at("rigl", "claims", value=["2x faster"]), at(
        "rigl", "result", "card", value=FULL_CARD), at("rigl", "result", "latency", value={"ratio": 2.0}))),
    ("FlopsNotLatency", "a name that holds the word", named("rigl", "latency-aware")),
    ("PretendSparse", "a method that keeps nothing dense", then(
        at("rigl", "claims", value=["never dense"]), at("rigl", "result", "card", value=FULL_CARD))),
    ("TestSelection", "tuned on validation", at("rigl", "tuned_on", value="validation")),
    ("CopiedNumber", "a printed multiple that is right", lambda runs: at("rigl", "printed", value={
        "training_flops": only(runs, "rigl")[0]["result"]["flops"]["training"]
        / only(runs, "dense")[0]["result"]["flops"]["training"]})(runs)),
    ("WhenMismatch", "before and after with their costs", at("gmp", "result", "card", value={"when": "after"})),
    ("ToyOnly", "hard data beside", at("gmp", "result", "config", "data", value="digits")),
    ("IdenticalSeeds", "equal accuracies, other losses", at("rigl", "result", "test", "accuracy", value=0.85)),
]  # fmt: skip


@pytest.mark.parametrize(("guard", "what", "change"), FAIR, ids=lambda x: x if isinstance(x, str) else "")
def test_is_silent(guard: str, what: str, change: Spoil, fair: Runs) -> None:
    said = [finding["says"] for finding in review(change(fair))["findings"] if finding["guard"] == guard]
    assert said == [], what


# Before training: guard, how the plans are spoiled
PLANNED: list[tuple[str, Spoil]] = [
    ("UnequalBudget", at("rigl", "config", "epochs", value=9)),
    ("UnequalBudget", at("gmp", "config", "method", value={"name": "imp", "sparsity": 0.9, "rounds": 3})),
    ("ExtendedTraining", at("rigl", "config", "epochs", value=9)),
    ("TestSelection", at("rigl", "tuned_on", value="test")),
    ("DataMismatch", at("rigl", "config", "limit", value=9)),
    ("ScopeMismatch", at("rigl", "config", "targets", value=["fc1.weight"])),
    ("SparsityMismatch", at("rigl", "config", "method", value={"name": "rigl", "sparsity": 0.5})),
    ("RecipeMismatch", at("rigl", "config", "weight_decay", value=0.1)),
    ("OneSeed", seeds(1)),
    ("FewSeeds", seeds(2)),
    ("NoDenseBaseline", without("dense", "small dense")),
    ("NoRandomBaseline", without("random")),
    ("NoSmallDenseBaseline", without("small dense")),
    ("DynamicWin", at("random", "config", "method", value={"name": "random", "sparsity": 0.9, "ratios": "uniform"})),
    ("ToyOnly", every("config", "data", value="digits")),
    ("FlopsNotLatency", named("rigl", "faster rigl")),
    ("PretendSparse", named("rigl", "rigl (never dense)")),
    ("CostScope", at("rigl", "config", "model", value="hf:vit")),
]


def test_fair_plans_pass(plans: Runs) -> None:
    assert preflight(plans) == []


@pytest.mark.parametrize(("guard", "spoil"), PLANNED, ids=lambda x: x if isinstance(x, str) else "")
def test_fires_before_training(guard: str, spoil: Spoil, plans: Runs, names: Callable[[Any], set[str]]) -> None:
    assert guard in names(preflight(spoil(plans)))


def test_finished_runs_may_join_plans(fair: Runs, plans: Runs) -> None:
    joined = only(fair, "small dense", "dense")
    assert preflight([*joined, *only(plans, "random", "rigl", "gmp")]) == []
    joined[0]["result"]["selection"] = {"tuned_on": "test"}
    assert [f.guard for f in preflight([*joined, *only(plans, "random", "rigl", "gmp")])] == ["TestSelection"]


def test_the_built_in_demo_is_not_refused() -> None:
    from sparseland.recipes import load

    runs = [{"label": r.label, "seed": r.seed, "config": r.config.to_dict()} for r in load("demo").runs()]
    assert [finding for finding in preflight(runs) if finding.level == "refuse"] == []


def test_tuned_on_test_is_said_once_for_all(plans: Runs) -> None:
    found = preflight(plans, tuned_on="test")
    assert [(finding.guard, finding.level) for finding in found] == [("TestSelection", "refuse")]


def test_refusals_come_first(fair: Runs) -> None:
    spoiled = then(without("random"), longer("rigl", 2))(fair)
    levels = [finding["level"] for finding in review(spoiled)["findings"]]
    assert levels == sorted(levels, key=("refuse", "flag").index) and len(set(levels)) == 2


def test_a_budget_is_quoted(fair: Runs) -> None:
    found = {f["guard"]: f["says"] for f in review(longer("rigl", 2)(fair))["findings"]}
    steps = fair[0]["result"]["steps"]
    assert f"dense {steps} of batch 40" in found["UnequalBudget"] and f"rigl {2 * steps}" in found["UnequalBudget"]


def test_an_unknown_guard_is_refused(fair: Runs) -> None:
    with pytest.raises(RecipeError, match="did you mean 'ToyOnly'"):
        find(facts(fair), ["ToyOnlly"])


def test_a_finding_has_one_of_two_levels() -> None:
    with pytest.raises(SparselandError, match="refuse, flag"):
        Finding("X", "warn", "says", "fix")
