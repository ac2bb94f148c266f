"""Passes over attention: factors go into its scale, masks that say nothing or "causal" go away."""

from __future__ import annotations

import numpy as np

from .fuse_rewrite import Rewrite, changed
from .graph import Array, Graph, Node

LOWEST = -1e30  # an additive mask below this is a score of zero weight


def scale_of_attention(graph: Graph) -> Graph:
    """(a q) kᵀ · scale = q kᵀ · (a · scale), for queries and keys, also behind views that only attention reads."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        if node.op != "attention" or not edit.free(node):
            continue
        for place in (0, 1):
            before, reader = edit.maker(node.inputs[place]), node
            while before is not None and before.op in ("reshape", "transpose"):
                alone = edit.only_reader(before.output) is reader
                before, reader = (edit.maker(before.inputs[0]), before) if alone else (None, before)
            if before is None or before.op != "affine" or before.attrs["b"] != 0:
                continue
            if reader is not node:
                if edit.only_reader(before.output) is not reader:
                    continue
                edit.drop(before, before.inputs[0])
                inputs = list(node.inputs)
            else:
                inputs = [before.inputs[0] if i == place else name for i, name in enumerate(node.inputs)]
            edit.put(node, changed(node, inputs=inputs, attrs={"scale": node.attrs["scale"] * before.attrs["a"]}))
            break
    return edit.done()


def mask_of_attention(graph: Graph) -> Graph:
    """Drop a constant mask that keeps everything; say causal for one that keeps the past."""
    edit = Rewrite(graph)
    for node in graph.nodes:
        if node.op != "attention" or len(node.inputs) < 4 or (value := edit.constant(node.inputs[3])) is None:
            continue
        keep = _keeps(value)
        if keep is None:
            continue
        if keep.all():
            edit.put(node, changed(node, inputs=node.inputs[:3]))
        elif _is_causal(keep, node, graph):
            edit.put(node, changed(node, inputs=node.inputs[:3], attrs={"causal": 1}))
    return edit.done()


def _keeps(value: Array) -> Array | None:
    """A mask as True where a score counts; None where it adds anything else than 0 and minus infinity."""
    if value.dtype == np.bool_:
        return value
    keep: Array = value == 0
    return keep if bool((keep | (value <= LOWEST)).all()) else None


def _is_causal(keep: Array, node: Node, graph: Graph) -> bool:
    rows, columns = keep.shape[-2:]
    queries, keys = (graph.values[name].shape[-2] for name in node.inputs[:2])
    past = np.tril(np.ones((rows, columns), np.bool_))
    return rows == queries == columns == keys and bool((keep == past).all())
