"""Guards of what came out: seeds without effect, ties, dead layers, and means that hide a class."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from ..facts import PROTECTING, Facts, by_label, look, number
from ..finding import Finding
from ..statistics import paired
from .registry import guard

SATURATED = 0.99  # dense accuracy above which a task decides nothing (arXiv 2302.02596's lesson on easy benchmarks)
TIMES = 3.0  # the worst class may lose so many times the mean loss


@guard("IdenticalSeeds", "refuse")
def identical_seeds(runs: Sequence[Facts]) -> Finding | None:
    """Protects from an interval of width zero: seeds that do not take effect, or one run counted twice."""
    said = []
    for label, mine in by_label(run for run in runs if run.done).items():
        seeds = [run.seed for run in mine]
        twice = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
        if twice:
            said.append(f"{label} has seed {', '.join(twice)} more than once")
        prints = [_fingerprint(run) for run in mine]
        if len(mine) > 1 and None not in prints and len(set(prints)) < len(set(map(str, seeds))):
            said.append(f"{label} has the same accuracy and loss under different seeds")
    if not said:
        return None
    return Finding(
        "IdenticalSeeds", "refuse", "; ".join(said), "Count each run once, and check that the seed reaches the run."
    )


def _fingerprint(run: Facts) -> tuple[float, ...] | None:
    """Test accuracy and losses: equal under two seeds only if the runs are the same."""
    values = [run.accuracy, number(look(run.result, "test", "loss")), number(look(run.result, "validation", "loss"))]
    known = [value for value in values if value is not None]
    return tuple(known) if len(known) > 1 else None  # the accuracy alone may coincide: it counts images


@guard("Undecided", "flag")
def undecided(runs: Sequence[Facts]) -> Finding | None:
    """Protects from ranking methods on a task that cannot tell them apart: saturated, or gaps below the spread."""
    dense = by_label(run for run in runs if run.dense and run.accuracy is not None)
    best = max((mean(run.accuracy or 0.0 for run in mine) for mine in dense.values()), default=0.0)
    if best > SATURATED:
        says = f"the dense net reaches {best:.2%}: the task is saturated and decides nothing"
        return Finding("Undecided", "flag", says, "Take harder data, fewer weights or a smaller net.")
    rows = {}
    for label, mine in by_label(run for run in runs if not run.dense).items():
        values = [run.accuracy for run in mine if run.accuracy is not None]
        if len(values) > 1:
            rows[label] = (mean(values), stdev(values))
    if len(rows) < 2:
        return None
    middles = [middle for middle, _ in rows.values()]
    noise = mean(deviation for _, deviation in rows.values())
    if max(middles) - min(middles) > noise:
        return None
    return Finding(
        "Undecided",
        "flag",
        "the sparse methods differ by less than the spread over seeds: this task cannot tell them apart",
        "Add seeds, or take harder data or a higher sparsity.",
    )


@guard("LayerCollapse", "flag")
def layer_collapse(runs: Sequence[Facts]) -> Finding | None:
    """Protects from a net cut in two by a layer without weights, and from first or last layers that stay dense unsaid.

    A layer may stay dense where the allocation says so (uniform+, erk+) or where it is ignored by name.
    """
    said = []
    for label, mine in by_label(run for run in runs if not run.dense and run.layers).items():
        empty = sorted({name for run in mine for name, (kept, _) in run.layers.items() if kept == 0})
        if empty:
            said.append(f"{label} has no weight left in {', '.join(empty)}")
        whole = sorted({name for run in mine for name in _silently_dense(run)})
        if whole:
            said.append(f"{label} keeps {', '.join(whole)} dense without saying so")
    if not said:
        return None
    return Finding(
        "LayerCollapse",
        "flag",
        "; ".join(said),
        "Use ratios per layer (erk) for a layer that dies; name layers that shall stay dense in 'ignore'.",
    )


def _silently_dense(run: Facts) -> list[str]:
    """First and last layers that are whole although the rest is sparse."""
    allocation = run.words.get("allocation")
    kind = allocation.get("kind") if isinstance(allocation, dict) else allocation
    ends = list(run.layers)[:1] + list(run.layers)[-1:]
    if kind in PROTECTING or len(run.layers) < 2:
        return []
    return [name for name in ends if run.layers[name][0] == run.layers[name][1] > 0]


@guard("AverageHides", "flag")
def average_hides(runs: Sequence[Facts]) -> Finding | None:
    """Protects from a mean that hides a class: the worst class loses more than three times the mean loss.

    Losses are paired with the dense run of the same seed; a loss whose interval over seeds holds 0 says nothing.
    """
    dense = {run.seed: run for run in runs if run.dense and _classes(run)}
    said = []
    for label, mine in by_label(run for run in runs if not run.dense and run.seed in dense).items():
        drops = [_drops(dense[run.seed], run) for run in mine]
        if not drops or any(drop is None or len(drop) != len(drops[0] or ()) for drop in drops):
            continue
        known = [drop for drop in drops if drop is not None]
        columns = list(zip(*known, strict=True))
        losses = [mean(column) for column in columns]
        worst = max(range(len(losses)), key=losses.__getitem__)
        average = max(0.0, mean(losses))
        if losses[worst] > TIMES * average and losses[worst] > 0 and _beyond_luck(columns[worst]):
            said.append(f"{label}: class {worst} loses {100 * losses[worst]:.1f} points, the mean {100 * average:.1f}")
    if not said:
        return None
    return Finding("AverageHides", "flag", "; ".join(said), "Report the worst class beside the mean.")


def _beyond_luck(losses: Sequence[float]) -> bool:
    """Whether the interval of a loss over seeds is above 0; one seed has none, and is taken at its word."""
    found = paired(dict(enumerate(losses)), dict.fromkeys(range(len(losses)), 0.0))
    return found is not None and (found.low is None or found.low > 0)


def _classes(run: Facts) -> list[float] | None:
    found = look(run.result, "test", "per_class")
    values = [number(value) for value in found] if isinstance(found, list) else []
    return [value for value in values if value is not None] if values and None not in values else None


def _drops(dense: Facts, run: Facts) -> list[float] | None:
    ours, theirs = _classes(run), _classes(dense)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    return [a - b for a, b in zip(theirs, ours, strict=True)]
