"""Hugging Face Accelerate on two processes: attach takes what ``prepare`` returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseland as sl
from tests.distributed.pair import Pair

pytestmark = pytest.mark.distributed

STEPS = 8


def prepared(rank: int, name: str, hyper: dict[str, Any], accumulate: int = 1) -> dict[str, Any]:
    """Train under Accelerate: prepared model, optimizer and loader; masks count optimizer steps, not batches."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 4))  # another start on each rank, until prepare
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    g = torch.Generator().manual_seed(5)
    data = torch.utils.data.TensorDataset(torch.randn(64, 10, generator=g), torch.randint(4, (64,), generator=g))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    sp = sl.methods.build(name, **hyper).attach(model, optimizer, data=loader, steps=STEPS, seed=rank)
    seen = []
    for x, y in loader:
        with accelerator.accumulate(model):
            seen.append(float(x.sum()))
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    weights = {n: p.detach().clone() for n, p in accelerator.unwrap_model(model).named_parameters()}
    dead = sum(int(weights[n][~m].count_nonzero()) for n, m in sp.masks.items())
    out = {"digest": sp.assert_agree(), "weights": weights, "steps": sp.step, "dead": dead, "seen": seen}
    return out | {"kept": sp.masks.kept(), "world": accelerator.num_processes, "wrapped": type(model).__name__}


def check(answers: list[dict[str, Any]], steps: int) -> None:
    first, second = answers
    assert first["world"] == 2 and first["wrapped"] == "DistributedDataParallel"
    assert first["seen"] != second["seen"]  # each rank has its own part of the data
    assert first["steps"] == second["steps"] == steps
    assert first["digest"] == second["digest"] and first["dead"] == second["dead"] == 0
    assert first["kept"] == round(0.3 * 420)
    weights: dict[str, Tensor] = second["weights"]
    assert all(torch.equal(w, weights[n]) for n, w in first["weights"].items())


@pytest.mark.parametrize(
    ("name", "hyper"),
    [("rigl", {"every": 2, "end": 6}), ("snip", {}), ("granet", {"every": 2, "end": 6, "regrow_until": 8})],
)
def test_prepared_model_and_optimizer(pair: Pair, name: str, hyper: dict[str, Any]) -> None:
    check(pair.run(prepared, name, {"sparsity": 0.7, **hyper}), STEPS)


def test_gradient_accumulation_counts_optimizer_steps(pair: Pair) -> None:
    check(pair.run(prepared, "rigl", {"sparsity": 0.7, "every": 1, "end": 4}, accumulate=2), STEPS // 2)
