"""Passes that write an operation in the layout the engine has: images stay [N, C, H, W]."""

from __future__ import annotations

import numpy as np

from .fuse_rewrite import changed
from .graph import Graph, Node, Value

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def whole_average(graph: Graph) -> Graph:
    """An average pool whose one window covers the image is the mean over it."""
    nodes = []
    for node in graph.nodes:
        if node.op == "avg_pool" and graph.values[node.output].shape[2:] == (1, 1):
            size, attrs = graph.values[node.inputs[0]].shape[2:], node.attrs
            top, left = attrs["padding"][:2]
            covers = all(k >= n + pad for k, n, pad in zip(attrs["kernel"], size, (top, left), strict=True))
            if covers and (not any(attrs["padding"]) or not attrs["count_include_pad"]):
                node = Node("mean", node.name, list(node.inputs), list(node.outputs), {"axes": (2, 3), "keepdim": 1})
        nodes.append(node)
    return graph if all(new is old for new, old in zip(nodes, graph.nodes, strict=True)) else graph.replace(nodes)


def channels_first(graph: Graph) -> Graph:
    """Move a transpose to [N, H, W, C] behind what works on channels, until it meets the one that goes back.

    A linear layer over C of such an image is a 1 × 1 convolution, a norm over the last axis one over axis 1.
    """
    makers = graph.producers()
    values = dict(graph.values)
    nodes: list[Node] = []
    moved = False
    for node in graph.nodes:
        sources = [_first(makers.get(name), graph) for name in node.inputs]
        new = _moved(node, [one for one in sources if one is not None]) if all(sources) else None
        if new is None or len(graph.values[node.output].shape) != 4:
            nodes.append(node)
            continue
        moved = True
        shape = graph.values[node.output].shape
        new.outputs = [_unused(f"{node.output}.first", values)]
        values[new.output] = Value(tuple(shape[axis] for axis in TO_FIRST))
        back = Node("transpose", f"{new.output}.transpose", [new.output], list(node.outputs), {"perm": TO_LAST})
        nodes += [new, back]
        makers[node.output] = back
    if not moved:
        return graph
    return Graph(graph.inputs, graph.outputs, nodes, values, graph.out_spec, graph.in_spec).replace()


def linear_on_tokens(graph: Graph) -> Graph:
    """A linear layer of [B · L, K] whose output becomes [B, L, O] works on [B, L, K]: the reshape moves before it."""
    readers = graph.consumers()
    values = dict(graph.values)
    nodes: list[Node] = []
    for node in graph.nodes:
        after = readers[node.output] if node.op == "linear" and len(node.inputs) == 1 else []
        if len(after) != 1 or after[0].op != "reshape" or node.output in graph.outputs:
            nodes.append(node)
            continue
        shape, seen = graph.values[after[0].output].shape, graph.values[node.output].shape
        if len(shape) != 3 or len(seen) != 2 or shape[-1] != seen[-1]:
            nodes.append(node)
            continue
        tokens = (*shape[:2], graph.values[node.inputs[0]].shape[-1])
        name = _unused(f"{node.output}.tokens", values)
        values[name] = Value(tokens)
        nodes.append(Node("reshape", name, list(node.inputs), [name], {"shape": tokens}))
        values[node.output] = graph.values[after[0].output]
        nodes.append(changed(node, inputs=[name]))
    if len(nodes) == len(graph.nodes):
        return graph
    return Graph(graph.inputs, graph.outputs, nodes, values, graph.out_spec, graph.in_spec).replace()


def _first(maker: Node | None, graph: Graph) -> str | None:
    """The tensor [N, C, H, W] behind one that is [N, H, W, C]."""
    if maker is None or maker.op != "transpose" or tuple(maker.attrs["perm"]) != TO_LAST:
        return None
    return maker.inputs[0]


def _moved(node: Node, sources: list[str]) -> Node | None:
    """The node as it works on [N, C, H, W]; None where it cannot."""
    if not sources:
        return None
    if node.op == "linear":
        weight = node.weights["weight"]
        attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
        square = np.ascontiguousarray(weight.reshape(*weight.shape, 1, 1))
        return changed(node, op="conv", inputs=sources, attrs=attrs, weights={"weight": square})
    if node.op in ("layer_norm", "rms_norm", "scale", "softmax") and node.attrs["axis"] in (-1, 3):
        return changed(node, inputs=sources, attrs={"axis": 1})
    if node.op in ("act", "affine", "add", "sub", "mul"):
        return changed(node, inputs=sources)
    return None


def _unused(wanted: str, values: dict[str, Value]) -> str:
    while wanted in values:
        wanted += "_"
    return wanted
