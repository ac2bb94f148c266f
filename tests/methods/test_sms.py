"""Sparse model soups on digits: zeros, the control of one ingredient, all ways to vary, all places, bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import InfeasibleBudget, MaskMismatch, RecipeError, ScheduleError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.train.checkpoint import read_weights
from sparseland.weights import Method, eligible, prune_, recalibrate_
from sparseland.weights.branches import Branch, Branching
from sparseland.weights.merge import average
from sparseland.weights.methods import SMS, RePrune, reprune, sms
from sparseland.weights.retraining import retraining_lrs
from sparseland.weights.soups import Cycles

State = dict[str, torch.Tensor]


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"model": "mlp-32", "epochs": 4, "limit": 400, "lr": 0.05, "threads": 1, **changes})


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def with_norms(**changes: Any) -> Trainer:
    return Trainer(config(**changes), model=convnet())


def cards_net(seed: int) -> nn.Sequential:
    """16, 32 and 32 channels, as in the card's trial; with `convnet` 73 weights are left, too few to share a basin."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for channels, width in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(
        *layers[:3], nn.MaxPool2d(2), *layers[3:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def same(one: State, two: State) -> bool:
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


# ----------------------------------------------------------------------------------------------------- what it promises
@pytest.mark.parametrize(("cycles", "soup"), [(1, "uniform"), (3, "greedy")])
def test_ingredients_and_soup_have_the_same_zeros_and_exactly_the_sparsity(cycles: int, soup: str) -> None:
    trainer = with_norms()
    total = 8 * 9 + 8 * 8 * 9 + 80
    out = sms(trainer, SMS(0.9), cycles=cycles, soup=soup)
    masks = out["masks"]
    assert masks.kept() == sl.core.kept(total, 0.9)
    for state in (*out["ingredients"], trainer.state()):
        assert all(torch.equal(state[name] != 0, mask) for name, mask in masks.items())
    assert not same(out["ingredients"][0], out["ingredients"][1])
    assert [r["sparsity"] for r in out["rounds"]] == pytest.approx(
        [1 - 0.1 ** (c / cycles) for c in range(1, cycles + 1)], abs=1 / total
    )
    assert out["steps"] == cycles * 3 * 14 and trainer.record.steps == out["steps"] + 28
    assert set(out["rounds"][-1]) >= {"accuracy", "chosen", "geometry"}
    if soup == "uniform":
        mean = average(out["ingredients"], masks=masks)
        weights = [name for name in mean if "running" not in name and "tracked" not in name]
        assert same({n: mean[n] for n in weights}, {n: trainer.state()[n] for n in weights})


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_masks_nest_whatever_ranks_the_weights(criterion: str) -> None:
    plan = Cycles(SMS(0.95, criterion=criterion), cycles=4)
    model, masks = convnet(), None
    for goal in plan.goals():
        before = masks
        masks, change = plan.prune(model, goal, masks)
        assert masks.kept() == sl.core.kept(masks.numel(), goal)
        assert change["pruned"] == pytest.approx(1 - 0.05**0.25, abs=0.02) and 0 < change["drop"] < 1
        if before is not None:
            assert not any(bool((masks[name] & ~before[name]).any()) for name in masks)


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_one_ingredient_is_imp_bit_for_bit(allocation: str) -> None:
    method, soup, plain = SMS(0.9, allocation=allocation), with_norms(), with_norms()
    sms(soup, method, ingredients=1, cycles=2)
    # iterative magnitude pruning, written out: train, prune, retrain with zeros kept, batch norms, again
    log, masks = plain.fit(None)["lrs"], None
    for cycle, sparsity in enumerate((1 - 0.1**0.5, 0.9)):
        once = method.replace(schedule=sl.core.OneShot(sparsity))
        masks = prune_(plain.model, once, masks=masks)
        plain.fit(Method(name="keep"), masks, start=28 + 14 * cycle, lrs=retraining_lrs("LLR", log, 14))
        recalibrate_(plain.model, plain.sample(0.2))
    assert same(soup.state(), plain.state())
    assert soup.evaluate("test") == plain.evaluate("test")


def test_the_average_of_different_masks_is_refused() -> None:
    class Careless(Trainer):
        """Ingredients that each prune one more weight of their own."""

        def branch(self, branches: Any, **options: Any) -> list[State]:
            states = super().branch(branches, **options)
            for i, state in enumerate(states):
                state["fc1.weight"].view(-1)[(branches[i].masks["fc1.weight"] == 0).view(-1).nonzero()[i]] = 1.0
            return states

    with pytest.raises(MaskMismatch, match="state 0 has 1 living weights in 'fc1.weight' where the mask says zero"):
        sms(Careless(config()), SMS(0.8))
    one, two = (Trainer(config(seed=seed)) for seed in (0, 1))
    for trainer in (one, two):
        prune_(trainer.model, SMS(0.8))
    with pytest.raises(MaskMismatch, match="zero in different places"):
        average([one.state(), two.state()])


def test_a_soup_is_not_worse_than_its_mean_ingredient() -> None:
    gaps = [gap(Trainer(config(seed=seed, epochs=6, limit=None)), 0.9, ingredients=3) for seed in range(5)]
    assert sum(gaps) / len(gaps) >= -0.3


def gap(trainer: Trainer, sparsity: float, **options: Any) -> float:
    """Accuracy of the soup minus the mean of its ingredients', in points."""
    return against_members(trainer, sms(trainer, SMS(sparsity), **options)["ingredients"])


def against_members(trainer: Trainer, states: list[State]) -> float:
    """The same for a soup that is made."""
    soup, found = trainer.evaluate("test")["accuracy"], []
    for state in states:
        trainer.load(state)
        recalibrate_(trainer.model, trainer.sample(0.2))
        found.append(trainer.evaluate("test")["accuracy"])
    return 100 * (soup - sum(found) / len(found))


@pytest.mark.slow
def test_soups_of_batch_norm_nets() -> None:
    """The card's assertions on a CNN: not below the mean ingredient, and recalibrated ≥ averaged statistics."""
    gaps, recalibrated, averaged = [], [], []
    for seed in range(5):
        trainer = Trainer(config(seed=seed, epochs=12, limit=None, lr=0.1), model=cards_net(seed))
        out = sms(trainer, SMS(0.9), cycles=3)
        recalibrated.append(trainer.evaluate("test")["accuracy"])
        gaps.append(against_members(trainer, out["ingredients"]))
        trainer.load(average(out["ingredients"], masks=out["masks"]))
        averaged.append(trainer.evaluate("test")["accuracy"])
    assert sum(gaps) / 5 >= -0.3
    assert sum(recalibrated) >= sum(averaged)


# ---------------------------------------------------------------------------------------------- what ingredients may be
class Noted(Trainer):
    """Remembers its branches."""

    def branch(self, branches: Any, **options: Any) -> list[State]:
        self.seen = list(branches)
        return super().branch(branches, **options)


@pytest.mark.parametrize(
    ("vary", "values"), [("seed", None), ("weight_decay", [0.0, 0.1]), ("length", [0.5, 7]), ("peak", [0.05, 0.2])]
)
def test_one_thing_differs_between_ingredients(vary: str, values: Any) -> None:
    trainer = Noted(config())
    out = sms(trainer, SMS(0.8), ingredients=2, vary=vary, values=values)
    one, two = trainer.seen
    told = {
        "seed": (one.seed, two.seed) == (0, 1),
        "weight_decay": (one.weight_decay, two.weight_decay) == (0.0, 0.1),
        "length": (one.steps, two.steps) == (14, 7),
        "peak": (max(one.lrs), max(two.lrs)) == (0.05, 0.2),
    }
    usual = {"seed": one.seed == two.seed, "weight_decay": one.weight_decay is two.weight_decay is None}
    usual |= {"length": one.steps == two.steps == 14, "peak": max(one.lrs) == max(two.lrs) == 0.05}
    assert told[vary] and all(as_usual for name, as_usual in usual.items() if name != vary)
    assert not same(*out["ingredients"])


def test_weight_decay_reaches_the_optimizer_and_seeds_only_the_order() -> None:
    trainer = Trainer(config())
    plain, seeded, decayed = trainer.branch([Branch([0.1]), Branch([0.1], seed=5), Branch([0.1], weight_decay=1.0)])
    assert not same(plain, seeded) and float(decayed["fc1.weight"].norm()) < float(plain["fc1.weight"].norm())
    other = trainer.variant(seed=5)
    assert other.config.seed == 5 and other.supply.dataset is trainer.supply.dataset  # validation stays what it was
    with pytest.raises(ScheduleError, match="0 learning rates"):
        trainer.fit(None, lrs=[])


def test_allr_is_told_how_much_was_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Noted(config())
    sms(trainer, SMS(0.9), ingredients=1, schedule="ALLR", retrain=2)
    peaks = [max(trainer.seen[0].lrs)]
    trainer = Noted(config())
    sms(trainer, SMS(0.1), ingredients=1, schedule="ALLR", retrain=2)
    assert peaks[0] > max(trainer.seen[0].lrs) and peaks[0] <= 0.05


def test_a_net_without_batch_norm_costs_no_images_and_with_it_they_are_counted() -> None:
    one, two = Trainer(config()), with_norms()
    sms(one, SMS(0.5), ingredients=1)
    sms(two, SMS(0.5), ingredients=1)
    assert "sample" not in one.record.meter.phases
    assert two.record.meter.phases["sample"] == 2 * 64 * two.cost.dense()  # a fifth of 7 batches, of whole ones: 2
    with pytest.warns(UserWarning, match="2 batch norms"):
        sms(with_norms(), SMS(0.5), ingredients=1, recalibrate=None)


def test_reprune_averages_different_masks_and_prunes_to_the_target() -> None:
    trainer = with_norms()
    out = reprune(trainer, RePrune(0.9), cycles=2)
    assert out["masks"].kept() == sl.core.kept(out["masks"].numel(), 0.9) < out["union"] * out["masks"].numel()
    found = {n: t.param for n, t in eligible(trainer.model).items()}
    assert all(torch.equal(found[name] != 0, mask) for name, mask in out["masks"].items())
    assert out["steps"] == 2 * 3 * 14
    one, control = with_norms(), with_norms()
    assert reprune(one, RePrune(0.9), copies=1)["union"] == pytest.approx(0.1, abs=1e-3)
    sms(control, SMS(0.9), ingredients=1)
    assert same(one.state(), control.state())


# ----------------------------------------------------------------------------------------------------- where it can run
class Toy:
    """A user's own loop: full batches of random data; `branch` written out."""

    steps = 40

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        self.x = torch.randn(64, 8)
        self.y = (self.x @ torch.randn(8, 4)).argmax(1)

    def fit(self, method: Any, masks: Any = None, *, start: int = 0, stop: Any = None, lrs: Any = None) -> Any:
        lrs = lrs or [0.5 * (1 - t / self.steps) for t in range(start, stop or self.steps)]
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)
        sparsifier = method.attach(self.model, optimizer, masks=masks) if method else None
        for lr in lrs:
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.x), self.y).backward()
            optimizer.step()
        if sparsifier:
            sparsifier.finalize_()
        return {"steps": len(lrs), "lrs": lrs}

    def branch(self, branches: Any, *, start: int = 0, on: str = "inline", workers: Any = None) -> list[State]:
        copies = [self.clone() for _ in branches]
        for copied, branch in zip(copies, branches, strict=True):
            copied.fit(Method(name="retrain"), branch.masks, lrs=branch.lrs)
        return [copied.state() for copied in copies]

    def sample(self, share: float) -> Any:
        yield self.x

    def evaluate(self, split: str = "validation") -> dict[str, float]:
        right = self.model(self.x).argmax(1) == self.y
        return {"accuracy": float(right.float().mean()), "loss": 0.0}

    def clone(self) -> Toy:
        return copy.deepcopy(self)

    def state(self) -> State:
        return copy.deepcopy(self.model.state_dict())

    def load(self, state: State) -> None:
        self.model.load_state_dict(state)


def test_in_a_loop_of_ones_own() -> None:
    toy = Toy()
    assert isinstance(toy, Branching) and isinstance(Trainer(config()), Branching)
    out = sms(toy, SMS(0.8), cycles=2, ingredients=2, vary="peak", values=[0.5, 0.3], soup="greedy")
    assert out["masks"].kept() == sl.core.kept(8 * 32 + 32 * 4, 0.8) and out["rounds"][-1]["accuracy"] > 0.4


def test_processes_give_the_same_bits_and_count_the_same() -> None:
    here, there = Trainer(config()), Trainer(config())
    sms(here, SMS(0.8), ingredients=2)
    sms(there, SMS(0.8), ingredients=2, on="processes", workers=2)
    assert same(here.state(), there.state())
    one, two = here.record.state_dict(), there.record.state_dict()
    assert one["history"] == two["history"] and one["steps"] == two["steps"]
    assert one["flops"] == two["flops"] and one["counts"] == two["counts"]
    with pytest.raises(RecipeError, match=r"on='processes': .* was given its model by hand"):
        sms(with_norms(), SMS(0.8), on="processes")


@pytest.mark.distributed
def test_a_local_ray_gives_the_same_bits() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    here, there = Trainer(config()), Trainer(config())
    sms(here, SMS(0.8), ingredients=2)
    sms(there, SMS(0.8), ingredients=2, on="ray", workers=2)
    assert same(here.state(), there.state()) and not ray.is_initialized()


class Stop(Exception):
    """A run that ends without a chance to save."""


@pytest.mark.parametrize(
    ("on", "evaluation"),
    [("inline", 3), ("inline", 6), pytest.param("processes", 2, marks=pytest.mark.slow)],  # it starts eight of them
)
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, on: str, evaluation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = {"name": "sms", "sparsity": 0.8, "cycles": 2, "ingredients": 2, "on": on}
    job = config(method=method, epochs=2, limit=200)
    whole = run(job, tmp_path / "whole", progress=False)
    seen: list[Any] = []

    def stop(entry: dict[str, Any]) -> None:
        seen.append(entry)
        if len(seen) == evaluation:
            raise Stop

    with pytest.raises(Stop):
        run(job, tmp_path / "cut", progress=False, callback=stop)
    again = run(job, tmp_path / "cut", progress=False, resume=True)
    one, two = (read_weights(tmp_path / name / "best.safetensors") for name in ("whole", "cut"))
    assert same(one, two)
    assert again["steps"] == whole["steps"] and again["flops"]["training"] == whole["flops"]["training"]
    assert again["sparsity"] == whole["sparsity"] and whole["procedure"]["name"] == "sms"
    assert "fits" not in {path.name for path in (tmp_path / "cut").iterdir()}


# ------------------------------------------------------------------------------------------------------------ bad input
class Silent(Trainer):
    """Does not tell its learning rates."""

    def fit(self, *args: Any, **options: Any) -> dict[str, Any]:
        told = super().fit(*args, **options)
        return {name: value for name, value in told.items() if name != "lrs"}


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"ingredients": 0}, ValueError, r"ingredients=0; possible: 1 \(plain iterative"),
    ({"vary": "momentum"}, RecipeError, "vary='momentum': possible: length, peak, seed, weight_decay"),
    ({"vary": "peak"}, RecipeError, r"vary='peak' needs values, one per ingredient \(3\)"),
    ({"values": [1, 2]}, RecipeError, "2 values for 3 ingredients"),
    ({"soup": "greedyy"}, RecipeError, "did you mean 'greedy'"),
    ({"soup": "greedy", "split": "test"}, RecipeError, "never on test"),
    ({"schedule": "LR"}, RecipeError, "retrain schedule 'LR'"),
    ({"schedule": "LRW", "retrain": 1.5}, ScheduleError, "replays the last 42 learning rates"),
    ({"retrain": 0.0}, ScheduleError, "retrain=0.0 of 28 steps is no step"),
    ({"cycles": 0}, ScheduleError, "cycles=0"),
    ({"recalibrate": 1.5}, RecipeError, r"recalibrate=1.5; possible: a share in \(0, 1\]"),
]


@pytest.mark.parametrize(("options", "kind", "message"), BAD)
def test_bad_input_is_refused_before_training(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    trainer = Trainer(config())
    with pytest.raises(kind, match=message):
        sms(trainer, SMS(0.8), **options)
    assert trainer.record.steps == 0


@pytest.mark.parametrize("procedure", [sms, reprune])
def test_less_sparsity_than_there_is(procedure: Callable[..., Any]) -> None:
    trainer = Trainer(config())
    prune_(trainer.model, SMS(0.8))
    for sparsity in (0.5, 0.8):
        with pytest.raises(ValueError, match=r"keeps .* are alive: the model has a sparsity of 0\.79"):
            procedure(trainer, SMS(sparsity), log=[0.1] * 10)
    with pytest.raises(InfeasibleBudget):
        procedure(Trainer(config()), SMS(0.0))
    assert trainer.record.steps == 0


@pytest.mark.parametrize("schedule", ["LLR", "ALLR", "LRW"])
def test_a_missing_record_of_learning_rates_is_named(schedule: str) -> None:
    with pytest.raises(ScheduleError, match="without 'lrs', the learning rate of each step"):
        sms(Silent(config()), SMS(0.8), schedule=schedule)
    with pytest.raises(ScheduleError, match="that record is missing"):
        sms(Trainer(config()), SMS(0.8), schedule=schedule, log=[])


def test_greedy_needs_validation_images() -> None:
    trainer = Trainer(config(validation=0.0))
    with pytest.raises(RecipeError, match="chooses on validation images, and there are none"):
        sms(trainer, SMS(0.8), soup="greedy")
    assert trainer.record.steps == 0
    assert sms(trainer, SMS(0.8), ingredients=2)["masks"].sparsity() == pytest.approx(0.8, abs=1e-3)


def test_copies_of_reprune() -> None:
    with pytest.raises(RecipeError, match="copies=0"):
        reprune(Trainer(config()), copies=0)
