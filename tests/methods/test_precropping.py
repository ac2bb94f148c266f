"""PreCropping as a procedure and as a run: a narrower net before training, and no mask anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import InfeasibleBudget, SparselandError, TargetError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.weights import eligible
from sparseland.weights.methods import PreCropping, precropping

CONFIG = {
    "data": "digits", "limit": 200, "epochs": 2, "lr": 0.05, "batch_size": 50, "evaluate_every": 2, "threads": 1,
    "model": "resnet-8", "model_options": {"width": 16, "shortcut": "B"},
}  # fmt: skip


def test_the_net_is_cropped_before_it_is_trained() -> None:
    one = Trainer(TrainConfig(**CONFIG))
    dense = one.cost.dense()
    out = precropping(one, PreCropping(0.75, rounds=10))
    before, after = out["parameters"]
    assert after / before == pytest.approx(0.25, rel=0.01) and out["steps"] == one.steps
    assert sum(p.numel() for p in one.model.parameters()) == after
    assert one.cost.dense() < dense and one.removed > 0
    assert all(bool((p != 0).all()) for p in one.model.parameters() if p.ndim > 1)  # no mask is left
    assert one.model.conv1.out_channels == out["widths"]["conv1"] >= 4
    assert set(out["densities"]) <= {
        n
        for n, _ in sl.zoo.build("resnet-8", in_shape=(1, 8, 8), classes=10, width=16, shortcut="B").named_parameters()
    }


@pytest.mark.parametrize(
    "options", [{"rule": "chain"}, {"rule": "least-squares"}, {"budget": "flops"}, {"round_to": 4}]
)
def test_options_reach_the_solver(options: dict[str, Any]) -> None:
    one = Trainer(TrainConfig(**CONFIG | {"epochs": 1, "limit": 50}))
    dense = one.cost.dense()
    out = precropping(one, PreCropping(0.5, rounds=3), **options)
    if options == {"budget": "flops"}:
        assert one.cost.dense() / dense == pytest.approx(0.5, rel=0.03)
    elif options == {"round_to": 4}:
        assert all(w % 4 == 0 for w in out["widths"].values())
    else:
        assert out["parameters"][1] / out["parameters"][0] == pytest.approx(0.5, rel=0.02)


def test_equal_counts_need_no_scores() -> None:
    method = PreCropping(0.9, allocation="equal-count")
    assert not method.needs_data and PreCropping(0.9).needs_data
    assert "equal-count" in str(method) and "synflow" in str(PreCropping(0.9))


def test_a_run_counts_what_was_cropped(tmp_path: Path) -> None:
    config = TrainConfig(**CONFIG, method={"name": "precropping", "sparsity": 0.75, "rounds": 5, "least": 2})
    result = run(config, tmp_path, progress=False)
    dense = sl.zoo.build("resnet-8", in_shape=(1, 8, 8), classes=10, width=16, shortcut="B")
    assert result["total"] == sum(t.param.numel() for t in eligible(dense).values())
    assert result["kept"] / result["total"] == pytest.approx(0.25, abs=0.01)
    assert result["flops"]["training"] < 0.6 * result["flops"]["training_dense"]
    assert run(config, tmp_path, progress=False, resume=True) == result


def test_bad_input() -> None:
    trained = Trainer(TrainConfig(**CONFIG))
    trained.model.train()(torch.randn(4, 1, 8, 8))
    with pytest.raises(TargetError, match="the model was trained"):
        precropping(trained, PreCropping(0.5, rounds=2))
    with pytest.raises(InfeasibleBudget, match="the narrowest net"):
        precropping(Trainer(TrainConfig(**CONFIG)), PreCropping(0.99, rounds=2))
    with pytest.raises(SparselandError, match="give example="):
        precropping(type("Bare", (), {"model": nn.Linear(2, 2), "steps": 1})())  # type: ignore[arg-type]


def test_cropped_is_no_worse_than_masked_at_the_same_size() -> None:
    """The claim in a few seconds (the whole proof: paper 44): an MLP without BatchNorm, a tenth of its size."""
    accuracy = {}
    config = {"data": "digits", "model": "mlp-128-128", "epochs": 6, "lr": 0.1, "evaluate_every": 6, "threads": 1}
    for arm in ("mask", "crop"):
        one = Trainer(TrainConfig(**config))
        method = PreCropping(0.9, rounds=30)
        if arm == "mask":
            one.fit(method)
        else:
            precropping(one, method, least=2)
        accuracy[arm] = one.evaluate("test")["accuracy"]
    assert accuracy["crop"] >= accuracy["mask"] - 0.03
