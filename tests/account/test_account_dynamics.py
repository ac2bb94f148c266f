"""How masks move, against sets counted by hand and against what a sparsifier records."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from sparseland import MaskSet, methods
from sparseland.account import check_fits, churn, dead_units, exploration, overlap, survival, with_overlap
from sparseland.core.errors import InfeasibleBudget, MaskMismatch


def _sets(a: torch.Tensor, b: torch.Tensor) -> tuple[set[int], set[int]]:
    return set(a.nonzero().flatten().tolist()), set(b.nonzero().flatten().tolist())


def test_against_python_sets() -> None:
    a, b = torch.rand(500) > 0.7, torch.rand(500) > 0.6
    one, two = _sets(a, b)
    assert overlap(a, b) == len(one & two) / len(one | two)
    assert churn(a, b) == len(one ^ two) / 500
    assert survival(a, b) == len(one & two) / len(one) != survival(b, a)
    assert exploration([a, b]) == len(one | two) / 500
    assert overlap(a, a) == survival(a, a) == 1 and churn(a, a) == 0
    empty = torch.zeros(500, dtype=torch.bool)
    assert overlap(empty, empty) == survival(empty, a) == 1  # nothing was lost


def test_exploration_is_the_rate_of_a_run() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = methods.SET(0.8, every=2, end=20).attach(model, optimizer, seed=3)
    masks = [sparsifier.masks.clone()]
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.randn(8, 20)).square().sum().backward()
        optimizer.step()
        masks.append(sparsifier.masks.clone())
    assert exploration(masks) == sparsifier.explored() > 0.3
    assert exploration(MaskSet(masks[0])) == pytest.approx(0.2, abs=0.001)
    moved = [churn(a, b) for a, b in itertools.pairwise(masks)]
    recorded = {entry["step"]: entry["churn"] for entry in sparsifier.history if entry["churn"] is not None}
    assert {i + 1: c for i, c in enumerate(moved) if i + 1 in recorded} == recorded
    assert sum(moved) == sum(recorded.values()) > 0
    assert survival(masks[0], masks[-1]) < 1
    for entry in with_overlap(sparsifier.history):
        before, after = masks[max(entry["step"] - 1, 0)], masks[entry["step"]]
        if entry["churn"] is None:
            assert entry["overlap"] is entry["survival"] is None
        else:
            assert (entry["overlap"], entry["survival"]) == (overlap(before, after), survival(before, after))


def test_dead_units() -> None:
    weight = torch.rand(6, 4, 3, 3) + 1
    weight[[1, 4]] = 0
    weight[:, 2] = 0
    assert (dead_units(weight), dead_units(weight, axis=1)) == (2, 1)
    assert dead_units(weight != 0) == 2
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[2].weight[1] = 0
    assert dead_units(model) == 4
    with pytest.raises(MaskMismatch, match=r"given shape \(5,\)"):
        dead_units(torch.ones(5))
    with pytest.raises(MaskMismatch, match="axis 2; possible: 0"):
        dead_units(weight, axis=2)


def test_bad_masks() -> None:
    a, b = torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    for function in (overlap, churn, survival):
        with pytest.raises(MaskMismatch, match=r"\(3,\) against \(4,\)"):
            function(a, b)
    with pytest.raises(MaskMismatch, match="masks are torch.bool"):
        overlap(torch.ones(3), torch.ones(3))
    with pytest.raises(MaskMismatch, match=r"mask of 'fc.weight' is torch.bool of shape \(3,\).* shape \(2, 2\)"):
        check_fits(a, torch.zeros(2, 2), "fc.weight")
    for union, total in ((-1, 10), (11, 10), (0, 0), (3, None)):
        with pytest.raises(InfeasibleBudget, match="explored of"):
            exploration(union, total)
