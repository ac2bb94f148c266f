"""BiP: what is fixed while what moves, filters and channels, refusals, the procedure, and the card's proof."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import InfeasibleBudget, RecipeError, ScheduleError, SparselandError, TargetError
from sparseland.train import TrainConfig, Trainer, run

M = sl.methods
DIGITS = {"model": "mlp-64-32", "data": "digits", "batch_size": 32, "lr": 0.1}


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(28, 4)
    )


def steps(method: sl.Method, count: int, model: nn.Module | None = None) -> Any:
    model = model or convnet()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    sp = method.attach(model, opt, steps=count)
    g = torch.Generator().manual_seed(1)
    for _ in range(count):
        opt.zero_grad()
        x, y = torch.randn(8, 2, 6, 6, generator=g), torch.randint(4, (8,), generator=g)
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
    return sp


def test_it_starts_from_the_magnitude_mask() -> None:
    wanted = sl.prune_(convnet(), M.Magnitude(0.8))
    assert steps(M.BiP(0.8), 1).masks == wanted  # the first step is the weights'
    assert sl.prune_(convnet(), M.BiP(0.8).replace(criterion="magnitude")) == wanted


def test_the_budget_is_exact_and_global() -> None:
    sp = steps(M.BiP(0.8, lr=1.0), 20)
    assert sp.masks.kept() == sl.core.kept(sp.masks.numel(), 0.8)
    first = sl.prune_(convnet(), M.Magnitude(0.8)).counts()
    assert sp.masks.counts() != first  # the budget moves between layers
    assert [entry["step"] for entry in sp.history] == list(range(0, 21, 2))


@pytest.mark.parametrize(("mode", "axis"), [("filter", 0), ("channel", 1)])
def test_filters_and_channels(mode: str, axis: int) -> None:
    """⌈kC⌉ whole ones in every convolution, the largest by the L2 norm of their scores; linear layers stay dense."""
    k = 0.4
    sp = steps(M.BiP(1 - k, mode=mode), 6)
    for n, mask in sp.masks.items():
        if mask.ndim == 2:
            assert bool(mask.all())
            continue
        rows = mask.movedim(axis, 0).flatten(1)
        assert bool((rows.all(1) == rows.any(1)).all())
        assert int(rows.all(1).sum()) == math.ceil(k * len(rows) - 1e-9)
        norms = sp._stats[n]["score"].movedim(axis, 0).flatten(1).norm(dim=1)
        assert float(norms[rows.all(1)].min()) >= float(norms[~rows.all(1)].max())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    with pytest.raises(TargetError, match="1.weight are linear layers"):
        steps(M.BiP(0.5, mode=mode), 2, flat)


def test_hyper_gradients_differ_and_none_is_the_plain_product() -> None:
    scores = {}
    for hyper, gamma in (("none", 1e4), ("implicit", 1e4), ("implicit", 1e-3), ("code-compat", 1e-3)):
        sp = steps(M.BiP(0.8, hyper=hyper, gamma=gamma), 2)
        scores[hyper, gamma] = sp._stats["0.weight"]["score"]
    plain = scores["none", 1e4]
    assert float((scores["implicit", 1e4] - plain).abs().max()) < 1e-5  # 1/γ = 1e-4 hardly counts
    for key in (("implicit", 1e-3), ("code-compat", 1e-3)):
        assert float((scores[key] - plain).abs().max()) > 1e-5


def test_bad_input(tmp_path: Path) -> None:
    for s in (1.0, -0.2, 95):  # k outside (0, 1]
        with pytest.raises(ValueError, match=str(s)):
            M.BiP(s)
    assert M.BiP(0.0).target_sparsity == 0.0  # k = 1
    with pytest.raises(InfeasibleBudget, match="3 tensors must keep at least one atom each"):
        steps(M.BiP(0.997), 2)  # k n is smaller than the number of layers: they would collapse
    with pytest.raises(RecipeError, match="gamma is 0"):
        M.BiP(gamma=0)
    with pytest.raises(RecipeError, match="unknown mode 'filters': did you mean 'filter'"):
        M.BiP(mode="filters")
    with pytest.raises(RecipeError, match="hyper is 'second-order'"):
        M.BiP(hyper="second-order")
    trainer = Trainer(TrainConfig(**DIGITS, epochs=1, limit=100))
    with pytest.raises(SparselandError, match="begins with a trained dense net"):
        M.bip(trainer, pretrain=False)
    with pytest.raises(ScheduleError, match="tune is 2"):
        M.bip(trainer, tune=2)
    config = TrainConfig(**DIGITS, epochs=1, limit=100, method={"name": "bip", "hyper": "all"})
    with pytest.raises(RecipeError, match="hyper is 'all'"):
        run(config, tmp_path, progress=False)


def test_the_procedure_in_a_run(tmp_path: Path) -> None:
    """Dense, bi-level, and the mask's own fine-tuning; a step of weights costs 3 f_S, one of scores 2 f_S + f_D."""
    config = TrainConfig(**DIGITS, epochs=4, method={"name": "bip", "sparsity": 0.9, "tune": 0.25})
    result = run(config, tmp_path, progress=False)
    assert result["procedure"] == {"name": "bip", "tune": 0.25}
    assert result["sparsity"] == pytest.approx(0.9, abs=1e-3) and result["test"]["accuracy"] > 0.6
    dense, both, tune = result["flops"]["rounds"]
    assert 0.15 < both / dense < 0.35 and tune < both  # about (0.3 + 1.2) / 6
    assert str(M.BiP(0.9)).splitlines()[0] == "bip" and "turns='alternate'" in str(M.BiP(0.9))


def test_a_second_stream_in_the_trainer() -> None:
    """One of its batches for each optimizer step, never the run's own order, the same in every fit; FLOPs count it."""
    config = TrainConfig(**DIGITS, epochs=2, limit=200)
    ends = []
    for _ in range(2):
        trainer = Trainer(config)
        trainer.fit(M.BiP(0.8, stream=True))
        ends.append(trainer.state())
    assert all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())
    extra = trainer.record.meter.phases["scores on a second stream"]
    assert extra == 3 * trainer.cost.dense() * 32 * trainer.steps


def solved(trainer: Trainer, dense: Any, method: sl.Method) -> float:
    trainer.load(dense)
    trainer.fit(method)
    return trainer.evaluate("test")["accuracy"]


def test_it_is_no_worse_than_one_shot_with_as_many_gradients() -> None:
    """The card's proof in short, on digits at k = 0.03, where the magnitude mask breaks the net."""
    trainer = Trainer(TrainConfig(**DIGITS, epochs=12, limit=600, evaluate_every=12))
    trainer.fit()
    dense = trainer.state()
    once = solved(trainer, dense, M.Magnitude(0.97))
    known = sl.prune_(_net(trainer, dense), M.Magnitude(0.97))
    found = solved(trainer, dense, M.BiP(0.97))
    mine = {n: p != 0 for n, p in trainer.model.named_parameters() if n in known}
    shared = sum(int((mine[n] & known[n]).sum()) for n in mine) / known.kept()
    assert found >= once - 0.02
    assert shared < 0.9


def _net(trainer: Trainer, state: Any) -> nn.Module:
    trainer.load(state)
    return trainer.model


@pytest.mark.slow
def test_the_card_s_table(data_folder: Path) -> None:
    """Fashion-MNIST 14x14, 10,000 images, k = 0.02, 12 epochs of batches for either; three seeds.

    The card's own trial gains 2.9 points and asks for 1.5; with the published schedule it is 1.2 here (papers/54-bip).
    """
    gains, shares = [], []
    for seed in range(3):
        data = sl.data.load("fashion-mnist", limit=10_000, seed=seed, size=(14, 14), folder=data_folder)
        config = TrainConfig(model="mlp-128-64", data="fashion-mnist", epochs=8, batch_size=64, lr=0.05, seed=seed)
        first = Trainer(config, dataset=data)
        first.fit()
        trainer = Trainer(config.replace(epochs=12), dataset=data)
        known = sl.prune_(_net(trainer, first.state()), M.Magnitude(0.98))
        once = solved(trainer, first.state(), M.Magnitude(0.98))
        gains.append(solved(trainer, first.state(), M.BiP(0.98)) - once)
        mine = {n: p != 0 for n, p in trainer.model.named_parameters() if n in known}
        shares.append(sum(int((mine[n] & known[n]).sum()) for n in mine) / known.kept())
    assert sum(gains) / 3 >= 0.005
    assert max(shares) < 0.9
