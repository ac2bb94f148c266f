"""Rearranged networks compute the same numbers, and rows that share zeros stand together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import SparselandError
from sparseland.deploy.capture import capture
from sparseland.deploy.graph import Graph
from sparseland.deploy.graph_twin import run
from sparseland.deploy.rearrange import Rearranged, rearrange
from sparseland.kernels.grouping import fill


class Branches(nn.Module):
    """Two branches that are concatenated and read by one layer; a gate; a residual over the whole."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.gate = nn.BatchNorm2d(12), nn.Linear(12, 12)
        self.mix, self.head, self.tied = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 5), tied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        both = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        y = self.mix(both)
        y = y + both if self.tied else y
        gate = torch.sigmoid(self.gate(y.mean((2, 3))))
        return self.head((y * gate[:, :, None, None]).flatten(2).mean(2))


class Shuffled(nn.Module):
    """Channels are taken apart by a reshape, and there are groups: nothing before these may move."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 1)
        self.four = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.two(torch.relu(self.one(x)))
        n, c, h, w = y.shape
        y = y.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.four(torch.relu(self.three(y)))


def pruned(model: nn.Module, share: float = 0.7) -> nn.Module:
    """Random zeros, biases and statistics that differ from channel to channel."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.is_floating_point() and value.ndim == 1:
                value.copy_(torch.rand(value.shape, generator=draw) + 0.5)
            elif value.ndim >= 2 and "head" not in name:
                value.mul_(torch.rand(value.shape, generator=draw) > share)
    return model.eval()


def same(graph: Graph, made: Rearranged, x: torch.Tensor) -> None:
    (before,), (after,) = run(graph, [x]), run(made.graph.check(), [x])
    assert float((before - after).abs().max()) <= 1e-5 * float(before.abs().max())


NETS: dict[str, Any] = {
    "resnet": lambda: sl.zoo.build("resnet-8", in_shape=(3, 8, 8), classes=5, seed=0, width=8),
    "resnet B": lambda: sl.zoo.build("resnet-8", in_shape=(3, 8, 8), classes=5, seed=0, width=8, shortcut="B"),
    "mobilenet": lambda: sl.zoo.build("mobilenet-v1", in_shape=(3, 8, 8), classes=5, seed=0, width=0.25),
    "branches": Branches,
    "branches, tied": lambda: Branches(tied=True),
    "blocked": Shuffled,
}


@pytest.mark.parametrize("name", NETS)
def test_the_network_computes_the_same(name: str) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    graph = capture(pruned(NETS[name]()), x)
    weights = [{k: w.copy() for k, w in node.weights.items()} for node in graph.nodes]
    moved = 0
    for method in ("zeros", "sort", "kmeans", "swap"):
        for G in (2, 4):
            made = rearrange(graph, G, method=method)
            moved += len(made.orders)
            same(graph, made, x)
    assert moved
    for node, before in zip(graph.nodes, weights, strict=True):  # what was given is as it was
        assert all(np.array_equal(node.weights[k], before[k]) for k in before)


def test_classes_of_a_resnet() -> None:
    model = sl.zoo.build("resnet-8", in_shape=(3, 8, 8), classes=5, seed=0, width=8, shortcut="B")
    made = rearrange(capture(pruned(model), torch.zeros(1, 3, 8, 8)))
    together = {name: group for group in made.classes for name in group}
    assert together["layer1.0.conv2"] == ["conv1", "layer1.0.conv2"]
    assert together["layer2.0.conv2"] == ["layer2.0.conv2", "layer2.0.shortcut.conv"]
    assert together["layer2.0.conv1"] == ["layer2.0.conv1"]
    assert made.fixed == {"linear": "it is an output of the network"}


def test_what_cannot_move_is_named() -> None:
    graph = capture(pruned(Shuffled()), torch.zeros(1, 3, 8, 8))
    made = rearrange(graph)
    assert set(made.orders) == {"three"} and "four" in made.fixed
    assert "'two' has 2 groups" in made.fixed["one"]
    tied = rearrange(capture(pruned(Branches(tied=True)), torch.zeros(1, 3, 8, 8)))
    assert {"left", "right", "mix"} <= set(tied.fixed) and "concatenated" in tied.fixed["left"]
    free = rearrange(capture(pruned(Branches()), torch.zeros(1, 3, 8, 8)))
    assert {"left", "right", "stem", "mix"} <= {name for group in free.classes for name in group}
    assert ["mix", "gate"] in free.classes and free.fixed == {"head": "it is an output of the network"}


def test_scattered_groups_become_neighbours() -> None:
    """A net with kernel groups of any rows: after it, consecutive rows share all their zeros."""
    model = sl.zoo.build("mobilenet-v1", in_shape=(3, 8, 8), classes=5, seed=0, width=0.25)
    draw = torch.Generator().manual_seed(2)
    layers = {n: m for n, m in model.named_modules() if n.endswith("pointwise")}
    with torch.no_grad():
        for layer in layers.values():
            out, inputs = layer.weight.shape[:2]
            mask = (torch.rand(out // 4, inputs, generator=draw) > 0.5).repeat_interleave(4, 0)
            layer.weight.mul_(mask[torch.randperm(out, generator=draw)][:, :, None, None])
    x = torch.randn(1, 3, 8, 8, generator=draw)
    graph = capture(model.eval(), x)
    made = rearrange(graph, 4)
    same(graph, made, x)
    for before, node in zip(graph.nodes, made.graph.nodes, strict=True):
        if node.name in layers:
            weight = node.weights["weight"]
            rows = [list(range(i, i + 4)) for i in range(0, len(weight), 4)]
            assert fill(weight, 4, rows) == 1.0 > fill(before.weights["weight"], 4, rows)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(SparselandError, match="unknown method 'swop': did you mean 'swap'"):
        rearrange(Graph([], [], [], {}), method="swop")
