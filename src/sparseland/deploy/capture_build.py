"""Collects the nodes of a graph while an exported network is read, call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from sparseland.core.errors import SparselandError

from .capture_constants import Constants
from .capture_torch import Piece, merged
from .graph import Array, Graph, Node, Value
from .graph_twin import value_of

FLOAT = torch.float32


class Unsupported(Exception):
    """A rule met a case that the graph has no node for."""


class Builder:
    """The graph so far: which tensor each call became, and the nodes that make them.

    Parameters:
        module: the exported network.
        constants: the calls whose values are known.
        paths: the placeholders of parameters and buffers, and their names.
        converted: types of the network's parameters before they were made float32.
    """

    def __init__(
        self, module: GraphModule, constants: Constants, paths: Mapping[str, str], converted: Sequence[str]
    ) -> None:
        self.module = module
        self.constants = constants
        self.paths = paths
        self.converted = ", ".join(converted)
        self.values: dict[str, Value] = {}
        self.fixed: list[Node] = []  # constant nodes: they come first
        self.items: list[Node | Piece] = []
        self.made: dict[FxNode, list[Node | Piece]] = {}
        self.names: dict[FxNode, Any] = {}  # the tensor of a call, or the tensors of a call that makes several
        self._taken: set[str] = set()
        self._where = ""

    # ------------------------------------------------------------------------------------------------------ reading
    def add_input(self, node: FxNode) -> None:
        """Take an argument of the network."""
        self.values[node.name] = value_of(node.meta["val"])
        self.names[node] = node.name

    def add(self, node: FxNode) -> None:
        """Turn one call into nodes, or keep it as torch."""
        from .capture_ops import RULES, arguments

        target = str(node.target)
        if target == "aten._assert_tensor_metadata.default":
            return
        self._where = _path(node)
        known = len(self.items)
        try:
            if "getitem" in target and isinstance(self.names.get(node.args[0]), list):  # type: ignore[arg-type]
                self.names[node] = self.names[node.args[0]][node.args[1]]  # type: ignore[index]
                return
            if target not in RULES:
                raise Unsupported(target)
            self.names[node] = RULES[target](self, node, arguments(node))
            self.made[node] = self.items[known:]
        except Unsupported:
            del self.items[known:]
            reason = f"{target} in {self._where or 'the network itself'}"
            self.items.append(Piece([node], [reason]))
            self.names[node] = node.name

    def tensor(self, node: Any) -> str:
        """The name of the tensor a call became; a constant becomes a node of its own.

        Raises:
            Unsupported: not a tensor.
        """
        if not isinstance(node, FxNode):
            raise Unsupported(f"{node!r} is no tensor")
        if node not in self.names:
            value = self.constants.get(node)
            if not isinstance(value, Tensor):
                raise Unsupported(f"{node.name} is no tensor")
            self.names[node] = self.constant_tensor(value, node.name)
        name = self.names[node]
        if not isinstance(name, str):
            raise Unsupported(f"{node.name} is several tensors")
        return name

    def constant_tensor(self, value: Tensor, wanted: str) -> str:
        """A new constant node."""
        array = np.ascontiguousarray(_as_graph(value).cpu().numpy()).reshape(tuple(value.shape))
        name = self._unused(wanted)
        self.values[name] = value_of(_as_graph(value))
        label = self._unused(self.paths.get(wanted, wanted), "name:")
        self.fixed.append(Node("constant", label, [], [name], {}, {"value": array}))
        return name

    def constant(self, node: Any) -> Tensor:
        """The value of a constant argument.

        Raises:
            Unsupported: it depends on the arguments of the network.
        """
        value = self.constants.get(node) if isinstance(node, FxNode) else None
        if not isinstance(value, Tensor):
            raise Unsupported("a weight that the network computes from its arguments")
        return value

    def optional(self, node: Any) -> Tensor | None:
        """The value of a constant argument, or None where it is absent."""
        return None if node is None else self.constant(node)

    def shape(self, node: FxNode) -> tuple[int, ...]:
        """The shape of what a call returns."""
        return tuple(int(n) for n in node.meta["val"].shape)

    def is_float(self, *nodes: Any) -> bool:
        """Whether all of these are float32 tensors."""
        return all(isinstance(one, FxNode) and _dtype(one) == FLOAT for one in nodes)

    # ------------------------------------------------------------------------------------------------------ writing
    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        wanted: str,
        attrs: Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor | None] | None = None,
        owner: Any = None,
    ) -> str:
        """Append a node and return its tensor's name.

        Parameters:
            op: a key of `graph.OPS`.
            inputs: names of tensors.
            shape: of the output (float32).
            wanted: the name of the output; a number is added where it is taken.
            attrs: attributes.
            weights: tensors, float32 or convertible; None entries are left out.
            owner: the placeholder of the weight after which the node is named; None: after the module that called.
        """
        output = self._unused(wanted)
        path = self.paths.get(owner.name) if isinstance(owner, FxNode) else None
        base = path.rpartition(".")[0] if path else ""
        name = self._unused(base or (f"{self._where}.{op}" if self._where else op), "name:")
        arrays = {key: weight_of(one, f"{key} of {name}") for key, one in (weights or {}).items() if one is not None}
        extra = {"converted": self.converted} if self.converted and arrays else {}
        self.values[output] = Value(tuple(int(n) for n in shape))
        self.items.append(Node(op, name, list(inputs), [output], {**(attrs or {}), **extra}, arrays))
        return output

    def _unused(self, wanted: str, space: str = "") -> str:
        name, i = wanted, 0
        while space + name in self._taken or (not space and name in self.values):
            i += 1
            name = f"{wanted}_{i}"
        self._taken.add(space + name)
        return name

    def finish(self, inputs: list[str], outputs: list[str]) -> Graph:
        """The graph, with connected pieces of torch merged and nodes that nobody reads left out."""
        nodes = merged(self, outputs)
        alive = {*inputs, *outputs, *(name for node in nodes for name in (*node.inputs, *node.outputs))}
        return Graph(inputs, outputs, nodes, {name: value for name, value in self.values.items() if name in alive})


def weight_of(tensor: Tensor, says: str) -> Array:
    """A tensor as C-contiguous float32.

    Raises:
        SparselandError: NaN or infinity in it.
    """
    array = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
    if not np.isfinite(array).all():
        raise SparselandError(f"{says} holds NaN or infinity; only finite weights deploy")
    return array


def _as_graph(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.is_complex():
        raise Unsupported("a complex constant")
    return tensor if tensor.dtype == torch.bool else tensor.long()


def _dtype(node: FxNode) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, Tensor) else None


def _path(node: FxNode) -> str:
    """The innermost module that made a call: ``layer1.0.conv2``."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
