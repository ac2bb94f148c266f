"""Passes that move arithmetic into the convolution or linear layer before it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .fuse_rewrite import Rewrite, activation, as_weight, changed, plain
from .graph import Array, Graph, Node

LAYERS = ("conv", "linear")
ENDS = (*LAYERS, "scale", "add", "sub", "mul")  # what may end in an activation


def channel_constants(graph: Graph) -> Graph:
    """x · c and x + c with a constant that differs along one axis only become a scale, with one number an affine."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        if node.op not in ("mul", "add", "sub"):
            continue
        for place in (1, 0) if node.op != "sub" else (1,):
            value, x = edit.constant(node.inputs[place]), node.inputs[1 - place]
            if value is None or edit.constant(x) is not None or value.dtype != np.float32:
                continue
            new = _as_scale(node, x, value, graph)
            if new is not None:
                edit.put(node, new)
                break
    return edit.done()


def _as_scale(node: Node, x: str, value: Array, graph: Graph) -> Node | None:
    shape = graph.values[x].shape
    if graph.values[node.output].shape != shape or not np.isfinite(value).all():
        return None
    sizes = (1,) * (len(shape) - value.ndim) + value.shape
    sign = -1.0 if node.op == "sub" else 1.0
    wide = [axis for axis, n in enumerate(sizes) if n > 1]
    if not wide and plain(node):
        number = float(value.reshape(()))
        attrs = {"a": number, "b": 0.0} if node.op == "mul" else {"a": 1.0, "b": sign * number}
        return Node("affine", node.name, [x], list(node.outputs), attrs)
    if len(wide) != 1 or wide[0] not in (len(shape) - 1, *((1,) if len(shape) == 4 else ())):
        return None
    (channels,) = wide
    vector = as_weight(value.reshape(-1))
    neutral = np.zeros_like(vector)
    weights = (
        {"scale": vector, "shift": neutral} if node.op == "mul" else {"scale": neutral + 1, "shift": sign * vector}
    )
    return Node("scale", node.name, [x], list(node.outputs), {"axis": channels, **activation(node)}, weights)


def merge_affine(graph: Graph) -> Graph:
    """a (a′ x + b′) + b is one affine, and one scale where either of the two is."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        before = edit.maker(node.inputs[0]) if node.op in ("affine", "scale") else None
        if before is None or before.op not in ("affine", "scale") or not plain(before) or not edit.free(node):
            continue
        if edit.only_reader(node.inputs[0]) is not node:
            continue
        scale = next((one for one in (node, before) if one.op == "scale"), None)
        if scale is None:
            a, b = node.attrs["a"], node.attrs["b"]
            attrs = {"a": a * before.attrs["a"], "b": a * before.attrs["b"] + b}
            edit.put(node, changed(node, inputs=list(before.inputs), attrs=attrs), before)
            continue
        dims = len(graph.values[node.output].shape)
        if len({one.attrs["axis"] % dims for one in (node, before) if one.op == "scale"}) > 1:
            continue
        (a, b), (inner, shift) = (_factors(one, len(scale.weights["scale"])) for one in (node, before))
        weights = {"scale": as_weight(a * inner), "shift": as_weight(a * shift + b)}
        attrs = {"axis": scale.attrs["axis"], **activation(node)}
        edit.put(node, Node("scale", scale.name, list(before.inputs), list(node.outputs), attrs, weights), before)
    return edit.done()


def fold_pad(graph: Graph) -> Graph:
    """Zeros around an image are padding of the convolution, or of the average that counts them."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        before = edit.maker(node.inputs[0]) if node.inputs and node.inputs[0] else None
        if before is None or before.op != "pad":
            continue
        counts = node.op == "avg_pool" and (node.attrs["count_include_pad"] or not any(node.attrs["padding"]))
        if node.op != "conv" and not counts:
            continue
        sides = zip(node.attrs["padding"], before.attrs["padding"], strict=True)
        attrs: dict[str, Any] = {"padding": tuple(i + j for i, j in sides)}
        if counts:
            attrs["count_include_pad"] = 1
        edit.put(node, changed(node, inputs=[before.inputs[0], *node.inputs[1:]], attrs=attrs))
    return edit.done()


def fold_scale(graph: Graph) -> Graph:
    """scale · (W x + b) + shift: the rows of W and b take the factors, b the shifts.

    A number per tensor (affine) is the same with equal factors. Where only the scale reads the layer before it.
    """
    edit = Rewrite(graph)
    for node in graph.nodes:
        if node.op not in ("scale", "affine"):
            continue
        before = edit.maker(node.inputs[0])
        if before is None or before.op not in LAYERS or not plain(before) or len(before.inputs) > 1:
            continue
        if edit.only_reader(before.output) is not node:
            continue
        if node.op == "scale" and not _along_outputs(node, before, graph):
            continue
        scale, shift = _factors(node, before.weights["weight"].shape[0])
        weight = before.weights["weight"]
        rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
        bias = before.weights.get("bias", np.zeros(len(scale), np.float32)).astype(np.float64) * scale + shift
        weights = {"weight": as_weight(weight.astype(np.float64) * rows), "bias": as_weight(bias)}
        if "bias" not in before.weights and not weights["bias"].any():
            del weights["bias"]
        if not all(np.isfinite(one).all() for one in weights.values()):
            continue  # factors so large that the product leaves float32: they stay a node
        edit.put(
            node, changed(before, outputs=list(node.outputs), weights=weights, attrs=activation(node)), before
        )  # fmt: skip
    return edit.done()


def _along_outputs(node: Node, before: Node, graph: Graph) -> bool:
    dims = len(graph.values[node.output].shape)
    return bool(node.attrs["axis"] % dims == (1 if before.op == "conv" else dims - 1))


def _factors(node: Node, count: int) -> tuple[Array, Array]:
    if node.op == "affine":
        return np.full(count, float(node.attrs["a"])), np.full(count, float(node.attrs["b"]))
    return node.weights["scale"].astype(np.float64), node.weights["shift"].astype(np.float64)


def fold_scale_forward(graph: Graph) -> Graph:
    """W (scale · x + shift) + b: the columns of W take the factors, b the product with the shifts.

    For linear layers and convolutions without padding (around an image the shift would have to be added too).
    """
    edit = Rewrite(graph)
    for node in graph.nodes:
        before = edit.maker(node.inputs[0]) if node.op in LAYERS else None
        if before is None or before.op not in ("scale", "affine") or not plain(before) or not edit.free(node):
            continue
        weight = node.weights["weight"].astype(np.float64)
        inside = node.op == "linear" or (node.attrs["groups"] == 1 and not any(node.attrs["padding"]))
        if edit.only_reader(before.output) is not node or not inside:
            continue
        if before.op == "scale" and not _along_outputs(before, node, graph):
            continue
        scale, shift = _factors(before, weight.shape[1])
        columns = (1, -1, *[1] * (weight.ndim - 2))
        added = (weight * shift.reshape(columns)).reshape(len(weight), -1).sum(1)
        weights = {"weight": as_weight(weight * scale.reshape(columns))}
        if shift.any() or "bias" in node.weights:
            weights["bias"] = as_weight(node.weights.get("bias", np.zeros(len(weight))) + added)
        if all(np.isfinite(one).all() for one in weights.values()):
            inputs = [before.inputs[0], *node.inputs[1:]]
            edit.put(node, changed(node, inputs=inputs, weights=weights), before)
    return edit.done()


_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}


def gated(graph: Graph) -> Graph:
    """x · sigmoid(x) is silu, x · hardsigmoid(x) hardswish, clamp(x + 3, 0, 6) / 6 hardsigmoid."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        if node.op == "mul" and plain(node):
            for x, gate in (node.inputs, node.inputs[::-1]):
                maker = edit.maker(gate)
                if maker is not None and maker.op == "act" and maker.inputs == [x] and maker.act()[0] in _GATES:
                    edit.put(node, Node("act", node.name, [x], list(node.outputs), {"act": _GATES[maker.act()[0]]}))
                    break
        elif node.op == "affine" and math.isclose(node.attrs["a"], 1 / 6, rel_tol=1e-6) and node.attrs["b"] == 0:
            clamp = edit.maker(node.inputs[0])
            moved = edit.maker(clamp.inputs[0]) if clamp is not None and clamp.op == "act" else None
            if moved is None or clamp is None or clamp.act() != ("clamp", 0.0, 6.0) or moved.op != "affine":
                continue
            if moved.attrs["a"] == 1 and moved.attrs["b"] == 3:
                attrs = {"act": "hardsigmoid"}
                edit.put(node, Node("act", node.name, list(moved.inputs), list(node.outputs), attrs))
    return edit.done()


def gated_with_factor(graph: Graph) -> Graph:
    """x · sigmoid(a x) = silu(a x) / a: the factors go into the layers around it (a = 1.702 is the quick GELU)."""
    edit = Rewrite(graph)
    nodes: list[Node] = []
    values = dict(graph.values)
    for node in graph.nodes:
        nodes.append(node)
        if node.op != "mul" or not plain(node):
            continue
        for x, gate in (node.inputs, node.inputs[::-1]):
            act = edit.maker(gate)
            factor = edit.maker(act.inputs[0]) if act is not None and act.act()[0] == "sigmoid" else None
            if act is None or factor is None or act.op != "act" or factor.op != "affine" or factor.inputs != [x]:
                continue
            a, name = float(factor.attrs["a"]), f"{node.output}.silu"
            if a == 0 or factor.attrs["b"] != 0 or name in values:
                continue
            values[name] = values[node.output]
            silu = Node("act", f"{node.name}.silu", [factor.output], [name], {"act": "silu"})
            nodes[-1:] = [silu, Node("affine", node.name, [name], list(node.outputs), {"a": 1 / a, "b": 0.0})]
            break
    if len(nodes) == len(graph.nodes):
        return graph
    return Graph(graph.inputs, graph.outputs, nodes, values, graph.out_spec, graph.in_spec).replace()


def fold_activation(graph: Graph) -> Graph:
    """An activation becomes part of the node before it, also behind a view; a clamp of a clamp is one."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        before = edit.maker(node.inputs[0]) if node.op == "act" else None
        if before is None or edit.only_reader(before.output) is not node or not edit.free(node):
            continue
        if before.op in ENDS and plain(before):
            edit.put(node, changed(before, outputs=list(node.outputs), attrs=activation(node)), before)
        elif before.act()[0] == node.act()[0] == "clamp":
            (_, low, high), (_, lo, hi) = before.act(), node.act()
            attrs = {"lo": min(max(low, lo), hi), "hi": min(max(high, lo), hi)}
            edit.put(node, changed(before, outputs=list(node.outputs), attrs=attrs), before)
        elif (source := _behind_views(before, edit)) is not None:
            edit.put(source, changed(source, attrs=activation(node)))
            edit.drop(node, node.inputs[0])
    return edit.done()


def _behind_views(node: Node | None, edit: Rewrite) -> Node | None:
    """The node behind reshapes and transposes that can take an activation, if nothing else reads on the way."""
    while node is not None and node.op in ("reshape", "transpose"):
        before = edit.maker(node.inputs[0])
        if before is None or edit.only_reader(before.output) is not node:
            return None
        node = before
    return node if node is not None and node.op in ENDS and plain(node) else None


def fold_residual(graph: Graph) -> Graph:
    """act(W x + b) with r added before the activation: the sum after a layer becomes its second input."""
    edit = Rewrite(graph)
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op != "add" or node.inputs[0] == node.inputs[1]:
            continue
        candidates = [(edit.maker(one), other) for one, other in (node.inputs, node.inputs[::-1])]
        fitting = [
            (layer, other)
            for layer, other in candidates
            if layer is not None and _takes(layer, node, graph) and edit.only_reader(layer.output) is node
            if graph.values[other] == graph.values[layer.output]
        ]
        if fitting:
            # The later of two layers takes the other: it would have to wait anyway.
            layer, other = max(fitting, key=lambda one: order[one[0].name])
            new = changed(layer, inputs=[layer.inputs[0], other], outputs=list(node.outputs), attrs=activation(node))
            edit.put(node, new, layer)
    return edit.done()


def _takes(layer: Node, node: Node, graph: Graph) -> bool:
    """Whether a layer has room for a residual that makes the sum of ``node``."""
    free = layer.op in LAYERS and plain(layer) and len(layer.inputs) == 1
    return free and graph.values[layer.output].shape == graph.values[node.output].shape
