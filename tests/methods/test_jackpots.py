"""Lottery jackpots: masks move, weights never do; counts, swaps, restrictions, the procedure, and the card's proof."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core import MaskSet, Quartic
from sparseland.core.errors import InfeasibleBudget, RecipeError, ScheduleError, TargetError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.weights.learned import top
from sparseland.weights.pretrained import looks_trained

M = sl.methods
DIGITS = {"model": "mlp-64-32", "data": "digits", "batch_size": 32, "lr": 0.1}


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )


def steps(method: sl.Method, count: int = 15, look: Any = None, dead_gradient: bool = False) -> tuple[Any, nn.Module]:
    """A search on random images, with an optimizer that would move everything."""
    model = convnet()
    opt = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    sp = method.attach(model, opt, steps=count)
    g = torch.Generator().manual_seed(1)
    for _ in range(count):
        x, y = torch.randn(16, 1, 8, 8, generator=g), torch.randint(4, (16,), generator=g)
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        (loss * 0 if dead_gradient else loss).backward()
        before = sp.masks.clone()
        opt.step()
        if look is not None:
            look(sp, before)
    return sp, model


def test_nothing_but_the_mask_moves() -> None:
    """Weights, biases and the affine part of norms are bit-identical; running statistics move, as in the paper."""
    sp, model = steps(M.Jackpots(0.8))
    for name, value in convnet().state_dict().items():
        now = sp._latent.get(name, model.state_dict()[name])
        assert torch.equal(now, value) != ("running" in name or "batches" in name), name
    assert len({entry["churn"] for entry in sp.history[1:]}) > 1
    whole = {n: w.clone() for n, w in sp._latent.items()}
    sp.finalize_()
    assert all(torch.equal(sp.targets[n].param, whole[n] * sp.masks[n]) for n in whole)


def test_layers_keep_their_counts_and_follow_the_scores() -> None:
    """At every step the counts are those of the magnitude ranking, and with r = 1 the mask is the top of S."""
    model = convnet()
    start = sl.prune_(model, M.Magnitude(0.8))
    counts = {n: k for n, (k, _) in start.counts().items()}

    def look(sp: Any, before: MaskSet) -> None:
        assert {n: k for n, (k, _) in sp.masks.counts().items()} == counts
        assert MaskSet(top({n: s["score"] for n, s in sp._stats.items()}, counts)) == sp.masks

    steps(M.Jackpots(0.8), look=look)
    sp, _ = steps(M.Jackpots(0.8), count=1)
    assert sp.history[0]["kept"] == start.kept()


def test_swaps_are_restricted() -> None:
    """No more than ceil(r_t N) swaps a layer, N of which the scores ask for; none without a gradient."""
    schedule = Quartic(0.0, initial=1.0, end=15)
    seen = []

    def look(sp: Any, before: MaskSet) -> None:
        for n, s in sp._stats.items():
            k = int(before[n].sum())
            wanted = top({n: s["score"]}, {n: k})[n]
            swaps, moved = int((wanted & ~before[n]).sum()), int((sp.masks[n] & ~before[n]).sum())
            allowed = math.ceil((schedule(sp.step) or 0.0) * swaps - 1e-9) if sp.step < 15 else 0
            assert moved == allowed and int(sp.masks[n].sum()) == k
            seen.append((swaps, moved))

    steps(M.Jackpots(0.8, restriction="quartic", lr=3.0), look=look)
    assert any(0 < moved < swaps for swaps, moved in seen)
    still, _ = steps(M.Jackpots(0.8), dead_gradient=True)
    assert all(not entry["churn"] for entry in still.history[1:])


def test_rates_of_layers() -> None:
    sp, _ = steps(M.Jackpots(0.5, rates=[0.5, 0.75, 0.9]), 2)
    assert [k for k, _ in sp.masks.counts().values()] == [27, 81, 38]
    uniform, _ = steps(M.Jackpots(0.75, rates="uniform"), 2)
    assert all(abs(k - n / 4) <= 1 for k, n in uniform.masks.counts().values())
    random, _ = steps(M.Jackpots(0.8, first="random"), 1)
    counts = sl.prune_(convnet(), M.Magnitude(0.8)).counts()
    assert random.masks.counts() == counts and random.masks != sl.prune_(convnet(), M.Magnitude(0.8))


def test_bad_input() -> None:
    for p in (1.0, -0.1, 90):
        with pytest.raises(InfeasibleBudget, match=str(p)):
            M.Jackpots(p)
    with pytest.raises(InfeasibleBudget, match=r"2 layer rates for 3 layers \(0.weight, 3.weight, 6.weight\)"):
        steps(M.Jackpots(rates=[0.5, 0.5]))
    with pytest.raises(InfeasibleBudget, match="got 1.0"):
        steps(M.Jackpots(rates=[0.5, 1.0, 0.5]))
    with pytest.raises(InfeasibleBudget, match="leaves none of its 54 weights"):
        steps(M.Jackpots(rates=[0.999, 0.5, 0.5]))
    with pytest.raises(RecipeError, match="unknown restriction 'quartik': did you mean 'quartic'"):
        M.Jackpots(restriction="quartik")
    with pytest.raises(RecipeError, match="unknown rates 'erk'"):
        M.Jackpots(rates="erk")
    with pytest.raises(RecipeError, match="first='kaiming'"):
        M.Jackpots(first="kaiming")
    norm = nn.Sequential(nn.LayerNorm(4))  # no layer whose weights can be searched, and it says what there is
    with pytest.raises(TargetError, match="LayerNorm"):
        M.Jackpots().attach(norm, torch.optim.SGD(norm.parameters(), lr=0.1), steps=3)
    trainer = Trainer(TrainConfig(**DIGITS, epochs=1, limit=100))
    for options in ({"search": 0.0}, {"search": 1.5}, {"tune": -1.0}):
        with pytest.raises(ScheduleError, match=str(next(iter(options.values())))):
            M.jackpots(trainer, **options)
    with pytest.warns(UserWarning, match="answers like an untrained one"):
        M.jackpots(trainer, pretrain=False)


def test_grouped_and_transposed_convolutions() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(50, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    sp = M.Jackpots(0.7).attach(net, opt, steps=3)
    for _ in range(3):
        opt.zero_grad()
        net(torch.randn(5, 4, 6, 6)).square().mean().backward()
        opt.step()
    assert list(sp.masks) == ["0.weight", "1.weight", "3.weight"] and sp.step == 3


def test_looks_trained() -> None:
    trainer = Trainer(TrainConfig(**DIGITS, epochs=4))
    before = trainer.state()
    assert not looks_trained(trainer)
    assert all(torch.equal(v, before[k]) for k, v in trainer.state().items())
    trainer.fit()
    assert looks_trained(trainer)


def test_the_procedure_in_a_run(tmp_path: Path) -> None:
    """`train.run` finds it by name: dense, search, and the last tenth for the ticket's weights."""
    config = TrainConfig(**DIGITS, epochs=4, method={"name": "jackpots", "sparsity": 0.8, "search": 0.5, "tune": 0.1})
    result = run(config, tmp_path, progress=False)
    assert result["procedure"] == {"name": "jackpots", "search": 0.5, "tune": 0.1}
    assert result["sparsity"] == pytest.approx(0.8, abs=1e-3) and result["test"]["accuracy"] > 0.6
    assert len(result["flops"]["rounds"]) == 3
    dense, search, tune = result["flops"]["rounds"]
    assert search < dense / 2 and tune < search
    assert "Learned" in str(M.Jackpots(0.8)) and "quartic" in str(M.Jackpots(restriction="quartic")).lower()


def searched(trainer: Trainer, dense: Any, method: sl.Method, epochs: float, whole: int) -> float:
    trainer.load(dense)
    trainer.fit(method, stop=round(epochs * trainer.steps / whole))
    return trainer.evaluate("test")["accuracy"]


def test_a_searched_mask_beats_the_magnitude_mask_on_frozen_weights() -> None:
    """The card's proof in short, on digits: many points without one weight update, and the magnitude start matters."""
    trainer = Trainer(TrainConfig(**DIGITS, epochs=12, limit=600, evaluate_every=12))
    trainer.fit()
    dense = trainer.state()
    sl.prune_(trainer.model, M.Magnitude(0.95))
    magnitude = trainer.evaluate("test")["accuracy"]
    jackpot = searched(trainer, dense, M.Jackpots(0.95), 12, 12)
    random = searched(trainer, dense, M.Jackpots(0.95, first="random"), 12, 12)
    assert jackpot >= magnitude + 0.15
    assert jackpot >= random


@pytest.mark.slow
@pytest.mark.parametrize(("sparsity", "gain"), [(0.95, 0.15), (0.98, 0.25)])
def test_the_card_s_table(data_folder: Path, sparsity: float, gain: float) -> None:
    """Fashion-MNIST 14x14, 10,000 images, an MLP trained 8 epochs; three seeds."""
    found: dict[str, list[float]] = {"magnitude": [], "two": [], "six": [], "random": [], "restricted": []}
    for seed in range(3):
        data = sl.data.load("fashion-mnist", limit=10_000, seed=seed, size=(14, 14), folder=data_folder)
        config = TrainConfig(model="mlp-128-64", data="fashion-mnist", epochs=8, batch_size=64, lr=0.05, seed=seed)
        trainer = Trainer(config, dataset=data)
        trainer.fit()
        dense = trainer.state()
        sl.prune_(trainer.model, M.Magnitude(sparsity))
        found["magnitude"].append(trainer.evaluate("test")["accuracy"])
        for name, method, epochs in (
            ("two", M.Jackpots(sparsity), 2),
            ("six", M.Jackpots(sparsity), 6),
            ("random", M.Jackpots(sparsity, first="random"), 6),
            ("restricted", M.Jackpots(sparsity, restriction="quartic"), 6),
        ):
            found[name].append(searched(trainer, dense, method, epochs, 8))
    mean = {name: sum(values) / 3 for name, values in found.items()}
    assert mean["six"] >= mean["magnitude"] + gain
    assert mean["two"] >= mean["random"]  # three times as cheap
    assert abs(mean["restricted"] - mean["six"]) < 0.02  # no gain is claimed
