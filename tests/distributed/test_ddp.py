"""DistributedDataParallel: other seeds and other data on each rank, the same masks and weights to the last bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sparseland as sl
from sparseland.core import GrowMomentum, MaskSet, Movement, OneShot
from sparseland.core.errors import MaskMismatch
from tests.distributed.pair import Pair

pytestmark = pytest.mark.distributed

STEPS = 8
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"sparsity": 0.7, "at": 2},
    "gmp": {"sparsity": 0.7, "end": 6, "every": 2},
    "set": {"sparsity": 0.7, "every": 2, "end": 7},
    "rigl": {"sparsity": 0.7, "every": 2, "end": 7},
    "granet": {"sparsity": 0.7, "every": 2, "end": 6, "regrow_until": STEPS},
    "snip": {"sparsity": 0.7, "rounds": 2},
    "grasp": {"sparsity": 0.7},
    "synflow": {"sparsity": 0.7, "rounds": 5},
    "random": {"sparsity": 0.7, "ratios": "snip"},
    "movement": {"sparsity": 0.7, "start": 2, "end": 6, "every": 2},
    "lamp": {"sparsity": 0.7},
    "sr-ste": {"pattern": "2:4"},
}


def net() -> nn.Module:
    """Convolution, norm and linear layers; 4·8·9 + 8·8·9 + 8·4 = 896 weights."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
    )


def batches(rank: int, n: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    """Other data on every rank."""
    g = torch.Generator().manual_seed(50 + rank)
    return [(torch.randn(6, 4, 5, 5, generator=g), torch.randint(4, (6,), generator=g)) for _ in range(n)]


def plain(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by their names without wrappers."""
    return {n.removeprefix("module."): p.detach().clone() for n, p in model.named_parameters()}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    """One ordinary training step."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def train(rank: int, name: str, hyper: dict[str, Any], optimizer: str = "sgd") -> dict[str, Any]:
    """Train under DDP; every rank has its own seed (torch's, attach's) and its own data."""
    model = DistributedDataParallel(net())
    made = torch.optim.AdamW(model.parameters()) if optimizer == "adamw" else _sgd(model)
    sp = sl.methods.build(name, **hyper).attach(model, made, data=batches(rank, 2), steps=STEPS, seed=7 + 13 * rank)
    for batch in batches(rank):
        step(model, made, batch)
    digest = sp.assert_agree()
    dead = sum(int(p[~sp.masks[n]].count_nonzero()) for n, p in plain(model).items() if n in sp.masks)
    return {"digest": digest, "masks": dict(sp.masks), "weights": plain(model), "counts": sp.counts(), "dead": dead}


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_ranks_end_with_the_same_bits(pair: Pair, name: str) -> None:
    first, second = pair.run(train, name, METHODS[name])
    assert first["digest"] == second["digest"]
    assert all(torch.equal(first["masks"][n], second["masks"][n]) for n in first["masks"])
    assert all(torch.equal(first["weights"][n], second["weights"][n]) for n in first["weights"])
    total = 4 * 8 * 9 + 8 * 8 * 9 + 8 * 4
    kept = total // 2 if name == "sr-ste" else round(0.3 * total)
    assert (first["counts"]["kept"], first["counts"]["total"]) == (kept, total)
    assert first["dead"] == 0


def test_adamw_agrees_too(pair: Pair) -> None:
    first, second = pair.run(train, "granet", METHODS["granet"], optimizer="adamw")
    assert all(torch.equal(first["weights"][n], second["weights"][n]) for n in first["weights"])


def snip_here(rank: int) -> tuple[dict[str, Tensor], MaskSet]:
    """SNIP's masks when each rank measures on its own batches, and the weights they were measured on."""
    model = DistributedDataParallel(net())
    before = plain(model)
    sp = sl.methods.SNIP(0.7).attach(model, _sgd(model), data=batches(rank, 2))
    return before, sp.masks


def test_snip_measures_on_the_data_of_all_ranks(pair: Pair) -> None:
    (weights, masks), _ = pair.run(snip_here)
    model = net()
    model.load_state_dict(weights, strict=False)
    alone = sl.methods.SNIP(0.7).attach(model, _sgd(model), data=batches(0, 2) + batches(1, 2)).masks
    assert masks.digest() == alone.digest()
    only_first = net()
    only_first.load_state_dict(weights, strict=False)
    other = sl.methods.SNIP(0.7).attach(only_first, _sgd(only_first), data=batches(0, 2)).masks
    assert masks.digest() != other.digest()


def tampered(rank: int) -> str:
    """One bit of rank 1's mask is flipped."""
    model = DistributedDataParallel(net())
    sp = sl.methods.Magnitude(0.5).attach(model, _sgd(model))
    fine = sp.assert_agree()
    assert fine == sp.masks.digest()
    if rank == 1:
        sp.masks["6.weight"][0, 0] ^= True
    try:
        sp.assert_agree()
    except MaskMismatch as error:
        return str(error)
    return "no error"


def test_a_tampered_rank_is_named_on_all_ranks(pair: Pair) -> None:
    said = pair.run(tampered)
    assert all("ranks [1]" in text for text in said)


def resumed(rank: int, name: str, hyper: dict[str, Any]) -> bool:
    """Stop after half of the steps, continue in new objects; compare with the run that never stopped."""
    models = [DistributedDataParallel(net()) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [_sgd(m) for m in models]
    data = batches(rank)
    method = sl.methods.build(name, **hyper)
    sp = method.attach(models[0], optimizers[0], data=data[:2], steps=STEPS, seed=rank)
    for batch in data[:4]:
        step(models[0], optimizers[0], batch)
    saved = sp.state_dict()
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))  # torch itself shares the buffers
    again = method.attach(models[1], optimizers[1], data=data[:2], steps=STEPS, seed=99 + rank, state=saved)
    for batch in data[4:]:
        for model, optimizer in zip(models, optimizers, strict=True):
            step(model, optimizer, batch)
    first, second = (plain(m) for m in models)
    return again.masks == sp.masks and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", ["set", "granet", "movement", "sr-ste"])
def test_resume_is_equal_to_the_last_bit(pair: Pair, name: str) -> None:
    assert pair.run(resumed, name, METHODS[name]) == [True, True]


def accumulated(rank: int) -> tuple[dict[str, Tensor], str]:
    """RigL with two micro-batches a step, the first without communication, and gradients that are views of buckets."""
    model = DistributedDataParallel(net(), gradient_as_bucket_view=True)
    optimizer = _sgd(model)
    sp = sl.methods.RigL(0.7, every=1, end=4).attach(model, optimizer, seed=rank)
    data = batches(rank)
    for one, two in zip(data[:3], data[3:6], strict=True):
        optimizer.zero_grad()
        with model.no_sync():
            nn.functional.cross_entropy(model(one[0]), one[1]).backward()
        step_loss = nn.functional.cross_entropy(model(two[0]), two[1])
        step_loss.backward()
        optimizer.step()
    return plain(model), sp.assert_agree()


def test_gradient_accumulation_without_synchronisation(pair: Pair) -> None:
    (first, one), (second, two) = pair.run(accumulated)
    assert one == two and all(torch.equal(first[n], second[n]) for n in first)


class Branches(nn.Module):
    """Rows whose first entry is positive take one branch, the others another: on one rank a branch may be idle."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, 0] > 0
        if first.all():
            return self.head(self.one(x).tanh())  # type: ignore[no-any-return]
        if not first.any():
            return self.head(self.two(x).tanh())  # type: ignore[no-any-return]
        return self.head(torch.where(first[:, None], self.one(x), self.two(x)).tanh())  # type: ignore[no-any-return]


def one_sided(rank: int) -> tuple[Tensor, Tensor]:
    """A batch of rank 0 uses the first branch only, one of rank 1 the second."""
    g = torch.Generator().manual_seed(rank)
    x = torch.randn(5, 6, generator=g)
    x[:, 0] = x[:, 0].abs() * (1 if rank == 0 else -1)
    return x, torch.randint(3, (5,), generator=g)


def branched(rank: int, name: str) -> tuple[dict[str, Tensor], MaskSet]:
    """Measure where most parameters get a gradient on one rank only."""
    model = DistributedDataParallel(Branches(), find_unused_parameters=True)
    before = plain(model)
    sp = sl.methods.build(name, sparsity=0.5).attach(model, _sgd(model), data=[one_sided(rank)], seed=rank)
    sp.assert_agree()
    return before, sp.masks


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_layers_used_on_one_rank_only(pair: Pair, name: str) -> None:
    (weights, masks), _ = pair.run(branched, name)
    model = Branches()
    model.load_state_dict(weights)
    alone = sl.methods.build(name, sparsity=0.5).attach(model, _sgd(model), data=[one_sided(0), one_sided(1)])
    assert masks.digest() == alone.masks.digest()


def two_statistics(rank: int) -> tuple[list[str], str]:
    """A method with two accumulated statistics keeps them in one order on all ranks (hash seeds differ)."""
    model = DistributedDataParallel(net())
    optimizer = _sgd(model)
    words = {"criterion": Movement(), "growth": GrowMomentum(), "flow": "straight-through"}
    exchange = {"kind": "constant", "value": 0.2, "start": 3, "every": 2}
    method = sl.Method(name="both", schedule=OneShot(0.5, at=2), exchange=exchange, **words)
    sp = method.attach(model, optimizer, seed=rank)
    for batch in batches(rank):
        step(model, optimizer, batch)
    return list(sp.state_dict()["stats"]["0.weight"]), sp.assert_agree()


def test_statistics_have_one_order_on_all_ranks(pair: Pair) -> None:
    first, second = pair.run(two_statistics)
    assert first == second
    assert set(first[0]) == {"movement", "momentum"}
