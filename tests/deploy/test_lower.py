"""Every op of a graph, lowered and run, against what the graph means in torch; views; hybrids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseland.deploy.choose_model import Modelled
from sparseland.deploy.graph import Graph, Node, Value
from sparseland.deploy.graph_twin import infer, run
from sparseland.deploy.lower import lower, lower_parts
from sparseland.deploy.lower_layers import Choice, Layer, best_rows
from sparseland.deploy.lower_ports import Port
from sparseland.deploy.lower_view import (
    NotLowered,
    from_memory,
    heads,
    image,
    reshaped,
    to_memory,
    tokens,
    transposed,
    whole,
)
from sparseland.deploy.runtime import Engine
from tests.deploy.converting import apart, needs_engine

RNG = np.random.default_rng(0)
Nodes = list[Node]


def weight(*shape: int, zeros: float = 0.0) -> np.ndarray[Any, Any]:
    """Normal numbers, some of them zero."""
    return (RNG.standard_normal(shape) * (RNG.random(shape) >= zeros)).astype(np.float32)


def graph_of(nodes: Nodes, outputs: list[str] | None = None, **inputs: Value) -> Graph:
    """A graph with the shapes worked out."""
    values = dict(inputs)
    for node in nodes:
        values.update(zip(node.outputs, infer(node, [values[n] if n else None for n in node.inputs]), strict=True))
    return Graph(list(inputs), outputs or [nodes[-1].output], nodes, values).check()


def chain(*steps: tuple[str, dict[str, Any], dict[str, Any]]) -> Nodes:
    """Nodes one after the other."""
    names = ["x", *(f"v{i}" for i in range(len(steps)))]
    return [Node(op, f"n{i}", [names[i]], [names[i + 1]], attrs, w) for i, (op, attrs, w) in enumerate(steps)]


def answer(graph: Graph, given: list[torch.Tensor], choose: Callable[[Layer], Choice] | None = None) -> list[Any]:
    """What the engine makes of it."""
    lowered = lower(graph, choose or Modelled(1))
    ports = [one.plain() for one in lowered.inputs], [one.plain() for one in lowered.outputs]
    engine = Engine(lowered.program.to_bytes({"inputs": ports[0], "outputs": ports[1], "layers": []}), threads=2)
    known = dict(zip(graph.inputs, given, strict=True))
    return [torch.from_numpy(one) for one in engine.run([known[port.name].numpy() for port in engine.inputs])]


def some(value: Value) -> torch.Tensor:
    """An input of that shape."""
    if value.dtype == "int64":
        return torch.randint(0, 5, value.shape)
    return torch.rand(value.shape) > 0.3 if value.dtype == "bool" else torch.randn(value.shape)


def conv(o: int, c: int, k: int = 1, *, stride: int = 1, padding: Any = 0, groups: int = 1, **attrs: Any) -> Any:
    """A convolution as a step of `chain`."""
    sides = (padding,) * 4 if isinstance(padding, int) else padding
    window = {"stride": (stride, stride), "padding": sides, "dilation": (1, 1), "groups": groups}
    return "conv", {**window, **attrs}, {"weight": weight(o, c // groups, k, k, zeros=0.5), "bias": weight(o)}


def linear(o: int, k: int, **attrs: Any) -> Any:
    """A linear layer as a step of `chain`."""
    return "linear", attrs, {"weight": weight(o, k, zeros=0.5), "bias": weight(o)}


RELU = {"act": "clamp", "lo": 0.0, "hi": float("inf")}
POOL = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "count_include_pad": 0}
X = Value((2, 6, 10, 9))
CHAINS: dict[str, tuple[Value, Nodes]] = {
    "1x1": (X, chain(conv(8, 6, **RELU))),
    "3x3 from plain memory": (X, chain(conv(8, 6, 3, stride=2, padding=1))),
    "3x3 after another": (X, chain(conv(8, 6), conv(5, 8, 3, padding=(0, 1, 1, 0), act="gelu"))),
    "strided 1x1": (X, chain(conv(8, 6), conv(4, 8, stride=2))),
    "grouped": (X, chain(conv(8, 6), conv(12, 8, 3, padding=1, groups=4))),
    "depthwise": (X, chain(conv(8, 6), conv(8, 8, 5, stride=2, padding=2, groups=8, act="hardswish"))),
    "depthwise on an input": (X, chain(conv(6, 6, 3, padding=1, groups=6))),
    "depth multiplier": (X, chain(conv(12, 6, 3, padding=1, groups=6))),
    "pad": (X, chain(("pad", {"padding": (0, 0, 1, 1)}, {}), conv(4, 6, 3, stride=2))),
    "max pool": (X, chain(conv(6, 6), ("max_pool", POOL, {}))),
    "avg pool": (X, chain(("avg_pool", POOL, {}))),
    "global pool": (X, chain(("avg_pool", {**POOL, "kernel": (10, 9), "padding": (0,) * 4}, {}), conv(4, 6))),
    "mean": (X, chain(("mean", {"axes": (2, 3), "keepdim": 0}, {}), linear(3, 6))),
    "flatten": (X, chain(conv(4, 6), ("reshape", {"shape": (2, 360)}, {}), linear(7, 360, **RELU))),
    "mlp": (X, chain(("reshape", {"shape": (2, 540)}, {}), linear(7, 540), linear(3, 7, act="tanh"))),
    "channels last": (
        X,
        chain(
            ("transpose", {"perm": (0, 2, 3, 1)}, {}),
            ("layer_norm", {"axis": 3, "eps": 1e-6}, {"weight": weight(6), "bias": weight(6)}),
            linear(8, 6, act="gelu_tanh"),
            ("transpose", {"perm": (0, 3, 1, 2)}, {}),
            conv(4, 8, 3),
        ),
    ),
    "patches": (
        X,
        chain(
            conv(8, 6, 3, stride=3),
            ("reshape", {"shape": (2, 8, 9)}, {}),
            ("transpose", {"perm": (0, 2, 1)}, {}),
            linear(5, 8),
            ("slice", {"axis": 1, "start": 3, "stop": 4}, {}),
            ("reshape", {"shape": (2, 5)}, {}),
            linear(3, 5),
        ),
    ),
    "tokens": (Value((2, 7, 6)), chain(linear(8, 6), ("rms_norm", {"axis": -1, "eps": 1e-5}, {"weight": weight(8)}))),
    "tokens to an image": (
        Value((2, 12, 6)),
        chain(("transpose", {"perm": (0, 2, 1)}, {}), ("reshape", {"shape": (2, 6, 3, 4)}, {}), conv(4, 6, 3)),
    ),
    "mean of tokens": (Value((2, 7, 6)), chain(linear(8, 6), ("mean", {"axes": (1,), "keepdim": 0}, {}))),
    "norm of a vector": (
        Value((3, 6)),
        chain(linear(8, 6), ("layer_norm", {"axis": 1, "eps": 1e-5}, {"weight": weight(8)}), linear(2, 8)),
    ),
    "softmax of logits": (Value((3, 6)), chain(linear(9, 6), ("softmax", {"axis": 1}, {}))),
    "softmax of tokens": (Value((2, 7, 6)), chain(linear(9, 6), ("softmax", {"axis": 2}, {}))),
    "softmax over a row": (X, chain(conv(4, 6), ("softmax", {"axis": 3}, {}))),
    "affine": (X, chain(("affine", {"a": 2.0, "b": -1.0}, {}), ("act", {"act": "sigmoid"}, {}))),
    "scale": (X, chain(("scale", {"axis": 1, **RELU}, {"scale": weight(6), "shift": weight(6)}))),
    "scale of a vector": (Value((3, 6)), chain(("scale", {"axis": 1}, {"scale": weight(6), "shift": weight(6)}))),
    "slice of channels": (X, chain(conv(8, 6), ("slice", {"axis": 1, "start": 2, "stop": 5}, {}), conv(4, 3))),
    "slice of rows": (X, chain(conv(8, 6), ("slice", {"axis": 2, "start": 2, "stop": 5}, {}), conv(4, 8, 3))),
    "slice of nothing": (X, chain(("slice", {"axis": 3, "start": 0, "stop": 9}, {}), conv(4, 6))),
    "embedding": (
        Value((2, 7), "int64"),
        chain(("embedding", {}, {"weight": weight(5, 8)}), linear(6, 8)),
    ),
    "silu": (Value((2, 7, 6)), chain(linear(8, 6, act="silu"), ("act", {"act": "hardsigmoid"}, {}))),
    "one pixel": (Value((3, 6, 1, 1)), chain(conv(8, 6, act="silu"), conv(6, 8, act="hardsigmoid"))),
}


@needs_engine
@pytest.mark.parametrize("name", CHAINS)
def test_chains(name: str) -> None:
    value, nodes = CHAINS[name]
    graph = graph_of(nodes, x=value)
    x = some(value)
    right = run(graph, [x])
    every = [Modelled(1), Modelled(1, only="dense"), *(forced(G) for G in (1, 2, 4))]
    for choose in every:
        made = answer(graph, [x], choose)
        assert [one.shape for one in made] == [one.shape for one in right]
        assert apart(made, right) < 1e-5


def forced(G: int) -> Callable[[Layer], Choice]:
    """Always sparse, with blocks of G rows."""

    def choose(layer: Layer) -> Choice:
        return Choice({"pointwise": "spmm", "conv": "conv", "fc": "fc"}[layer.kind], True, G=G)

    return choose


def two(op: str, a: str, b: str, out: str, **attrs: Any) -> Node:
    """A binary node."""
    return Node(op, f"{op}_{out}", [a, b], [out], attrs)


def fixed(name: str, value: np.ndarray[Any, Any]) -> Node:
    """A constant."""
    return Node("constant", f"c_{name}", [], [name], {}, {"value": value})


def layer(step: Any, x: str, out: str, *more: str) -> Node:
    """A step of `chain` with names."""
    op, attrs, weights = step
    return Node(op, out, [x, *more], [out], attrs, weights)


V = {"x": X, "y": X}
T = {"x": Value((2, 7, 6))}
GRAPHS: dict[str, tuple[dict[str, Value], Nodes, list[str]]] = {
    "add, subtract, multiply": (
        V, [two("add", "x", "y", "a", **RELU), two("sub", "a", "y", "b"), two("mul", "b", "x", "c")], ["c", "a"],
    ),
    "residual": (V, [layer(conv(6, 6, 3, padding=1, **RELU), "x", "a", "y"), layer(conv(6, 6), "a", "b", "x")], ["b"]),
    "residual of a depthwise": (V, [layer(conv(6, 6, 3, padding=1, groups=6, **RELU), "x", "a", "y")], ["a"]),
    "residual of a vector": (
        {"x": Value((3, 6)), "y": Value((3, 6))}, [layer(linear(6, 6, **RELU), "x", "a", "y")], ["a"],
    ),
    "squeeze and excite, into a 1x1": (
        {"x": X}, [
            layer(conv(8, 6), "x", "a"), Node("mean", "m", ["a"], ["m"], {"axes": (2, 3), "keepdim": 1}),
            layer(conv(2, 8, act="silu"), "m", "s"), layer(conv(8, 2, act="sigmoid"), "s", "g"),
            two("mul", "a", "g", "e"), layer(conv(5, 8), "e", "z"),
        ], ["z"],
    ),
    "squeeze and excite, read twice": (
        {"x": X}, [
            Node("mean", "m", ["x"], ["m"], {"axes": (2, 3), "keepdim": 1}), layer(conv(6, 6), "m", "g"),
            two("mul", "g", "x", "e"), layer(conv(5, 6), "e", "z"), two("add", "e", "x", "w"),
        ], ["z", "w"],
    ),
    "constants": (
        {"x": X}, [
            fixed("one", np.float32(0.5).reshape(1)), fixed("vector", weight(6, 1, 1)), fixed("full", weight(10, 9)),
            two("sub", "one", "x", "a"), two("mul", "a", "vector", "b"), two("sub", "vector", "b", "c"),
            two("sub", "full", "c", "d"), two("add", "d", "one", "e", **RELU),
        ], ["e"],
    ),
    "class token and positions": (
        T, [
            fixed("cls", weight(2, 1, 6)), fixed("positions", weight(1, 8, 6)),
            Node("concat", "cat", ["cls", "x"], ["a"], {"axis": 1}), two("add", "a", "positions", "b"),
            layer(linear(4, 6), "b", "z"),
        ], ["z"],
    ),
    "positions of words": (
        {"x": Value((2, 7), "int64")}, [
            fixed("positions", weight(1, 7, 6)), fixed("type", weight(6)),
            layer(("embedding", {}, {"weight": weight(5, 6)}), "x", "a"), two("add", "a", "positions", "b"),
            two("add", "type", "b", "c"),
        ], ["c"],
    ),
    "concat of channels": (
        V, [
            layer(conv(4, 6), "x", "a"), Node("concat", "cat", ["a", "y", "x"], ["b"], {"axis": 1}),
            layer(conv(4, 16, 3), "b", "z"),
        ], ["z"],
    ),
    "concat of rows": (V, [Node("concat", "cat", ["x", "y"], ["b"], {"axis": 2}), layer(conv(4, 6), "b", "z")], ["z"]),
    "two views of one value": (
        T, [
            layer(linear(8, 6), "x", "a"), Node("transpose", "t", ["a"], ["b"], {"perm": (0, 2, 1)}),
            Node("reshape", "r", ["a"], ["c"], {"shape": (2, 7, 2, 4)}),
        ], ["a", "b", "c"],
    ),
}  # fmt: skip


@needs_engine
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    inputs, nodes, outputs = GRAPHS[name]
    graph = graph_of(nodes, outputs, **inputs)
    xs = [some(value) for value in inputs.values()]
    assert apart(answer(graph, xs), run(graph, xs)) < 1e-5


def attention(mask: Any, *, kv: int = 4, causal: int = 0, constant: bool = False, rope: bool = False) -> Any:
    """(inputs, nodes) of self-attention with 4 heads of 8 over 7 tokens."""
    nodes: Nodes = []
    for name, count in (("q", 4), ("k", kv), ("v", kv)):
        nodes += [
            layer(linear(8 * count, 6), "x", name),
            Node("reshape", f"{name}1", [name], [f"{name}1"], {"shape": (2, 7, count, 8)}),
            Node("transpose", f"{name}2", [f"{name}1"], [f"{name}2"], {"perm": (0, 2, 1, 3)}),
        ]
    turned = {"q": "q2", "k": "k2"}
    for name in "qk" * rope:
        tables = {"cos": weight(7, 8), "sin": weight(7, 8)}
        nodes.append(Node("rope", f"rope_{name}", [turned[name]], [f"{name}3"], {}, tables))
        turned[name] = f"{name}3"
    inputs: dict[str, Value] = {"x": Value((2, 7, 6))}
    given = [turned["q"], turned["k"], "v2"]
    if mask is not None:
        given.append("mask")
        if constant:
            nodes.append(fixed("mask", some(mask).numpy()))
        else:
            inputs["mask"] = mask
    nodes += [
        Node("attention", "att", given, ["o"], {"scale": 0.3, "causal": causal}),
        Node("transpose", "o1", ["o"], ["o1"], {"perm": (0, 2, 1, 3)}),
        Node("reshape", "o2", ["o1"], ["o2"], {"shape": (2, 7, 32)}),
        layer(linear(6, 32), "o2", "z", "x"),
    ]
    return inputs, nodes


MASKS: dict[str, Any] = {
    "none": (None, {}),
    "causal": (None, {"causal": 1}),
    "few keys": (None, {"kv": 2, "rope": True}),
    "one key": (None, {"kv": 1, "causal": 1}),
    "added": (Value((2, 1, 7, 7)), {}),
    "added per head": (Value((1, 4, 7, 7)), {}),
    "of keys": (Value((2, 1, 1, 7)), {}),
    "booleans": (Value((2, 1, 1, 7), "bool"), {}),
    "constant": (Value((7, 7)), {"constant": True}),
    "constant booleans": (Value((1, 1, 7, 7), "bool"), {"constant": True}),
}


@needs_engine
@pytest.mark.parametrize("name", MASKS)
def test_attention(name: str) -> None:
    torch.manual_seed(0)
    mask, options = MASKS[name]
    inputs, nodes = attention(mask, **options)
    graph = graph_of(nodes, **inputs)
    xs = [some(value) for value in inputs.values()]
    assert apart(answer(graph, xs), run(graph, xs)) < 1e-5


# ---------------------------------------------------------------------------------------------------- what is refused
REFUSED = {
    "roll": (chain(("torch", {"reason": "rolls", "module": None}, {})), "rolls"),
    "mean of channels": (chain(("mean", {"axes": (1,), "keepdim": 1}, {})), "a mean over other axes"),
    "norm of rows": (
        chain(conv(6, 6), ("layer_norm", {"axis": 3, "eps": 1e-5}, {"weight": weight(9)})),
        "norm over another axis",
    ),
    "columns": (chain(("slice", {"axis": 3, "start": 1, "stop": 3}, {})), "cannot cut"),
    "images": (chain(("slice", {"axis": 0, "start": 1, "stop": 2}, {})), "a slice of an axis"),
    "softmax of channels": (chain(conv(4, 6), ("softmax", {"axis": 2}, {})), "one piece"),
    "pad for nobody": (chain(("pad", {"padding": (1, 1, 1, 1)}, {})), "no convolution takes over"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    nodes, says = REFUSED[name]
    values = {"x": X, nodes[0].output: X}
    if name != "roll":
        values = graph_of(nodes, x=X).values
    graph = Graph(["x"], [nodes[-1].output], nodes, values)
    with pytest.raises(NotLowered, match=says) as raised:
        lower(graph, Modelled(1))
    assert raised.value.node == nodes[-1].name and f"'{nodes[-1].name}'" in str(raised.value)


@needs_engine
def test_parts_are_few_and_right() -> None:
    bad = ("mean", {"axes": (1,), "keepdim": 1}, {})
    nodes = [
        layer(conv(6, 6), "x", "b"), layer(bad, "x", "a"), layer(conv(6, 6, 3), "b", "d"), two("mul", "d", "d", "e"),
        layer(bad, "e", "f"), two("add", "f", "f", "g"),
        layer(("mean", {"axes": (3,), "keepdim": 0}, {}), "g", "h"),
    ]  # fmt: skip
    graph = graph_of(nodes, ["h", "d", "a"], x=X)
    parts = lower_parts(graph, Modelled(1))
    where = [("engine" if part.lowered else "torch", [node.name for node in part.graph.nodes]) for part in parts]
    assert where == [("torch", ["a"]), ("engine", ["b", "d", "mul_e"]), ("torch", ["f", "add_g", "h"])]
    assert "too little" in parts[-1].reasons["add_g"]


# ------------------------------------------------------------------------------------------------------------- views
def test_free_moves() -> None:
    view = image(2, 12, 3, 5)
    flat = transposed(reshaped(view, (2, 12, 15)), (0, 2, 1))
    assert flat == tokens(2, 12, 15)
    cut = transposed(reshaped(flat, (2, 15, 4, 3)), (0, 2, 1, 3))
    assert cut == heads(2, 12, 15, 4)
    assert reshaped(transposed(cut, (0, 2, 1, 3)), (2, 15, 12)) == tokens(2, 12, 15)
    assert reshaped(reshaped(view, (24, 15)), (2, 12, 3, 5)) == view
    with pytest.raises(NotLowered, match="do not divide"):
        reshaped(tokens(1, 12, 5), (1, 5, 5, 12 // 5))
    with pytest.raises(NotLowered):
        reshaped(whole("C", 6) and (whole("C", 6),), (4, 2))


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.permutations(range(4)),
    st.booleans(),
)
def test_memory_and_back(size: tuple[int, int, int, int], perm: list[int], interleaved: bool) -> None:
    x = np.arange(np.prod(size), dtype=np.float32).reshape(size)
    memory = to_memory(x, image(*size), size, interleaved)
    assert np.array_equal(memory.ravel(), (x.transpose(0, 2, 3, 1) if interleaved else x).ravel())
    view, turned = transposed(image(*size), perm), x.transpose(perm)
    assert np.array_equal(from_memory(memory, view, size, interleaved, turned.shape), turned)
    assert np.array_equal(to_memory(turned, view, size, interleaved), memory)
    port = Port("x", turned.shape, "float32", size, view, interleaved, 0)
    assert Port.read(port.plain()) == port


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 230), st.integers(1, 230))
def test_rows_of_a_band(h: int, w: int) -> None:
    rows = best_rows(h, w)
    assert 1 <= rows <= h and (rows == 1 or rows * w <= 112)
