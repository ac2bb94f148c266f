"""Batch norms measured anew: against torch's own way, and nothing else of the model changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from sparseland.core.errors import ScoreError
from sparseland.weights import recalibrate_


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    )


def batches(count: int = 4, size: int = 8) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(size, 1, 8, 8, generator=draw) * (i + 1) for i in range(count)]


def test_as_torch_does_it() -> None:
    one = net()
    two = copy.deepcopy(one)
    torch.optim.swa_utils.update_bn(batches(), two)
    assert recalibrate_(one, batches()) == 2
    for name, value in two.state_dict().items():
        assert torch.equal(value, one.state_dict()[name]), name


def test_only_statistics_change_and_modes_and_random_numbers_come_back() -> None:
    model = nn.Sequential(nn.Dropout(0.5), net())
    model.eval()
    model[1][1].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    recalibrate_(model, [(x, torch.zeros(len(x))) for x in batches()])
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in model.modules()] == [False, False, False, False, True, False, False, False]
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [0.3, 0.1]
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == ("running" not in name and "tracked" not in name), name


def test_the_seed_decides_what_dropout_drops() -> None:
    def measured(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
        torch.manual_seed(seed + 100)  # what the caller's generator is at does not matter
        recalibrate_(model, [torch.ones(16, 3)], seed=seed)
        return model[1].running_mean

    assert torch.equal(measured(1), measured(1)) and not torch.equal(measured(1), measured(2))


def test_a_net_without_batch_norm_draws_no_batch() -> None:
    def never() -> Iterator[Any]:
        pytest.fail("a batch was drawn")
        yield

    assert recalibrate_(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.GroupNorm(1, 2)), never()) == 0


@pytest.mark.parametrize("nothing", [None, [], iter(())])
def test_batch_norms_without_data_warn_and_stay(nothing: Any) -> None:
    model = net()
    recalibrate_(model, batches())
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match=r"2 batch norms \(first: '1'\) and there are no batches"):
        assert recalibrate_(model, nothing) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("fault", ["shape", "infinite"])
def test_an_error_leaves_the_statistics_as_they_were(fault: str) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    bad = torch.ones(2, 3, 8, 8) if fault == "shape" else torch.full((2, 1, 8, 8), torch.inf)
    with pytest.raises(RuntimeError if fault == "shape" else ScoreError):
        recalibrate_(model, [*batches(), bad])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model[1].momentum == 0.3


def test_dict_batches_and_wrappers() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return self.norm(values)

    model = Named()
    assert recalibrate_(nn.DataParallel(model), [{"values": torch.tensor([[0.0], [4.0]])}]) == 1
    assert model.norm.running_mean.item() == 2
