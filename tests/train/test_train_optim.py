"""Optimizers, learning rates, clipping and averages against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sparseland.train import TrainConfig, lr_at
from sparseland.train.average import WeightAverage
from sparseland.train.config import OPTIMIZERS
from sparseland.train.optim import clip_, make_optimizer, optimizer_slots


def _rates(steps: int, **settings: object) -> list[float]:
    config = TrainConfig(lr=1.0, **settings)  # type: ignore[arg-type]
    return [lr_at(config, step, steps) for step in range(steps)]


def test_cosine() -> None:
    expected = [(1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    assert _rates(10, lr_schedule="cosine") == pytest.approx(expected)


def test_step() -> None:
    rates = _rates(8, lr_schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("warmup", [4, 0.25])
def test_warmup_in_steps_and_as_a_fraction(warmup: float) -> None:
    assert _rates(16, lr_schedule="constant", warmup=warmup) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 13)
    cosine = _rates(16, lr_schedule="cosine", warmup=warmup)
    assert cosine[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert cosine[4:] == pytest.approx([(1 + math.cos(math.pi * t / 12)) / 2 for t in range(12)])


def test_the_rate_beyond_the_end_stays_the_last() -> None:
    assert lr_at(TrainConfig(lr=1.0, lr_schedule="cosine"), 12, 10) == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_decays_weights_only(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    config = TrainConfig(optimizer=name, lr=0.01, weight_decay=0.1)
    optimizer = make_optimizer(config, model)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {n: decays[id(p)] for n, p in model.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.1, "2.bias": 0.0,
    }  # fmt: skip
    before = model[0].weight.detach().clone()
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)
    state = optimizer.state[model[0].weight]
    whole = [v for v in state.values() if isinstance(v, torch.Tensor) and v.shape == (8, 4)]
    assert len(whole) == optimizer_slots(config)


def test_decay_all_and_momentum_zero() -> None:
    model = nn.Linear(2, 2)
    (group,) = make_optimizer(TrainConfig(decay_all=True, momentum=0.0), model).param_groups
    assert (len(group["params"]), group["momentum"], group["nesterov"]) == (2, 0.0, False)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = make_optimizer(TrainConfig(), model).param_groups
    assert len(group["params"]) == 1


def test_clipping_measures_the_living() -> None:
    dense, masked = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    for p in (dense, masked):
        p.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert clip_([dense], 2.5) == 5.0
    assert dense.grad is not None and dense.grad.norm().item() == pytest.approx(2.5, rel=1e-5)
    alive = torch.tensor([[True, True], [True, False]])
    assert clip_([masked], 3.0, {id(masked): alive}) == 3.0
    assert masked.grad is not None and masked.grad.flatten().tolist() == pytest.approx([3, 0, 0, 4], rel=1e-5)
    assert clip_([nn.Parameter(torch.zeros(1))], 1.0) == 0.0


def test_average_follows_its_formula() -> None:
    layer = nn.BatchNorm1d(1)
    average = WeightAverage(layer, decay=0.5)
    expected = 1.0
    for n in range(8):
        with torch.no_grad():
            layer.weight.fill_(float(n))
            layer.num_batches_tracked.fill_(n)
        average.update(layer)
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * n
    assert average.tensors["weight"].item() == pytest.approx(expected)
    assert average.tensors["num_batches_tracked"].item() == 7
    other = WeightAverage(nn.BatchNorm1d(1), decay=0.5)
    other.load_state_dict(average.state_dict())
    assert other.updates == 8 and torch.equal(other.tensors["weight"], average.tensors["weight"])
