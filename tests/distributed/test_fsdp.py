"""FSDP2 on a CPU mesh: sharded parameters, the same masks as one process has on the same global batch."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import sparseland as sl
from sparseland.core import NM, Bidirectional, OneShot, Penalised
from sparseland.core.errors import MaskMismatch, ScoreError
from tests.distributed.pair import RANKS, Pair

pytestmark = pytest.mark.distributed

STEPS = 8
SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"sparsity": 0.6},
    "gmp": {"sparsity": 0.6, "end": 6, "every": 2},
    "set": {"sparsity": 0.6, "every": 2, "end": 7},
    "rigl": {"sparsity": 0.6, "every": 2, "end": 7},
    "granet": {"sparsity": 0.6, "every": 2, "end": 6, "regrow_until": STEPS},
    "snip": {"sparsity": 0.6, "rounds": 2},
    "synflow": {"sparsity": 0.6, "rounds": 3},
    "random": {"sparsity": 0.6, "ratios": "snip"},
    "movement": {"sparsity": 0.6, "start": 2, "end": 6, "every": 2},
    "lamp": {"sparsity": 0.6},
}
TOTAL = 13 * 8 + 12 * 13 + 12


def net(odd: bool = True) -> nn.Module:
    """Shards of 7 and 6 rows, of 6 and 6, and of 1 and 0 (``odd``); or sizes that take 2:4."""
    torch.manual_seed(3)  # the same weights in every process
    if odd:
        return nn.Sequential(nn.Linear(8, 13), nn.Tanh(), nn.Linear(13, 12), nn.Tanh(), nn.Linear(12, 1))
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def sharded(odd: bool = True) -> nn.Module:
    """The same net, sharded layer by layer over both ranks."""
    model = net(odd)
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def batch(step: int) -> Tensor:
    """The global batch of a step: 8 rows, 4 for each rank."""
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(step))


def part(step: int, rank: int) -> Tensor:
    """What one rank sees of it."""
    return batch(step).chunk(RANKS)[rank]


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Mean over rows: the mean over ranks is the mean over the global batch."""
    return (model(x) - x[:, :1]).square().mean()


def train(model: nn.Module, optimizer: Any, data: list[Tensor]) -> None:
    """Ordinary steps."""
    for x in data:
        optimizer.zero_grad()
        loss(model, x).backward()
        optimizer.step()


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Full copies of all parameters."""
    return {n: getattr(p, "full_tensor", lambda p=p: p)().detach().clone() for n, p in model.named_parameters()}


def dead_values(sp: sl.Sparsifier) -> int:
    """Non-zeros where the masks are dead: in this rank's weights and optimizer state."""
    return sum(int((p[~m]).count_nonzero()) for p, m in _local_tensors(sp))


def _local_tensors(sp: sl.Sparsifier) -> list[tuple[Tensor, Tensor]]:
    pairs = []
    for n, t in sp.targets.items():
        state = [s for s in sp.optimizer.state[t.param].values() if isinstance(s, Tensor) and s.shape == t.param.shape]
        for tensor in [t.param.detach(), *state]:
            pairs.append((tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor, sp.masks[n]))
    return pairs


def run(rank: int, name: str, hyper: dict[str, Any], odd: bool = True, adam: bool = False) -> dict[str, Any]:
    """Train sharded; ``attach`` gets another seed on every rank but the first one's counts."""
    model = sharded(odd)
    optimizer = torch.optim.AdamW(model.parameters()) if adam else torch.optim.SGD(model.parameters(), **SGD)
    data = [part(s, rank) for s in range(STEPS)]
    method = sl.methods.build(name, **hyper)
    sp = method.attach(model, optimizer, data=data[:2], loss=loss, steps=STEPS, seed=5 + 100 * rank)
    train(model, optimizer, data)
    digest, zeros = sp.assert_agree(), 0 if sp.method.flow.latent else dead_values(sp)
    sp.finalize_()
    weights = whole(model)
    final = sum(int(weights[n][~m].count_nonzero()) for n, m in sp.masks.items())
    shapes = [tuple(p.to_local().shape) for p in model.parameters()]
    return {"digest": digest, "weights": weights, "counts": sp.counts(), "dead": zeros + final, "shapes": shapes}


def alone(name: str, hyper: dict[str, Any], odd: bool = True) -> tuple[str, dict[str, Tensor]]:
    """One process on the global batches."""
    model = net(odd)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    data = [batch(s) for s in range(STEPS)]
    sp = sl.methods.build(name, **hyper).attach(model, optimizer, data=data[:2], loss=loss, steps=STEPS, seed=5)
    train(model, optimizer, data)
    return sp.finalize_().masks.digest(), whole(model)


@pytest.mark.parametrize("name", METHODS)
def test_sharded_masks_are_those_of_one_process(pair: Pair, name: str) -> None:
    first, second = pair.run(run, name, METHODS[name])
    assert first["shapes"][0] == (7, 8) and second["shapes"][0] == (6, 8) and second["shapes"][4][0] == 0
    digest, weights = alone(name, METHODS[name])
    assert first["digest"] == second["digest"] == digest
    assert first["counts"]["kept"] == round(0.4 * TOTAL) and first["counts"]["total"] == TOTAL
    assert first["dead"] == second["dead"] == 0
    for n, w in weights.items():
        assert torch.equal(first["weights"][n], second["weights"][n])
        torch.testing.assert_close(first["weights"][n], w, rtol=1e-4, atol=1e-6)


def test_adam_state_keeps_its_zeros(pair: Pair) -> None:
    first, second = pair.run(run, "rigl", METHODS["rigl"], adam=True)
    assert first["dead"] == second["dead"] == 0 and first["digest"] == second["digest"]


@pytest.mark.parametrize(
    ("name", "hyper"),
    [("sr-ste", {"pattern": "2:4"}), ("magnitude", {"sparsity": 0.5, "pattern": "2:4"})]
    + [("rigl", {"sparsity": 0.5, "pattern": "2:4", "every": 2, "end": 6, "allocation": "uniform"})]
    + [("gmp", {"sparsity": 0.5, "pattern": "block 1x4", "every": 2, "end": 6})],
)
def test_patterns_and_latent_weights(pair: Pair, name: str, hyper: dict[str, Any]) -> None:
    first, second = pair.run(run, name, hyper, odd=False)
    digest, weights = alone(name, hyper, odd=False)
    assert first["digest"] == second["digest"] == digest
    assert first["dead"] == second["dead"] == 0
    for n, w in weights.items():
        torch.testing.assert_close(first["weights"][n], w, rtol=1e-4, atol=1e-6)


def resumed(rank: int, name: str, hyper: dict[str, Any], odd: bool) -> list[bool]:
    """Stop half-way, save to bytes, go on in new objects: equal to never stopping?"""
    models = [sharded(odd), sharded(odd)]
    optimizers = [torch.optim.SGD(m.parameters(), **SGD) for m in models]
    data = [part(s, rank) for s in range(STEPS)]
    method = sl.methods.build(name, **hyper)
    sp = method.attach(models[0], optimizers[0], data=data[:2], loss=loss, steps=STEPS, seed=rank)
    train(models[0], optimizers[0], data[:4])
    file = io.BytesIO()
    torch.save(sp.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    models[1].load_state_dict({n: v.clone() for n, v in models[0].state_dict().items()})
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    again = method.attach(models[1], optimizers[1], steps=STEPS, seed=77 + rank, state=saved, loss=loss, data=data[:2])
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, data[4:])
    one, two = whole(models[0]), whole(models[1])
    return [again.masks == sp.masks, again.history == sp.history, all(torch.equal(one[n], two[n]) for n in one)]


@pytest.mark.parametrize(("name", "odd"), [("set", True), ("granet", True), ("movement", True), ("sr-ste", False)])
def test_resume_is_equal_to_the_last_bit(pair: Pair, name: str, odd: bool) -> None:
    hyper = METHODS.get(name, {"pattern": "2:4"})
    assert pair.run(resumed, name, hyper, odd) == [[True] * 3, [True] * 3]


def tampered(rank: int) -> str:
    """One bit of rank 0's mask is flipped."""
    model = sharded()
    sp = sl.methods.Magnitude(0.5).attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    if rank == 0:
        sp.masks["2.weight"][3, 3] ^= True
    with pytest.raises(MaskMismatch) as caught:
        sp.assert_agree()
    return str(caught.value)


def test_tampering_is_found(pair: Pair) -> None:
    assert all("[1]" in text for text in pair.run(tampered))  # rank 1 differs from rank 0


def others(rank: int) -> dict[str, Any]:
    """prune_, keep_zeros and project_ on sharded models."""
    out: dict[str, Any] = {}
    model, average, plain = sharded(), sharded(), net()
    out["pruned"] = (
        sl.prune_(model, sl.methods.LAMP(0.6)).kept(),
        sum(int(w.count_nonzero()) for n, w in whole(model).items() if "weight" in n),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sp = sl.keep_zeros(model, optimizer)
    train(model, optimizer, [part(s, rank) for s in range(3)])
    out["kept"], out["dead"] = sp.masks.kept(), dead_values(sp)
    sp.project_(average), sp.project_(plain)
    out["equal"] = all(torch.equal(w, whole(average)[n]) for n, w in whole(plain).items())
    out["zeros"] = sum(int((w == 0).sum()) for n, w in whole(plain).items() if "weight" in n)
    return out


def test_pruning_keeping_and_projecting(pair: Pair) -> None:
    kept = round(0.4 * TOTAL)
    for got in pair.run(others):
        assert got == {"pruned": (kept, kept), "kept": kept, "dead": 0, "equal": True, "zeros": TOTAL - kept}


def grasp(rank: int) -> str:
    """Second derivatives of sharded parameters do not exist; nothing may be touched."""
    model = sharded()
    before = whole(model)
    with pytest.raises(ScoreError) as caught:
        sl.methods.GraSP(0.5).attach(model, torch.optim.SGD(model.parameters(), lr=0.1), data=[batch(0)], loss=loss)
    assert all(torch.equal(w, before[n]) for n, w in whole(model).items())
    return str(caught.value)


def test_grasp_says_that_it_cannot(pair: Pair) -> None:
    assert all("before sharding" in text for text in pair.run(grasp))


def after_evaluation(rank: int) -> float:
    """finalize_ after a forward pass without backward, when FSDP2 still holds the gathered root parameters."""
    model = fully_shard(net(), mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = sl.Method(name="pull", schedule=OneShot(0.5), flow=Penalised(0.1))
    sp = method.attach(model, optimizer)
    train(model, optimizer, [part(s, rank) for s in range(3)])
    with torch.no_grad():
        model(batch(0))
        sp.finalize_()
        seen = model(batch(0))
        model.reshard()
        return float((seen - model(batch(0))).abs().max())


def test_finalize_after_evaluation(pair: Pair) -> None:
    assert pair.run(after_evaluation) == [0.0, 0.0]


def attach_after_evaluation(rank: int) -> int:
    """attach when FSDP2 still holds the gathered root parameters."""
    model = fully_shard(net(), mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model(batch(0))
    return sl.methods.Magnitude(0.6).attach(model, optimizer).masks.kept()


def test_attach_after_evaluation(pair: Pair) -> None:
    assert pair.run(attach_after_evaluation) == [round(0.4 * TOTAL)] * 2


def two_way(rank: int) -> dict[str, Tensor]:
    """A flow with its own backward value."""
    model = sharded(odd=False)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    flow = Bidirectional(NM(2, 4, axis=0))
    words: dict[str, Any] = {"pattern": "2:4", "allocation": "uniform", "flow": flow}
    method = sl.Method(name="both", schedule=OneShot(0.5), **words)
    method.attach(model, optimizer, targets=["0.weight", "2.weight"])
    train(model, optimizer, [part(s, rank) for s in range(3)])
    return whole(model)


def test_two_way_flow(pair: Pair) -> None:
    first, second = pair.run(two_way)
    model = net(odd=False)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    words: dict[str, Any] = {"pattern": "2:4", "allocation": "uniform", "flow": Bidirectional(NM(2, 4, axis=0))}
    method = sl.Method(name="both", schedule=OneShot(0.5), **words)
    method.attach(model, optimizer, targets=["0.weight", "2.weight"])
    train(model, optimizer, [batch(s) for s in range(3)])
    for n, w in whole(model).items():
        assert torch.equal(first[n], second[n])
        torch.testing.assert_close(first[n], w, rtol=1e-4, atol=1e-6)


def parallel(rank: int, layout: str, name: str) -> dict[str, Any]:
    """Other DTensor layouts: copies of shards (HSDP), and columns and rows of layers (tensor parallel)."""
    model = net(odd=False)
    if layout == "hybrid":
        mesh = init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("replicate", "shard"))
        model, data = fully_shard(model, mesh=mesh), [part(s, rank) for s in range(STEPS)]
    else:
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        model = parallelize_module(model, init_device_mesh("cpu", (RANKS,)), plan)
        data = [batch(s) for s in range(STEPS)]
    optimizer = torch.optim.SGD(model.parameters(), **SGD, foreach=False)  # plain parameters and DTensors together
    sp = sl.methods.build(name, **METHODS[name]).attach(model, optimizer, steps=STEPS, seed=5 + rank)
    train(model, optimizer, data)
    return {"digest": sp.assert_agree(), "dead": dead_values(sp), "weights": whole(model)}


@pytest.mark.parametrize("name", ["rigl", "gmp"])
@pytest.mark.parametrize("layout", ["hybrid", "tensor parallel"])
def test_other_layouts(pair: Pair, layout: str, name: str) -> None:
    first, second = pair.run(parallel, layout, name)
    digest, weights = alone(name, METHODS[name], odd=False)
    assert first["digest"] == second["digest"] == digest and first["dead"] == second["dead"] == 0
    for n, w in weights.items():
        torch.testing.assert_close(first["weights"][n], w, rtol=1e-4, atol=1e-6)
