"""Which rows share a block, and the packed block rows: by hand, by brute force, and read back as the engine reads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseland.core.errors import PatternError
from sparseland.kernels.grouping import METHODS, NONE, Packed, fill, group_rows, kept_score, pack_rows, similar_rows


def sparse(outputs: int, inputs: int, density: float, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((outputs, inputs)) * (draw.random((outputs, inputs)) < density)).astype(np.float32)


def product(packed: Packed, x: Any) -> Any:
    """W x + bias, entry by entry, as a kernel walks the five arrays."""
    y = np.full((packed.shape[0], x.shape[1]), np.nan)
    at = 0
    for block, count in enumerate(packed.counts.tolist()):
        rows = packed.rows[block * packed.G : (block + 1) * packed.G].tolist()
        sums = [np.full(x.shape[1], packed.bias[r] if r != NONE else 0.0) for r in rows]
        for entry in range(at, at + count):
            for g in range(packed.G):
                sums[g] += packed.values[entry * packed.G + g] * x[packed.index[entry]]
        at += count
        for r, total in zip(rows, sums, strict=True):
            if r != NONE:
                assert np.isnan(y[r]).all()  # each row is written once
                y[r] = total
    assert at == len(packed.index)
    return y


def partitions(rows: list[int], G: int) -> Iterator[list[list[int]]]:
    """Every way to cut rows into groups of G, the last of which may be smaller."""
    if not rows:
        yield []
        return
    first, rest = rows[0], rows[1:]
    sizes = {min(G, len(rows)), len(rows) % G or G}
    for size in sizes:
        for others in combinations(rest, size - 1):
            left = [r for r in rest if r not in others]
            if size == G or len(left) % G == 0:
                yield from ([[first, *others], *more] for more in partitions(left, G))


def test_packed_by_hand() -> None:
    packed = pack_rows([[5, 0, 6, 0], [0, 7, 0, 0], [8, 0, 0, 9]], 2, [[0, 2], [1]], bias=[1, 2, 3])
    assert packed.rows.tolist() == [0, 2, 1, NONE] and packed.counts.tolist() == [3, 1]
    assert packed.index.tolist() == [0, 2, 3, 1] and packed.values.tolist() == [5, 8, 6, 0, 0, 9, 7, 0]
    assert packed.bias.tolist() == [1, 2, 3]
    kinds = [a.dtype.name for a in (packed.bias, packed.rows, packed.counts, packed.index, packed.values)]
    assert kinds == ["float32", "uint32", "uint32", "uint16", "float32"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 13),
    st.integers(1, 9),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    st.integers(0, 999),
)
def test_a_packed_weight_is_the_weight(outputs: int, inputs: int, G: int, density: float, seed: int) -> None:
    weight, draw = sparse(outputs, inputs, density, seed), np.random.default_rng(seed)
    order = draw.permutation(outputs)
    for groups in (None, [order[i : i + G].tolist() for i in range(0, outputs, G)]):
        packed = pack_rows(weight, G, groups, bias=draw.standard_normal(outputs))
        assert np.array_equal(packed.dense(), weight)
        x = draw.standard_normal((inputs, 3))
        np.testing.assert_allclose(product(packed, x), weight @ x + packed.bias[:, None], rtol=1e-5, atol=1e-6)
        share = np.count_nonzero(weight) / packed.stored if packed.stored else 1.0
        assert fill(weight, G, groups) == pytest.approx(share)


def test_kernel_taps_are_inputs_and_parts_do_not_mix() -> None:
    weight = sparse(12, 2 * 9, 0.4, 3).reshape(12, 2, 3, 3)
    packed = pack_rows(weight, 4, parts=3)
    assert packed.shape == (12, 18) and np.array_equal(packed.dense(), weight.reshape(12, 18))
    rows = packed.rows.reshape(-1, 4)
    assert all(len({r // 4 for r in block if r != NONE}) == 1 for block in rows.tolist())
    with pytest.raises(PatternError, match=r"group 0 \[3, 4\] mixes parts of 4 rows"):
        pack_rows(weight, 2, [[3, 4], *([r] for r in range(12) if r not in (3, 4))], parts=3)


def test_wide_inputs_have_a_wide_index() -> None:
    weight = np.zeros((2, 65536), np.float32)
    weight[:, 65535] = 1
    packed = pack_rows(weight, 2)
    assert packed.index.dtype == np.uint32 and packed.index.tolist() == [65535]
    assert pack_rows(weight[:, 1:], 2).index.dtype == np.uint16


@pytest.mark.parametrize("G", [2, 4])
def test_rows_with_the_same_zeros_find_each_other(G: int) -> None:
    draw = np.random.default_rng(0)
    weight = np.repeat(sparse(16, 40, 0.3, 1) != 0, G, axis=0) * draw.uniform(1, 2, (16 * G, 40))
    mixed = weight[draw.permutation(len(weight))]
    assert fill(mixed, G) == 1.0 > fill(mixed, G, [list(range(i, i + G)) for i in range(0, 16 * G, G)])


def test_pairs_are_the_best_there_are_or_near() -> None:
    """Greedy pairs against every partition: never above the best, and better than consecutive rows on the whole."""
    ours, best, plain = 0, 0, 0
    for seed in range(20):
        weight = sparse(6, 12, 0.4, seed)
        stored = pack_rows(weight, 2).stored
        least = min(pack_rows(weight, 2, groups).stored for groups in partitions(list(range(6)), 2))
        assert stored >= least
        ours, best = ours + stored, best + least
        plain += pack_rows(weight, 2, [[0, 1], [2, 3], [4, 5]]).stored
    assert best <= ours <= 1.05 * best < plain


def test_every_row_is_grouped_once() -> None:
    for outputs, G in ((1, 4), (7, 2), (9, 4), (8, 3), (5, 1)):
        groups = similar_rows(sparse(outputs, 6, 0.5, outputs), G)
        assert sorted(r for group in groups for r in group) == list(range(outputs))
        assert max(map(len, groups)) <= G and len(groups) == -(-outputs // G)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("outputs", "G"), [(12, 4), (10, 4), (9, 2), (3, 4), (6, 1)])
def test_groups_are_steady_and_never_below_consecutive_rows(method: str, outputs: int, G: int) -> None:
    for seed in range(4):
        scores = np.random.default_rng(seed).random((outputs, 7)) ** 3
        groups = group_rows(scores, G, method, seed, sparsity=0.4)
        assert groups == group_rows(scores, G, method, seed, sparsity=0.4)
        assert sorted(r for group in groups for r in group) == list(range(outputs))
        sizes = [len(group) for group in groups]
        assert max(sizes) <= G and len(groups) == -(-outputs // G)
        same = [list(range(i, min(i + G, outputs))) for i in range(0, outputs, G)]
        assert kept_score(scores, groups, 0.4) >= kept_score(scores, same, 0.4)


def test_swaps_come_near_the_best_partition() -> None:
    """Of what the best of all partitions gains over consecutive rows, swaps gain nearly all."""
    gained = []
    for seed in range(8):
        scores = np.random.default_rng(seed).random((8, 10)) ** 4
        least = kept_score(scores, [[0, 1, 2, 3], [4, 5, 6, 7]], 0.5)
        most = max(kept_score(scores, groups, 0.5) for groups in partitions(list(range(8)), 4))
        found = kept_score(scores, group_rows(scores, 4, "swap", seed, sparsity=0.5), 0.5)
        gained.append((found - least) / (most - least))
    assert max(gained) <= 1 + 1e-9 and min(gained) > 0.75 and sum(gained) / len(gained) > 0.9


def test_kept_score_by_hand() -> None:
    scores = [[4, 1, 0], [0, 2, 0], [1, 0, 3]]
    assert kept_score(scores, [[0], [1], [2]], 5 / 9) == 4 + 3 + 2 + 1
    assert kept_score(scores, [[0, 2], [1]], 0.5) == 5 + 3 + 2  # atoms 5, 1, 3 and 0, 2, 0


def test_sort_puts_weak_rows_together() -> None:
    scores = [[9, 9], [0, 1], [8, 8], [1, 0]]
    assert group_rows(scores, 2, "sort") == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pack_rows([[1.0]], 0), "G is 0; possible"),
        (lambda: pack_rows([1.0, 2.0], 1), r"the shape \(outputs, inputs"),
        (lambda: pack_rows([[np.nan]], 1), "no finite numbers"),
        (lambda: pack_rows(np.eye(3), 2, [[0, 1, 2]]), "group 0 has 3 rows; possible: 1 to 2"),
        (lambda: pack_rows(np.eye(3), 2, [[0, 1]]), "the groups hold 2 rows; each of the 3 rows"),
        (lambda: pack_rows(np.eye(3), 2, [[0, 1], [1]]), "each of the 3 rows must be in one"),
        (lambda: pack_rows(np.eye(3), 2, [[0, 1], [-1]]), "each of the 3 rows must be in one"),
        (lambda: pack_rows(np.eye(3), 1, bias=[1.0]), "the bias has 1 numbers, the weight 3 rows"),
        (lambda: pack_rows(np.eye(3), 1, parts=2), "3 rows cannot be cut into 2 equal parts"),
        (lambda: group_rows(-np.eye(3), 2), "scores are at least 0"),
        (lambda: group_rows(np.eye(3), 2, "swop"), "did you mean 'swap'"),
        (lambda: group_rows(np.eye(3), 2, sparsity=1.0), "sparsity is 1.0; possible"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, says: str) -> None:
    with pytest.raises(PatternError, match=says):
        call()
