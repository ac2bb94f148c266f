"""How convolutions and linear layers become ops: pointwise, k x k, depthwise, or one row per image."""

from __future__ import annotations

import numpy as np

from .graph import Node
from .lower_build import NO_ACT, Builder, act_of
from .lower_layers import Layer
from .lower_view import Array, Held, NotLowered, View, image, whole

POINT = (1, 1, 1, 1, 0, 0, 0, 0, 1, 1)


def conv(b: Builder, node: Node) -> None:
    """y = act(W * x + bias + residual)."""
    attrs, weight = node.attrs, node.weights["weight"]
    name, padding = node.inputs[0], tuple(attrs["padding"])
    while name in b.skipped:
        extra = b.skipped[name]
        padding = tuple(p + q for p, q in zip(padding, extra.attrs["padding"], strict=True))
        name = extra.inputs[0]
    o, _, kh, kw = weight.shape
    window = (kh, kw, *attrs["stride"], *padding, *attrs["dilation"], int(attrs["groups"]))
    factor = None
    if name in b.factors and name not in b.held:
        x, factor = b.factors[name]
    else:
        x = b.get(name)
    if window[:10] == POINT and window[10] == 1 and x.pixels == 1 and factor is None:
        _fully(b, node, x, weight.reshape(o, -1), image(x.size[0], o, 1, 1))
        return
    out = b.graph.values[node.output].shape
    point = window[:10] == POINT and window[10] == 1
    depthwise = window[10] == x.size[1] == o
    if x.layout == "plain" and x.as_image() == x.size[2:] and not point and not depthwise and factor is None:
        _windowed(b, node, x, weight, window, out)  # reads plain memory itself
        return
    x = b.as_image(x)
    if point:
        _pointwise(b, node, x, weight.reshape(o, -1), image(*out), factor)
    elif depthwise:
        _depthwise(b, node, x, window)
    else:
        _windowed(b, node, x, weight, window, out)


def linear(b: Builder, node: Node) -> None:
    """y = act(W x + bias + residual) over the last axis."""
    x, weight = b.get(node.inputs[0]), node.weights["weight"]
    if not x.view:
        raise NotLowered("a linear layer of a scalar")
    o, (n, c, h, w) = weight.shape[0], x.size
    view = (*x.view[:-1], whole("C", o))
    if x.view[-1] == whole("C", c):
        if x.pixels == 1:
            _fully(b, node, x, weight, view)
        else:
            _pointwise(b, node, b.as_tiles(x), weight, view, None)
    elif x.view[-1] == whole("C", c) + whole("P", h * w):  # a flattened image: a convolution that covers it
        x = b.as_tiles(x)
        window = (h, w, 1, 1, 0, 0, 0, 0, 1, 1, 1)
        _windowed(b, node, x.seen(image(*x.size)), weight.reshape(o, c, h, w), window, (n, o, 1, 1), view)
    else:
        raise NotLowered("its last axis is not the channels of its input")


def _bias(node: Node) -> Array:
    o = node.weights["weight"].shape[0]
    return np.ascontiguousarray(node.weights.get("bias", np.zeros(o, np.float32)), np.float32)


def _matrix(weight: Array) -> Array:
    return np.ascontiguousarray(weight.reshape(weight.shape[0], -1), np.float32)


def _residual(b: Builder, node: Node, y: Held) -> int:
    """The tensor that is added before the activation, laid out as the output; -1 for none."""
    if len(node.inputs) < 2 or not node.inputs[1]:
        return -1
    x = b.get(node.inputs[1])
    if y.layout == "plain":
        x = b.as_vector(x)
    else:
        x = b.retiled(x, *y.size[2:], y.rows)
    if x.view != y.view or x.size != y.size:
        raise NotLowered("what is added to it lies differently")
    return x.tensor


def _fully(b: Builder, node: Node, x: Held, weight: Array, view: View) -> None:
    x = b.as_vector(x)
    n, c, h, w = x.size
    number, lo, hi = act_of(node)
    y = b.plain(n, weight.shape[0], view=view)
    residual = _residual(b, node, y)
    layer = Layer(
        "fc", node.name, _matrix(weight), _bias(node), n, c, h, w, 1, (weight.shape[0], 1, 1, 1), (), number, lo, hi,
        residual=residual >= 0, store=b.packings,
    )  # fmt: skip
    b.held[node.output] = b.layer(layer, x, y, residual)


def _pointwise(b: Builder, node: Node, x: Held, weight: Array, view: View, factor: Held | None) -> None:
    n, c, h, w = x.size
    o = weight.shape[0]
    y = b.tiles(n, o, h, w, view, x.rows)
    residual = _residual(b, node, y)
    number, lo, hi = act_of(node)
    layer = Layer(
        "pointwise", node.name, _matrix(weight), _bias(node), n, c, h, w, x.rows, (o, h, w, x.rows), (), number, lo, hi,
        scaled=factor is not None, residual=residual >= 0, store=b.packings,
    )  # fmt: skip
    scale = factor.tensor if factor is not None else -1
    b.held[node.output] = b.layer(layer, x, y, residual, scale)


def _windowed(
    b: Builder, node: Node, x: Held, weight: Array, window: tuple[int, ...], out: tuple[int, ...],
    view: View | None = None,
) -> None:  # fmt: skip
    n, c, h, w = x.size
    y = b.tiles(out[0], out[1], out[2], out[3], view)
    residual = _residual(b, node, y)
    number, lo, hi = act_of(node)
    source = "tiles" if x.layout == "tiles" else "NHWC" if x.interleaved else "NCHW"
    layer = Layer(
        "conv", node.name, _matrix(weight), _bias(node), n, c, h, w, x.rows, (out[1], out[2], out[3], y.rows), window,
        number, lo, hi, residual=residual >= 0, store=b.packings, source=source,
    )  # fmt: skip
    b.held[node.output] = b.layer(layer, x, y, residual)


def _depthwise(b: Builder, node: Node, x: Held, window: tuple[int, ...]) -> None:
    added = len(node.inputs) > 1 and bool(node.inputs[1])
    final = act_of(node)
    number, lo, hi = NO_ACT if added else final
    y = b.image_of(node)
    blobs = [_bias(node), _matrix(node.weights["weight"])]
    b.op("dwconv", [x.tensor], y, (*window[:10], number), (lo, hi), blobs)
    if added:
        residual = _residual(b, node, y)
        y = b.op("binary", [y.tensor, residual], b.like(y), (0, 0, final[0]), final[1:])
    b.held[node.output] = y
