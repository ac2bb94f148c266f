"""The building blocks of agreement: whole and local parts of any layout, averages, seeds; groups without wrapper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

import sparseland as sl
from sparseland.core import MaskSet
from sparseland.core.errors import ScoreError
from sparseland.weights import ranks
from tests.distributed.pair import RANKS, Pair

pytestmark = pytest.mark.distributed

STEPS = 6
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {"sparsity": 0.7, "end": 6, "every": 2},
    "set": {"sparsity": 0.7, "every": 2, "end": 6},
    "rigl": {"sparsity": 0.7, "every": 1, "end": 6},
    "granet": {"sparsity": 0.7, "every": 2, "end": 6, "regrow_until": STEPS},
    "snip": {"sparsity": 0.7, "rounds": 2},
    "grasp": {"sparsity": 0.7},
    "synflow": {"sparsity": 0.7, "rounds": 3},
    "movement": {"sparsity": 0.7, "start": 1, "end": 6, "every": 1},
}


def layouts(rank: int) -> list[bool]:
    """full, local and shard_like on every layout of an uneven matrix over two ranks."""
    whole = torch.arange(35.0).view(7, 5)
    flat = init_device_mesh("cpu", (RANKS,))
    square = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicate", "shard"))
    placements: list[tuple[Any, list[Placement]]] = [(flat, [Shard(0)]), (flat, [Shard(1)]), (flat, [Replicate()])]
    placements.append((square, [Replicate(), Shard(0)]))
    out = []
    for mesh, placement in placements:
        tensor = distribute_tensor(whole.clone(), mesh, placement)
        mask = ranks.shard_like(whole > 10, tensor)
        out.append(ranks.is_sharded(tensor) and torch.equal(ranks.full(tensor), whole))
        out.append(mask.shape == ranks.local(tensor).shape and torch.equal(mask, ranks.local(tensor) > 10))
        ranks.local(tensor).masked_fill_(~mask, 0)  # a view: the whole tensor changes
        out.append(torch.equal(ranks.full(tensor), whole * (whole > 10)))
    plain = torch.ones(3)
    out += [not ranks.is_sharded(plain), ranks.full(plain) is plain, ranks.local(plain) is plain]
    return out


def test_every_layout(pair: Pair) -> None:
    assert all(all(fine) for fine in pair.run(layouts))


def averages(rank: int) -> dict[str, Any]:
    """mean, shared_seed, world."""
    mine = torch.full((2, 3), float(rank)).t()  # not contiguous
    average = ranks.mean(mine)
    same = MaskSet({"w": torch.tensor([True, False])})
    return {
        "mean": average.tolist(),
        "kept": float(mine.sum()),
        "seed": ranks.shared_seed(40 + rank),
        "world": ranks.world(),
        "digest": ranks.assert_agree(same) == same.digest(),
    }


def test_averages_and_seeds(pair: Pair) -> None:
    first, second = pair.run(averages)
    assert first["mean"] == second["mean"] == [[0.5, 0.5]] * 3
    assert (first["kept"], second["kept"]) == (0.0, 6.0)  # the input is untouched
    assert (first["seed"], second["seed"]) == (40, 40)
    assert first["world"] == second["world"] == 2 and first["digest"] and second["digest"]


def net() -> nn.Module:
    """420 weights."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 4))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Any scalar."""
    return (model(x) - x[:, :4]).square().mean()


def unwrapped(rank: int, name: str, hyper: dict[str, Any]) -> tuple[str, list[int], Tensor]:
    """No DDP: each rank trains its own copy on its own gradients, so even the weights part."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    g = torch.Generator().manual_seed(rank)
    data = [torch.randn(8, 10, generator=g) for _ in range(STEPS)]
    sp = sl.methods.build(name, **hyper).attach(model, optimizer, data=data[:1], loss=loss, steps=STEPS, seed=rank)
    for x in data:
        optimizer.zero_grad()
        loss(model, x).backward()
        optimizer.step()
    dead = sum(int(t.param[~sp.masks[n]].count_nonzero()) for n, t in sp.targets.items())
    return sp.assert_agree(), [sp.masks.kept(), dead], model[0].weight.detach()


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_averaged_without_a_wrapper(pair: Pair, name: str) -> None:
    first, second = pair.run(unwrapped, name, METHODS[name])
    assert first[0] == second[0]
    assert first[1] == second[1] == [round(0.3 * 420), 0]
    assert not torch.equal(first[2], second[2])  # local gradients did differ


def idle(rank: int, name: str, hyper: dict[str, Any]) -> str:
    """No DDP, and the second layer gets a gradient on rank 0 only."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sp = sl.methods.build(name, **hyper).attach(model, optimizer, steps=STEPS, seed=rank)
    for _ in range(STEPS):
        optimizer.zero_grad()
        x = torch.randn(8, 10)
        (loss(model, x) if rank == 0 else model[0](x).square().mean()).backward()
        optimizer.step()
    return sp.assert_agree()


@pytest.mark.parametrize("name", ["rigl", "movement"])
def test_a_layer_without_gradient_on_one_rank(pair: Pair, name: str) -> None:
    first, second = pair.run(idle, name, METHODS[name])
    assert first == second


def overflow(rank: int) -> tuple[str, bool]:
    """A gradient that is not finite on rank 1 only: both ranks refuse, and nothing moves."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sl.methods.RigL(0.7, every=1, end=STEPS).attach(model, optimizer)
    before = model[0].weight.detach().clone()
    loss(model, torch.ones(2, 10)).backward()
    if rank == 1:
        model[2].weight.grad[0, 0] = float("nan")
    with pytest.raises(ScoreError) as caught:
        optimizer.step()
    return str(caught.value), torch.equal(before, model[0].weight)


def test_all_ranks_refuse_a_gradient_that_overflowed(pair: Pair) -> None:
    (first, kept), (second, also) = pair.run(overflow)
    assert "another rank" in first and "'2.weight'" in second and kept and also


def resharded(rank: int) -> list[bool]:
    """reshard lets go of gathered parameters, also of nested groups; other modules are left alone."""
    model = net()
    fully_shard(model[0], reshard_after_forward=False)
    fully_shard(model)
    with torch.no_grad():
        model(torch.ones(1, 10))
    gathered = [ranks.is_sharded(p) for p in model.parameters()]
    ranks.reshard(model)
    ranks.reshard(nn.Linear(2, 2))
    return [not any(gathered), all(ranks.is_sharded(p) for p in model.parameters())]


def test_reshard(pair: Pair) -> None:
    assert pair.run(resharded) == [[True, True]] * 2
