"""The graph between a network and the engine: a list of nodes with plain numbers, and what each node must bring.

Names are strings, weights are NumPy arrays, shapes are static and torch's (images [N, C, H, W], tokens [B, L, D],
vectors [B, D]). Importers make a `Graph` (`capture`, ONNX), passes rewrite it (`fuse`), lowering turns it into a
program, and `graph_twin.run` says what it means. An optional input that is absent is the empty string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparseland.core.errors import SparselandError, nearest

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = ("float32", "int64", "bool")
ACTS = ("none", "clamp", "hardswish", "hardsigmoid", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")


@dataclass(frozen=True)
class Op:
    """What a kind of node must have: numbers of inputs (None: any), attributes and weights, and which are optional."""

    least: int
    most: int | None
    attrs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # weights that may be missing
    acts: bool = False  # whether it may end in an activation (attrs act, lo, hi)


_POOL = ("kernel", "stride", "padding", "count_include_pad")
OPS: dict[str, Op] = {
    "conv": Op(1, 2, ("stride", "padding", "dilation", "groups"), ("weight",), ("bias",), acts=True),
    "linear": Op(1, 2, (), ("weight",), ("bias",), acts=True),
    "scale": Op(1, 1, ("axis",), ("scale", "shift"), acts=True),
    "act": Op(1, 1, acts=True),
    **dict.fromkeys(("add", "sub", "mul"), Op(2, 2, acts=True)),
    "affine": Op(1, 1, ("a", "b")),
    "constant": Op(0, 0, (), ("value",)),
    "max_pool": Op(1, 1, _POOL),
    "avg_pool": Op(1, 1, _POOL),
    "mean": Op(1, 1, ("axes", "keepdim")),
    "layer_norm": Op(1, 1, ("axis", "eps"), ("weight",), ("bias",)),
    "rms_norm": Op(1, 1, ("axis", "eps"), ("weight",), ("bias",)),
    "softmax": Op(1, 1, ("axis",)),
    "attention": Op(3, 4, ("scale", "causal")),  # a mask: float, added; bool, True counts; int64 [B, Lk], not 0 counts
    "rope": Op(1, 1, (), ("cos", "sin")),
    "embedding": Op(1, 1, (), ("weight",)),
    "reshape": Op(1, 1, ("shape",)),
    "transpose": Op(1, 1, ("perm",)),
    "concat": Op(1, None, ("axis",)),
    "slice": Op(1, 1, ("axis", "start", "stop")),
    "pad": Op(1, 1, ("padding",)),
    "torch": Op(0, None, ("reason", "module")),
}


@dataclass(frozen=True)
class Value:
    """Shape and type of one tensor: "float32", "int64" or "bool"."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(eq=False)
class Node:
    """One operation: ``op`` is a key of `OPS`, ``name`` is unique (the module's path where there is one)."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The only output."""
        return self.outputs[0]

    def act(self) -> tuple[str, float, float]:
        """(name, lo, hi) of the activation at its end; ("none", -inf, inf) without one."""
        name = str(self.attrs.get("act", "none"))
        return name, float(self.attrs.get("lo", -math.inf)), float(self.attrs.get("hi", math.inf))


@dataclass
class Graph:
    """A network as nodes in an order in which they can be computed.

    Parameters:
        inputs: names of the tensors that are given.
        outputs: names of the tensors that are returned, in order.
        nodes: topological: a node reads inputs of the graph and outputs of nodes before it.
        values: shape and type of every tensor.
        out_spec: how the outputs are nested (a pytree spec of torch, set by `capture`); None: a plain sequence.
        in_spec: the same of the inputs.

    >>> relu = Node("act", "relu", ["x"], ["y"], {"act": "clamp", "lo": 0.0, "hi": float("inf")})
    >>> graph = Graph(["x"], ["y"], [relu], {"x": Value((2, 3)), "y": Value((2, 3))}).check()
    >>> graph.producers()["y"].name, [node.name for node in graph.consumers()["x"]]
    ('relu', ['relu'])
    """

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    values: dict[str, Value]
    out_spec: Any = None
    in_spec: Any = None

    def producers(self) -> dict[str, Node]:
        """``{tensor: the node that makes it}``; inputs of the graph have none."""
        return {output: node for node in self.nodes for output in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """``{tensor: the nodes that read it}`` (a node that reads it twice stands there twice), for every tensor."""
        readers: dict[str, list[Node]] = {name: [] for name in self.values}
        for node in self.nodes:
            for name in filter(None, node.inputs):
                readers[name].append(node)
        return readers

    def replace(self, nodes: Iterable[Node] | None = None, renamed: Mapping[str, str] | None = None) -> Graph:
        """A graph with other nodes, in which the tensors of ``renamed`` are read under their new names.

        Chains of names are followed; a graph's output that is renamed keeps its place. Values of tensors that no longer
        exist are dropped.
        """
        names = dict(renamed or {})

        def now(name: str) -> str:
            while name in names:
                name = names[name]
            return name

        kept = [
            Node(one.op, one.name, [now(name) for name in one.inputs], list(one.outputs), one.attrs, one.weights)
            for one in (self.nodes if nodes is None else nodes)
        ]
        outputs = [now(name) for name in self.outputs]
        alive = {*self.inputs, *outputs, *(name for one in kept for name in (*one.inputs, *one.outputs))}
        values = {name: value for name, value in self.values.items() if name in alive}
        return Graph(list(self.inputs), outputs, kept, values, self.out_spec, self.in_spec)

    def unused(self, wanted: str) -> str:
        """A name that neither a tensor nor a node has: ``wanted``, or with the first free number after it."""
        taken = {*self.values, *(node.name for node in self.nodes)}
        if wanted not in taken:
            return wanted
        return next(f"{wanted}_{i}" for i in range(1, len(taken) + 2) if f"{wanted}_{i}" not in taken)

    def check(self) -> Graph:
        """Return the graph itself if it is whole.

        Raises:
            SparselandError: an unknown op or activation, a missing attribute, weight or shape, a weight of another
                shape than its input asks for, a tensor that is read before it is made, a name used twice.

        >>> Graph(["x"], ["y"], [Node("linear", "fc", ["x"], ["y"])], {"x": Value((1, 3)), "y": Value((1, 2))}).check()
        Traceback (most recent call last):
        ...
        sparseland.core.errors.SparselandError: linear 'fc' needs the weight 'weight'; it has none
        """
        for name, value in self.values.items():
            if value.dtype not in DTYPES:
                raise SparselandError(f"{name!r} has the type {value.dtype!r}; possible: {', '.join(DTYPES)}")
        made = set(self.inputs)
        names: set[str] = set()
        for node in self.nodes:
            _check_form(node)
            for name in filter(None, node.inputs):
                if name not in made:
                    raise SparselandError(f"{_says(node)} reads {name!r}, which no node before it makes")
            for name in (*node.outputs, node.name):
                known = made if name in node.outputs else names
                if name in known:
                    raise SparselandError(f"{_says(node)}: the name {name!r} is used twice")
            made.update(node.outputs)
            names.add(node.name)
            _check_shapes(node, self.values)
        for name in self.outputs:
            if name not in made:
                raise SparselandError(f"the output {name!r} is made by no node")
        for name in made:
            if name not in self.values:
                raise SparselandError(f"{name!r} has no shape: values lacks it")
        return self


def _says(node: Node) -> str:
    return f"{node.op} {node.name!r}"


def _check_form(node: Node) -> None:
    """The op is known and has its inputs, attributes and weights."""
    op = OPS.get(node.op)
    if op is None:
        raise SparselandError(f"unknown op {node.op!r} of {node.name!r}: {nearest(node.op, OPS)}")
    if len(node.inputs) < op.least or (op.most is not None and len(node.inputs) > op.most):
        most = "any number" if op.most is None else op.most
        raise SparselandError(f"{_says(node)} takes {op.least} to {most} inputs; got {len(node.inputs)}")
    if not node.outputs or (len(node.outputs) > 1 and node.op != "torch"):
        raise SparselandError(f"{_says(node)} makes one tensor; got {node.outputs}")
    if missing := [name for name in op.attrs if name not in node.attrs]:
        raise SparselandError(
            f"{_says(node)} needs the attribute {missing[0]!r}; it has {sorted(node.attrs) or 'none'}"
        )
    if missing := [name for name in op.weights if name not in node.weights]:
        raise SparselandError(f"{_says(node)} needs the weight {missing[0]!r}; it has {sorted(node.weights) or 'none'}")
    if extra := sorted(set(node.weights) - {*op.weights, *op.optional}):
        raise SparselandError(
            f"{_says(node)} has no weight {extra[0]!r}: {nearest(extra[0], op.weights + op.optional)}"
        )
    act = node.attrs.get("act", "none")
    if act not in ACTS or (act != "none" and not op.acts):
        raise SparselandError(f"{_says(node)} cannot end in {act!r}: {nearest(act, ACTS if op.acts else ('none',))}")
    if act == "clamp" and not {"lo", "hi"} <= node.attrs.keys():
        raise SparselandError(f"{_says(node)} ends in a clamp without lo and hi")
    for name, array in node.weights.items():
        if op is not OPS["constant"] and (array.dtype != np.float32 or not array.flags.c_contiguous):
            raise SparselandError(f"{_says(node)}: {name} must be C-contiguous float32; got {array.dtype}")


def _check_shapes(node: Node, values: Mapping[str, Value]) -> None:
    """Weights fit the shapes of what comes in and goes out."""
    for name in filter(None, (*node.inputs, *node.outputs)):
        if name not in values:
            raise SparselandError(f"{_says(node)}: {name!r} has no shape: values lacks it")
    if (rule := SHAPES.get(node.op)) is None:
        return
    shapes = [values[name].shape if name else () for name in (*node.inputs, *node.outputs)]
    for what, got, wanted in rule(node, shapes[0], shapes[-1]):
        if tuple(got) != tuple(wanted):
            raise SparselandError(f"{_says(node)}: {what} must be {tuple(wanted)}; got {tuple(got)}")


Shape = tuple[int, ...]
Demand = tuple[str, Sequence[int], Sequence[int]]  # (what, its shape, the shape it must have)


def _conv(node: Node, x: Shape, y: Shape) -> list[Demand]:
    weight, attrs = node.weights["weight"].shape, node.attrs
    if len(x) != 4 or len(y) != 4 or len(weight) != 4:
        return [("the number of axes of input, output and weight", (len(x), len(y), len(weight)), (4, 4, 4))]
    top, left, bottom, right = attrs["padding"]
    size = []
    for i, pad in enumerate((top + bottom, left + right)):
        reach = attrs["dilation"][i] * (weight[2 + i] - 1) + 1
        size.append((x[2 + i] + pad - reach) // attrs["stride"][i] + 1)
    return [
        ("the weight", weight[:2], (y[1], x[1] // attrs["groups"])),
        ("the output", y, (x[0], weight[0], *size)),
        *_residual(node, x, y),
    ]


def _linear(node: Node, x: Shape, y: Shape) -> list[Demand]:
    weight = node.weights["weight"].shape
    return [("the weight", weight, (y[-1], x[-1])), ("the output", y, (*x[:-1], weight[0])), *_residual(node, x, y)]


def _residual(node: Node, x: Shape, y: Shape) -> list[Demand]:
    bias = node.weights.get("bias")
    return [] if bias is None else [("the bias", bias.shape, (node.weights["weight"].shape[0],))]


def _per_channel(node: Node, x: Shape, y: Shape) -> list[Demand]:
    wanted = (x[node.attrs["axis"]],)
    return [*((f"the {name}", array.shape, wanted) for name, array in node.weights.items()), ("the output", y, x)]


def _rope(node: Node, x: Shape, y: Shape) -> list[Demand]:
    return [*((name, array.shape, x[-2:]) for name, array in node.weights.items()), ("the output", y, x)]


def _same(node: Node, x: Shape, y: Shape) -> list[Demand]:
    return [("the output", y, x)]


SHAPES: dict[str, Callable[[Node, Shape, Shape], list[Demand]]] = {
    "conv": _conv,
    "linear": _linear,
    "scale": _per_channel,
    "layer_norm": _per_channel,
    "rms_norm": _per_channel,
    "act": _same,
    "affine": _same,
    "softmax": _same,
    "rope": _rope,
    "constant": lambda node, x, y: [("the value", node.weights["value"].shape, y)],
    "embedding": lambda node, x, y: [("the output", y, (*x, node.weights["weight"].shape[1]))],
    "reshape": lambda node, x, y: [
        ("the output", y, node.attrs["shape"]),
        ("the size", [math.prod(y)], [math.prod(x)]),
    ],
    "transpose": lambda node, x, y: [("the output", y, [x[i] for i in node.attrs["perm"]])],
}
