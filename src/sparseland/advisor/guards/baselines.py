"""Guards of what a table must hold beside the method it praises: seeds, dense, small dense, random and static rows."""

from __future__ import annotations

from collections.abc import Sequence

from ..facts import Facts, by_label, labels, look, number
from ..finding import Finding
from ..statistics import ENOUGH
from .fairness import same
from .registry import guard

ALIKE = 0.2  # a smaller dense net counts as "as big as the sparse one" within this share of its weights or FLOPs


@guard("OneSeed", "flag")
def one_seed(runs: Sequence[Facts]) -> Finding | None:
    """Protects from reading luck as skill: with one seed there is no spread and no interval."""
    alone = [mine[0] for mine in by_label(runs).values() if len({run.seed for run in mine}) == 1]
    if not alone:
        return None
    return Finding("OneSeed", "flag", f"one seed only: {labels(alone)}", f"Give at least {ENOUGH} seeds.")


@guard("FewSeeds", "flag")
def few_seeds(runs: Sequence[Facts]) -> Finding | None:
    """Protects from a spread over two seeds, whose interval is a dozen times as wide as the spread."""
    few = [mine[0] for mine in by_label(runs).values() if 1 < len({run.seed for run in mine}) < ENOUGH]
    if not few:
        return None
    return Finding(
        "FewSeeds", "flag", f"fewer than {ENOUGH} seeds: {labels(few)}", f"Give at least {ENOUGH}; the habit is five."
    )


@guard("NoDenseBaseline", "flag")
def no_dense_baseline(runs: Sequence[Facts]) -> Finding | None:
    """Protects from a table in which nobody can tell what the sparsity costs."""
    sparse = [run for run in runs if not run.dense]
    models = {str(run.config["model"]) for run in runs if run.dense and "model" in run.config}
    missing = [run for run in sparse if models and "model" in run.config and str(run.config["model"]) not in models]
    if not sparse or (any(run.dense for run in runs) and not missing):
        return None
    what = f"no dense run of the same model for {labels(missing)}" if missing else "no 'dense' baseline"
    return Finding(
        "NoDenseBaseline",
        "flag",
        f"{what}: nobody can tell what the sparsity costs",
        "Add {name: dense} to compare.methods.",
    )


@guard("NoRandomBaseline", "flag")
def no_random_baseline(runs: Sequence[Facts]) -> Finding | None:
    """Protects from praising a criterion that does no better than a random mask of equal size."""
    sparse = [run for run in runs if not run.dense]
    if not sparse or any(run.random for run in sparse):
        return None
    return Finding(
        "NoRandomBaseline",
        "flag",
        "no 'random' baseline: nobody can tell whether the choice of weights matters",
        "Add {name: random} to compare.methods.",
    )


@guard("NoSmallDenseBaseline", "flag")
def no_small_dense_baseline(runs: Sequence[Facts]) -> Finding | None:
    """Protects from a sparse net that a smaller dense one would beat: large-sparse against small-dense.

    A dense run counts if it has about as many weights, or inference FLOPs, as a sparse one; before training, if it is
    of another model.
    """
    sparse, dense = [run for run in runs if not run.dense], [run for run in runs if run.dense]
    if not sparse or any(_as_small(small, big) for small in dense for big in sparse):
        return None
    return Finding(
        "NoSmallDenseBaseline",
        "flag",
        "no smaller dense net: nobody can tell whether one with as few weights would do as well",
        "Train a dense model of about as many weights or FLOPs on the same recipe, and join it to the comparison.",
    )


def _as_small(dense: Facts, sparse: Facts) -> bool:
    if not (dense.done and sparse.done):
        ours = (sparse.config.get("model"), sparse.config.get("model_options"))
        return (dense.config.get("model"), dense.config.get("model_options")) != ours
    for small, big in (
        (number(dense.result.get("total")), number(sparse.result.get("kept"))),
        (dense.flops("inference"), sparse.flops("inference")),
    ):
        if small and big and same(small, big, ALIKE):
            return True
    return False


@guard("DynamicWin", "flag")
def dynamic_win(runs: Sequence[Facts]) -> Finding | None:
    """Protects from crediting moving masks with what the layer ratios did: a static mask of the same ratios is needed.

    It looks at masks that move at ratios fixed by the shapes (ER, ERK, uniform); for global ratios, which come out of
    the training, no static twin can be asked for beforehand.
    """
    moving = [run for run in runs if run.exchanges and run.starts_sparse and run.ratios is not None]
    static = [run for run in runs if not run.dense and run.moving is False]
    alone = [run for run in moving if not any(_twins(run, other) for other in static)]
    if not alone:
        return None
    kinds = ", ".join(dict.fromkeys(str(run.ratios) for run in alone))
    return Finding(
        "DynamicWin",
        "flag",
        f"no static mask with the layer ratios of {labels(alone)} ({kinds}): the gain may be the ratios'",
        f"Add {{name: random, ratios: {alone[0].ratios}}} at the same sparsity.",
    )


def _twins(run: Facts, static: Facts) -> bool:
    if run.layers and static.layers:
        return run.layers.keys() == static.layers.keys() and all(
            abs(kept - static.layers[name][0]) <= 1 or same(kept, static.layers[name][0])
            for name, (kept, _) in run.layers.items()
        )
    levels = (run.sparsity, static.sparsity)
    alike = None in levels or same(1 - (run.sparsity or 0.0), 1 - (static.sparsity or 0.0))
    return run.ratios == static.ratios and alike


@guard("ToyOnly", "flag")
def toy_only(runs: Sequence[Facts]) -> Finding | None:
    """Protects from conclusions drawn on digits and MNIST alone, which flatter every method."""
    names = {str(run.config.get("data") or look(run.result, "data", "name") or "") for run in runs} - {""}
    if not names or not all(is_toy(name) for name in names):
        return None
    return Finding(
        "ToyOnly",
        "flag",
        f"only easy data: {', '.join(sorted(names))}",
        "Repeat it on harder data, such as fashion-mnist or cifar10-jpeg.",
    )


def is_toy(data: str) -> bool:
    """Whether a data set is handwritten digits.

    >>> is_toy("digits"), is_toy("mnist-test"), is_toy("hf:ylecun/mnist"), is_toy("fashion-mnist")
    (True, True, True, False)
    """
    low = data.lower()
    return "fashion" not in low and ("mnist" in low or low.rpartition(":")[2] == "digits")
