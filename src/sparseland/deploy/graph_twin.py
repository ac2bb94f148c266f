"""What every node of a graph means, in plain torch: the readable oracle of the engine.

Nothing here is fast. `run` is compared with the network a graph was captured from, and the engine with `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparseland.core.errors import SparselandError

from .graph import Graph, Node, Value

TORCH = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
Inputs = list["Tensor | None"]


def run(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Compute a graph node by node.

    Parameters:
        graph: the network.
        inputs: one tensor per name in ``graph.inputs``, of the shape and type that ``graph.values`` says.

    Returns:
        One tensor per name in ``graph.outputs``.

    Raises:
        SparselandError: another number of inputs, or one of another shape or type.

    >>> import numpy as np
    >>> eye = Node("linear", "fc", ["x"], ["y"], {"act": "clamp", "lo": 0, "hi": 6}, {"weight": np.eye(2, dtype="f")})
    >>> run(Graph(["x"], ["y"], [eye], {"x": Value((1, 2)), "y": Value((1, 2))}), [torch.tensor([[-1.0, 9.0]])])
    [tensor([[0., 6.]])]
    """
    if len(inputs) != len(graph.inputs):
        raise SparselandError(f"the graph takes {len(graph.inputs)} inputs {graph.inputs}; got {len(inputs)}")
    tensors: dict[str, Tensor] = {}
    for name, given in zip(graph.inputs, inputs, strict=True):
        value = graph.values[name]
        if tuple(given.shape) != value.shape or given.dtype != TORCH[value.dtype]:
            raise SparselandError(f"{name!r} is {value}; got {tuple(given.shape)} of {given.dtype}")
        tensors[name] = given
    with torch.no_grad():
        for node in graph.nodes:
            made = compute(node, [tensors[name] if name else None for name in node.inputs])
            tensors.update(zip(node.outputs, made, strict=True))
    return [tensors[name] for name in graph.outputs]


def compute(node: Node, inputs: Sequence[Tensor | None]) -> list[Tensor]:
    """The outputs of one node; an absent optional input is None."""
    if node.op == "torch":
        made = node.attrs["module"](*inputs)
        return list(made) if isinstance(made, tuple | list) else [made]
    weights = {
        name: torch.from_numpy(array).to(next((one.device for one in inputs if one is not None), "cpu"))
        for name, array in node.weights.items()
    }
    return [act(node, RULES[node.op](node, list(inputs), weights))]


def infer(node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """Shapes and types of a node's outputs, without computing them (on torch's meta device).

    >>> infer(Node("transpose", "t", ["x"], ["y"], {"perm": (0, 2, 1)}), [Value((2, 3, 4))])
    [Value(shape=(2, 4, 3), dtype='float32')]
    """
    given = [None if one is None else torch.empty(one.shape, dtype=TORCH[one.dtype], device="meta") for one in inputs]
    if node.op == "constant":
        return [value_of(torch.from_numpy(node.weights["value"]))]
    with torch.no_grad():
        return [value_of(made) for made in compute(node, given)]


def value_of(tensor: Tensor) -> Value:
    """Shape and type of a tensor, as a graph writes them.

    Raises:
        SparselandError: a type that graphs do not have.
    """
    for name, dtype in TORCH.items():
        if tensor.dtype == dtype:
            return Value(tuple(tensor.shape), name)
    raise SparselandError(f"graphs hold {', '.join(TORCH)}; got {tensor.dtype}")


def act(node: Node, x: Tensor) -> Tensor:
    """The activation at the end of a node."""
    name, lo, hi = node.act()
    return x.clamp(lo, hi) if name == "clamp" else ACTIVATIONS[name](x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
Weights = dict[str, Tensor]


def _along(vector: Tensor, axis: int, dims: int) -> Tensor:
    """A vector as a tensor of ``dims`` axes that varies along one of them."""
    shape = [1] * dims
    shape[axis] = -1
    return vector.reshape(shape)


def _sides(padding: Sequence[int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) in the order of torch's pad: left, right, top, bottom."""
    top, left, bottom, right = padding
    return left, right, top, bottom


def _with_residual(y: Tensor, xs: Inputs) -> Tensor:
    return y if len(xs) < 2 or xs[1] is None else y + xs[1]


def _conv(node: Node, xs: Inputs, w: Weights) -> Tensor:
    attrs = node.attrs
    y = F.conv2d(
        F.pad(_first(xs), _sides(attrs["padding"])), w["weight"], w.get("bias"), tuple(attrs["stride"]), 0,
        tuple(attrs["dilation"]), attrs["groups"],
    )  # fmt: skip
    return _with_residual(y, xs)


def _first(xs: Inputs) -> Tensor:
    assert xs[0] is not None
    return xs[0]


def _linear(node: Node, xs: Inputs, w: Weights) -> Tensor:
    return _with_residual(F.linear(_first(xs), w["weight"], w.get("bias")), xs)


def _scale(node: Node, xs: Inputs, w: Weights) -> Tensor:
    x, axis = _first(xs), node.attrs["axis"]
    return x * _along(w["scale"], axis, x.dim()) + _along(w["shift"], axis, x.dim())


def _max_pool(node: Node, xs: Inputs, w: Weights) -> Tensor:
    x = F.pad(_first(xs), _sides(node.attrs["padding"]), value=float("-inf"))
    return F.max_pool2d(x, tuple(node.attrs["kernel"]), tuple(node.attrs["stride"]))


def _avg_pool(node: Node, xs: Inputs, w: Weights) -> Tensor:
    x, attrs = _first(xs), node.attrs
    window = (tuple(attrs["kernel"]), tuple(attrs["stride"]))
    total: Tensor = F.avg_pool2d(F.pad(x, _sides(attrs["padding"])), *window, divisor_override=1)
    inside = F.pad(torch.ones_like(x), _sides(attrs["padding"]), value=float(attrs["count_include_pad"]))
    mean: Tensor = total / F.avg_pool2d(inside, *window, divisor_override=1)
    return mean


def _mean(node: Node, xs: Inputs, w: Weights) -> Tensor:
    return _first(xs).mean(tuple(node.attrs["axes"]), keepdim=bool(node.attrs["keepdim"]))


def _layer_norm(node: Node, xs: Inputs, w: Weights) -> Tensor:
    x, axis = _first(xs), node.attrs["axis"]
    centred = x - x.mean(axis, keepdim=True)
    return _norm(node, centred, w)


def _norm(node: Node, x: Tensor, w: Weights) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight + bias along one axis."""
    axis = node.attrs["axis"]
    y = x * torch.rsqrt(x.square().mean(axis, keepdim=True) + node.attrs["eps"]) * _along(w["weight"], axis, x.dim())
    return y + _along(w["bias"], axis, x.dim()) if "bias" in w else y


def _attention(node: Node, xs: Inputs, w: Weights) -> Tensor:
    q, k, v = (one for one in xs[:3] if one is not None)
    mask = xs[3] if len(xs) > 3 else None
    groups = q.shape[1] // k.shape[1]
    k, v = (one.repeat_interleave(groups, dim=1) for one in (k, v))
    scores = q @ k.transpose(-1, -2) * node.attrs["scale"]  # [B, heads, Lq, Lk]
    if node.attrs["causal"]:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~keep, float("-inf"))
    if mask is not None and mask.dtype == torch.int64:  # [B, Lk]: the tokens that count
        mask = (mask != 0)[:, None, None, :]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1) @ v


def _rope(node: Node, xs: Inputs, w: Weights) -> Tensor:
    x = _first(xs)
    low, high = x.tensor_split(2, -1)
    turned: Tensor = x * w["cos"] + torch.cat((-high, low), -1) * w["sin"]
    return turned


def _slice(node: Node, xs: Inputs, w: Weights) -> Tensor:
    start, stop = node.attrs["start"], node.attrs["stop"]
    return _first(xs).narrow(node.attrs["axis"], start, stop - start)


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def rule(node: Node, xs: Inputs, w: Weights) -> Tensor:
        a, b = (one for one in xs if one is not None)
        return function(a, b)

    return rule


Rule = Callable[[Node, Inputs, Weights], Tensor]
RULES: dict[str, Callable[[Node, Any, Weights], Tensor]] = {
    "conv": _conv,
    "linear": _linear,
    "scale": _scale,
    "act": lambda node, xs, w: xs[0],
    "add": _two(torch.add),
    "sub": _two(torch.sub),
    "mul": _two(torch.mul),
    "affine": lambda node, xs, w: node.attrs["a"] * xs[0] + node.attrs["b"],
    "constant": lambda node, xs, w: w["value"],
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": _mean,
    "layer_norm": _layer_norm,
    "rms_norm": lambda node, xs, w: _norm(node, xs[0], w),
    "softmax": lambda node, xs, w: torch.softmax(xs[0], node.attrs["axis"]),
    "attention": _attention,
    "rope": _rope,
    "embedding": lambda node, xs, w: F.embedding(xs[0], w["weight"]),
    "reshape": lambda node, xs, w: xs[0].reshape(tuple(node.attrs["shape"])),
    "transpose": lambda node, xs, w: xs[0].permute(tuple(node.attrs["perm"])),
    "concat": lambda node, xs, w: torch.cat(xs, node.attrs["axis"]),
    "slice": _slice,
    "pad": lambda node, xs, w: F.pad(xs[0], _sides(node.attrs["padding"])),
}
