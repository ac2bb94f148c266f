"""What would count as an answer to each question. Written before the runs of this folder were started.

Known then, because papers/11-granet had published them: the means of static ERK, SET, RigL, GMP and GraNet at 5 and 2 %
on Fashion-MNIST and at 5 % on digits. Everything else was open.

A *belief* is a sentence of the field and the comparisons that must come out for it. One comparison is a paired
difference over the seeds with its 95 % t interval: *better* where the interval lies above zero, *worse* below, else
*indistinguishable*. A belief *holds* if every comparison is better, holds *in part* if some are, *does not hold* if
none is.
Beliefs that something makes no difference ask instead that the mean difference be at most `MARGIN` on either side.
Intervals are not corrected for their number: with 100 comparisons, a few err.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MARGIN = 1.0  # points of accuracy
# 97.5 % points of Student's t by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
HOLDS, IN_PART, NOT = "holds", "in part", "does not hold"

# Short names of what a row measures; the long ones stand in result.json.
METRICS = {
    "accuracy": "test accuracy (%)",
    "worst_class": "worst class (%)",
    "ece": "ECE (%)",
    "ood_auroc": "AUROC against MNIST (%)",
    "noise_drop": "lost to noise (points)",
    "shift_drop": "lost to a shift (points)",
    "explored": "explored weights (%)",
    "speed": "times as fast as dense",
}
Table = Mapping[tuple[str, str, str], Mapping[str, list[float]]]  # (question, setting, arm) -> {short name: by seed}
Pair = tuple[str, str, str, str]  # setting of a, arm a, setting of b, arm b


@dataclass(frozen=True)
class Belief:
    """A sentence of the field, and what must come out for it.

    kind: "better" (a above b in every pair), "same" (within MARGIN), "less" (a below b; for costs and errors),
    "checks" (named truths of the latency table), "fewer" (question 9).
    """

    question: str
    says: str
    kind: str
    pairs: tuple[Pair, ...] = ()
    metric: str = "accuracy"
    checks: tuple[str, ...] = field(default=())


def _at(densities: Sequence[str], above: Sequence[str], below: Sequence[str]) -> tuple[Pair, ...]:
    return tuple((d, a, d, b) for d in densities for a in above for b in below)


ALL, TWO = ("10%", "5%", "2%"), ("10%", "2%")
MASKED = "the masked product takes 0.8 to 1.25 times as long as the dense one, everywhere"
CSR_50 = "CSR with 50 % zeros is slower than dense, everywhere"
CSR_99 = "CSR with 99 % zeros is faster than dense, everywhere"
COMPACT = "the compacted product of equal FLOPs is faster than CSR, everywhere"
_SPARSE = tuple((d, arm, "dense", "dense") for d in ALL for arm in ("static ERK", "RigL", "GMP"))

BELIEFS = (
    Belief("L1", "A net trained sparse (RigL) beats a dense net with as many weights.", "better",
           _at(ALL, ["RigL"], ["small dense"])),
    Belief("L1", "Even a static random mask beats a dense net with as many weights.", "better",
           _at(ALL, ["static ERK"], ["small dense"])),
    Belief("L1", "Gradual pruning beats a dense net of as many weights that got the same training compute.", "better",
           (("5%", "GMP", "5%", "small dense, longer"),)),
    Belief("L2", "Zeros make a product faster only where the format and the kernel skip them.", "checks",
           checks=(MASKED, CSR_50, CSR_99, COMPACT)),
    Belief("L3", "Sparse training (RigL) costs less training compute than pruning (GMP, one-shot with retraining).",
           "less", _at(ALL, ["RigL"], ["GMP", "one-shot, retrained"]), "training_flops"),
    Belief("L3", "Pruning pays that back in accuracy.", "better", _at(ALL, ["GMP", "one-shot, retrained"], ["RigL"])),
    Belief("L4", "A dense start beats a sparse one (GMP against SET and RigL).", "better",
           _at(ALL, ["GMP"], ["SET", "RigL"])),
    Belief("L4", "A half-sparse start (GraNet) beats starting sparse (RigL).", "better",
           _at(ALL, ["GraNet half-sparse start"], ["RigL"])),
    Belief("L4", "A half-sparse start is as good as a dense one (GraNet against GraNet).", "same",
           _at(ALL, ["GraNet half-sparse start"], ["GraNet dense start"])),
    Belief("L5", "A moving mask beats a static one of the same layer ratios.", "better",
           _at(TWO, ["SET", "RigL"], ["static ERK"]) + _at(TWO, ["SET uniform", "RigL uniform"], ["static uniform"])),
    Belief("L5", "Growing by gradient (RigL) beats growing at random (SET).", "better",
           _at(TWO, ["RigL"], ["SET"]) + _at(TWO, ["RigL uniform"], ["SET uniform"])),
    Belief("L6", "Scores before training (SNIP, GraSP, SynFlow) beat a random mask.", "better",
           _at(TWO, ["SNIP", "GraSP", "SynFlow"], ["static ERK"])),
    Belief("L6", "Masks that move during training beat masks chosen before it.", "better",
           _at(TWO, ["RigL", "GraNet half-sparse start"], ["SNIP", "GraSP", "SynFlow"])),
    Belief("L6", "Pruning after training, with retraining, beats masks that move during it.", "better",
           _at(TWO, ["one-shot, retrained"], ["RigL", "GraNet half-sparse start"])),
    Belief("L6", "Pruning after training, without retraining, is worse than a static random mask that was trained.",
           "less", _at(TWO, ["one-shot, no retraining"], ["static ERK"])),
    Belief("L7", "Shuffling a mask chosen before training (SNIP, GraSP) within each layer changes nothing.", "same",
           tuple((d, f"{m} shuffled", d, m) for d in TWO for m in ("SNIP", "GraSP"))),
    Belief("L7", "Shuffling a mask of trained weights hurts, when they go on from their trained values.", "better",
           _at(TWO, ["one-shot, retrained"], ["one-shot shuffled, retrained"])),
    Belief("L7", "Shuffling a lottery ticket (weights of step 0) changes nothing.", "same",
           _at(TWO, ["ticket shuffled"], ["ticket"])),
    Belief("L7", "At random places, layer ratios from SNIP or ERK beat uniform ones.", "better",
           _at(TWO, ["SNIP shuffled", "static ERK"], ["static uniform"])),
    Belief("L8", "Trained five times as long, the sparse net (RigL, 20 %) beats dense at once the length.", "better",
           (("5x", "RigL 20%", "1x", "dense"),)),
    Belief("L8", "It still does when dense trains five times as long too.", "better",
           (("5x", "RigL 20%", "5x", "dense"),)),
    Belief("L8", "Longer training helps the sparse net more than it helps dense.", "better",
           (("5x gain", "RigL 20%", "5x gain", "dense"),)),
    Belief("L9", "The easy benchmark (digits) decides fewer comparisons of methods than Fashion-MNIST.", "fewer"),
    Belief("L10", "The worst class loses more than the mean does.", "better", _SPARSE, "extra_worst_drop"),
    Belief("L10", "Sparse nets are worse calibrated.", "less", tuple((c, d, a, b) for a, b, c, d in _SPARSE), "ece"),
    Belief("L10", "Sparse nets tell strange inputs (MNIST digits) worse from known ones.", "less", _SPARSE,
           "ood_auroc"),
    Belief("L10", "Noise costs sparse nets more accuracy.", "better", _SPARSE, "noise_drop"),
    Belief("L10", "A shift by two pixels costs sparse nets more accuracy.", "better", _SPARSE, "shift_drop"),
)  # fmt: skip


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences and the ends of its 95 % t interval.

    >>> [round(v, 2) for v in interval([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48]
    """
    n, mean = len(differences), statistics.mean(differences)
    if n < 2:
        return mean, -math.inf, math.inf
    half = T[n - 1] * statistics.stdev(differences) / math.sqrt(n)
    return mean, mean - half, mean + half


def word(low: float, high: float) -> str:
    """better, worse or indistinguishable: where the interval lies."""
    return "better" if low > 0 else "worse" if high < 0 else "indistinguishable"


def verdict(outcomes: Sequence[bool]) -> str:
    """holds (all), in part (some) or does not hold (none).

    >>> verdict([True, True]), verdict([True, False]), verdict([False])
    ('holds', 'in part', 'does not hold')
    """
    return HOLDS if outcomes and all(outcomes) else IN_PART if any(outcomes) else NOT


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What `compare` looks up, from rows of a result.json; ``by_seed`` of a row is text, as its schema asks.

    >>> table_of([{"part": "L1", "setting": "", "arm": "dense", "metric": "ECE (%)", "by_seed": "1.5, 2"}])
    {('L1', '', 'dense'): {'ece': [1.5, 2.0]}}
    """
    short = {name: key for key, name in METRICS.items()}
    out: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        found = [float(v) for v in str(row["by_seed"]).split(",")]
        cell = out.setdefault((row["part"], row["setting"], row["arm"]), {})
        cell[short[row["metric"]]] = found
        if row.get("training_flops") is not None:
            cell["training_flops"] = [row["training_flops"]] * len(found)  # the same for every seed
    return out


def values(table: Table, key: tuple[str, str, str], metric: str) -> list[float]:
    """A metric by seed, in points where it is a share; derived ones are made here."""
    question, setting, arm = key
    if setting.endswith(" gain"):
        long = values(table, (question, setting.removesuffix(" gain"), arm), metric)
        return [a - b for a, b in zip(long, values(table, (question, "1x", arm), metric), strict=True)]
    row = table[key]
    if metric == "extra_worst_drop":  # by how much the worst class lost more than the mean, against dense
        dense = table[question, "dense", "dense"]
        pairs = zip(dense["worst_class"], row["worst_class"], dense["accuracy"], row["accuracy"], strict=True)
        return [(w - v) - (a - b) for w, v, a, b in pairs]
    return row[metric]


def compare(table: Table, belief: Belief, pair: Pair) -> dict[str, Any]:
    """One pair: the paired difference a - b, its interval, the word, and whether the belief got what it asked for."""
    first, second = ((belief.question, setting, arm) for setting, arm in (pair[:2], pair[2:]))
    both = zip(values(table, first, belief.metric), values(table, second, belief.metric), strict=True)
    mean, low, high = interval([a - b for a, b in both])
    said = word(low, high)
    wanted = {"better": said == "better", "less": said == "worse", "same": abs(mean) <= MARGIN}[belief.kind]
    numbers = {"difference": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}
    return {"a": list(pair[:2]), "b": list(pair[2:]), **numbers, "verdict": said, "as_believed": wanted}


def decided(table: Table, data: str) -> list[dict[str, Any]]:
    """Question 9: every pair of methods on one data set; ``as_believed`` marks those the seeds decide."""
    arms, out = ("static ERK", "SET", "RigL", "GMP"), []
    belief = Belief("L9", "", "better")
    for density in ("10%", "5%"):
        place = f"{data} {density}"
        for i, b in enumerate(arms):
            for a in arms[i + 1 :]:
                pair = compare(table, belief, (place, a, place, b))
                out.append(pair | {"as_believed": pair["verdict"] != "indistinguishable"})
    return out


def cells_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The latency rows of a result.json as cells {"n", "batch", "sparsity", "speedup": {form: times dense}, …}."""
    out: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get("metric") == METRICS["speed"]:
            own = {k: row[k] for k in ("n", "batch", "sparsity", "quiet")}
            out.setdefault(row["setting"], {**own, "speedup": {}})["speedup"][row["arm"]] = row["mean"]
    return list(out.values())


def latency_checks(cells: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """The four truths of question 2, from `cells_of`."""
    at = {s: [c["speedup"] for c in cells if c["sparsity"] == s] for s in {c["sparsity"] for c in cells}}
    every = [c["speedup"] for c in cells]
    return {
        MASKED: bool(every) and all(0.8 <= s["masked"] <= 1.25 for s in every),
        CSR_50: bool(at.get(0.5)) and all(s["csr"] < 1 for s in at[0.5]),
        CSR_99: bool(at.get(0.99)) and all(s["csr"] > 1 for s in at[0.99]),
        COMPACT: bool(every) and all(s["compacted"] > s["csr"] for s in every),
    }


def answers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every belief with its comparisons and its verdict; those whose rows are missing are left out."""
    table, cells, out = table_of(rows), cells_of(rows), []
    for belief in BELIEFS:
        told: dict[str, Any] = {"question": belief.question, "says": belief.says, "kind": belief.kind}
        if belief.kind == "checks":
            if not cells:
                continue
            checks = latency_checks(cells)
            told |= {"checks": checks, "verdict": verdict(list(checks.values()))}
        elif belief.kind == "fewer":
            if ("L9", "digits", "dense") not in table:
                continue
            easy, hard = decided(table, "digits"), decided(table, "fashion")
            counts = [sum(pair["as_believed"] for pair in pairs) for pairs in (easy, hard)]
            told |= {"decided": dict(zip(("digits", "fashion"), counts, strict=True)), "of": len(easy)}
            told |= {"pairs": easy + hard, "verdict": HOLDS if counts[0] < counts[1] else NOT}
        else:
            needed = [(belief.question, s.removesuffix(" gain"), a) for p in belief.pairs for s, a in (p[:2], p[2:])]
            if any(key not in table for key in needed):
                continue
            pairs = [compare(table, belief, pair) for pair in belief.pairs]
            told |= {"metric": belief.metric, "pairs": pairs, "verdict": verdict([p["as_believed"] for p in pairs])}
        out.append(told)
    return out


def judge(told: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The folder's verdict: reproduces if every belief holds, does not if fewer than half hold even in part."""
    count = {kind: sum(t["verdict"] == kind for t in told) for kind in (HOLDS, IN_PART, NOT)}
    why = (
        f"Of {len(told)} beliefs of the field {count[HOLDS]} hold here, {count[IN_PART]} in part and {count[NOT]} not."
    )
    if count[HOLDS] == len(told):
        return "reproduces", why
    return ("does not" if 2 * count[NOT] > len(told) else "in part"), why
