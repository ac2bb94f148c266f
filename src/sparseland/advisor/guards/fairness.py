"""Guards of what must be equal: budgets, data, scope, seeds, and a test split that nobody has looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..facts import Facts, by_label, labels, look, number
from ..finding import Finding
from .registry import guard

EQUAL = 0.01  # relative difference up to which two counts are called equal (integer rounding of masks)
DATA_KEYS = ("data", "data_options", "limit", "validation", "augment")
RECIPE_KEYS = (
    *("optimizer", "lr", "momentum", "nesterov", "weight_decay", "decay_all", "lr_schedule", "milestones", "gamma"),
    *("warmup", "label_smoothing", "clip", "ema", "precision"),
)


def same(a: float, b: float, within: float = EQUAL) -> bool:
    """Whether two counts are equal up to a share of the larger.

    >>> same(100, 100.5), same(100, 103)
    (True, False)
    """
    return abs(a - b) <= within * max(abs(a), abs(b))


def effort(run: Facts) -> float | None:
    """Optimizer steps after training, planned passes over the data before."""
    return run.steps if run.done else run.passes


def _budget(run: Facts) -> tuple[Any, ...] | None:
    made = effort(run)
    return None if made is None else (made, run.config.get("batch_size"), run.config.get("accumulate"))


def _matched(run: Facts, dense: Sequence[Facts]) -> bool:
    """Whether some run of every dense model has the run's budget: its steps and batches, or its training FLOPs."""
    models: dict[str, list[Facts]] = {}
    for other in dense:
        models.setdefault(repr(_model(other)), []).append(other)
    return all(any(_alike(run, other) for other in group) for group in models.values())


def _alike(run: Facts, other: Facts) -> bool:
    spent = run.flops("training")
    return _budget(other) == _budget(run) or (spent is not None and same(spent, other.flops("training") or 0.0))


def _model(run: Facts) -> tuple[Any, Any]:
    return run.config.get("model"), run.config.get("model_options")


def _same_model(dense: Sequence[Facts], run: Facts) -> list[Facts]:
    """The dense runs of the run's model; all of them where there is none."""
    return [other for other in dense if _model(other) == _model(run)] or list(dense)


@guard("UnequalBudget", "refuse")
def unequal_budget(runs: Sequence[Facts]) -> Finding | None:
    """Protects from a winner that was only trained for longer, or on other batches.

    The sparse runs must have one budget (steps and batch size), and one run of every dense model must have it too, in
    steps or in training FLOPs; further dense runs may have others (arXiv 2302.02596, lesson on training length).
    """
    known = [run for run in runs if _budget(run) is not None]
    sparse, dense = [r for r in known if not r.dense], [r for r in known if r.dense]
    differ = len({_budget(run) for run in sparse}) > 1
    if not differ and (not sparse or not dense or _matched(sparse[0], dense)):
        return None
    unit = "steps" if known[0].done else "epochs"
    listed = []
    for label, mine in by_label(known).items():
        batch = mine[0].config.get("batch_size")
        amounts = "/".join(f"{amount:,g}" for amount in sorted({effort(run) or 0 for run in mine}))
        listed.append(f"{label} {amounts}" + (f" of batch {batch}" if batch else ""))
    return Finding(
        "UnequalBudget",
        "refuse",
        f"the training budgets differ ({unit}: {', '.join(listed)})",
        "Give every method the same epochs and batch size (one that trains n schedules 1/n of the epochs, as "
        "train: {epochs: …}), or add a dense run of the longer budget.",
    )


@guard("ExtendedTraining", "refuse")
def extended_training(runs: Sequence[Facts]) -> Finding | None:
    """Protects from "beats dense" by a sparse run that made more steps than any dense one (5 x RigL)."""
    everything = [run for run in runs if run.dense and effort(run) is not None]
    said = []
    for label, mine in by_label(run for run in runs if not run.dense and effort(run) is not None).items():
        run = mine[0]
        dense = _same_model(everything, run)
        made, longest = effort(run) or 0.0, max((effort(other) or 0.0 for other in dense), default=0.0)
        if not longest or made <= longest * (1 + EQUAL) or any(_alike(run, other) for other in dense):
            continue
        spent, most = run.flops("training"), max(other.flops("training") or 0.0 for other in dense)
        flops = f", {spent / most:.2f}x its training FLOPs" if spent and most else ""
        said.append(f"{label} trains {made / longest:.3g}x as long as the longest dense run{flops}")
    if not said:
        return None
    return Finding(
        "ExtendedTraining",
        "refuse",
        "; ".join(said),
        "Add a dense run of equal steps or equal training FLOPs, and say 'beats dense at k x the FLOPs'.",
    )


@guard("TestSelection", "refuse")
def chosen_on_test(runs: Sequence[Facts]) -> Finding | None:
    """Protects from test accuracies that were looked at before: tuning, stopping or choosing on the test split."""
    tuned = [run for run in runs if run.tuned_on == "test"]
    chosen = [run for run in runs if look(run.result, "selection", "split") == "test"]
    if not tuned and not chosen:
        return None
    how = [f"tuned on test: {labels(tuned)}"] if tuned else []
    how += [f"checkpoint chosen on test: {labels(chosen)}"] if chosen else []
    return Finding(
        "TestSelection",
        "refuse",
        "; ".join(how) + " (the test accuracy is then too high by an unknown amount)",
        "Tune and stop on the validation split; look at the test split once, at the end.",
    )


@guard("DataMismatch", "refuse")
def data_mismatch(runs: Sequence[Facts]) -> Finding | None:
    """Protects from accuracies of different tasks: other data, splits, numbers of images or augmentation."""
    fields = _settings(runs, DATA_KEYS)
    for run in runs:
        for key in ("name", "images", "classes", "hash"):
            value = look(run.result, "data", key)
            if value is not None:
                fields.setdefault(f"data.{key}", []).append((run.label, value))
        if run.done:
            fields.setdefault("test accuracy", []).append((run.label, "known" if run.accuracy is not None else "none"))
    said = _differing(fields)
    if not said:
        return None
    return Finding(
        "DataMismatch",
        "refuse",
        f"the runs differ in their data: {'; '.join(said)}",
        "Train all of them on the same images, splits and augmentation.",
    )


@guard("ScopeMismatch", "refuse")
def scope_mismatch(runs: Sequence[Facts]) -> Finding | None:
    """Protects from "90 % sparse" meaning other layers in every row: other models, targets or ignore lists."""
    sparse = [run for run in runs if not run.dense]  # a dense run's zeros are none, whatever they were counted over
    fields = _settings(sparse, ("model", "model_options", "targets", "ignore"))
    for run in sparse:
        if number(run.result.get("total")) is not None:
            fields.setdefault("weights counted", []).append((run.label, run.result["total"]))
        if run.layers:
            fields.setdefault("layers counted", []).append((run.label, sorted(run.layers)))
    said = _differing(fields)
    if not said:
        return None
    return Finding(
        "ScopeMismatch",
        "refuse",
        f"sparsity is counted over different weights: {'; '.join(said)}",
        "Use one model, one list of targets and one list of ignored layers for all sparse runs.",
    )


@guard("SparsityMismatch", "flag")
def sparsity_mismatch(runs: Sequence[Facts]) -> Finding | None:
    """Protects from comparing one method's 80 % with another's 95 %; sweeps in which all methods share levels pass."""
    levels: dict[str, list[float]] = {}
    for run in runs:
        if not run.dense and run.sparsity is not None:
            mine = levels.setdefault(run.name, [])
            if not any(same(1 - run.sparsity, 1 - level) for level in mine):
                mine.append(run.sparsity)
    sets = [sorted(mine) for mine in levels.values()]
    if all(len(s) == len(sets[0]) and all(map(_dense_alike, s, sets[0])) for s in sets):
        return None
    listed = ", ".join(f"{name} {'/'.join(f'{level:.4g}' for level in sorted(mine))}" for name, mine in levels.items())
    return Finding(
        "SparsityMismatch",
        "flag",
        f"the sparsities differ: {listed}",
        "Compare at equal sparsity, or run every method at every level.",
    )


def _dense_alike(a: float, b: float) -> bool:
    return same(1 - a, 1 - b)


@guard("RecipeMismatch", "flag")
def recipe_mismatch(runs: Sequence[Facts]) -> Finding | None:
    """Protects from crediting the method with what another optimizer, learning rate or weight decay did."""
    fields = _settings(runs, RECIPE_KEYS)
    for run in runs:
        chosen = look(run.result, "selection", "split")
        if chosen in ("validation", "last"):
            fields.setdefault("checkpoint", []).append((run.label, chosen))
    said = _differing(fields)
    if not said:
        return None
    return Finding(
        "RecipeMismatch",
        "flag",
        f"the runs differ in more than the method: {'; '.join(said)}",
        "Use one recipe for all, or tune each on validation with as many trials.",
    )


@guard("UnequalSeeds", "flag")
def unequal_seeds(runs: Sequence[Facts]) -> Finding | None:
    """Protects from means over different seeds, and from seeds that failed and are not missed."""
    seeds = {label: {run.seed for run in mine} for label, mine in by_label(runs).items()}
    common = set.intersection(*seeds.values()) if seeds else set()
    missing = {label: mine for label, mine in seeds.items() if mine != set.union(*seeds.values())}
    if not missing:
        return None
    listed = "; ".join(f"{label} has {', '.join(map(str, sorted(mine, key=str)))}" for label, mine in missing.items())
    return Finding(
        "UnequalSeeds",
        "flag",
        f"not every method has every seed ({listed}; common to all: {len(common)})",
        "Run the missing seeds; a failed run is a result too.",
    )


def _settings(runs: Sequence[Facts], keys: Sequence[str]) -> dict[str, list[tuple[str, Any]]]:
    """{key: [(label, value)]} of what the runs' configurations say."""
    fields: dict[str, list[tuple[str, Any]]] = {}
    for run in runs:
        for key in keys:
            if key in run.config:
                fields.setdefault(key, []).append((run.label, run.config[key]))
    return fields


def _differing(fields: dict[str, list[tuple[str, Any]]]) -> list[str]:
    """One text for every field that has more than one value: the values and who has them."""
    said = []
    for name, pairs in fields.items():
        groups: dict[str, list[str]] = {}
        for label, value in pairs:
            groups.setdefault(repr(_plain(value)), []).append(label)
        if len(groups) > 1:
            values = [f"{_short(text)} ({', '.join(dict.fromkeys(who))})" for text, who in groups.items()]
            said.append(f"{name}: {', '.join(values)}")
    return said


def _plain(value: Any) -> Any:
    """Lists for tuples, floats for whole numbers: equal settings read alike however they were written."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in sorted(value.items())}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
