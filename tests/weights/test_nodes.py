"""Node space of fully connected nets: what is found, masked and cut, and the search that draws from it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.core.errors import InfeasibleBudget, MaskMismatch, ScheduleError, ScoreError, TargetError
from sparseland.weights import eligible, nodes, statistics, structure
from sparseland.weights.methods import RandomSearch
from sparseland.weights.search import search


def random_net(generator: torch.Generator) -> nn.Sequential:
    """One to four linear layers of random widths, with BatchNorm and other things between."""
    sizes = torch.randint(1, 9, (int(torch.randint(2, 5, (), generator=generator)),), generator=generator).tolist()
    layers: list[nn.Module] = []
    width = 5
    for size in sizes:
        layers.append(nn.Linear(width, size, bias=bool(torch.randint(2, (), generator=generator))))
        norm = nn.BatchNorm1d(size)
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
            tensor.copy_(torch.randn(size, generator=generator))
        rest = [[nn.ReLU()], [norm, nn.Sigmoid()], [nn.GELU(), nn.Dropout(0.5)], [nn.Tanh()]]
        layers += rest[int(torch.randint(4, (), generator=generator))]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 3)).eval()


def draw(model: nn.Module, sparsity: float, seed: int, **words: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    layers = nodes.hidden(model)
    generator = torch.Generator().manual_seed(seed)
    return layers, nodes.choose(RandomSearch(sparsity, **words), nodes.norms(model, layers), generator)


# ---------------------------------------------------------------------------------------------------- masks and cutting
@pytest.mark.parametrize("seed", range(25))
def test_masked_and_cut_nets_compute_the_same(seed: int) -> None:
    model = random_net(torch.Generator().manual_seed(seed))
    layers, alive = draw(model, 0.5, seed)
    small = nodes.cut(model, layers, alive)
    masks = nodes.masks(model, layers, alive)
    x = torch.randn(7, 5)
    with torch.no_grad():
        for name, target in eligible(model).items():
            target.param.mul_(masks[name])
        nodes.silence_(model, layers, alive)
    assert torch.allclose(small(x), model(x), atol=1e-6)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters()) or all(
        bool(z.all()) for z in alive.values()
    )


@pytest.mark.parametrize("seed", range(5))
def test_removal_by_structure_is_the_same_cut(seed: int) -> None:
    """Another road to the small net: traced by running, without torch.fx."""
    model = random_net(torch.Generator().manual_seed(seed))
    layers, alive = draw(model, 0.5, seed)
    small = nodes.cut(model, layers, alive)
    keep = {name: z for name, z in alive.items() if len(z) > 1}  # a layer of one node is no group there
    other = structure.trace(model, torch.zeros(2, 5)).plan(keep=keep).apply(copy.deepcopy(model))
    x = torch.randn(7, 5)
    assert torch.allclose(small(x), other(x), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), other.parameters(), strict=True))


def test_masks_are_outer_products_and_densities_follow() -> None:
    model = sl.zoo.build("mlp-40-20", in_shape=(1, 4, 4), classes=3, seed=0)
    layers, alive = draw(model, 0.75, 1)
    one, two = alive["fc1"], alive["fc2"]
    masks = nodes.masks(model, layers, alive)
    assert torch.equal(masks["fc1.weight"], one[:, None].expand(40, 16))
    assert torch.equal(masks["fc2.weight"], two[:, None] & one[None, :])
    assert torch.equal(masks["fc3.weight"], two[None, :].expand(3, 20))
    density = {name: kept / total for name, (kept, total) in masks.counts().items()}
    assert density == {"fc1.weight": 0.25, "fc2.weight": 0.0625, "fc3.weight": 0.25}  # q, q^2, q


def test_training_a_masked_net_is_training_the_small_one() -> None:
    """Momentum and all, with the biases of dead nodes stopped."""
    model = sl.zoo.build("mlp-24-12", in_shape=(1, 2, 4), classes=3, seed=0)
    layers, alive = draw(model, 0.5, 3)
    small = nodes.cut(model, layers, alive)
    nodes.silence_(model, layers, alive)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    sl.weights.Method(name="keep").attach(model, opt, masks=nodes.masks(model, layers, alive))
    other = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for step in range(20):
        g = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 1, 2, 4, generator=g), torch.randint(3, (16,), generator=g)
        for net, optimizer in ((model, opt), (small, other)):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert torch.allclose(model(x), small(x), atol=1e-5)
    assert torch.allclose(model.fc1.bias[alive["fc1"]], small.fc1.bias, atol=1e-5)
    assert not bool(model.fc1.bias[~alive["fc1"]].any())


def test_coupled_layers_share_their_nodes() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.a(x))
            out: torch.Tensor = self.c(h + torch.relu(self.b(h)))
            return out

    model = Skip()
    with pytest.raises(TargetError, match=r"'a' and 'b' meet in 'add' \(a skip connection\).*coupled=\[\('a', 'b'\)\]"):
        nodes.hidden(model)
    (layer,) = nodes.hidden(model, coupled=[("a", "b")])
    assert (layer.makes, layer.reads) == (["a", "b"], ["b", "c"])
    alive = {"a": torch.tensor([True, False, True, True, False, True])}
    masks = nodes.masks(model, [layer], alive)
    small = nodes.cut(model, [layer], alive)
    with torch.no_grad():
        for name, target in eligible(model).items():
            target.param.mul_(masks[name])
    x = torch.randn(3, 4)
    assert torch.allclose(small(x), model(x), atol=1e-6) and small.b.weight.shape == (4, 4)
    with pytest.raises(TargetError, match="coupled names 'z', which is no linear layer; possible: a, b, c"):
        nodes.hidden(model, coupled=[("a", "z")])


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(x + self.a(x))
        return out


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
            "'LayerNorm', where they cannot be",
        ),
        (nn.Sequential(nn.Linear(4, 2)), "no hidden layer"),
        (nn.Sequential(nn.Conv1d(1, 1, 3), nn.Flatten(), nn.Linear(2, 2)), "go through 'Conv1d'"),
        (_Residual(), "tied to the input"),
    ],
)
def test_what_is_no_fully_connected_net_is_refused(model: nn.Module, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        nodes.hidden(model)


def test_bad_nodes() -> None:
    model = sl.zoo.build("mlp-8-8", in_shape=(1, 2, 2), classes=3, seed=0)
    layers, alive = draw(model, 0.5, 0)
    with pytest.raises(MaskMismatch, match=r"no node of 'fc2' is left; possible: 1 … 8"):
        nodes.masks(model, layers, alive | {"fc2": torch.zeros(8, dtype=torch.bool)})
    with pytest.raises(MaskMismatch, match=r"'fc1' has 8 nodes; got \(9,\)"):
        nodes.masks(model, layers, alive | {"fc1": torch.ones(9, dtype=torch.bool)})
    with pytest.raises(MaskMismatch, match=r"'fc3' makes no hidden nodes .*possible: 'fc1', 'fc2'"):
        nodes.masks(model, layers, alive | {"fc3": torch.ones(3, dtype=torch.bool)})
    for sparsity in (1.0, -0.1):
        with pytest.raises(InfeasibleBudget, match=r"in \[0, 1\)"):
            RandomSearch(sparsity)


# -------------------------------------------------------------------------------------------------------------- drawing
def test_counts_per_layer_and_of_the_pool() -> None:
    model = sl.zoo.build("mlp-256-256", in_shape=(1, 2, 2), classes=3, seed=0)
    for sparsity, kept in ((0.5, 128), (0.9, 26), (0.95, 13), (0.98, 5), (0.999, 1)):
        _, alive = draw(model, sparsity, 0)
        assert [int(z.sum()) for z in alive.values()] == [kept, kept]
    uneven = set()
    for seed in range(20):
        _, alive = draw(model, 0.98, seed, scope="global")
        counts = [int(z.sum()) for z in alive.values()]
        assert sum(counts) == 10 and min(counts) >= 1
        uneven.add(counts[0])
    assert len(uneven) > 3


def test_every_node_is_drawn_equally_often() -> None:
    model = sl.zoo.build("mlp-10-10", in_shape=(1, 2, 2), classes=3, seed=0)
    layers = nodes.hidden(model)
    values, words, g = nodes.norms(model, layers), RandomSearch(0.7), torch.Generator().manual_seed(0)
    total = sum(torch.cat(list(nodes.choose(words, values, g).values())).double() for _ in range(2000))
    assert bool(((total / 2000 - 0.3).abs() < 5 * math.sqrt(0.3 * 0.7 / 2000)).all())


def test_magnitude_takes_the_largest_incoming_norms() -> None:
    model = sl.zoo.build("mlp-12", in_shape=(1, 2, 2), classes=3, seed=0)
    _, alive = draw(model, 0.75, 0, criterion="magnitude")
    largest = model.fc1.weight.norm(dim=1).topk(3).indices
    assert sorted(alive["fc1"].nonzero().view(-1).tolist()) == sorted(largest.tolist())


# --------------------------------------------------------------------------------------------------------------- search
def test_the_search_is_argmin_and_skips_what_has_no_value() -> None:
    drawn: list[float] = []

    def take(g: torch.Generator) -> float:
        drawn.append(float(torch.rand((), generator=g)))
        return drawn[-1]

    found = search(take, lambda z: math.nan if z < 0.3 else z, 50, seed=1)
    good = [z for z in drawn if z >= 0.3]
    assert found.best == found.value == min(good) and found.skipped == 50 - len(good) and len(found.values) == 50


def test_one_candidate_is_independent_of_a_search() -> None:
    firsts = {n: [search(_uniform, lambda z: 0.0, n, seed=s).best for s in range(200)] for n in (1, 100)}
    pairs = torch.tensor([firsts[1], firsts[100]])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.25 and not bool((pairs[0] == pairs[1]).any())
    assert firsts[1][:5] == [search(_uniform, lambda z: 0.0, 1, seed=s).best for s in range(5)]  # repeatable


def _uniform(g: torch.Generator) -> float:
    return float(torch.rand((), generator=g))


def test_bad_searches() -> None:
    for count in (0, -1, 1.5, True):
        with pytest.raises(ScheduleError, match=r"candidates is .*; possible: 1 or more"):
            search(_uniform, lambda z: z, count)  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match="none of 3 candidates has a finite value"):
        search(_uniform, lambda z: math.inf, 3)


def test_any_objective_and_any_sampler() -> None:
    """Zero-cost proxies on edges: the mask whose synaptic flow is largest."""
    model = sl.zoo.build("mlp-6", in_shape=(1, 2, 2), classes=3, seed=0)
    targets = eligible(model)
    weights = {n: t.param.detach().clone() for n, t in targets.items()}

    def edges(g: torch.Generator) -> dict[str, torch.Tensor]:
        return {n: torch.rand(w.shape, generator=g) < 0.5 for n, w in weights.items()}

    def flow(masks: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            for n, t in targets.items():
                t.param.copy_(weights[n] * masks[n])
        found = statistics.synaptic_flow(model, targets, torch.zeros(1, 1, 2, 2))
        return -float(sum((found[n] * t.param.detach().abs()).sum() for n, t in targets.items()))

    found = search(edges, flow, 30)
    assert found.value == min(found.values) < max(found.values) < 0
