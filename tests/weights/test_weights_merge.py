"""Soups: averages by hand, greedy against its definition, different zeros refused, geometry against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparseland.core import MaskSet
from sparseland.core.errors import MaskMismatch, RecipeError
from sparseland.weights.merge import Ensemble, average, geometry, greedy

MASK = torch.tensor([[True, False, True], [False, True, True]])


def state(seed: int, mask: torch.Tensor = MASK) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(2, 3, generator=draw) * mask,
        "norm.weight": torch.randn(3, generator=draw),
        "norm.num_batches_tracked": torch.tensor(seed),
        "flag": torch.tensor([True]),
    }


def test_floats_are_averaged_integers_are_copied() -> None:
    states = [state(seed) for seed in (3, 4, 5)]
    soup = average(states, masks=MaskSet({"w": MASK}))
    for name in ("w", "norm.weight"):
        expected = np.mean([s[name].double().numpy() for s in states], axis=0).astype(np.float32)
        assert np.array_equal(soup[name].numpy(), expected)
        assert soup[name].dtype == torch.float32
    assert soup["norm.num_batches_tracked"].item() == 3 and soup["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(soup["w"] != 0, MASK)
    weighted = average(states, [1, 0, 3])
    assert torch.allclose(weighted["w"], 0.25 * states[0]["w"] + 0.75 * states[2]["w"])


def test_one_state_and_equal_states_come_back_bit_for_bit() -> None:
    one = state(7)
    for soup in (average([one]), average([one] * 3), average([one, state(8)], [1, 0])):
        assert all(torch.equal(soup[name], one[name]) for name in one)
    assert average([one])["w"].data_ptr() != one["w"].data_ptr()


def test_half_precision_is_summed_in_double() -> None:
    halves = [{"w": torch.full((1, 1), v, dtype=torch.float16)} for v in (1.0, 1.0009765625, 1.0)]
    assert average(halves)["w"].dtype == torch.float16
    assert average(halves)["w"].item() == np.float16(np.mean([1.0, 1.0009765625, 1.0]))


def test_different_zeros_are_refused_by_all_ways_in() -> None:
    other = MASK.clone()
    other[0, 0], other[0, 1] = False, True
    with pytest.raises(MaskMismatch, match=r"'w': states 0 and 1 are zero in different places \(2 of 6 differ\)"):
        average([state(1), state(2, other)])
    with pytest.raises(MaskMismatch, match="state 1 has 1 living weights in 'w' where the mask says zero"):
        average([state(1), state(2, other)], masks=MaskSet({"w": MASK}))
    with pytest.raises(MaskMismatch):
        greedy([state(1), state(2, other)], lambda s: 1.0)
    soup = average([state(1), state(2, other)], same_zeros=False)
    assert torch.equal(soup["w"] != 0, MASK | other)  # the union: denser than either


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": torch.ones(3, 2)}, r"'w' is \(2, 3\) in state 0 and \(3, 2\) in state 1"),
        ({"extra": torch.ones(1)}, r"'extra' is absent in state 0 and \(1,\) in state 1"),
    ],
)
def test_different_nets_are_refused(change: Any, message: str) -> None:
    with pytest.raises(MaskMismatch, match=message):
        average([state(1), state(2) | change])
    with pytest.raises(MaskMismatch, match="mask of 'v'"):
        average([state(1)], masks=MaskSet({"v": MASK}))


@pytest.mark.parametrize("shares", [[1], [1, -1], [0, 0], [1, float("nan")]])
def test_impossible_shares(shares: list[float]) -> None:
    with pytest.raises(RecipeError, match="2 numbers ≥ 0, not all zero"):
        average([state(1), state(2)], shares)
    for function in (lambda: average([]), lambda: greedy([], lambda s: 1.0)):
        with pytest.raises(RecipeError, match="at least one state"):
            function()


def by_definition(states: list[Any], measure: Any) -> list[int]:
    order = sorted(range(len(states)), key=lambda i: (-measure(states[i]), i))
    chosen = [order[0]]
    best = measure(states[order[0]])
    for i in order[1:]:
        score = measure({"w": torch.stack([states[j]["w"] for j in [*chosen, i]]).mean(0)})
        if score >= best:
            chosen.append(i)
            best = score
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_its_definition(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    states = [{"w": torch.randn(2, 4, generator=draw, dtype=torch.float64)} for _ in range(6)]
    goal = torch.randn(2, 4, generator=draw, dtype=torch.float64)

    def measure(s: Any) -> float:
        return round(-float((s["w"] - goal).norm()), 6)

    soup, chosen, score = greedy(states, measure)
    assert chosen == by_definition(states, measure) and score == measure(soup)
    assert score >= max(map(measure, states))


def test_greedy_adds_ties_and_never_ends_below_the_best() -> None:
    states = [state(seed) for seed in range(3)]
    assert greedy(states, lambda s: 1.0)[1] == [0, 1, 2]
    scores = iter([0.5, 0.9, 0.7, 0.8, 0.85])  # three alone, then two soups that are worse than the best
    soup, chosen, score = greedy(states, lambda s: next(scores))
    assert chosen == [1] and score == 0.9 and torch.equal(soup["w"], states[1]["w"])


def test_geometry_against_numpy() -> None:
    states = [state(seed) for seed in range(4)]
    vectors = np.stack([s["w"].double().numpy().ravel() for s in states])
    pairs = [(i, j) for i in range(4) for j in range(i)]
    lengths = [float(np.linalg.norm(vectors[i] - vectors[j])) for i, j in pairs]
    cosines = [vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j]) for i, j in pairs]
    middle = np.linalg.norm(vectors - vectors.mean(0), axis=1)
    angles = np.degrees(np.arccos(cosines))
    found = geometry(states)
    for what, values in (("barycentre", middle), ("distance", lengths), ("angle", angles)):
        for how in ("max", "min", "mean"):
            assert found[f"{what}_{how}"] == pytest.approx(float(getattr(np, how)(values)))
    assert len(geometry(states, ["norm.weight"])) == 9
    with pytest.raises(RecipeError, match="two or more states; got 1"):
        geometry(states[:1])


def test_an_ensemble_is_the_mean_of_the_softmax() -> None:
    members = [nn.Linear(4, 3) for _ in range(3)]
    x = torch.randn(5, 4)
    both = Ensemble(members)(x)
    expected = torch.stack([member(x).softmax(1) for member in members]).mean(0)
    assert torch.allclose(both.exp(), expected, atol=1e-6)
