"""What the passes share: looking at the neighbours of a node, and writing a changed graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .graph import Array, Graph, Node


@dataclass
class Rewrite:
    """Changes to a graph, gathered while a pass walks over its nodes and made all at once by `done`.

    A node takes part in one change of a pass only, so that every change sees the graph as it is.
    """

    graph: Graph
    makers: dict[str, Node] = field(init=False)
    readers: dict[str, list[Node]] = field(init=False)
    gone: set[str] = field(init=False, default_factory=set)  # names of nodes
    new: dict[str, Node] = field(init=False, default_factory=dict)  # name of the node in whose place it stands
    renamed: dict[str, str] = field(init=False, default_factory=dict)
    touched: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.makers = self.graph.producers()
        self.readers = self.graph.consumers()

    def maker(self, tensor: str) -> Node | None:
        """The node that makes a tensor, if this pass has not changed it yet."""
        node = self.makers.get(tensor)
        return None if node is None or node.name in self.touched else node

    def only_reader(self, tensor: str) -> Node | None:
        """The node that alone reads a tensor, once; None if others do, or the caller of the graph."""
        readers = self.readers[tensor]
        if len(readers) != 1 or tensor in self.graph.outputs or readers[0].name in self.touched:
            return None
        return readers[0]

    def constant(self, tensor: str) -> Array | None:
        """The value of a tensor that a constant node makes."""
        node = self.makers.get(tensor)
        return node.weights["value"] if node is not None and node.op == "constant" else None

    def free(self, *nodes: Node) -> bool:
        """Whether none of these has been changed by this pass."""
        return not any(node.name in self.touched for node in nodes)

    def drop(self, node: Node, instead: str) -> None:
        """Remove a node; who read its output reads another tensor."""
        self.gone.add(node.name)
        self.renamed[node.output] = instead
        self.touched.add(node.name)

    def put(self, place: Node, new: Node, *gone: Node) -> None:
        """Write a node in the place of another, and remove some more."""
        self.new[place.name] = new
        for node in gone:
            if node.name != place.name:
                self.gone.add(node.name)
        self.touched.update((place.name, *(node.name for node in gone)))

    def done(self) -> Graph:
        """The changed graph; the same graph if nothing changed."""
        if not self.touched:
            return self.graph
        nodes = [self.new.get(node.name, node) for node in self.graph.nodes if node.name not in self.gone]
        return self.graph.replace(nodes, self.renamed)


def changed(node: Node, **fields: Any) -> Node:
    """A copy of a node with other fields; ``attrs`` and ``weights`` are added to what it has."""
    attrs, weights = fields.pop("attrs", {}), fields.pop("weights", {})
    given = {"op": node.op, "name": node.name, "inputs": list(node.inputs), "outputs": list(node.outputs)} | fields
    return Node(**given, attrs={**node.attrs, **attrs}, weights={**node.weights, **weights})


def plain(node: Node) -> bool:
    """Whether a node ends in no activation."""
    return node.act()[0] == "none"


def activation(node: Node) -> dict[str, Any]:
    """The attributes of a node's activation, to be given to another."""
    return {key: node.attrs[key] for key in ("act", "lo", "hi") if key in node.attrs}


def as_weight(array: Array) -> Array:
    """float32 in C order, without negative zeros: a pruned entry times a negative factor stays +0."""
    with np.errstate(over="ignore"):  # who folds looks for infinities
        return np.ascontiguousarray(array, dtype=np.float32) + np.float32(0)


def alive(graph: Graph) -> Graph:
    """Drop nodes that no output depends on.

    >>> from sparseland.deploy.graph import Value
    >>> nodes = [Node("act", name, ["x"], [name], {"act": "tanh"}) for name in ("used", "unused")]
    >>> graph = Graph(["x"], ["used"], nodes, dict.fromkeys(("x", "used", "unused"), Value((1,))))
    >>> [node.name for node in alive(graph).nodes]
    ['used']
    """
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return graph if len(kept) == len(graph.nodes) else graph.replace(kept[::-1])
