"""A graph while an ONNX file is being read: constants that are known, tensors that are not, and the nodes so far.

Beside the ops of `graph.OPS`, a draft may hold `PSEUDO` ops: pieces of a GELU, a norm or an attention that `onnx_match`
puts together again. What is left of them at the end has no meaning in a graph and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.errors import SparselandError
from .graph import Array, Node, Value
from .graph_twin import infer

# Pieces, and what each of them would have to be part of.
PSEUDO = {
    "matmul": "attention: softmax(q kᵀ · scale + mask) v with four axes",
    "erf": "GELU: x · (1 + erf(x / √2)) / 2",
    "tanh_cubed": "GELU by tanh",
    "pow": "a layer norm, an RMS norm or a GELU by tanh",
    "sqrt": "a layer norm or an RMS norm",
    "reciprocal": "an RMS norm",
    "div": "a layer norm or an RMS norm",
    "isnan": "a guard behind a softmax",
}


@dataclass
class Item:
    """One node of the file: ``inputs`` under the names of the draft, "" where an optional one is absent."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.op} {self.name or self.outputs[0]!r}"


@dataclass
class Draft:
    """What has been read so far."""

    constants: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)  # an Identity's output is its input
    opset: int = 17
    taken: set[str] = field(default_factory=set)

    def now(self, name: str) -> str:
        """The name under which a tensor of the file is known here."""
        return self.same.get(name, name)

    def given(self, item: Item, i: int) -> str:
        """Input number ``i`` of an item, a tensor or a constant.

        Raises:
            SparselandError: it is absent.
        """
        if i >= len(item.inputs) or not item.inputs[i]:
            raise SparselandError(f"input {i} is absent")
        return item.inputs[i]

    def constant(self, item: Item, i: int) -> Array | None:
        """Input number ``i`` if it is known while reading, else None (also where it is absent)."""
        return self.constants.get(item.inputs[i]) if i < len(item.inputs) and item.inputs[i] else None

    def weight(self, item: Item, i: int) -> Array:
        """Input number ``i`` as a float32 weight.

        Raises:
            SparselandError: it is computed while the network runs, or no float.
        """
        found = self.constant(item, i)
        if found is None or found.dtype.kind != "f":
            name = self.given(item, i)
            said = "computed while the network runs" if found is None else f"of type {found.dtype}"
            raise SparselandError(f"input {i} ({name!r}) must be a constant of floats; it is {said}")
        return contiguous(found)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor or constant."""
        return self.constants[name].shape if name in self.constants else self.values[name].shape

    def tensor(self, item: Item, i: int) -> str:
        """Input number ``i`` as a tensor of floats; a constant becomes a node that makes it."""
        name = self.given(item, i)
        if name in self.constants and name not in self.values:
            array = self.constants[name]
            if array.dtype.kind not in "fb":
                raise SparselandError(f"input {i} ({name!r}) is a constant of {array.dtype}, not of floats")
            value = contiguous(array)
            self.nodes.append(Node("constant", self.free(name), [], [name], {}, {"value": value}))
            self.values[name] = Value(value.shape)
        if self.values[name].dtype != "float32":
            raise SparselandError(f"input {i} ({name!r}) is of type {self.values[name].dtype}; possible: float32")
        return name

    def free(self, wanted: str) -> str:
        """An unused name for a node: ``wanted``, or with the first free number after it."""
        name, i = wanted, 0
        while name in self.taken:
            i += 1
            name = f"{wanted}_{i}"
        self.taken.add(name)
        return name

    def put(
        self, item: Item, op: str, inputs: Sequence[str], attrs: Mapping[str, Any] | None = None,
        weights: Mapping[str, Array] | None = None, *, output: str | None = None,
    ) -> str:  # fmt: skip
        """Append a node; the name of its output (the item's first one, unless said)."""
        made = item.outputs[0] if output is None else output
        arrays = {name: contiguous(array) for name, array in (weights or {}).items()}
        node = Node(op, self.free(path(item)), list(inputs), [made], dict(attrs or {}), arrays)
        self.values[made] = self._value(node)
        self.nodes.append(node)
        return made

    def between(self, item: Item, what: str) -> str:
        """An unused name for a tensor inside what one item becomes."""
        return self.free(f"{item.outputs[0]}:{what}")

    def _value(self, node: Node) -> Value:
        values = [self.values[name] if name else None for name in node.inputs]
        if node.op not in PSEUDO:
            return infer(node, values)[0]
        shapes = [value.shape for value in values if value is not None]
        if node.op != "matmul":
            return Value(np.broadcast_shapes(*shapes))
        a, b = shapes
        if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
            raise SparselandError(f"{a} and {b} cannot be multiplied")
        return Value((*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]))


def contiguous(array: Array) -> Array:
    """As C-contiguous float32.

    >>> contiguous(np.eye(2, dtype="float64").T).dtype
    dtype('float32')
    """
    made = np.array(array, dtype=np.float32, order="C", copy=None)
    return made if made.flags.writeable else made.copy()  # torch wants arrays that could be written to


def path(item: Item) -> str:
    """The module's path where an exporter wrote it into the node's name, else that name.

    >>> path(Item("Conv", "/layers/layers.0/depthwise/Conv", [], ["7"], {})), path(Item("Relu", "", [], ["9"], {}))
    ('layers.0.depthwise', '9')
    """
    parts = [part for part in item.name.split("/") if part]
    if not item.name.startswith("/") or len(parts) < 2:
        return item.name or item.outputs[0]
    kept: list[str] = []
    for part in parts[:-1]:  # the last one is the op; a container is repeated by what is inside it
        if kept and part.startswith(f"{kept[-1]}."):
            kept[-1] = part
        else:
            kept.append(part)
    return ".".join(kept)


Rule = Callable[[Draft, Item], None]  # what one ONNX op becomes


def known(draft: Draft, item: Item) -> list[Array | None]:
    """All inputs of an item, None where they are not constants."""
    return [draft.constant(item, i) for i in range(len(item.inputs))]


def wants(item: Item, name: str, wanted: object, default: object) -> None:
    """An attribute has the one value that is possible.

    Raises:
        SparselandError: another one.
    """
    found = item.attrs.get(name, default)
    if found != wanted:
        raise SparselandError(f"{name} is {found!r}; possible: {wanted!r}")


def binary(draft: Draft, item: Item, op: str, x: str, constant: Array, final: bool) -> str:
    """x op constant, as the item's output if this is the last step; the name of the output."""
    table = draft.put(item, "constant", [], {}, {"value": constant}, output=draft.between(item, "table"))
    return draft.put(item, op, [x, table], output=None if final else draft.between(item, op))
