"""Activations that a network writes out by hand, recognised by what they compute.

0.5 x (1 + erf(x / √2)) is GELU however its factors are ordered. So a tensor that depends, number by number, on one
other tensor only is tried on a grid and compared with every activation there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph as FxGraph
from torch.fx import Node
from torch.fx.node import map_arg
from torch.nn import functional as F

from .capture_constants import Constants

aten = torch.ops.aten
_CURVED = ("erf", "tanh", "sigmoid", "hardsigmoid", "clamp", "hardtanh", "relu6", "relu", "exp", "clamp_min")
_STRAIGHT = ("add", "sub", "mul", "div", "pow", "neg", "rsub", "square", "reciprocal", "clamp_max")
_POINTWISE = {f"aten.{name}" for name in (*_CURVED, *_STRAIGHT)}
_GRID = torch.cat((torch.linspace(-9, 9, 1801, dtype=torch.float64), torch.tensor([-60.0, 60.0]).double()))
LIMIT = 16  # operations in one activation

KNOWN: tuple[tuple[Callable[[Tensor], Tensor], Any, dict[str, Any]], ...] = (
    (F.gelu, aten.gelu.default, {}),
    (lambda x: F.gelu(x, approximate="tanh"), aten.gelu.default, {"approximate": "tanh"}),
    (F.silu, aten.silu.default, {}),
    (F.hardswish, aten.hardswish.default, {}),
    (F.hardsigmoid, aten.hardsigmoid.default, {}),
    (torch.sigmoid, aten.sigmoid.default, {}),
    (torch.tanh, aten.tanh.default, {}),
    (F.relu6, aten.relu6.default, {}),
)


def recognise_activations(graph: FxGraph, constants: Constants) -> None:
    """Replace hand-written activations by torch's, in place; the largest first."""
    for node in reversed(list(graph.nodes)):
        if _pointwise(node, constants) and node.users:
            found = _match(node, constants)
            if found is not None:
                x, target, kwargs = found
                with graph.inserting_before(node):
                    new = graph.call_function(target, (x,), kwargs)
                new.meta = dict(node.meta)
                node.replace_all_uses_with(new)


def _pointwise(node: Node, constants: Constants) -> bool:
    """Whether a call works number by number on tensors of one shape, its other arguments being plain numbers."""
    name = str(node.target).rpartition(".")[0]
    if node.op != "call_function" or name not in _POINTWISE or node in constants:
        return False
    if not isinstance(node.meta.get("val"), Tensor) or node.meta["val"].dtype != torch.float32:
        return False
    shape = node.meta["val"].shape
    for one in node.all_input_nodes:
        constant = constants.get(one)
        if isinstance(constant, Tensor) and constant.numel() == 1:
            continue
        if constant is not None or one.meta["val"].shape != shape:
            return False
    return True


def _match(node: Node, constants: Constants) -> tuple[Node, Any, dict[str, Any]] | None:
    """(x, what to call, with which arguments) if the node is an activation of x."""
    place = {one: i for i, one in enumerate(node.graph.nodes)}
    inside: list[Node] = []
    border = {node}
    while len(inside) < LIMIT:
        last = max(border, key=lambda one: place[one])
        if not _pointwise(last, constants):
            return None
        border.remove(last)
        inside.append(last)
        border |= {one for one in last.all_input_nodes if one not in constants}
        if len(border) == 1 and len(inside) > 1:
            (x,) = border
            if any(str(one.target).split(".")[1] in _CURVED for one in inside):
                made = _try(inside[::-1], x, constants)
                for function, target, kwargs in KNOWN:
                    if made is not None and torch.allclose(made, function(_GRID), rtol=1e-6, atol=1e-6):
                        return x, target, kwargs
    return None


def _try(calls: list[Node], x: Node, constants: Constants) -> Tensor | None:
    """What the calls make of the grid."""
    env: dict[Node, Any] = {x: _GRID}

    def value(one: Node) -> Any:
        return env[one] if one in env else constants[one].double().reshape(())

    for call in calls:
        assert callable(call.target)
        env[call] = call.target(*map_arg(call.args, value), **map_arg(call.kwargs, value))
    made = env[calls[-1]]
    return made if isinstance(made, Tensor) and made.shape == _GRID.shape else None
