"""What an exported network computes from its parameters alone: computed once, when it is captured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg

# They read no numbers of their argument, only its shape and type, which are fixed.
_SHAPE_ONLY = ("new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like")
Constants = dict[Node, Any]  # a tensor, a tuple of tensors, or a module of the graph


def constants_of(exported: ExportedProgram) -> Constants:
    """Every node of the exported graph whose value does not depend on the arguments, with its value."""
    constants: Constants = {}
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in exported.state_dict:
                constants[node] = exported.state_dict[spec.target].detach()
            elif spec.kind != InputKind.USER_INPUT and spec.target in exported.constants:
                value = exported.constants[spec.target]
                constants[node] = value.detach() if isinstance(value, Tensor) else value
        elif node.op == "get_attr":
            constants[node] = _attribute(exported.graph_module, str(node.target))
        elif node.op == "call_function" and is_constant(node, constants):
            constants[node] = evaluate(node, constants)
    return constants


def is_constant(node: Node, constants: Constants) -> bool:
    """Whether a call reads constants only and gives the same whenever it is made."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags or _name(node) == "_assert_tensor_metadata":
        return False
    return _name(node) in _SHAPE_ONLY or all(one in constants for one in node.all_input_nodes)


def evaluate(node: Node, constants: Constants) -> Any:
    """Compute a call whose arguments are constants."""

    def value(one: Node) -> Any:
        if one in constants:
            return constants[one]
        return torch.zeros(tuple(one.meta["val"].shape), dtype=one.meta["val"].dtype)

    assert callable(node.target)
    with torch.no_grad():
        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))


def _name(node: Node) -> str:
    """``conv2d`` of ``aten.conv2d.default``."""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
