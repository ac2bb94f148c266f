"""The handbook's rules on crafted rows, and its small words of its own: shuffling, intervals, AUROC."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparseland.core import MaskSet
from tools.handbook import module

rules, work, jobs = module("rules"), module("work"), module("jobs")


def row(
    question: str, setting: str, arm: str, *by_seed: float, metric: str = "accuracy", **more: Any
) -> dict[str, Any]:
    """A row of a result.json, as short as the rules need it."""
    text = ", ".join(f"{v:g}" for v in by_seed)
    return {"part": question, "setting": setting, "arm": arm, "metric": rules.METRICS[metric], "by_seed": text, **more}


def one(rows: list[dict[str, Any]], kind: str, metric: str = "accuracy", a: str = "a", b: str = "b") -> dict[str, Any]:
    belief = rules.Belief("Q", "a beats b", kind, (("s", a, "s", b),), metric)
    return dict(rules.compare(rules.table_of(rows), belief, belief.pairs[0]))


# ------------------------------------------------------------------------------------------------------------ shuffling
def test_a_shuffled_mask_keeps_the_count_of_every_layer_and_no_more() -> None:
    draw = torch.Generator().manual_seed(0)
    masks = MaskSet({"a": torch.rand(30, 40, generator=draw) < 0.1, "b": torch.rand(7, 5, 3, generator=draw) < 0.4})
    shuffled = work.shuffle_within_layer(masks, 3)
    assert shuffled.counts() == masks.counts()
    assert {n: m.shape for n, m in shuffled.items()} == {n: m.shape for n, m in masks.items()}
    assert all(not torch.equal(shuffled[n], masks[n]) for n in masks)
    assert shuffled == work.shuffle_within_layer(masks, 3) != work.shuffle_within_layer(masks, 4)


def test_places_of_a_shuffled_mask_are_uniform() -> None:
    mask = MaskSet({"w": torch.arange(20) < 5})
    seen = sum(work.shuffle_within_layer(mask, seed)["w"].int() for seed in range(2000))
    assert (seen / 2000 - 0.25).abs().max() < 0.05  # 5 standard deviations are 0.048


def test_auroc_against_counting_every_pair() -> None:
    draw = torch.Generator().manual_seed(1)
    known, unknown = (torch.randint(0, 6, (n,), generator=draw) / 6 for n in (40, 70))
    pairs = known[:, None] - unknown[None, :]
    assert work.auroc(known, unknown) == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()))


# ------------------------------------------------------------------------------------------------------------ intervals
def test_t_table_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom, value in rules.T.items():
        assert value == pytest.approx(stats.t.ppf(0.975, freedom), abs=6e-4)


def test_intervals_agree_with_the_advisor() -> None:
    from sparseland.advisor.statistics import paired

    one, two = [86.2, 85.9, 86.4, 85.0], [85.1, 85.3, 85.0, 84.9]
    theirs = paired(dict(enumerate(one)), dict(enumerate(two)))
    assert theirs is not None and theirs.low is not None and theirs.high is not None
    found = rules.interval([a - b for a, b in zip(one, two, strict=True)])
    assert found == pytest.approx((theirs.difference, theirs.low, theirs.high), abs=1e-3)


@pytest.mark.parametrize(
    ("a", "kind", "said", "wanted"),
    [
        ((3, 3.1, 2.9), "better", "better", True),
        ((3, 3.1, 2.9), "less", "better", False),
        ((-3, -3.1, -2.9), "less", "worse", True),
        ((-3, -3.1, -2.9), "better", "worse", False),
        ((3, -3.1, 2.9), "better", "indistinguishable", False),
        ((3, -3.1, 2.9), "less", "indistinguishable", False),
        ((0.9, 0.95, 0.85), "same", "better", True),  # told apart, and still within the margin
        ((1.2, 1.1, 1.3), "same", "better", False),
        ((-1.2, -1.1, -1.3), "same", "worse", False),
        ((9, -9, 0), "same", "indistinguishable", True),  # the margin asks for the mean only, as the rules say
    ],
)
def test_one_comparison(a: tuple[float, ...], kind: str, said: str, wanted: bool) -> None:
    found = one([row("Q", "s", "a", *(80 + v for v in a)), row("Q", "s", "b", 80, 80, 80)], kind)
    assert (found["verdict"], found["as_believed"]) == (said, wanted)


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by ten points, the arms by one: unpaired nobody could tell."""
    found = one([row("Q", "s", "a", 71, 81, 91.1), row("Q", "s", "b", 70, 80, 90)], "better")
    assert found["verdict"] == "better" and found["difference"] == pytest.approx(1.0333, abs=1e-4)


def test_gains_are_differences_of_lengths() -> None:
    rows = [row("L8", "1x", "RigL", 70, 70, 70), row("L8", "5x", "RigL", 80, 81, 79)]
    table = rules.table_of(rows)
    assert rules.values(table, ("L8", "5x gain", "RigL"), "accuracy") == [10, 11, 9]


def test_the_worst_class_is_compared_with_the_mean() -> None:
    rows = [
        row("Q", "dense", "dense", 90, 90), row("Q", "dense", "dense", 70, 70, metric="worst_class"),
        row("Q", "s", "a", 88, 87), row("Q", "s", "a", 60, 66, metric="worst_class"),
    ]  # fmt: skip
    assert rules.values(rules.table_of(rows), ("Q", "s", "a"), "extra_worst_drop") == [10 - 2, 4 - 3]


def test_compute_is_compared_too() -> None:
    rows = [row("Q", "s", "a", 1, 2, 3, training_flops=0.1), row("Q", "s", "b", 1, 2, 3, training_flops=0.4)]
    assert one(rows, "less", "training_flops")["as_believed"]
    assert not one(rows, "less", "training_flops", a="b", b="a")["as_believed"]


# ------------------------------------------------------------------------------------------------------------- verdicts
def cell(sparsity: float, masked: float, csr: float, compacted: float) -> dict[str, Any]:
    return {"sparsity": sparsity, "speedup": {"masked": masked, "csr": csr, "compacted": compacted}}


def test_latency_checks_hold_and_each_can_fail() -> None:
    good = [cell(0.5, 1.0, 0.2, 2.0), cell(0.99, 1.1, 4.0, 60.0)]
    assert all(rules.latency_checks(good).values())
    broken = {
        rules.MASKED: cell(0.5, 1.5, 0.2, 2.0),
        rules.CSR_50: cell(0.5, 1.0, 1.1, 2.0),
        rules.CSR_99: cell(0.99, 1.0, 0.9, 60.0),
        rules.COMPACT: cell(0.9, 1.0, 3.0, 2.0),
    }
    for name, bad in broken.items():
        assert [text for text, held in rules.latency_checks([*good, bad]).items() if not held] == [name]
    assert not any(rules.latency_checks([]).values())


def test_question_nine_counts_what_the_seeds_decide() -> None:
    rows = []
    for data, gap in (("digits", 0.0), ("fashion", 5.0)):
        rows.append(row("L9", data, "dense", 90, 91, 92))
        for density in ("10%", "5%"):
            for i, arm in enumerate(("static ERK", "SET", "RigL", "GMP")):
                wobble = (1, -1, 0) if i % 2 else (-1, 1, 0)
                rows.append(row("L9", f"{data} {density}", arm, *(80 + gap * i + w for w in wobble)))
    (told,) = (t for t in rules.answers(rows) if t["question"] == "L9")
    assert told["decided"]["digits"] == 0 < told["decided"]["fashion"] and told["verdict"] == rules.HOLDS
    for r in rows:
        r["setting"] = r["setting"].replace("digits", "x").replace("fashion", "digits").replace("x", "fashion")
    (told,) = (t for t in rules.answers(rows) if t["question"] == "L9")
    assert told["verdict"] == rules.NOT


def test_a_belief_without_its_rows_is_left_out() -> None:
    assert rules.answers([]) == []
    assert rules.answers([row("L1", "5%", "GMP", 1, 2, 3)]) == []


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [(["holds"] * 4, "reproduces"), (["holds", "in part"], "in part"), (["holds", "does not hold"], "in part"),
     (["does not hold", "does not hold", "holds"], "does not")],
)  # fmt: skip
def test_the_folders_verdict(verdicts: list[str], word: str) -> None:
    assert rules.judge([{"verdict": v} for v in verdicts])[0] == word


def test_every_belief_can_be_answered_from_what_is_trained() -> None:
    """Each pair of each belief names rows that `jobs` makes; each row a run or a derived run."""
    made = {(q, setting, arm) for q, setting, arm, _ in jobs.rows()}
    for belief in rules.BELIEFS:
        for pair in belief.pairs:
            for setting, arm in (pair[:2], pair[2:]):
                assert (belief.question, setting.removesuffix(" gain"), arm) in made
    known = {*jobs.runs(), *jobs.derived()}
    assert {run for *_, run in jobs.rows()} == known >= set(jobs.beyond())


def test_small_nets_have_as_many_weights_as_the_sparse_ones_keep() -> None:
    from sparseland.zoo import build

    whole = 784 * 300 + 300 * 100 + 100 * 10
    for density, name in jobs.SMALL.items():
        net = build(name, in_shape=(1, 28, 28), classes=10, seed=0)
        weights = sum(p.numel() for p in net.parameters() if p.ndim == 2)
        kept = round(whole * (1 - jobs.sparsity(density)))
        assert abs(weights - kept) <= 0.002 * kept
