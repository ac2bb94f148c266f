"""Budgets are kept and tight, plans are plain data, and what does not fit is refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sparseland.core.errors import InfeasibleBudget, ScoreError, SparselandError, TargetError
from sparseland.weights import structure
from sparseland.zoo import build

X = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def graph() -> structure.Graph:
    """Inner channels and residual channels, of several widths."""
    return structure.trace(build("resnet-8", in_shape=(3, 16, 16), classes=10, seed=0), X)


@pytest.mark.parametrize("what", ["flops", "params"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_budgets_hold_and_one_unit_more_would_not(graph: structure.Graph, what: str, scope: str, share: float) -> None:
    scores = graph.random(1)
    plan = graph.plan(scores=scores, scope=scope, **{what: share})  # type: ignore[arg-type]
    cost = getattr(graph, what)
    assert cost(plan.widths) <= share * cost()
    # the unit that went last was needed: with it back, the budget is broken
    rank = {
        name: (score if scope == "global" else (score.argsort().argsort() + 1) / score.numel())
        for name, score in scores.items()
    }
    gone = {name: rank[name][~mask].max() for name, mask in plan.keep.items() if not bool(mask.all())}
    last = max(gone, key=lambda name: float(gone[name]))
    assert cost({**plan.widths, last: plan.widths[last] + 1}) > share * cost()
    for name, mask in plan.keep.items():  # the best stay
        assert mask.all() or scores[name][mask].min() >= scores[name][~mask].max()
    assert min(plan.widths.values()) >= 1


def test_ratio_rounding_and_the_least(graph: structure.Graph) -> None:
    half = graph.plan(scores=graph.random(), ratio=0.5, scope="layer")
    assert all(half.widths[name] == graph[name].size // 2 for name in half.widths)
    everywhere = graph.plan(scores=graph.random(), ratio=0.25)
    total = sum(group.size for group in graph.prunable)
    assert sum(everywhere.widths.values()) == total // 4
    fours = graph.plan(scores=graph.random(), flops=0.4, round_to=4, min_units=3)
    assert all(width % 4 == 0 and width >= 3 for width in fours.widths.values())
    assert graph.flops(fours.widths) <= 0.4 * graph.flops()
    whole = graph.plan(scores=graph.random(), flops=1.0)
    assert whole.cuts == () and whole.before == whole.after


def test_what_is_asked_must_be_possible(graph: structure.Graph) -> None:
    scores = graph.random()
    with pytest.raises(InfeasibleBudget, match=r"flops=0.0001 cannot be reached.*of "):
        graph.plan(scores=scores, flops=1e-4)
    with pytest.raises(InfeasibleBudget, match="cannot be reached"):
        graph.plan(scores=scores, params=0.3, min_units=15)
    for share in (0, 1.5, -0.2):
        with pytest.raises(InfeasibleBudget, match="possible: above 0"):
            graph.plan(scores=scores, flops=share)
    with pytest.raises(SparselandError, match="one of flops"):
        graph.plan(scores=scores)
    with pytest.raises(SparselandError, match="one of flops"):
        graph.plan(scores=scores, flops=0.5, params=0.5)
    with pytest.raises(SparselandError, match="either keep"):
        graph.plan()
    with pytest.raises(SparselandError, match="did you mean 'global'"):
        graph.plan(scores=scores, flops=0.5, scope="globl")
    with pytest.raises(SparselandError, match="at least 1"):
        graph.plan(scores=scores, flops=0.5, round_to=0)
    with pytest.raises(TargetError, match="no group"):
        graph.plan(scores={"conv9": torch.rand(16)}, flops=0.5)
    with pytest.raises(TargetError, match="cannot go"):
        graph.plan(scores={"linear": torch.rand(10)}, flops=0.5)
    with pytest.raises(ScoreError, match="16 units"):
        graph.plan(scores={"conv1": torch.rand(5)}, flops=0.9)
    with pytest.raises(ScoreError, match="NaN"):
        graph.plan(scores={"conv1": torch.full((16,), torch.nan)}, flops=0.99)


def test_explicit_masks_are_checked(graph: structure.Graph) -> None:
    with pytest.raises(SparselandError, match="needs as many entries"):
        graph.plan(keep={"conv1": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(SparselandError, match="True or False"):
        graph.plan(keep={"conv1": torch.full((16,), 0.5)})
    with pytest.raises(InfeasibleBudget, match="lose all"):
        graph.plan(keep={"conv1": torch.zeros(16, dtype=torch.bool)})
    with pytest.raises(SparselandError, match="a width of 17"):
        graph.flops({"conv1": 17})


def test_plans_are_plain_data(graph: structure.Graph) -> None:
    plan = graph.plan(scores=graph.weight_norms(), flops=0.5)
    again = structure.Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again.to_dict() == plan.to_dict()
    assert again.explain() == plan.explain()
    assert "remain" in plan.explain() and "conv1" in plan.explain()
    for broken in ({}, {**plan.to_dict(), "format": "x"}, {**plan.to_dict(), "keep": {"a": {"size": 3, "runs": [5]}}}):
        with pytest.raises(SparselandError, match="no plan"):
            structure.Plan.from_dict(broken)


def test_a_plan_is_for_one_network(graph: structure.Graph) -> None:
    plan = graph.plan(scores=graph.random(), ratio=0.5, scope="layer")
    other = nn.Linear(3, 3)
    with pytest.raises(TargetError, match="not here"):
        plan.apply(other)
    net = plan.apply(build("resnet-8", in_shape=(3, 16, 16), classes=10, seed=1))
    with pytest.raises(TargetError, match="Was a plan applied before"):
        plan.apply(net)


def test_random_scores_depend_on_the_seed_only(graph: structure.Graph) -> None:
    assert torch.equal(graph.random(3)["conv1"], graph.random(3)["conv1"])
    assert not torch.equal(graph.random(3)["conv1"], graph.random(4)["conv1"])
