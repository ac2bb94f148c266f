"""Every pass on the smallest graph that shows it: what is folded, what must not be, and that zeros stay zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparseland.core.errors import SparselandError
from sparseland.deploy import fuse_attention, fuse_constants, fuse_layout, fuse_weights
from sparseland.deploy.fuse import PASSES, Pass, fuse
from sparseland.deploy.graph import Graph, Node, Value
from sparseland.deploy.graph_twin import TORCH, infer, run, value_of

RANDOM = np.random.default_rng(0)
INF = float("inf")


def numbers(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def chain(*nodes: Node, outputs: str = "", **inputs: tuple[int, ...]) -> Graph:
    """A graph of nodes; shapes are computed. The last output is the graph's unless named otherwise."""
    values = {name: Value(shape) for name, shape in inputs.items()}
    for node in nodes:
        if node.op == "constant":
            values[node.output] = value_of(torch.from_numpy(node.weights["value"]))
            continue
        for name, value in zip(node.outputs, infer(node, [values[one] for one in node.inputs]), strict=True):
            values[name] = value
    return Graph(list(inputs), outputs.split() or [nodes[-1].output], list(nodes), values).check()


def node(op: str, reads: str, makes: str, weights: dict[str, Any] | None = None, **attrs: Any) -> Node:
    return Node(op, f"{op}.{makes}", reads.split(), [makes], attrs, weights or {})


def conv(reads: str, makes: str, weight: np.ndarray[Any, Any], bias: Any = None, **attrs: Any) -> Node:
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    defaults = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    return node("conv", reads, makes, weights, **(defaults | attrs))


def constant(makes: str, value: Any) -> Node:
    return node("constant", "", makes, {"value": np.asarray(value)})


def same(before: Graph, after: Graph) -> list[str]:
    """Both compute the same; returns the ops that are left."""
    inputs = [
        torch.randn(before.values[name].shape, generator=torch.Generator().manual_seed(3)).to(
            TORCH[before.values[name].dtype]
        )
        for name in before.inputs
    ]
    after.check()
    for one, two in zip(run(before, inputs), run(after, inputs), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
    return [one.op for one in after.nodes]


def apply(one: Pass, graph: Graph) -> list[str]:
    """The ops after a single pass; the graph that was given stays as it was."""
    before = [(n.op, n.name, tuple(n.inputs), tuple(n.outputs), dict(n.attrs)) for n in graph.nodes]
    weights = [{key: array.copy() for key, array in n.weights.items()} for n in graph.nodes]
    left = same(graph, one(graph))
    assert [(n.op, n.name, tuple(n.inputs), tuple(n.outputs), dict(n.attrs)) for n in graph.nodes] == before
    for old, n in zip(weights, graph.nodes, strict=True):
        assert all(np.array_equal(array, n.weights[key]) for key, array in old.items())
    return left


def test_batch_norm_scales_rows_and_keeps_zeros() -> None:
    weight = numbers(4, 3, 3, 3) * (RANDOM.random((4, 3, 3, 3)) > 0.7)
    scale = {"scale": -np.abs(numbers(4)), "shift": numbers(4)}  # negative: 0 · −s must not become −0
    graph = chain(
        conv("x", "y", weight.astype("f")), node("scale", "y", "z", scale, axis=1, act="silu"), x=(1, 3, 6, 6)
    )
    assert apply(fuse_weights.fold_scale, graph) == ["conv"]
    (layer,) = fuse_weights.fold_scale(graph).nodes
    assert layer.act()[0] == "silu" and layer.output == "z" and layer.name == "conv.y"
    assert np.array_equal(layer.weights["weight"].view(np.uint32) == 0, weight == 0)


def test_batch_norm_stays_where_another_reads_or_an_activation_stands_between() -> None:
    scale = {"scale": numbers(4), "shift": numbers(4)}
    layer, norm = conv("x", "y", numbers(4, 3, 1, 1)), node("scale", "y", "z", scale, axis=1)
    twice = chain(layer, norm, node("add", "y z", "t"), x=(1, 3, 2, 2))
    assert apply(fuse_weights.fold_scale, twice) == ["conv", "scale", "add"]
    asked = chain(layer, norm, outputs="y z", x=(1, 3, 2, 2))
    assert apply(fuse_weights.fold_scale, asked) == ["conv", "scale"]
    curved = chain(conv("x", "y", numbers(4, 3, 1, 1), act="tanh"), norm, x=(1, 3, 2, 2))
    assert apply(fuse_weights.fold_scale, curved) == ["conv", "scale"]
    huge = {"scale": np.full(4, 3e38, "f"), "shift": np.zeros(4, "f")}
    large = chain(conv("x", "y", np.full((4, 3, 1, 1), 8, "f")), node("scale", "y", "z", huge, axis=1), x=(1, 3, 2, 2))
    assert [one.op for one in fuse(large).nodes] == ["conv", "scale"]  # the product would be infinite


def test_a_scale_before_a_layer_scales_its_columns() -> None:
    weight = numbers(5, 4) * (RANDOM.random((5, 4)) > 0.5)
    scale = {"scale": numbers(4), "shift": numbers(4)}
    graph = chain(
        node("scale", "x", "y", scale, axis=2), node("linear", "y", "z", {"weight": weight.astype("f")}), x=(2, 3, 4)
    )
    assert apply(fuse_weights.fold_scale_forward, graph) == ["linear"]
    assert np.array_equal(fuse(graph).nodes[0].weights["weight"] == 0, weight == 0)
    layer = conv("y", "z", numbers(5, 4, 3, 3), padding=(1, 1, 1, 1))  # outside there is 0, not the shift
    padded = chain(node("scale", "x", "y", scale, axis=1), layer, x=(1, 4, 3, 3))
    assert apply(fuse_weights.fold_scale_forward, padded) == ["scale", "conv"]


def test_numbers_and_channels_become_scales_and_affines() -> None:
    vector = constant("c", numbers(4))
    for op in ("mul", "add", "sub"):
        graph = chain(vector, node("linear", "x", "y", {"weight": numbers(4, 4)}), node(op, "y c", "z"), x=(2, 3, 4))
        assert same(graph, fuse(graph)) == ["linear"]
    reverse = chain(vector, node("sub", "c x", "z"), x=(2, 4))
    assert same(reverse, fuse(reverse)) == ["constant", "sub"]
    one = chain(constant("c", np.float32(3)), node("mul", "c x", "z"), node("affine", "z", "t", a=2.0, b=1.0), x=(2, 4))
    (left,) = fuse(one).nodes
    assert (left.op, left.attrs["a"], left.attrs["b"]) == ("affine", 6.0, 1.0)
    image = chain(constant("c", numbers(3, 1, 1)), node("mul", "x c", "z"), x=(2, 3, 4, 4))
    assert fuse(image).nodes[0].attrs == {"axis": 1}
    wide = chain(constant("c", numbers(3, 1, 1)), node("mul", "x c", "z"), x=(4, 4))  # grows: stays
    assert same(wide, fuse(wide)) == ["constant", "mul"]


def test_activations_end_the_node_before_them() -> None:
    weight = {"weight": numbers(4, 4)}
    for act in ({"act": "clamp", "lo": 0.0, "hi": INF}, {"act": "gelu_tanh"}, {"act": "hardsigmoid"}):
        graph = chain(node("linear", "x", "y", weight), node("act", "y", "z", **act), x=(2, 4))
        assert apply(fuse_weights.fold_activation, graph) == ["linear"]
        assert fuse(graph).nodes[0].act()[0] == act["act"]
    through = chain(
        node("linear", "x", "y", weight), node("reshape", "y", "r", shape=(2, 2, 2)),
        node("transpose", "r", "t", perm=(1, 0, 2)), node("act", "t", "z", act="tanh"), x=(2, 4),
    )  # fmt: skip
    assert apply(fuse_weights.fold_activation, through) == ["linear", "reshape", "transpose"]
    clamps = chain(
        node("act", "x", "y", act="clamp", lo=0.0, hi=INF),
        node("act", "y", "z", act="clamp", lo=-1.0, hi=6.0),
        x=(2, 4),
    )
    assert apply(fuse_weights.fold_activation, clamps) == ["act"]
    assert fuse(clamps).nodes[0].act() == ("clamp", 0.0, 6.0)


def test_gates() -> None:
    for gate, made in (("sigmoid", "silu"), ("hardsigmoid", "hardswish")):
        graph = chain(node("act", "x", "s", act=gate), node("mul", "s x", "z"), x=(2, 4))
        assert same(graph, fuse(graph)) == ["act"] and fuse(graph).nodes[0].act()[0] == made
    factor = chain(
        node("linear", "x", "l", {"weight": numbers(4, 4)}), node("affine", "l", "a", a=1.702, b=0.0),
        node("act", "a", "s", act="sigmoid"), node("mul", "l s", "z"),
        node("linear", "z", "t", {"weight": numbers(4, 4)}), x=(2, 4),
    )  # fmt: skip
    assert same(factor, fuse(factor)) == ["linear", "linear"]
    other = chain(
        node("act", "x", "s", act="sigmoid"), node("act", "x", "t", act="tanh"), node("mul", "s t", "z"), x=(2,)
    )
    assert same(other, fuse(other)) == ["act", "act", "mul"]


def test_the_later_layer_takes_the_other_as_its_residual() -> None:
    first, second = conv("x", "a", numbers(4, 4, 1, 1)), conv("x", "b", numbers(4, 4, 1, 1))
    graph = chain(
        first, second, node("add", "b a", "y"), node("act", "y", "z", act="clamp", lo=0.0, hi=6.0), x=(1, 4, 2, 2)
    )
    fused = fuse(graph)
    assert same(graph, fused) == ["conv", "conv"]
    assert (
        fused.nodes[1].name == "conv.b" and fused.nodes[1].inputs == ["x", "a"] and fused.nodes[1].act()[0] == "clamp"
    )
    # The residual is made after the layer: the layer moves to where the sum was.
    late = chain(
        conv("x", "a", numbers(4, 4, 1, 1)), node("act", "x", "b", act="tanh"), node("add", "a b", "y"), x=(1, 4, 2, 2)
    )
    assert [one.op for one in fuse(late).nodes] == ["act", "conv"] and same(late, fuse(late))


@pytest.mark.parametrize("case", ["read twice", "an activation between", "broadcast", "asked for", "itself"])
def test_sums_that_stay(case: str) -> None:
    layer = conv("x", "a", numbers(4, 4, 1, 1), **({"act": "tanh"} if case == "an activation between" else {}))
    nodes = {
        "read twice": [layer, node("add", "a x", "y"), node("mul", "a y", "z")],
        "an activation between": [layer, node("add", "a x", "z")],
        "broadcast": [layer, node("mean", "x", "m", axes=(2, 3), keepdim=1), node("add", "a m", "z")],
        "asked for": [layer, node("add", "a x", "z")],
        "itself": [layer, node("add", "a a", "z")],
    }[case]
    graph = chain(*nodes, outputs="a z" if case == "asked for" else "z", x=(1, 4, 2, 2))
    assert "add" in same(graph, fuse(graph))


def test_padding_joins_the_layer() -> None:
    sides = node("pad", "x", "p", padding=(1, 0, 2, 3))
    graph = chain(sides, conv("p", "y", numbers(4, 3, 3, 3), padding=(1, 1, 1, 1)), x=(1, 3, 5, 5))
    assert same(graph, fuse(graph)) == ["conv"] and fuse(graph).nodes[0].attrs["padding"] == (2, 1, 3, 4)
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0), "count_include_pad": 0}
    average, largest = (chain(sides, node(op, "p", "y", **pool), x=(1, 3, 5, 5)) for op in ("avg_pool", "max_pool"))
    assert same(average, fuse(average)) == ["avg_pool"] and same(largest, fuse(largest)) == ["pad", "max_pool"]


def test_views_are_joined_and_dropped() -> None:
    graph = chain(
        node("transpose", "x", "a", perm=(0, 2, 1)), node("transpose", "a", "b", perm=(0, 2, 1)),
        node("reshape", "b", "c", shape=(6, 4)), node("reshape", "c", "d", shape=(2, 12)),
        node("slice", "d", "e", axis=1, start=2, stop=10), node("slice", "e", "f", axis=1, start=1, stop=3),
        node("affine", "f", "g", a=1.0, b=0.0), x=(2, 3, 4),
    )  # fmt: skip
    assert same(graph, fuse(graph)) == ["reshape", "slice"]
    assert fuse(graph).nodes[1].attrs == {"axis": 1, "start": 3, "stop": 5}
    nothing = chain(node("reshape", "x", "y", shape=(2, 3)), x=(2, 3))
    assert fuse(nothing).nodes == [] and fuse(nothing).outputs == ["x"]


def test_constants_are_computed() -> None:
    graph = chain(
        constant("a", numbers(1, 3, 4)), constant("b", numbers(3, 4)), node("mul", "a b", "c"),
        constant("ids", np.array([[0, 2, 1]])), node("embedding", "ids", "e", {"weight": numbers(5, 4)}),
        node("add", "x c", "y"), node("add", "e y", "z"), x=(2, 3, 4),
    )  # fmt: skip
    assert same(graph, fuse(graph)) == ["constant", "add"]
    assert apply(fuse_constants.fold_constants, graph) == ["constant", "constant", "constant", "constant", "constant",
                                                           "add", "add"]  # fmt: skip


def test_images_with_channels_last_are_turned_back() -> None:
    graph = chain(
        node("transpose", "x", "t", perm=(0, 2, 3, 1)),
        node("layer_norm", "t", "n", {"weight": numbers(4), "bias": numbers(4)}, axis=-1, eps=1e-6),
        node("linear", "n", "l", {"weight": numbers(6, 4), "bias": numbers(6)}), node("act", "l", "g", act="gelu"),
        node("linear", "g", "k", {"weight": numbers(4, 6)}), node("transpose", "k", "b", perm=(0, 3, 1, 2)),
        node("add", "b x", "z"), x=(1, 4, 3, 5),
    )  # fmt: skip
    assert same(graph, fuse(graph)) == ["layer_norm", "conv", "conv"]
    assert fuse(graph).nodes[2].inputs[1] == "x" and fuse(graph).nodes[0].attrs["axis"] == 1
    tokens = chain(
        node("reshape", "x", "f", shape=(6, 4)), node("linear", "f", "l", {"weight": numbers(5, 4)}),
        node("reshape", "l", "z", shape=(2, 3, 5)), x=(2, 3, 4),
    )  # fmt: skip
    assert same(tokens, fuse(tokens)) == ["linear"] and apply(fuse_layout.linear_on_tokens, tokens)


CAUSAL = np.tril(np.ones((3, 3), bool))
MASKS: dict[str, tuple[Any, int, int]] = {  # the mask, how many inputs are left, whether it is causal
    "all true": (np.ones((1, 1, 3, 3), bool), 3, 0),
    "all zero": (np.zeros((2, 1, 1, 3), np.float32), 3, 0),
    "the past": (CAUSAL[None, None], 3, 1),
    "the past, added": (np.where(CAUSAL, 0, np.finfo(np.float32).min).astype(np.float32)[None, None], 3, 1),
    "a bias": (numbers(1, 2, 3, 3), 4, 0),
    "the future": (np.ascontiguousarray(CAUSAL.T)[None, None], 4, 0),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_of_attention(case: str) -> None:
    mask, left, causal = MASKS[case]
    shape = (2, 2, 3, 4)
    attention = node("attention", "q k v m", "y", scale=0.5, causal=0)
    graph = chain(constant("m", mask), attention, q=shape, k=shape, v=shape)
    same(graph, fuse(graph))
    found = fuse(graph).nodes[-1]
    assert (len(found.inputs), found.attrs["causal"]) == (left, causal)
    assert fuse_attention.mask_of_attention(graph).nodes[-1].inputs == found.inputs


def test_factors_of_queries_go_into_the_scale() -> None:
    shape = (2, 2, 3, 4)
    graph = chain(
        node("affine", "x", "a", a=0.25, b=0.0), node("transpose", "a", "q", perm=(0, 2, 1, 3)),
        node("affine", "k", "b", a=2.0, b=0.0), node("attention", "q b v", "y", scale=1.0, causal=0),
        x=(2, 3, 2, 4), k=shape, v=shape,
    )  # fmt: skip
    assert same(graph, fuse(graph)) == ["transpose", "attention"] and fuse(graph).nodes[-1].attrs["scale"] == 0.5
    shifted = chain(
        node("affine", "x", "q", a=0.25, b=1.0), node("attention", "q k v", "y", scale=1.0, causal=0),
        x=shape, k=shape, v=shape,
    )  # fmt: skip
    assert same(shifted, fuse(shifted)) == ["affine", "attention"]


def test_every_pass_leaves_a_strange_graph_alone() -> None:
    graph = chain(node("softmax", "x", "y", axis=1), x=(2, 3))
    assert all(one(graph) is graph for one in PASSES)


def test_a_graph_that_is_not_whole_is_refused() -> None:
    cases = [
        (node("convolution", "x", "y"), "unknown op 'convolution' of 'convolution.y'"),
        (node("act", "x", "y", act="relu"), "act 'act.y' cannot end in 'relu'"),
        (node("act", "x", "y", act="clamp"), "a clamp without lo and hi"),
        (node("mean", "x", "y", keepdim=1), "needs the attribute 'axes'"),
        (node("linear", "x", "y", {"weight": numbers(3, 5)}), r"the weight must be \(4, 4\); got \(3, 5\)"),
        (node("linear", "x", "y", {"weight": numbers(4, 4).astype("d")}), "must be C-contiguous float32; got float64"),
        (node("linear", "x", "y", {"weight": numbers(4, 4), "b": numbers(4)}), "has no weight 'b': "),
        (node("act", "z", "y", act="tanh"), "reads 'z', which no node before it makes"),
        (node("add", "x", "y"), "takes 2 to 2 inputs; got 1"),
        (node("act", "x", "x", act="tanh"), "the name 'x' is used twice"),
    ]
    for one, message in cases:
        with pytest.raises(SparselandError, match=message):
            Graph(["x"], ["y"], [one], {"x": Value((2, 4)), "y": Value((2, 4)), "z": Value((2, 4))}).check()
    with pytest.raises(SparselandError, match="the output 'y' is made by no node"):
        Graph(["x"], ["y"], [], {"x": Value((2, 4))}).check()
    with pytest.raises(SparselandError, match="'x' has the type 'int8'"):
        Graph(["x"], ["x"], [], {"x": Value((2, 4), "int8")}).check()
