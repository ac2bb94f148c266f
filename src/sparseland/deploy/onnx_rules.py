"""What each ONNX op becomes in a graph: one function per op, in all versions of it that exporters write."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import SparselandError
from .graph import Array
from .onnx_draft import Draft, Item, Rule, binary, known, wants
from .onnx_fold import integers
from .onnx_shapes import SHAPES

INF = float("inf")


def _window(draft: Draft, item: Item, kernel: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Stride, padding and dilation of a convolution or pooling over two axes."""
    x = draft.shape(draft.given(item, 0))
    if len(x) != 4 or len(kernel) != 2:
        raise SparselandError(f"images [N, C, H, W] and kernels of two axes are possible; got {x} and {tuple(kernel)}")
    stride = tuple(int(n) for n in item.attrs.get("strides", (1, 1)))
    dilation = tuple(int(n) for n in item.attrs.get("dilations", (1, 1)))
    auto = item.attrs.get("auto_pad", "NOTSET")
    pads = tuple(int(n) for n in item.attrs.get("pads", (0, 0, 0, 0)))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for size, k, s, d in zip(x[2:], kernel, stride, dilation, strict=True):
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small, large = total // 2, total - total // 2
            begin.append(small if auto == "SAME_UPPER" else large)
            end.append(large if auto == "SAME_UPPER" else small)
        pads = (*begin, *end)
    elif auto not in ("NOTSET", "VALID"):
        raise SparselandError(f"auto_pad is {auto!r}; possible: NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    if len(stride) != 2 or len(dilation) != 2 or len(pads) != 4 or min(pads) < 0 or min(*stride, *dilation) < 1:
        raise SparselandError(f"strides {stride}, dilations {dilation} and pads {pads} do not fit two axes")
    return {"stride": stride, "padding": pads, "dilation": dilation}


def conv(draft: Draft, item: Item) -> None:
    """Conv -> conv."""
    weight = draft.weight(item, 1)
    weights = {"weight": weight}
    if len(item.inputs) > 2 and item.inputs[2]:
        weights["bias"] = draft.weight(item, 2)
    attrs = _window(draft, item, weight.shape[2:])
    draft.put(item, "conv", [draft.tensor(item, 0)], {**attrs, "groups": int(item.attrs.get("group", 1))}, weights)


def batch_norm(draft: Draft, item: Item) -> None:
    """BatchNormalization with its stored statistics -> scale."""
    wants(item, "training_mode", 0, 0)
    gamma, beta, mean, variance = (draft.weight(item, i).astype(np.float64) for i in range(1, 5))
    scale = gamma / np.sqrt(variance + float(item.attrs.get("epsilon", 1e-5)))
    draft.put(item, "scale", [draft.tensor(item, 0)], {"axis": 1}, {"scale": scale, "shift": beta - mean * scale})


def gemm(draft: Draft, item: Item) -> None:
    """Gemm with a constant right side -> linear."""
    wants(item, "transA", 0, 0)
    weight = draft.weight(item, 1)
    weight = weight if item.attrs.get("transB", 0) else weight.T
    weights = {"weight": float(item.attrs.get("alpha", 1.0)) * weight}
    if len(item.inputs) > 2 and item.inputs[2]:
        bias = float(item.attrs.get("beta", 1.0)) * draft.weight(item, 2)
        if bias.size not in (1, weight.shape[0]):
            raise SparselandError(f"the bias {bias.shape} is not one number for each of {weight.shape[0]} outputs")
        weights["bias"] = np.broadcast_to(bias.reshape(-1), weight.shape[:1])
    draft.put(item, "linear", [draft.tensor(item, 0)], {}, weights)


def matmul(draft: Draft, item: Item) -> None:
    """MatMul with a constant matrix -> linear; of two tensors: a piece of attention."""
    right = draft.constant(item, 1)
    if right is not None and right.ndim == 2:
        draft.put(item, "linear", [draft.tensor(item, 0)], {}, {"weight": draft.weight(item, 1).T})
    else:
        draft.put(item, "matmul", [draft.tensor(item, 0), draft.tensor(item, 1)])


def activation(name: str, lo: float = 0.0, hi: float = INF) -> Rule:
    """A rule for an op that is an activation."""

    def rule(draft: Draft, item: Item) -> None:
        attrs = {"act": name, "lo": lo, "hi": hi} if name == "clamp" else {"act": name}
        draft.put(item, "act", [draft.tensor(item, 0)], attrs)

    return rule


def clip(draft: Draft, item: Item) -> None:
    """Clip with constant bounds -> clamp."""
    bounds = []
    for i, (name, default) in enumerate((("min", -INF), ("max", INF))):
        value = item.attrs.get(name, default)
        if i + 1 < len(item.inputs) and item.inputs[i + 1]:
            value = draft.weight(item, i + 1).reshape(-1)[0]
        bounds.append(float(value))
    draft.put(item, "act", [draft.tensor(item, 0)], {"act": "clamp", "lo": bounds[0], "hi": bounds[1]})


def hard_sigmoid(draft: Draft, item: Item) -> None:
    """HardSigmoid -> hardsigmoid, or in general clamp(alpha x + beta, 0, 1)."""
    alpha, beta = float(item.attrs.get("alpha", 0.2)), float(item.attrs.get("beta", 0.5))
    x = draft.tensor(item, 0)
    if abs(alpha - 1 / 6) < 1e-4 and beta == 0.5:
        draft.put(item, "act", [x], {"act": "hardsigmoid"})
        return
    line = draft.put(item, "affine", [x], {"a": alpha, "b": beta}, output=draft.between(item, "line"))
    draft.put(item, "act", [line], {"act": "clamp", "lo": 0.0, "hi": 1.0})


def gelu(draft: Draft, item: Item) -> None:
    """Gelu of opset 20."""
    tanh = item.attrs.get("approximate", "none") == "tanh"
    draft.put(item, "act", [draft.tensor(item, 0)], {"act": "gelu_tanh" if tanh else "gelu"})


def arithmetic(op: str) -> Rule:
    """A rule for Add, Sub, Mul and Div: with a number -> affine, with one number per channel -> scale."""

    def rule(draft: Draft, item: Item) -> None:
        constants = known(draft, item)
        side = next((i for i in (1, 0) if constants[i] is not None), None)
        if side is None:
            draft.put(item, op, [draft.tensor(item, 0), draft.tensor(item, 1)])
            return
        x = draft.tensor(item, 1 - side)
        constant, shape = draft.weight(item, side).astype(np.float64), draft.shape(x)
        if op == "div" and side == 0:
            inverse = draft.put(item, "reciprocal", [x], output=draft.between(item, "inverse"))
            _line(draft, item, inverse, constant, np.zeros(1))
        elif constant.ndim > len(shape) or np.broadcast_shapes(constant.shape, shape) != shape:
            draft.put(item, op, [draft.tensor(item, 0), draft.tensor(item, 1)])
        else:
            one, zero = np.ones(1), np.zeros(1)
            a, b = (one, constant) if op in ("add", "sub") else (constant, zero)
            if op == "sub":
                a, b = (one, -constant) if side == 1 else (-one, constant)
            if op == "div":
                a = 1 / constant
            _line(draft, item, x, a, b)

    return rule


def _line(draft: Draft, item: Item, x: str, a: Array, b: Array) -> None:
    """a·x + b for constants that do not enlarge x."""
    shape = draft.shape(x)
    if a.size == b.size == 1:
        factor, offset = float(a.reshape(-1)[0]), float(b.reshape(-1)[0])
        if (factor, offset) == (1, 0):
            draft.same[item.outputs[0]] = x
        else:
            draft.put(item, "affine", [x], {"a": factor, "b": offset})
        return
    axis = 1 if len(shape) == 4 else len(shape) - 1
    sides = [1] * len(shape)
    sides[axis] = shape[axis]
    aligned = [np.reshape(one, (1,) * (len(shape) - one.ndim) + one.shape) for one in (a, b)]
    if len(shape) > 1 and all(one.size == 1 or list(one.shape) == sides for one in aligned):
        scale, shift = (np.broadcast_to(one.reshape(-1), (shape[axis],)) for one in aligned)
        draft.put(item, "scale", [x], {"axis": axis}, {"scale": scale, "shift": shift})
        return
    # A table, as of positions: one operand of a plain multiplication or addition.
    wide = a.size > 1
    if wide:
        x = binary(draft, item, "mul", x, a, final=b.size == 1 and not b.any())
    elif a.reshape(-1)[0] != 1:
        x = draft.put(item, "affine", [x], {"a": float(a.reshape(-1)[0]), "b": 0.0}, output=draft.between(item, "line"))
    if b.size > 1 or b.any():
        binary(draft, item, "add", x, b, final=True)


def pieces(op: str) -> Rule:
    """A rule for an op of one input that is a piece of something larger."""
    return lambda draft, item: _ignore(draft.put(item, op, [draft.tensor(item, 0)]))


def _ignore(made: str) -> None:
    """A rule returns nothing."""


def negate(draft: Draft, item: Item) -> None:
    """Neg, and Not of a mask of 0 and 1."""
    b = 1.0 if item.op == "Not" else 0.0
    draft.put(item, "affine", [draft.tensor(item, 0)], {"a": -1.0, "b": b})


def power(draft: Draft, item: Item) -> None:
    """Pow with a constant exponent."""
    exponent = draft.weight(item, 1)
    if exponent.size != 1:
        raise SparselandError(f"the exponent is {exponent.shape}; possible: one number")
    draft.put(item, "pow", [draft.tensor(item, 0)], {"exponent": float(exponent.reshape(-1)[0])})


def softmax(draft: Draft, item: Item) -> None:
    """Softmax; before opset 13 over all axes from one on, which is the same for the last."""
    rank = len(draft.shape(draft.given(item, 0)))
    axis = int(item.attrs.get("axis", -1 if draft.opset >= 13 else 1)) % rank
    if draft.opset < 13 and axis != rank - 1:
        raise SparselandError(f"axis is {axis} of {rank}; possible before opset 13: the last")
    draft.put(item, "softmax", [draft.tensor(item, 0)], {"axis": axis})


def layer_norm(draft: Draft, item: Item) -> None:
    """LayerNormalization over the last axis."""
    x = draft.tensor(item, 0)
    rank = len(draft.shape(x))
    if int(item.attrs.get("axis", -1)) % rank != rank - 1 or any(item.outputs[1:]):
        raise SparselandError(f"axis is {item.attrs.get('axis')} of {rank}; possible: the last, and one output")
    weights = {"weight": draft.weight(item, 1)}
    if len(item.inputs) > 2 and item.inputs[2]:
        weights["bias"] = draft.weight(item, 2)
    draft.put(item, "layer_norm", [x], {"axis": rank - 1, "eps": float(item.attrs.get("epsilon", 1e-5))}, weights)


def global_pool(draft: Draft, item: Item) -> None:
    """GlobalAveragePool -> mean."""
    axes = tuple(range(2, len(draft.shape(draft.given(item, 0)))))
    draft.put(item, "mean", [draft.tensor(item, 0)], {"axes": axes, "keepdim": 1})


def reduce_mean(draft: Draft, item: Item) -> None:
    """ReduceMean -> mean."""
    x = draft.tensor(item, 0)
    rank = len(draft.shape(x))
    axes = list(item.attrs["axes"]) if "axes" in item.attrs else integers(known(draft, item), 1, range(rank))
    attrs = {"axes": tuple(sorted(int(axis) % rank for axis in axes)), "keepdim": int(item.attrs.get("keepdims", 1))}
    draft.put(item, "mean", [x], attrs)


def pool(op: str) -> Rule:
    """A rule for MaxPool and AveragePool."""

    def rule(draft: Draft, item: Item) -> None:
        kernel = tuple(int(n) for n in item.attrs["kernel_shape"])
        window = _window(draft, item, kernel)
        if window.pop("dilation") != (1, 1) or any(item.outputs[1:]):
            raise SparselandError("dilations are 1 and there is one output in what is possible")
        x = draft.tensor(item, 0)
        sizes = draft.shape(x)[2:]
        spare = [
            (size + window["padding"][i] + window["padding"][i + 2] - kernel[i]) % window["stride"][i]
            for i, size in enumerate(sizes)
        ]
        if item.attrs.get("ceil_mode", 0) and any(spare):
            raise SparselandError("ceil_mode is 1 where it makes a difference; possible: 0")
        attrs = {**window, "kernel": kernel, "count_include_pad": int(item.attrs.get("count_include_pad", 0))}
        draft.put(item, op, [x], attrs)

    return rule


RULES: dict[str, Rule] = {
    "Conv": conv, "BatchNormalization": batch_norm, "Gemm": gemm, "MatMul": matmul,
    "Relu": activation("clamp"), "Sigmoid": activation("sigmoid"), "Tanh": activation("tanh"),
    "HardSwish": activation("hardswish"), "HardSigmoid": hard_sigmoid, "Clip": clip, "Gelu": gelu,
    "Add": arithmetic("add"), "Sub": arithmetic("sub"), "Mul": arithmetic("mul"), "Div": arithmetic("div"),
    "Neg": negate, "Not": negate, "Pow": power, "Erf": pieces("erf"), "Sqrt": pieces("sqrt"),
    "Reciprocal": pieces("reciprocal"), "IsNaN": pieces("isnan"), "Softmax": softmax,
    "LayerNormalization": layer_norm, "GlobalAveragePool": global_pool, "ReduceMean": reduce_mean,
    "AveragePool": pool("avg_pool"), "MaxPool": pool("max_pool"),
    **SHAPES,
}  # fmt: skip
