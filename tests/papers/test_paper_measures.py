"""The procedures of the paper folders: plasticity (11), calibration, unknown data and FGSM (02)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl

SMALL: dict[str, Any] = {
    "data": "digits",
    "model": "mlp-16",
    "limit": 300,
    "epochs": 4,
    "checkpoints": [2, 4],
    "retrain": 2,
    "lrs": [0.1, 0.001],
    "sparsities": [0.5, 0.9],
    "regrow": 0.5,
    "batch_size": 64,
    "weight_decay": 5e-4,
    "seed": 3,
}


def test_a_seed_measures_everything_and_repeats_itself(plasticity: Any) -> None:
    one, two = plasticity.measure(**SMALL), plasticity.measure(**SMALL)
    assert one["measured"] == two["measured"]
    found = {(m["setting"], m["arm"], m["metric"]): m["value"] for m in one["measured"]}
    assert len(found) == len(one["measured"]) == 2 * 2 * (2 + 3) + 5
    points = plasticity.PLASTICITY
    gaps = [
        found[f"epoch {e}, lr 0.1", "90% magnitude only", points]
        - found[f"epoch {e}, lr 0.001", "90% magnitude only", points]
        for e in (2, 4)
    ]
    assert found["90%, magnitude only", "high - low lr", plasticity.DIFFERENCE] == pytest.approx(sum(gaps) / 2)


def test_regrowth_moves_half_of_the_weights_and_keeps_their_number(plasticity: Any) -> None:
    data = sl.data.load("digits", limit=200)
    images, test = plasticity.Images(data, data.train), plasticity.Images(data, data.test)
    net = sl.zoo.build("mlp-16", in_shape=data.shape, classes=10, seed=0)
    config = sl.train.TrainConfig(lr=0.05, lr_schedule="constant", batch_size=64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept = {
        arm: plasticity.retrained(net, images, test, config, plasticity.method(0.9, arm, 0.5), 1)[1]
        for arm in (plasticity.WITHOUT, plasticity.GRADIENT, plasticity.CONTROL)
    }
    assert set(kept.values()) == {sl.core.kept(64 * 16 + 16 * 10, 0.9)}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())  # a copy was pruned
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sp = plasticity.method(0.5, plasticity.GRADIENT, 0.5).attach(model, optimizer, steps=9)
    churns = []
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        churns.append(sp.masks.clone())
    assert len(sp.history) == 2 and sp.history[1]["step"] == 1  # pruned before, moved once after the first step
    assert churns[0] == churns[1] == churns[2]


def test_batches_are_every_image_once_in_an_order_of_seed_and_epoch(plasticity: Any) -> None:
    data = sl.data.load("digits", limit=100)
    images = plasticity.Images(data, data.train)
    labels = [
        torch.cat([y for _, y in images.epoch(32, seed, epoch)]) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2]) and not torch.equal(labels[0], labels[3])
    assert all(torch.equal(found.sort().values, images.labels.sort().values) for found in labels)
    first = next(iter(sl.data.batches(data.train, 100, mean=data.mean, std=data.std, shuffle=False)))[0]
    assert torch.allclose(first, images.images)


def test_auroc_by_hand(robustness: Any) -> None:
    t = torch.tensor
    assert robustness.auroc(t([3.0, 4.0]), t([1.0, 2.0])) == 1.0
    assert robustness.auroc(t([1.0, 2.0]), t([3.0, 4.0])) == 0.0
    assert robustness.auroc(t([1.0, 1.0]), t([1.0])) == 0.5
    inside, outside = torch.rand(50), torch.rand(40)
    pairs = (inside[:, None] > outside[None]).float().mean()
    assert robustness.auroc(inside, outside) == pytest.approx(float(pairs))


def test_fgsm_by_hand(robustness: Any) -> None:
    """Two classes told apart by one pixel: the attack moves it by epsilon towards the other class."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
    mean, std = torch.tensor([0.5]).view(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    pixels = torch.tensor([0.1, 0.45, 0.55, 0.95]).view(4, 1, 1, 1)
    labels = torch.tensor([0, 0, 1, 1])
    for epsilon, right in ((0.0, 1.0), (0.1, 0.5), (0.42, 0.25), (0.6, 0.0)):
        assert robustness.under_attack(model, pixels, labels, epsilon, mean, std) == right


def test_robustness_of_a_trained_run(robustness: Any, tmp_path: Path, data_folder: Path, monkeypatch: Any) -> None:
    """The accuracy is the run's own; an attack of nothing changes nothing."""
    monkeypatch.setenv("SPARSELAND_DATA", str(data_folder))
    monkeypatch.setattr(robustness, "EPSILONS", (0, 8))
    config = sl.train.TrainConfig(model="mlp-8", data="fashion-mnist", limit=300, epochs=1)
    result = sl.train.run(config, tmp_path / "fashion" / "a", progress=False)
    made = robustness.measure({"a": "fashion/a"}, str(tmp_path))
    found = {item["metric"]: item["value"] for item in made["measured"]}
    assert found["test accuracy (%)"] == pytest.approx(100 * result["test"]["accuracy"])
    assert found["ECE (%)"] == pytest.approx(100 * result["test"]["ece"])
    assert found["accuracy under FGSM 0/255 (%)"] == pytest.approx(found["test accuracy (%)"])
    assert found["accuracy under FGSM 8/255 (%)"] < found["test accuracy (%)"]
    assert 0 < found["AUROC against MNIST digits (%)"] < 100
