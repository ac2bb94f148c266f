"""Guards of what is said about a run: speed, "never dense", costs left out, and numbers that do not add up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..facts import Facts, by_label, labels, look, number
from ..finding import Finding
from .fairness import same
from .registry import guard

SPEED = re.compile(r"speed[- ]?ups?\b|\bfaster\b|\d\s*[x×]\s*(the )?(as fast|speed)", re.IGNORECASE)
NEVER = re.compile(r"never dense|always sparse|fully sparse|end[- ]to[- ]end sparse|sparse throughout", re.IGNORECASE)
ROUNDED = 0.05  # a printed number is copied to two digits; a run's last batch of an epoch may be short


@guard("FlopsNotLatency", "refuse")
def flops_not_latency(runs: Sequence[Facts]) -> Finding | None:
    """Protects from "2x faster" that is only fewer FLOPs: masks over dense kernels take as long as without."""
    said = []
    for label, mine in by_label(runs).items():
        words = [claim for claim in mine[0].claims if SPEED.search(claim)]
        measured = number(look(mine[0].result, "latency", "ratio"))
        if words and (mine[0].kernel == "none" or measured is None):
            how = "its products are masked dense ones" if mine[0].kernel == "none" else "no latency was measured"
            said.append(f"{label} is called {words[0]!r}, but {how}")
    if not said:
        return None
    return Finding(
        "FlopsNotLatency",
        "refuse",
        "; ".join(said),
        "Say 'fewer FLOPs', or measure the latency on the device: sparseland advise --measure.",
    )


@guard("PretendSparse", "refuse")
def pretend_sparse(runs: Sequence[Facts]) -> Finding | None:
    """Protects from "never dense" where weights, gradients or optimizer slots have the dense size while training."""
    said = []
    for label, mine in by_label(runs).items():
        words = [claim for claim in mine[0].claims if NEVER.search(claim)]
        if words and mine[0].needs_dense:
            said.append(f"{label} is called {words[0]!r}, but its {', '.join(mine[0].needs_dense)} are dense")
    if not said:
        return None
    return Finding(
        "PretendSparse", "refuse", "; ".join(said), "Say what is sparse: the weights that are used, not those stored."
    )


@guard("CostScope", "refuse")
def cost_scope(runs: Sequence[Facts]) -> Finding | None:
    """Protects from costs that were left out: pre-training that only some had, training FLOPs or memory not shown.

    A pruning result beside a sparse-training result needs training FLOPs and peak memory of both. Refuses where only
    some runs start from a trained model, flags where a column is missing.
    """
    trained = [run for run in runs if _pretrained(run)]
    if trained and len(trained) < len(runs):
        return Finding(
            "CostScope",
            "refuse",
            f"{labels(trained)} start from a trained model, the others do not: its training is not in their cost",
            "Give the same checkpoint to all, or count its training FLOPs.",
        )
    done = [run for run in runs if run.done and not run.dense]
    if {run.starts_sparse for run in done} < {True, False} or not done:
        return None
    bare = [run for run in done if run.flops("training") is None or not _memory(run)]
    if not bare:
        return None
    return Finding(
        "CostScope",
        "flag",
        f"pruning beside sparse training, and training FLOPs or peak memory are unknown for {labels(bare)}",
        "Train them anew with this version, which records both.",
    )


def _pretrained(run: Facts) -> bool:
    model = str(run.config.get("model", ""))
    return (model.startswith("hf:") and not model.startswith("hf:config:")) or bool(
        look(run.config, "model_options", "checkpoint") or run.result.get("pretrained")
    )


def _memory(run: Facts) -> bool:
    return any(number(look(run.result, "memory", key)) is not None for key in ("peak_bytes", "as_implemented"))


@guard("WhenMismatch", "refuse")
def when_mismatch(runs: Sequence[Facts]) -> Finding | None:
    """Protects from one table of pruning at initialisation and pruning after training without their budgets."""
    done = [run for run in runs if run.done]
    if not {"before", "after"} <= {run.when for run in done}:
        return None
    bare = [run for run in done if run.steps is None or run.flops("training") is None]
    if not bare:
        return None
    return Finding(
        "WhenMismatch",
        "refuse",
        f"pruned before and after training in one table, without steps or training FLOPs of {labels(bare)}",
        "Show both columns, or split the table.",
    )


@guard("CopiedNumber", "refuse")
def copied_number(runs: Sequence[Facts]) -> Finding | None:
    """Protects from costs that do not follow from the run: steps x FLOPs per step must give the training FLOPs.

    Where masks keep their ratios the closed form is compared, otherwise the bounds by which any mask is held; a
    ``printed`` multiple of the dense run's training FLOPs is compared with the measured one.
    """
    dense = [spent for run in runs if run.dense and (spent := run.flops("training"))]
    said = []
    for label, mine in by_label(run for run in runs if run.done).items():
        run = mine[0]
        spent, printed = run.flops("training"), number(run.printed.get("training_flops"))
        if spent is not None and printed is not None and dense and not same(spent / dense[0], printed, ROUNDED):
            said.append(
                f"{label}: printed {printed:g}x the dense run's training FLOPs, counted {spent / dense[0]:.3g}x"
            )
        phases = look(run.result, "flops", "phases")
        parts = [number(part) or 0.0 for part in phases.values()] if isinstance(phases, dict) else []
        if spent is not None and parts and not same(sum(parts), spent):
            said.append(f"{label}: {spent:.4g} training FLOPs, but its phases add up to {sum(parts):.4g}")
        bounds = _expected(run)
        if spent is None or bounds is None:
            continue
        low, high = bounds
        if not low * (1 - ROUNDED) <= spent <= high * (1 + ROUNDED):
            wanted = f"{low:.4g}" if same(low, high) else f"{low:.4g} to {high:.4g}"
            said.append(f"{label}: {spent:.4g} training FLOPs, but its steps and masks give {wanted}")
    if not said:
        return None
    return Finding("CopiedNumber", "refuse", "; ".join(said), "Count again from steps and masks; do not copy numbers.")


def _expected(run: Facts) -> tuple[float, float] | None:
    """Least and most training FLOPs that the run's steps and masks can have cost, from its own counts."""
    forward, whole = run.flops("inference"), run.flops("inference_dense")
    samples = _samples(run)
    if not forward or not whole or samples is None:
        return None
    all_dense = 3.0 * whole * samples
    if run.dense:
        return all_dense, all_dense
    flow = run.words.get("flow")
    hard = (flow.get("kind") if isinstance(flow, dict) else flow) == "hard"
    fixed = run.ratios is not None and run.starts_sparse and run.procedure is None
    sparse = 3.0 * forward * samples
    if not (hard and fixed):
        # A statistic that chooses the first mask costs at most twelve dense passes over the images (GraSP), a round.
        rounds = number(look(run.words, "schedule", "rounds")) or 1.0
        return (sparse if hard else 0.0), all_dense + 12.0 * rounds * whole * _images(run)
    moves = _moves(run) if _gradient(run) else 0
    batch = float(number(run.config.get("batch_size")) or 0) * float(number(run.config.get("accumulate")) or 1)
    return sparse, sparse + moves * batch * (whole - forward)


def _samples(run: Facts) -> float | None:
    """Images that were trained on, each as often as it was seen; None for procedures and unknown data."""
    images, epochs = _images(run), number(run.config.get("epochs"))
    if not images or epochs is None or run.procedure is not None:
        return None
    return images * epochs


def _images(run: Facts) -> float:
    return number(look(run.result, "data", "images", "train")) or 0.0


def _gradient(run: Facts) -> bool:
    growth: Any = run.words.get("growth")
    return (growth.get("kind") if isinstance(growth, dict) else growth) == "gradient"


def _moves(run: Facts) -> int:
    masks = run.result.get("masks")
    return max(0, len(masks) - 1) if isinstance(masks, list) else 0
