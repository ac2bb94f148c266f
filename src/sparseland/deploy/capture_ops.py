"""Which node an operation of torch becomes: one short rule per operation, in a table at the end.

A rule gets the builder, the call and its arguments by name, and returns the name of the tensor the call became. Where
a case has no node, it raises `Unsupported` and the call stays torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node as FxNode

from . import capture_patterns as patterns
from .capture_build import Builder, Unsupported
from .capture_masks import tokens_that_count
from .capture_shape import SHAPE_RULES, only_float

Arguments = dict[str, Any]
Rule = Callable[[Builder, FxNode, Arguments], "str | list[str]"]


def arguments(node: FxNode) -> Arguments:
    """The arguments of a call by the names of the operation's schema, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        names = patterns.SIGNATURES.get(str(node.target), [])
        return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    found = {one.name: one.default_value for one in schema.arguments if one.has_default_value()}
    found |= {one.name: value for one, value in zip(schema.arguments, node.args, strict=False)}
    return found | dict(node.kwargs)


def pair(value: Any) -> tuple[int, int]:
    """One number for both axes, or two."""
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[-1]))


# --------------------------------------------------------------------------------------------------- with weights
def conv(b: Builder, node: FxNode, a: Arguments) -> str:
    """conv2d, with symmetric numbers or "same" and "valid" as padding."""
    x = a["input"]
    only_float(b, node, x)
    weight = b.constant(a["weight"])
    if a.get("transposed") or weight.dim() != 4 or len(b.shape(x)) != 4:
        raise Unsupported("a convolution of images only")
    dilation = pair(a["dilation"])
    if a["padding"] == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    else:
        vertical, horizontal = (0, 0) if a["padding"] == "valid" else pair(a["padding"])
        padding = (vertical, horizontal, vertical, horizontal)
    attrs = {"stride": pair(a["stride"]), "padding": padding, "dilation": dilation, "groups": int(a["groups"])}
    weights = {"weight": weight, "bias": b.optional(a["bias"])}
    return b.emit("conv", [b.tensor(x)], b.shape(node), node.name, attrs, weights, a["weight"])


def linear(b: Builder, node: FxNode, a: Arguments) -> str:
    """x Wᵀ + b."""
    return _linear(b, node, a["input"], b.constant(a["weight"]), b.optional(a["bias"]), a["weight"])


def _linear(b: Builder, node: FxNode, x: FxNode, weight: Tensor, bias: Tensor | None, owner: Any) -> str:
    only_float(b, node, x)
    if weight.dim() != 2 or len(b.shape(x)) < 2 or (bias is not None and bias.dim() != 1):
        raise Unsupported("a linear layer of vectors")
    if bias is not None and bias.numel() != weight.shape[0]:
        bias = bias.expand(weight.shape[0])
    return b.emit(
        "linear", [b.tensor(x)], b.shape(node), node.name, {}, {"weight": weight, "bias": bias}, owner
    )  # fmt: skip


def addmm(b: Builder, node: FxNode, a: Arguments) -> str:
    """b + x Wᵀ."""
    if a["beta"] != 1 or a["alpha"] != 1:
        raise Unsupported("addmm with factors")
    return _linear(b, node, a["mat1"], b.constant(a["mat2"]).t(), b.constant(a["self"]), a["mat2"])


def matmul(b: Builder, node: FxNode, a: Arguments) -> str:
    """A product with a constant matrix is a linear layer."""
    x, other = (a[key] for key in (("self", "other") if "other" in a else ("self", "mat2")))
    weight = b.constant(other)
    if weight.dim() != 2:
        raise Unsupported("a product of tensors")
    return _linear(b, node, x, weight.t(), None, other)


def batch_norm(b: Builder, node: FxNode, a: Arguments) -> str | list[str]:
    """(x − mean) / sqrt(var + eps) · weight + bias, with the running statistics: one factor and shift per channel."""
    x = a["input"]
    only_float(b, x, x)
    if a.get("training") or a["running_mean"] is None:
        raise Unsupported("batch norm that uses the batch")
    mean, variance = (b.constant(a[key]).double() for key in ("running_mean", "running_var"))
    weight, bias = b.optional(a["weight"]), b.optional(a["bias"])
    scale = torch.rsqrt(variance + a["eps"]) * (1 if weight is None else weight.double())
    shift = -mean * scale + (0 if bias is None else bias.double())
    name = b.emit(
        "scale", [b.tensor(x)], b.shape(x), node.name, {"axis": 1}, {"scale": scale, "shift": shift}, a["running_mean"]
    )
    return [name, name, name] if isinstance(node.meta["val"], tuple | list) else name


def layer_norm(b: Builder, node: FxNode, a: Arguments) -> str | list[str]:
    """Over the last axis."""
    name = _norm(b, node, "layer_norm", a, float(a["eps"]))
    return [name, name, name] if isinstance(node.meta["val"], tuple | list) else name


def rms_norm(b: Builder, node: FxNode, a: Arguments) -> str:
    """x / sqrt(mean(x²) + eps) · weight over the last axis."""
    eps = a["eps"]
    return _norm(b, node, "rms_norm", a, torch.finfo(torch.float32).eps if eps is None else float(eps))


def _norm(b: Builder, node: FxNode, op: str, a: Arguments, eps: float) -> str:
    x = a["input"]
    only_float(b, x, x)
    if len(a["normalized_shape"]) != 1:
        raise Unsupported("a norm over several axes")
    weight = b.optional(a["weight"])
    weight = torch.ones(b.shape(x)[-1]) if weight is None else weight
    weights = {"weight": weight, "bias": b.optional(a.get("bias"))}
    return b.emit(op, [b.tensor(x)], b.shape(x), node.name, {"axis": -1, "eps": eps}, weights, a["weight"])


def embedding(b: Builder, node: FxNode, a: Arguments) -> str:
    """Rows of a table."""
    weight = b.constant(a["weight"])
    if len(b.shape(a["indices"])) != 2 or a["indices"].meta["val"].dtype != torch.int64:
        raise Unsupported("an embedding of other than [B, L] int64")
    return b.emit("embedding", [b.tensor(a["indices"])], b.shape(node), node.name, {}, {"weight": weight}, a["weight"])


# ------------------------------------------------------------------------------------------------- element by element
def act(name: str, lo: float | None = None, hi: float | None = None) -> Rule:
    """A rule for an activation."""
    attrs = {"act": name} | ({} if lo is None else {"lo": lo, "hi": hi})

    def rule(b: Builder, node: FxNode, a: Arguments) -> str:
        return _act(b, node, a["self"], attrs)

    return rule


def _act(b: Builder, node: FxNode, x: FxNode, attrs: dict[str, Any]) -> str:
    only_float(b, node, x)
    return b.emit("act", [b.tensor(x)], b.shape(node), node.name, attrs)


def gelu(b: Builder, node: FxNode, a: Arguments) -> str:
    """Exact, or with tanh."""
    return _act(b, node, a["self"], {"act": "gelu_tanh" if a["approximate"] == "tanh" else "gelu"})


def clamp(b: Builder, node: FxNode, a: Arguments) -> str:
    """min(max(x, lo), hi), either end open."""
    lo, hi = (a.get(key, a.get(f"{key}_val")) for key in ("min", "max"))
    if any(isinstance(one, FxNode) for one in (lo, hi)):
        raise Unsupported("a clamp by tensors")
    bounds = {"lo": -float("inf") if lo is None else float(lo), "hi": float("inf") if hi is None else float(hi)}
    return _act(b, node, a["self"], {"act": "clamp", **bounds})


def scalar(b: Builder, value: Any) -> float | None:
    """A number, or a constant with one entry; None otherwise."""
    if isinstance(value, int | float):
        return float(value)
    constant = b.constants.get(value) if isinstance(value, FxNode) else None
    return float(constant) if isinstance(constant, Tensor) and constant.dim() == 0 else None


def affine(b: Builder, node: FxNode, x: Any, factor: float, shift: float) -> str:
    """factor · x + shift."""
    only_float(b, node, x)
    return b.emit("affine", [b.tensor(x)], b.shape(node), node.name, {"a": factor, "b": shift})


def add(b: Builder, node: FxNode, a: Arguments) -> str:
    """x + alpha · y."""
    return _sum(b, node, a["self"], a["other"], float(a.get("alpha", 1)))


def sub(b: Builder, node: FxNode, a: Arguments) -> str:
    """x − alpha · y."""
    return _sum(b, node, a["self"], a["other"], -float(a.get("alpha", 1)))


def rsub(b: Builder, node: FxNode, a: Arguments) -> str:
    """y − alpha · x."""
    if (number := scalar(b, a["other"])) is None:
        raise Unsupported("a difference of tensors the other way round")
    return affine(b, node, a["self"], -float(a["alpha"]), number)


def _sum(b: Builder, node: FxNode, x: Any, y: Any, alpha: float) -> str:
    if (number := scalar(b, y)) is not None:
        return affine(b, node, x, 1.0, alpha * number)
    if (number := scalar(b, x)) is not None:
        return affine(b, node, y, alpha, number)
    if alpha not in (1.0, -1.0):
        raise Unsupported("a sum with a factor")
    return _binary(b, node, "add" if alpha == 1 else "sub", b.tensor(x), b.tensor(y), x, y)


def mul(b: Builder, node: FxNode, a: Arguments) -> str:
    """x · y."""
    x, y = a["self"], a["other"]
    for one, other in ((x, y), (y, x)):
        if (number := scalar(b, other)) is not None:
            return affine(b, node, one, number, 0.0)
    return _binary(b, node, "mul", b.tensor(x), b.tensor(y), x, y)


def div(b: Builder, node: FxNode, a: Arguments) -> str:
    """x / y with a constant y."""
    x, y = a["self"], a["other"]
    if a.get("rounding_mode") is not None:
        raise Unsupported("a rounded quotient")
    if (number := scalar(b, y)) is not None:
        return affine(b, node, x, 1.0 / number, 0.0)
    inverse = 1.0 / b.constant(y).double()
    return _binary(b, node, "mul", b.tensor(x), b.constant_tensor(inverse, f"{node.name}.inverse"), x, y)


def square(b: Builder, node: FxNode, a: Arguments) -> str:
    """x · x."""
    if a.get("exponent", 2) != 2:
        raise Unsupported("a power other than the square")
    name = b.tensor(a["self"])
    return _binary(b, node, "mul", name, name, a["self"])


def _binary(b: Builder, node: FxNode, op: str, x: str, y: str, *operands: Any) -> str:
    only_float(b, node, *operands)
    return b.emit(op, [x, y], b.shape(node), node.name)


def neg(b: Builder, node: FxNode, a: Arguments) -> str:
    """−x."""
    return affine(b, node, a["self"], -1.0, 0.0)


# ------------------------------------------------------------------------------------------------------ transformers
def softmax(b: Builder, node: FxNode, a: Arguments) -> str:
    """Over one axis."""
    only_float(b, node, a["self"])
    axis = int(a["dim"]) % len(b.shape(node))
    return b.emit("softmax", [b.tensor(a["self"])], b.shape(node), node.name, {"axis": axis})


def attention(b: Builder, node: FxNode, a: Arguments) -> str:
    """softmax(q kᵀ · scale + mask) v."""
    q, k, v, mask = (a[key] for key in ("query", "key", "value", "attn_mask"))
    only_float(b, node, q, k, v)
    heads, kv_heads = b.shape(q)[1], b.shape(k)[1]
    if any(len(b.shape(one)) != 4 for one in (q, k, v)) or heads % kv_heads or b.shape(k)[:2] != b.shape(v)[:2]:
        raise Unsupported("attention of other than [B, heads, L, d]")
    if float(a["dropout_p"]) or (mask is not None and len(b.shape(mask)) > 4):
        raise Unsupported("attention with dropout or a mask of five axes")
    inputs, causal = [b.tensor(one) for one in (q, k, v)], bool(a["is_causal"])
    if mask is not None and (tokens := tokens_that_count(mask, b.shape(k)[2], b.constants)) is not None:
        inputs.append(b.tensor(tokens[0]))
        causal = causal or tokens[1]
    elif mask is not None:
        inputs.append(_mask(b, mask))
    scale = a["scale"]
    attrs = {"scale": b.shape(q)[-1] ** -0.5 if scale is None else float(scale), "causal": int(causal)}
    return b.emit("attention", inputs, b.shape(node), node.name, attrs)


def _mask(b: Builder, mask: FxNode) -> str:
    """A mask with four axes."""
    if len(shape := b.shape(mask)) == 4:
        return b.tensor(mask)
    full = (1,) * (4 - len(shape)) + shape
    if mask in b.constants:
        return b.constant_tensor(b.constants[mask].reshape(full), f"{mask.name}.mask")
    if not b.is_float(mask):
        raise Unsupported("a mask of integers with fewer than four axes")
    return b.emit("reshape", [b.tensor(mask)], full, f"{mask.name}.mask", {"shape": full})


def rope(b: Builder, node: FxNode, a: Arguments) -> str:
    """x · cos + rotate_half(x) · sin."""
    only_float(b, node, a["x"])
    if len(b.shape(node)) != 4:
        raise Unsupported("a rotation of other than [B, heads, L, d]")
    weights = {"cos": b.constant(a["cos"]), "sin": b.constant(a["sin"])}
    return b.emit("rope", [b.tensor(a["x"])], b.shape(node), node.name, {}, weights)


def _named(names: Sequence[str], rule: Rule) -> dict[str, Rule]:
    return {f"aten.{name}": rule for name in names}


RULES: dict[str, Rule] = {
    **SHAPE_RULES,
    **_named(("conv2d.default", "conv2d.padding", "convolution.default"), conv),
    **_named(("linear.default",), linear),
    **_named(("addmm.default",), addmm),
    **_named(("matmul.default", "mm.default"), matmul),
    **_named(("_native_batch_norm_legit_no_training.default", "batch_norm.default"), batch_norm),
    **_named(("layer_norm.default", "native_layer_norm.default"), layer_norm),
    **_named(("rms_norm.default",), rms_norm),
    **_named(("embedding.default",), embedding),
    **_named(("relu.default",), act("clamp", 0.0, float("inf"))),
    **_named(("relu6.default",), act("clamp", 0.0, 6.0)),
    **_named(("hardtanh.default", "clamp.default", "clamp_min.default", "clamp_max.default"), clamp),
    **_named(("gelu.default",), gelu),
    **{f"aten.{name}.default": act(name) for name in ("hardswish", "hardsigmoid", "silu", "sigmoid", "tanh")},
    **_named(("add.Tensor", "add.Scalar"), add),
    **_named(("sub.Tensor", "sub.Scalar"), sub),
    **_named(("rsub.Scalar",), rsub),
    **_named(("mul.Tensor", "mul.Scalar"), mul),
    **_named(("div.Tensor", "div.Scalar"), div),
    **_named(("pow.Tensor_Scalar", "square.default"), square),
    **_named(("neg.default",), neg),
    **_named(("softmax.int", "_softmax.default"), softmax),
    **_named(("scaled_dot_product_attention.default",), attention),
    str(patterns.rope): rope,
}
