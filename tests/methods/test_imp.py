"""Iterative magnitude pruning on a hand-made Trainer: what is rewound, what is pruned, how long it trains."""

import copy

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core import MaskSet
from sparseland.core.errors import RecipeError, ScheduleError
from sparseland.weights import Trainer
from sparseland.weights.methods import IMP, imp


class Toy:
    """A Trainer on random data with a learning rate that falls linearly."""

    steps = 40

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        g = torch.Generator().manual_seed(1)
        self.x = torch.randn(64, 8, generator=g)
        self.y = (self.x @ torch.randn(8, 4, generator=g)).argmax(1)
        self.log = []

    def fit(self, method, masks=None, *, start=0, stop=None):
        opt = torch.optim.SGD(self.model.parameters(), lr=0.5)
        sp = method.attach(self.model, opt, masks=masks) if method else None
        self.log.append((start, stop, copy.deepcopy(self.model.state_dict())))
        for t in range(start, self.steps if stop is None else stop):
            opt.param_groups[0]["lr"] = 0.5 * (1 - t / self.steps)
            opt.zero_grad()
            nn.functional.cross_entropy(self.model(self.x), self.y).backward()
            opt.step()
        if sp:
            sp.finalize_()
        return {"steps": (self.steps if stop is None else stop) - start}

    def evaluate(self, split="validation"):
        out = self.model(self.x)
        return {
            "accuracy": float((out.argmax(1) == self.y).float().mean()),
            "loss": nn.functional.cross_entropy(out, self.y).item(),
        }

    def clone(self):
        return copy.deepcopy(self)

    def state(self):
        return copy.deepcopy(self.model.state_dict())

    def load(self, state):
        self.model.load_state_dict(state)


def test_toy_is_a_trainer():
    assert isinstance(Toy(), Trainer)


@pytest.mark.parametrize("rewind", ["weights", "learning-rate", "none"])
def test_rounds_reach_the_target_exactly_and_masks_nest(rewind):
    toy = Toy()
    out = imp(toy, IMP(0.9), rounds=3, rewind=rewind, rewind_to=4)
    total = 8 * 32 + 32 * 4
    assert out["masks"].kept() == sl.core.kept(total, 0.9)
    assert int(sum((m.weight != 0).sum() for m in toy.model if isinstance(m, nn.Linear))) <= out["masks"].kept()
    sparsities = [r["sparsity"] for r in out["rounds"]]
    assert sparsities == sorted(sparsities) and len(sparsities) == 4
    assert sparsities[1] == pytest.approx(1 - 0.1 ** (1 / 3), abs=2 / total)
    tail = {"weights": 36, "learning-rate": 36, "none": 4}[rewind]
    assert out["steps"] == 40 + 3 * tail
    assert out["rounds"][-1]["accuracy"] > 0.4


def test_weights_are_rewound_to_the_very_same_values():
    toy = Toy()
    imp(toy, IMP(0.5), rounds=2, rewind="weights", rewind_to=4)
    start_of = [entry for entry in toy.log if entry[0] == 4]
    early, first, second = (e[2]["0.weight"] for e in start_of)
    for ticket in (first, second):  # what survives starts at its early value
        alive = ticket != 0
        assert torch.equal(ticket[alive], early[alive]) and not alive.all()


def test_learning_rate_rewinding_keeps_trained_weights():
    toy = Toy()
    imp(toy, IMP(0.5), rounds=1, rewind="learning-rate")
    (_, _, begin), (start, _, again) = toy.log
    alive = again["0.weight"] != 0
    assert start == 0 and not torch.equal(again["0.weight"][alive], begin["0.weight"][alive])


def test_bad_input():
    with pytest.raises(RecipeError, match="'weight'; possible|is 'weight'"):
        imp(Toy(), rewind="weight")
    with pytest.raises(ScheduleError, match=r"rewind_to 40 \(possible: 0 … 39\)"):
        imp(Toy(), rewind_to=40)


def test_given_masks_must_fit():
    toy = Toy()
    with pytest.raises(sl.core.errors.MaskMismatch, match="absent"):
        IMP(0.5).attach(toy.model, torch.optim.SGD(toy.model.parameters(), lr=0.1), masks=MaskSet({}))
