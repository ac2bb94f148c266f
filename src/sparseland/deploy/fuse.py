"""Makes a graph smaller without changing what it computes: every pass is a function from a graph to a graph.

A pass only folds where nobody else reads the tensor that disappears, and a zero of a weight stays an exact zero, so
that what was pruned stays pruned.
"""

from __future__ import annotations

from collections.abc import Callable

from . import fuse_attention, fuse_constants, fuse_layout, fuse_weights
from .fuse_rewrite import alive
from .graph import Graph

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (
    fuse_constants.fold_constants,
    fuse_constants.drop_identities,
    fuse_constants.merge_views,
    fuse_constants.merge_sums,
    fuse_layout.whole_average,
    fuse_layout.channels_first,
    fuse_layout.linear_on_tokens,
    fuse_weights.channel_constants,
    fuse_weights.merge_affine,
    fuse_weights.fold_pad,
    fuse_weights.fold_scale,
    fuse_weights.gated,
    fuse_weights.gated_with_factor,
    fuse_weights.fold_activation,
    fuse_weights.fold_residual,
    fuse_weights.fold_scale_forward,
    fuse_attention.scale_of_attention,
    fuse_attention.mask_of_attention,
    alive,
)
ROUNDS = 20  # a round folds one neighbour of each node; graphs come to rest after three or four


def fuse(graph: Graph, passes: tuple[Pass, ...] = PASSES) -> Graph:
    """Apply the passes in turn until nothing changes.

    Parameters:
        graph: stays as it is; weights that do not change are shared with it.
        passes: which, in order.

    Returns:
        A graph with the same inputs and outputs that computes the same up to rounding.

    >>> import torch
    >>> from torch import nn
    >>> from sparseland.deploy.capture import capture
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    >>> [(node.op, node.name, node.attrs["act"]) for node in fuse(capture(net, torch.zeros(1, 3, 8, 8))).nodes]
    [('conv', '0', 'clamp')]
    """
    for _ in range(ROUNDS):
        before = [(node.op, node.outputs, sorted(node.attrs)) for node in graph.nodes]
        for one in passes:
            graph = one(graph)
        if [(node.op, node.outputs, sorted(node.attrs)) for node in graph.nodes] == before:
            break
    return graph
