"""What the tests of capturing share: weights that are not trivial, and the comparison of a graph with its network."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseland.deploy.capture import capture
from sparseland.deploy.fuse import fuse
from sparseland.deploy.graph import Graph
from sparseland.deploy.graph_twin import infer, run


def lively(model: nn.Module, sparsity: float = 0.0) -> nn.Module:
    """The model in evaluation mode with statistics and factors that a mistake would show in."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if parameter.dim() > 1 and sparsity:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) >= sparsity)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
    return model.eval()


def call(args: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments."""
    if isinstance(args, dict):
        return (), args
    return ((args,) if isinstance(args, Tensor) else tuple(args)), {}


def assert_same(graph: Graph, model: nn.Module, args: Any, tolerance: float = 1e-5) -> Any:
    """The graph returns what the network returns, in the same container; returns it."""
    positional, named = call(args)
    with torch.no_grad():
        wanted = model(*positional, **named)
    assert graph.in_spec is not None and graph.out_spec is not None
    got = graph.out_spec.rebuild(run(graph, graph.in_spec.flatten(positional, named)))
    assert type(got) is type(wanted)
    ours, theirs = pytree.tree_flatten(got), pytree.tree_flatten(wanted)
    assert ours[1] == theirs[1]
    for one, two in zip(ours[0], theirs[0], strict=True):
        if isinstance(two, Tensor):
            assert one.shape == two.shape and float(two.abs().max()) > 0
            assert float((one - two).abs().max()) <= tolerance * float(two.abs().max())
        else:
            assert one == two
    return got


def captured(model: nn.Module, args: Any, tolerance: float = 1e-5) -> Graph:
    """The fused graph of a network, after both graphs were compared with it and all shapes computed anew."""
    plain = capture(model, args)
    assert_same(plain, model, args, tolerance)
    graph = fuse(plain).check()
    assert_same(graph, model, args, tolerance)
    for one in (plain, graph):
        for node in one.nodes:
            if node.op != "torch":
                made = infer(node, [one.values[name] if name else None for name in node.inputs])
                assert made == [one.values[name] for name in node.outputs], node.name
    return graph


def ops(graph: Graph) -> Counter[str]:
    """How often each kind of node occurs."""
    return Counter(node.op for node in graph.nodes)


def reasons(graph: Graph) -> str:
    """Why parts of a graph stayed torch."""
    return "; ".join(node.attrs["reason"] for node in graph.nodes if node.op == "torch")
