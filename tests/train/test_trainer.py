"""The trainer that whole procedures are written against."""

from __future__ import annotations

import pytest
import torch

from sparseland.core.errors import ScheduleError, SparselandError
from sparseland.train import Trainer
from sparseland.weights import Trainer as TrainerProtocol
from tests.train.test_train_run import Tiny


def test_trainer_is_a_trainer(tiny: Tiny) -> None:
    trainer = Trainer(tiny())
    assert isinstance(trainer, TrainerProtocol)
    start = trainer.state()
    copy = trainer.clone()
    copy.fit(stop=3)
    assert all(torch.equal(a, b) for a, b in zip(start.values(), trainer.state().values(), strict=True))
    trainer.load(copy.state())
    assert trainer.evaluate() == copy.evaluate()
    with pytest.raises(ScheduleError, match="possible: 0"):
        trainer.fit(stop=29)
    with pytest.raises(SparselandError, match="train, validation, test"):
        trainer.evaluate("tests")


def test_two_halves_of_a_schedule_see_its_rates_and_batches(tiny: Tiny) -> None:
    """SGD without momentum has no memory: fit(0, 10) and fit(10, 28) are the whole, bit for bit."""
    whole, halves = (Trainer(tiny(momentum=0.0)) for _ in range(2))
    whole.fit()
    assert (halves.fit(stop=10)["steps"], halves.fit(start=10)["steps"]) == (10, 18)
    assert all(torch.equal(a, b) for a, b in zip(whole.state().values(), halves.state().values(), strict=True))
