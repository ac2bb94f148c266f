"""Passes over constants and views: compute what is known, drop what does nothing, join what follows itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .fuse_rewrite import Rewrite, changed, plain
from .graph import Graph, Node
from .graph_twin import compute


def fold_constants(graph: Graph) -> Graph:
    """Compute every node that reads constants only."""
    known: dict[str, Tensor] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "constant":
            known[node.output] = torch.from_numpy(node.weights["value"])
        elif node.inputs and all(name in known for name in node.inputs if name) and not _random(node):
            with torch.no_grad():
                made = compute(node, [known[name] if name else None for name in node.inputs])
            for i, (name, tensor) in enumerate(zip(node.outputs, made, strict=True)):
                known[name] = tensor
                value = np.ascontiguousarray(tensor.numpy()).reshape(tuple(tensor.shape))
                label = node.name if i == 0 else f"{node.name}.{i}"
                nodes.append(Node("constant", label, [], [name], {}, {"value": value}))
            continue
        nodes.append(node)
    return graph if nodes == graph.nodes else graph.replace(nodes)


def _random(node: Node) -> bool:
    """Whether a torch node draws numbers."""
    if node.op != "torch":
        return False
    tags = [getattr(call.target, "tags", ()) for call in node.attrs["module"].graph.nodes]
    return any(torch.Tag.nondeterministic_seeded in tag for tag in tags)


def drop_identities(graph: Graph) -> Graph:
    """Drop nodes that return their input."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        if node.inputs and _does_nothing(node, graph):
            edit.drop(node, node.inputs[0])
    return edit.done()


def _does_nothing(node: Node, graph: Graph) -> bool:
    if node.op == "torch" or not plain(node):
        return False
    x, y = graph.values[node.inputs[0]].shape, graph.values[node.output].shape
    if node.op == "transpose":
        return tuple(node.attrs["perm"]) == tuple(range(len(x)))
    if node.op == "affine":
        return bool(node.attrs["a"] == 1 and node.attrs["b"] == 0)
    if node.op == "pad":
        return not any(node.attrs["padding"])
    if node.op in ("max_pool", "avg_pool"):
        return tuple(node.attrs["kernel"]) == (1, 1) and x == y
    if node.op == "concat":
        return len(node.inputs) == 1
    return node.op in ("reshape", "slice", "act") and x == y


def merge_views(graph: Graph) -> Graph:
    """Join reshapes, transposes, slices and one-pixel pools that follow their kind; a mean forgets its kept axes."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        before = edit.maker(node.inputs[0]) if node.inputs and node.op in _MERGES else None
        if before is None or not edit.free(node):
            continue
        merged = _MERGES[node.op](node, before, graph)
        if merged is None:
            continue
        if edit.only_reader(before.output) is node:
            edit.put(node, merged, before)
        elif before.op == node.op:  # the other readers keep the first one
            edit.put(node, merged)
    return edit.done()


def _reshapes(node: Node, before: Node, graph: Graph) -> Node | None:
    if before.op == "reshape":
        return changed(node, inputs=list(before.inputs))
    if before.op == "mean" and before.attrs["keepdim"]:
        shape = graph.values[before.inputs[0]].shape
        axes = [axis % len(shape) for axis in before.attrs["axes"]]
        left = tuple(n for i, n in enumerate(shape) if i not in axes)
        if graph.values[node.output].shape == left:
            return changed(before, outputs=list(node.outputs), attrs={"keepdim": 0})
    return None


def _transposes(node: Node, before: Node, graph: Graph) -> Node | None:
    if before.op != "transpose":
        return None
    perm = tuple(before.attrs["perm"][axis] for axis in node.attrs["perm"])
    return changed(node, inputs=list(before.inputs), attrs={"perm": perm})


def _slices(node: Node, before: Node, graph: Graph) -> Node | None:
    if before.op != "slice" or before.attrs["axis"] != node.attrs["axis"]:
        return None
    start = before.attrs["start"]
    attrs = {"start": start + node.attrs["start"], "stop": start + node.attrs["stop"]}
    return changed(node, inputs=list(before.inputs), attrs=attrs)


def _pixel_pools(node: Node, before: Node, graph: Graph) -> Node | None:
    for one in (node, before):
        if one.op != "max_pool" or tuple(one.attrs["kernel"]) != (1, 1) or any(one.attrs["padding"]):
            return None
    stride = tuple(i * j for i, j in zip(node.attrs["stride"], before.attrs["stride"], strict=True))
    return changed(node, inputs=list(before.inputs), attrs={"stride": stride})


_MERGES = {"reshape": _reshapes, "transpose": _transposes, "slice": _slices, "max_pool": _pixel_pools}


def merge_sums(graph: Graph) -> Graph:
    """(x + c₁) + c₂ = x + (c₁ + c₂): tables of positions and types become one constant."""
    edit = Rewrite(graph)
    extra: dict[str, Node] = {}
    taken = {node.name for node in graph.nodes}
    for node in graph.nodes:
        split = _with_constant(node, edit)
        if split is None:
            continue
        tensor, constant = split
        before = edit.maker(tensor)
        inner = _with_constant(before, edit) if before is not None and plain(before) else None
        if before is None or inner is None or edit.only_reader(tensor) is not node or not edit.free(node, before):
            continue
        total = edit.constant(constant) + edit.constant(inner[1])  # type: ignore[operator]
        shape = graph.values[node.output].shape
        if np.broadcast_shapes(graph.values[inner[0]].shape, total.shape) != shape:
            continue
        name = f"{node.output}.constant"
        if name in graph.values or f"{node.name}.constant" in taken:
            continue
        extra[node.name] = Node("constant", f"{node.name}.constant", [], [name], {}, {"value": total})
        edit.put(node, changed(node, inputs=[inner[0], name]), before)
    return _with_extra(edit, extra)


def _with_extra(edit: Rewrite, extra: dict[str, Node]) -> Graph:
    """The changed graph with further constants at its beginning."""
    from .graph_twin import value_of

    if not extra:
        return edit.done()
    graph = edit.graph
    for node in extra.values():
        graph.values[node.output] = value_of(torch.from_numpy(node.weights["value"]))
    done = edit.done()
    done.nodes = [*extra.values(), *done.nodes]
    for node in extra.values():
        done.values[node.output] = graph.values.pop(node.output)
    return done


def _with_constant(node: Node | None, edit: Rewrite) -> tuple[str, str] | None:
    """(tensor, constant) of a sum of the two."""
    if node is None or node.op != "add":
        return None
    one, two = node.inputs
    if edit.constant(two) is not None:
        return one, two
    return (two, one) if edit.constant(one) is not None else None
