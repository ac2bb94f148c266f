"""Constants of removed channels: act(shift) is folded into what follows where that is exact, and said where not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparseland.core.errors import SparselandError
from sparseland.weights import structure
from tests.structure.random_nets import shake_


def _zeroed(net: nn.Module, plan: structure.Plan) -> nn.Module:
    """The reference: scales of removed channels at zero, shifts alive."""
    twin = copy.deepcopy(net)
    for cut in plan.cuts:
        module = twin.get_submodule(cut.name.rpartition(".")[0])
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and cut.name.endswith("weight"):
            with torch.no_grad():
                module.weight[~cut.left] = 0
    return twin


def _folded(net: nn.Module, x: torch.Tensor, fold: bool | str = True) -> tuple[float, structure.Plan]:
    shake_(net, 0)
    graph = structure.trace(net, x)
    plan = graph.plan(scores={"0": graph.random()["0"]}, ratio=0.5)
    reference = _zeroed(net, plan)(x).detach()
    small = plan.apply(copy.deepcopy(net), fold=fold, sample=x).requires_grad_(False)
    return float((small(x) - reference).abs().max() / reference.abs().max()), plan


def _net(padding: int = 0, bias: bool = True, norm: bool = False, mode: str = "zeros") -> nn.Module:
    between = [nn.BatchNorm2d(6)] if norm else []
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8), nn.BatchNorm2d(8), nn.GELU(),
        nn.Conv2d(8, 6, 3, padding=padding, bias=bias, padding_mode=mode), *between, nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("net", "where"),
    [
        (_net(), "its bias"),
        (_net(bias=False, norm=True), "BatchNorm behind it"),
        (_net(padding=1, mode="circular"), "its bias"),
    ],
    ids=["bias", "mean", "circular"],
)
def test_exact_where_it_can_be(net: nn.Module, where: str) -> None:
    net(X)
    shake_(net, 0)
    difference, plan = _folded(net, X)
    assert difference <= 1e-5
    assert where in plan.folded["6"]


def test_linear_layers_after_batchnorm() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Linear(8, 3))
    difference, plan = _folded(net, torch.randn(7, 5))
    assert difference <= 1e-5 and plan.folded == {"3": "folded into its bias"}
    assert _folded(net, torch.randn(7, 5), fold=False)[0] > 1e-3


def test_zero_padding_is_said_and_interior_folds_it_but_for_the_borders() -> None:
    net = _net(padding=1)
    net(X)
    _, plan = _folded(net, X)
    assert "borders" in plan.folded["6"]
    trunk = nn.Sequential(*list(net)[:-2])
    graph = structure.trace(trunk, X)
    keep = {"0": torch.arange(8) % 2 == 0}
    plan = graph.plan(keep=keep)
    reference = _zeroed(trunk, plan)(X)
    small = plan.apply(copy.deepcopy(trunk), fold="interior", sample=X)
    assert torch.allclose(small(X)[..., 1:-1, 1:-1], reference[..., 1:-1, 1:-1], atol=1e-5)


def test_nowhere_to_fold_is_said() -> None:
    net = _net(bias=False)
    net(X)
    _, plan = _folded(net, X)
    assert "neither a bias" in plan.folded["6"]


def test_units_that_are_not_constant_are_said() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    _, plan = _folded(net, torch.randn(7, 5))
    assert "not constant" in plan.folded["2"]


def test_bad_calls() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    graph = structure.trace(net, torch.zeros(2, 5))
    plan = graph.plan(scores=graph.random(), ratio=0.5)
    with pytest.raises(SparselandError, match="needs sample"):
        plan.apply(net, fold=True)
    with pytest.raises(SparselandError, match="did you mean 'interior'"):
        plan.apply(net, fold="interio", sample=torch.zeros(2, 5))
    assert net[0].out_features == 8
