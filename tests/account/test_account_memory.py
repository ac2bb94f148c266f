"""Memory: what is measured only has to move the right way; formulas against tensors that are really there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from sparseland import methods
from sparseland.account import activation_bytes, peak, reset_peak, training_bytes
from sparseland.core import Shrinking
from sparseland.core.errors import InfeasibleBudget
from sparseland.weights import Method

SCRIPT = """
import torch
from sparseland.account import peak, reset_peak
before = peak()
block = torch.ones(50_000_000)
most = peak()
assert most >= before + 190_000_000, (before, most)
del block
assert peak() > most - 20_000_000  # the kernel counts pages in batches
if reset_peak():
    assert peak() < most - 150_000_000, (most, peak())
print("ok")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_high_water_mark_rises_and_begins_anew() -> None:
    """In a process of its own: other tests may have held more."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "ok\n", done.stderr


def test_peak_here() -> None:
    assert peak() > 10_000_000
    assert reset_peak() in (True, False)


# ------------------------------------------------------------------------------------------------------------ formulas
SIZES = {"w": 1000, "b": 10}
COUNTS = {"w": (100, 1000)}


def _formula(method: Method | None, **options: int) -> tuple[int, int]:
    found = training_bytes(SIZES, COUNTS, method=method, **options)
    return found["as_implemented"], found["if_sparse"]


def test_dense_training_is_the_same_in_both() -> None:
    assert training_bytes(SIZES, {}, slots=2) == {
        "as_implemented": 4 * 4 * 1010, "if_sparse": 4 * 4 * 1010, "activations": 0,
    }  # fmt: skip
    assert _formula(None, slots=1) == (3 * 4 * 1010, 3 * 4 * 1010)


def test_each_kind_of_method_in_closed_form() -> None:
    masked = 3 * 4 * 1010 + 3 * 1000  # weights, gradients, momentum; three masks of one byte a weight
    hard = 3 * 4 * 110 + 125  # living ones and biases; a bit a coordinate
    assert _formula(methods.SET(0.9)) == (masked, hard)
    assert _formula(methods.RigL(0.9)) == (masked, hard + 4 * 1000)  # one layer's gradient
    assert _formula(methods.SRSTE()) == (masked + 4 * 1000, 3 * 4 * 1010 + 125)  # dense values behind the mask
    assert _formula(methods.SET(0.9).replace(flow=Shrinking())) == (masked, 3 * 4 * 1010 + 125)
    momentum = methods.SET(0.9).replace(growth="momentum")  # ranks dead weights by an average of their gradients
    as_implemented, if_sparse = _formula(momentum)
    assert as_implemented == masked + 4 * 1000
    assert if_sparse == 4 * (2 * 110 + 1010 + 1000) + 125


def test_the_densest_moment_counts() -> None:
    gmp = methods.GMP(0.9)
    assert training_bytes(SIZES, COUNTS, method=gmp, kept=1000)["if_sparse"] == 3 * 4 * 1010 + 125
    assert training_bytes(SIZES, COUNTS, method=gmp, kept=500)["if_sparse"] == 3 * 4 * 510 + 125


def test_slots_copies_and_activations() -> None:
    base = _formula(methods.SET(0.9), slots=0)
    assert _formula(methods.SET(0.9), slots=2) == (base[0] + 2 * 4040, base[1] + 2 * 440)
    assert _formula(methods.SET(0.9), slots=0, copies=1) == (base[0] + 4040, base[1] + 440)
    assert _formula(methods.SET(0.9), slots=0, activations=77) == (base[0] + 77, base[1] + 77)
    with pytest.raises(InfeasibleBudget, match="'w' cannot have 1,001 non-zeros"):
        training_bytes(SIZES, {"w": (1001, 1000)})


def test_a_sparsifier_holds_what_the_formula_says() -> None:
    """Weights, gradients, momentum and three masks, counted on the objects of a real training."""
    model = nn.Linear(50, 20, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = methods.RigL(0.8, every=2, end=10).attach(model, optimizer)
    model(torch.randn(3, 50)).sum().backward()
    optimizer.step()
    grad, momentum = model.weight.grad, optimizer.state[model.weight]["momentum_buffer"]
    assert grad is not None
    held = [model.weight, grad, momentum, *sparsifier.masks.values(), *sparsifier._seen.values()]
    held += list(sparsifier._dead.values())
    real = sum(t.numel() * t.element_size() for t in held)
    formula = training_bytes({"weight": 1000}, sparsifier.masks.counts(), method=sparsifier.method)
    assert formula["as_implemented"] == real


# --------------------------------------------------------------------------------------------------------- activations
def test_activations_of_an_mlp_in_closed_form() -> None:
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    for batch in (1, 8):
        assert activation_bytes(net, torch.zeros(batch, 10)) == 4 * batch * (10 + 20 + 30)
    with torch.device("meta"):
        big = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
        assert activation_bytes(big, torch.zeros(2, 10)) == 4 * 2 * 30


def test_counting_activations_changes_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 9, 2)).train()
    net[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert activation_bytes(net, torch.randn(1, 1, 5, 5)) > 4 * 25
    assert net.training and not net[0].weight.requires_grad and net[0].bias.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
