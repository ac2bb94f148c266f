"""Metrics against scikit-learn and values by hand; independent of batches and ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparseland.core.errors import SparselandError
from sparseland.data import Split, load
from sparseland.train.evaluation import Tally, evaluate
from sparseland.zoo import build


@pytest.fixture(scope="module")
def digits() -> Any:
    return load("digits")


def _evaluate(model: nn.Module, split: Split, **kw: Any) -> dict[str, Any]:
    return evaluate(model, split, classes=10, mean=(0.3,), std=(0.4,), **kw)


def test_against_scikit_learn(digits: Any) -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

    model = build("mlp-16", in_shape=(1, 8, 8), classes=10, seed=0)
    split = digits.test
    result = _evaluate(model, split, batch_size=50)
    with torch.no_grad():
        output = model((split.images - 0.3) / 0.4)
    truth, predicted = split.labels.numpy(), output.argmax(1).numpy()
    assert result["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert result["loss"] == pytest.approx(log_loss(truth, output.double().softmax(1).numpy()), rel=1e-5)
    assert result["confusion"] == confusion_matrix(truth, predicted, labels=range(10)).tolist()
    rows = torch.tensor(result["confusion"])
    assert result["per_class"] == pytest.approx((rows.diagonal() / rows.sum(1)).tolist())


def test_calibration_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
    tally = Tally(2)
    tally.add(probabilities.log(), torch.tensor([0, 0, 1, 1]))
    metrics = tally.metrics()
    # bin of 0.9: 3 images, 2 right, confidence 2.7; bin of 0.7: 1 image, right, confidence 0.7
    assert metrics["ece"] == pytest.approx((abs(2 - 2.7) + abs(1 - 0.7)) / 4, abs=1e-6)
    assert metrics["per_class"] == [1.0, 0.5] and metrics["worst_class"] == 0.5
    assert metrics["mce"] == pytest.approx(0.3, abs=1e-6)


def test_classes_without_images_and_empty_splits() -> None:
    tally = Tally(3)
    assert tally.metrics()["accuracy"] == 0.0 == tally.metrics()["mce"] and tally.metrics()["worst_class"] is None
    tally.add(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0]))
    assert tally.metrics()["per_class"] == [1.0, None, None] and tally.metrics()["worst_class"] == 1.0


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_every_image_once(digits: Any, world: int) -> None:
    model = build("mlp-16", in_shape=(1, 8, 8), classes=10, seed=0)
    alone = _evaluate(model, digits.validation)
    parts = [_evaluate(model, digits.validation, rank=rank, world=world) for rank in range(world)]
    assert sum(part["images"] for part in parts) == alone["images"]
    assert sum(torch.tensor(part["confusion"]) for part in parts).tolist() == alone["confusion"]


def test_more_ranks_than_images() -> None:
    split = Split(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    model = build("mlp-4", in_shape=(1, 8, 8), classes=10, seed=0)
    assert [_evaluate(model, split, rank=rank, world=3)["images"] for rank in range(3)] == [1, 1, 0]


def test_mode_is_put_back_and_dropout_is_off(digits: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    assert _evaluate(model, digits.test) == _evaluate(model, digits.test)
    assert model.training


def test_wrong_number_of_classes_is_said() -> None:
    with pytest.raises(SparselandError, match=r"10 classes.*\[1, 7\]"):
        Tally(10).add(torch.zeros(1, 7), torch.tensor([0]))
