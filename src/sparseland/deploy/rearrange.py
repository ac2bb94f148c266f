"""Rearranging a whole network: output channels that share zeros become neighbours, and what the network computes stays.

Channels are permuted where they are made (rows of weights, biases, norms) and where they are read (columns of weights).
Layers whose outputs meet in a sum, a product or a depthwise convolution share one order: a *permutation class*. Other
engines need this, because they know blocks of consecutive rows only; ours names the rows of a block and needs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sparseland.core.errors import SparselandError, nearest
from sparseland.kernels.grouping import METHODS, group_rows, similar_rows

from .graph import Array, Graph, Node

SAME = ("act", "affine", "max_pool", "avg_pool", "pad", "softmax")  # a channel comes out where it went in
Order = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Rearranged:
    """A network with other orders of its channels.

    Parameters:
        graph: it computes the same numbers, up to rounding.
        orders: {layer: for each new output channel the old one}, of layers whose outputs moved.
        classes: layers that share an order.
        fixed: {layer: why its outputs cannot move}; for these, blocks may still name their rows.
    """

    graph: Graph
    orders: dict[str, list[int]]
    classes: list[list[str]]
    fixed: dict[str, str]


@dataclass
class _Classes:
    """Which tensors have their channels (axis 1) in the same order."""

    parent: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # by class
    parts: dict[str, list[str]] = field(default_factory=dict)  # tensors made by concatenation: of what

    def find(self, name: str) -> str:
        """The tensor that stands for the class."""
        self.parent.setdefault(name, name)
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def join(self, *names: str) -> None:
        """All of them share one order."""
        first = self.find(names[0])
        for other in map(self.find, names[1:]):
            if other != first:
                self.parent[other] = first
                if other in self.reasons:
                    self.reasons.setdefault(first, self.reasons.pop(other))

    def fix(self, reason: str, *names: str) -> None:
        """Their order cannot change."""
        for name in names:
            self.reasons.setdefault(self.find(name), reason)


def rearrange(graph: Graph, G: int = 4, *, method: str = "zeros", sparsity: float = 0.5, seed: int = 0) -> Rearranged:
    """Permute the channels of a network so that rows that belong together stand in consecutive groups of G.

    Equation: W'_l = W_l[π_out][:, π_in], b'_l = b_l[π_out] with π_in the order of the tensor that l reads; so the
    network's outputs do not change. A class of several layers is grouped by all of their weights side by side.

    Parameters:
        graph: from `capture` or an ONNX file; it is left as it was.
        G: rows of a group, at least 1.
        method: zeros (rows of finished weights that share zeros), or a method of `kernels.grouping.group_rows` (sort,
            kmeans, swap), which looks at the sizes of weights that are not pruned yet, at ``sparsity`` with ``seed``.

    Raises:
        SparselandError: an unknown method.

    >>> from sparseland.deploy.graph import Value
    >>> one = Node("linear", "one", ["x"], ["h"], {}, {"weight": np.array([[1, 0], [0, 1], [2, 0], [0, 2]], "f")})
    >>> two = Node("linear", "two", ["h"], ["y"], {}, {"weight": np.array([[1, 2, 3, 4]], "f")})
    >>> values = {name: Value((1, width)) for name, width in (("x", 2), ("h", 4), ("y", 1))}
    >>> made = rearrange(Graph(["x"], ["y"], [one, two], values), 2)
    >>> made.orders, made.graph.nodes[1].weights["weight"].tolist(), made.fixed["two"]
    ({'one': [0, 2, 1, 3]}, [[1.0, 3.0, 2.0, 4.0]], 'it is an output of the network')
    """
    if method != "zeros" and method not in METHODS:
        raise SparselandError(f"unknown method {method!r}: {nearest(method, ('zeros', *METHODS))}")
    classes = _classes(graph)
    members: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if _multiplies(node):
            members.setdefault(classes.find(node.output), []).append(node)
    orders: dict[str, Order] = {}
    for root, nodes in members.items():
        if root not in classes.reasons and root not in classes.parts:
            orders[root] = _order(nodes, G, method, sparsity, seed)
    moved = {root: order for root, order in orders.items() if (order != np.arange(len(order))).any()}
    lookup = _Lookup(graph, classes, moved)
    return Rearranged(
        graph.replace([_permuted(node, lookup) for node in graph.nodes]),
        {n.name: moved[root].tolist() for root, nodes in members.items() if root in moved for n in nodes},
        [[n.name for n in nodes] for root, nodes in members.items() if root in orders],
        {n.name: classes.reasons[root] for root, nodes in members.items() if root in classes.reasons for n in nodes},
    )


def _multiplies(node: Node) -> bool:
    """Whether the node has rows of weights that may stand in any order."""
    return (node.op == "conv" and node.attrs["groups"] == 1) or node.op == "linear"


def _order(nodes: list[Node], G: int, method: str, sparsity: float, seed: int) -> Order:
    """Whole groups first, so that they stand at multiples of G."""
    weights = [np.abs(node.weights["weight"]).reshape(*node.weights["weight"].shape[:2], -1).sum(2) for node in nodes]
    table = np.concatenate(weights, axis=1)
    if method == "zeros":
        groups = similar_rows(table, G)
    else:
        groups = group_rows(table, G, method, seed, sparsity=sparsity)
    groups.sort(key=lambda group: (len(group) < G, group[0]))
    return np.array([row for group in groups for row in group], np.int64)


# ------------------------------------------------------------------------------------------------------------- classes
def _classes(graph: Graph) -> _Classes:
    """Which tensors share an order, and which orders cannot change."""
    classes = _Classes()
    classes.fix("it is an input of the network", *graph.inputs)
    classes.fix("it is an output of the network", *graph.outputs)
    for node in graph.nodes:
        _visit(node, graph, classes)
    again = True
    while again:  # what is concatenated and then fixed, or summed with something else, fixes its parts
        before = len(classes.reasons)
        for made, parts in classes.parts.items():
            root = classes.find(made)
            alone = sum(classes.find(n.output) == root for n in graph.nodes if _multiplies(n)) == 0
            twice = sum(classes.find(other) == root for other in classes.parts) > 1
            if root in classes.reasons or not alone or twice:
                reason = classes.reasons.get(root, "it is concatenated, and the whole is summed with something else")
                classes.fix(reason, made, *parts)
        again = len(classes.reasons) != before
    classes.parts = {classes.find(made): parts for made, parts in classes.parts.items()}
    return classes


def _visit(node: Node, graph: Graph, classes: _Classes) -> None:
    """What a node asks of the orders of its tensors."""
    shapes = {name: graph.values[name].shape for name in (*node.inputs, *node.outputs) if name}
    inputs = [name for name in node.inputs if name]
    if node.op in ("conv", "linear"):
        _visit_layer(node, inputs, shapes, classes)
    elif len(inputs) == 1 and _passes(node, shapes[inputs[0]], shapes[node.output]):
        classes.join(inputs[0], node.output)
    elif node.op in ("add", "sub", "mul"):
        whole = shapes[node.output]
        for name in inputs:
            if len(shapes[name]) == len(whole) > 1 and shapes[name][1] == whole[1]:
                classes.join(name, node.output)
            elif np.prod(shapes[name]) != 1 and (len(shapes[name]) != len(whole) or shapes[name][1] != 1):
                classes.fix(f"{node.name!r} adds a tensor of shape {shapes[name]} to it", node.output)
    elif node.op == "concat" and node.attrs["axis"] in (1, 1 - len(shapes[node.output])):
        classes.parts[node.output] = inputs
    elif node.op == "concat":
        classes.join(*inputs, node.output)
    else:
        classes.fix(f"{node.op} {node.name!r} reads or makes it", *inputs, *node.outputs)


def _visit_layer(node: Node, inputs: list[str], shapes: dict[str, tuple[int, ...]], classes: _Classes) -> None:
    weight, depthwise = node.weights["weight"].shape, False
    if node.op == "conv" and node.attrs["groups"] > 1:
        depthwise = weight[1] == 1 and weight[0] == node.attrs["groups"]
        if depthwise:
            classes.join(inputs[0], node.output)
        else:
            classes.fix(f"{node.name!r} has {node.attrs['groups']} groups", inputs[0], node.output)
    if node.op == "linear" and len(shapes[node.output]) != 2:
        classes.fix(f"{node.name!r} multiplies the last of {len(shapes[node.output])} axes", *inputs, node.output)
    classes.join(node.output, *inputs[1:])  # the residual


def _passes(node: Node, given: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """Whether channel c of the only input is channel c of the output, whatever the order."""
    if len(given) < 2 or len(made) < 2 or given[1] != made[1]:
        return False
    if node.op == "reshape":
        return given[:2] == made[:2]
    if node.op == "mean":
        axes = {axis % len(given) for axis in node.attrs["axes"]}
        return 1 not in axes and 0 not in axes and (node.attrs["keepdim"] or axes == set(range(2, len(given))))
    if node.op in ("scale", "layer_norm", "rms_norm"):
        return True
    return node.op in SAME or (node.op == "slice" and node.attrs["axis"] % len(given) != 1)


# ----------------------------------------------------------------------------------------------------------- permuting
@dataclass(frozen=True)
class _Lookup:
    """The order of a tensor's channels."""

    graph: Graph
    classes: _Classes
    moved: dict[str, Order]

    def __call__(self, name: str) -> Order | None:
        """For each new channel the old one; None if they stay."""
        root = self.classes.find(name)
        if root in self.moved:
            return self.moved[root]
        parts = self.classes.parts.get(root, [])
        if root in self.classes.reasons or all(self(part) is None for part in parts):
            return None
        found, at = [], 0
        for part in parts:
            width, order = self.graph.values[part].shape[1], self(part)
            found.append(at + (np.arange(width) if order is None else order))
            at += width
        return np.concatenate(found)


def _permuted(node: Node, lookup: _Lookup) -> Node:
    """The node with its weights in the new orders of what it makes and of what it reads."""
    if not node.weights or node.op == "constant":
        return node
    rows, columns = lookup(node.output), lookup(node.inputs[0])
    weights = dict(node.weights)
    if node.op in ("conv", "linear"):
        if columns is not None and _multiplies(node):
            weights["weight"] = weights["weight"][:, columns]
        along = tuple(weights)
    else:
        axes = len(lookup.graph.values[node.output].shape)
        along = tuple(weights) if node.attrs.get("axis", 0) % axes == 1 else ()
    if rows is not None:
        weights |= {name: weights[name][rows] for name in along}
    return Node(
        node.op, node.name, node.inputs, node.outputs, node.attrs, {name: _plain(w) for name, w in weights.items()}
    )


def _plain(array: Array) -> Array:
    return np.ascontiguousarray(array)
