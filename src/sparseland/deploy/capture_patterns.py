"""Several operations that are one: attention, root mean square norm and rotary embedding, written out by hand.

Rewrites happen in the exported graph of torch, so that what is not recognised as a whole still runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph as FxGraph
from torch.fx import Node

from .capture_activations import recognise_activations
from .capture_constants import Constants

aten = torch.ops.aten
# Calls that often change nothing; those that do keep their rule, or stay torch.
_ALIASES = {
    f"aten.{name}"
    for name in (
        *("clone.default", "contiguous.default", "alias.default", "detach.default", "lift_fresh_copy.default"),
        *("_to_copy.default", "to.dtype", "dropout.default", "expand.default", "slice.Tensor", "view.default"),
        *("to.device", "to.dtype_layout", "to.other", "expand_as.default", "flatten.using_ints", "reshape.default"),
        *("_unsafe_view.default", "feature_dropout.default", "dropout_.default", "type_as.default"),
    )
}


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [B, heads, L, d] by angles [L, d]: x · cos + (−x₂, x₁) · sin for x = (x₁, x₂).

    >>> x = torch.tensor([[[[1.0, 2.0]]]])
    >>> rope(x, torch.zeros(1, 2), torch.ones(1, 2)).flatten().tolist()
    [-2.0, 1.0]
    """
    low, high = x.tensor_split(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


SIGNATURES = {str(rope): ["x", "cos", "sin"]}


def simplify(graph: FxGraph, constants: Constants) -> None:
    """Rewrite the patterns in place; every rewrite leaves the numbers as they are up to rounding."""
    _drop_aliases(graph, constants)
    graph.eliminate_dead_code()
    passes: tuple[Callable[[Node, Constants], Node | None], ...] = (_attention, _grouped_heads, _rms_norm, _rope)
    for rewrite in passes:
        for node in list(graph.nodes):
            if node.op == "call_function" and node not in constants:
                new = rewrite(node, constants)
                if new is not None:
                    node.replace_all_uses_with(new)
        graph.eliminate_dead_code()
    recognise_activations(graph, constants)
    graph.eliminate_dead_code()


def is_alias(node: Node) -> bool:
    """Whether a call returns its first argument, unchanged in shape, type and numbers."""
    if str(node.target) not in _ALIASES:
        return False
    x = node.args[0] if node.args else None
    if "dropout" in str(node.target) and (len(node.args) < 3 or node.args[2]):
        return False
    return _shape(x) == _shape(node) != (-1,) and x.meta["val"].dtype == node.meta["val"].dtype  # type: ignore[union-attr]


def _drop_aliases(graph: FxGraph, constants: Constants) -> None:
    for node in list(graph.nodes):
        if str(node.target) == "aten._assert_tensor_metadata.default":
            graph.erase_node(node)
        elif node not in constants and is_alias(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else (-1,)


def _is(node: Any, *names: str) -> bool:
    """Whether a node calls one of these operations of torch."""
    return isinstance(node, Node) and node.op == "call_function" and str(node.target) in {f"aten.{n}" for n in names}


def _call(before: Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Node:
    """A new call before another one, of the same shape and in the same module."""
    with before.graph.inserting_before(before):
        new = before.graph.call_function(target, args, kwargs or {})
    new.meta = dict(before.meta)
    return new


def _number(value: Any, constants: Constants) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    constant = constants.get(value) if isinstance(value, Node) else None
    return float(constant) if isinstance(constant, Tensor) and constant.numel() == 1 else None


# --------------------------------------------------------------------------------------------------------- attention
def _attention(node: Any, constants: Constants) -> Node | None:
    """softmax(q kᵀ · scale + mask) v  →  one call; heads that lie along the batch become heads of one image."""
    if not _is(node, "matmul.default", "bmm.default") or len(_shape(node)) not in (3, 4):
        return None
    weights, v = node.args
    if not _is(weights, "softmax.int", "_softmax.default") or len(weights.users) != 1:
        return None
    axes = len(_shape(node))
    if int(weights.args[1]) % axes != axes - 1 or _shape(v)[:-2] != _shape(weights)[:-2]:
        return None
    found = _scores(weights.args[0], constants)
    if found is None:
        return None
    product, scale, masks = found
    q, turned = product.args[-2:]
    if _shape(q)[:-2] != _shape(turned)[:-2]:
        return None
    k = _derived(node, aten.transpose.int, (turned, -1, -2), constants)
    mask: Any = None
    for given, drops in masks:  # drops: True where a score is dropped
        one = _derived(node, aten.logical_not.default, (given,), constants) if drops else given
        mask = one if mask is None else _derived(node, aten.add.Tensor, (mask, one), constants)
    if axes == 3:
        given = (
            None if one is None else _derived(node, aten.unsqueeze.default, (one, 0), constants) for one in (q, k, v)
        )
        q, k, v = given
    new = _call(node, aten.scaled_dot_product_attention.default, (q, k, v, mask), {"scale": scale})
    if axes == 4:
        return new
    new.meta["val"] = node.meta["val"].unsqueeze(0)
    return _derived(node, aten.squeeze.dim, (new, 0), constants)


def _derived(before: Node, target: Any, args: tuple[Any, ...], constants: Constants) -> Node:
    """A new call before another one, with its own shape, and its value where that is constant."""
    new = _call(before, target, args)
    new.meta["val"] = target(*(one.meta["val"] if isinstance(one, Node) else one for one in args))
    if all(one in constants for one in new.all_input_nodes):
        constants[new] = target(*(constants[one] if isinstance(one, Node) else one for one in args))
    return new


def _scores(start: Any, constants: Constants) -> tuple[Any, float, list[tuple[Any, bool]]] | None:
    """(the product q kᵀ, the scale, [(mask, whether it is a bool of what to drop)]) that scores are made of."""
    node, scale = start, 1.0
    masks: list[tuple[Any, bool]] = []
    while not _is(node, "matmul.default", "bmm.default"):
        if not isinstance(node, Node) or len(node.users) != 1 or len(node.args) < 2:
            return None
        first, second, *rest = node.args
        number = _number(second, constants)
        if _is(node, "mul.Tensor", "mul.Scalar") and number is not None:
            scale *= number
        elif _is(node, "div.Tensor", "div.Scalar") and number is not None:
            scale /= number
        elif _is(node, "add.Tensor") and _is_mask(second, node, scale) and not any(drops for _, drops in masks):
            masks.append((second, False))
        elif _is(node, "masked_fill.Scalar") and _is_mask(second, node, scale) and not masks and _lowest(rest):
            masks.append((second, True))
        elif _is(node, "baddbmm.default") and not node.kwargs and _is_mask(first, node, scale):
            masks.append((first, False))
            break
        else:
            return None
        node = first
    return (node, scale, masks) if len(node.users) == 1 else None


def _is_mask(node: Any, scores: Node, scale: float) -> bool:
    """Whether a tensor may be added to scores: after their scale, and with no axis they have not."""
    return isinstance(node, Node) and scale == 1.0 and len(_shape(node)) <= len(_shape(scores))


def _lowest(rest: list[Any]) -> bool:
    return len(rest) == 1 and isinstance(rest[0], int | float) and rest[0] <= -1e9


def _grouped_heads(node: Any, constants: Constants) -> Node | None:
    """Keys and values that are repeated for several heads are read from the few there are."""
    if not _is(node, "scaled_dot_product_attention.default"):
        return None
    q, k, v, *rest = node.args
    few = [_unrepeated(one) for one in (k, v)]
    if None in few or _shape(few[0])[1] != _shape(few[1])[1]:
        return None
    return _call(node, node.target, (q, *few, *rest), {**node.kwargs, "enable_gqa": True})


def _unrepeated(node: Any) -> Any:
    """x of x[:, :, None].expand(…).reshape(B, heads · n, L, d), or of repeat_interleave along the heads."""
    if _is(node, "transpose.int") and sorted(n % 4 for n in node.args[1:]) == [2, 3]:
        inner = node.args[0]
        if _is(inner, "transpose.int") and sorted(n % 4 for n in inner.args[1:]) == [2, 3]:
            return _unrepeated(inner.args[0])
    if _is(node, "repeat_interleave.self_int") and node.args[2] == 1 and len(_shape(node)) == 4:
        return node.args[0]
    if not _is(node, "view.default", "reshape.default", "_unsafe_view.default") or not _is(
        node.args[0], "expand.default"
    ):
        return None
    wide = node.args[0]
    if not _is(wide.args[0], "unsqueeze.default") or wide.args[0].args[1] != 2 or len(_shape(wide)) != 5:
        return None
    batch, heads, times, *rest = _shape(wide)
    return wide.args[0].args[0] if _shape(node) == (batch, heads * times, *rest) else None


# ------------------------------------------------------------------------------------------------- norms and rotation
def _rms_norm(node: Any, constants: Constants) -> Node | None:
    """x · rsqrt(mean(x²) + eps) [· weight]  →  one call."""
    if not _is(node, "mul.Tensor"):
        return None
    x, root = _ordered(node, "rsqrt.default")
    if root is None or len(root.users) != 1 or not _is(root.args[0], "add.Tensor", "add.Scalar"):
        return None
    total, eps = root.args[0].args
    number = _number(eps, constants)
    if number is None or not _is(total, "mean.dim"):
        return None
    square, axes, *keep = total.args
    if [n % len(_shape(x)) for n in axes] != [len(_shape(x)) - 1] or not any(keep):
        return None
    if not (_is(square, "pow.Tensor_Scalar") and square.args == (x, 2)) and not (
        _is(square, "mul.Tensor") and square.args == (x, x)
    ):
        return None
    size = [_shape(x)[-1]]
    user: Any = next(iter(node.users)) if len(node.users) == 1 else None
    weight = None
    if _is(user, "mul.Tensor"):
        weight = next((one for one in user.args if one in constants and list(_shape(one)) == size), None)
    # Where the weight is known: it may be computed after the norm.
    new = _call(node if weight is None else user, aten.rms_norm.default, (x, size, weight, number))
    if weight is not None:
        user.replace_all_uses_with(new)
    return new


def _ordered(node: Any, name: str) -> tuple[Any, Any]:
    """The arguments of a commutative call, the one made by ``name`` last (None: there is none)."""
    one, two = node.args[:2]
    if _is(two, name):
        return one, two
    return (two, one) if _is(one, name) else (one, None)


def _rope(node: Any, constants: Constants) -> Node | None:
    """x · cos + (−x₂, x₁) · sin  →  one call, with constant angles [L, d]."""
    if not _is(node, "add.Tensor") or len(_shape(node)) != 4:
        return None
    for straight, turned in (node.args[:2], node.args[1::-1]):
        if not (_is(straight, "mul.Tensor") and _is(turned, "mul.Tensor")):
            return None
        both, sin = _ordered(turned, "cat.default")[::-1]
        if both is None:
            continue
        x = _half_turned(both)
        if x is None or x not in straight.args:
            continue
        cos = straight.args[1] if straight.args[0] is x else straight.args[0]
        angles = [_angles(one, _shape(x), constants) for one in (cos, sin)]
        if any(one is None for one in angles):
            return None
        made = []
        for angle in angles:
            new = _call(node, aten.alias.default, (cos,))
            new.meta["val"] = angle
            constants[new] = angle
            made.append(new)
        return _call(node, rope, (x, *made))
    return None


def _half_turned(node: Any) -> Any:
    """x of cat([−x[..., d/2:], x[..., :d/2]], -1)."""
    parts = node.args[0]
    axis = node.args[1] if len(node.args) > 1 else 0
    if (
        not isinstance(parts, list | tuple)
        or len(parts) != 2
        or axis not in (-1, 3)
        or not _is(parts[0], "neg.default")
    ):
        return None
    high, low = parts[0].args[0], parts[1]
    if not (_is(high, "slice.Tensor") and _is(low, "slice.Tensor")) or high.args[0] is not low.args[0]:
        return None
    x = low.args[0]
    half = _shape(x)[-1] // 2
    upper, lower = tuple(high.args[1:3]), (*low.args[1:4],)
    fits = upper[0] in (-1, 3) and upper[1] == half and lower[0] in (-1, 3) and lower[1] in (0, None)
    return x if fits and lower[2] == half and _shape(high)[-1] == half else None


def _angles(node: Any, shape: tuple[int, ...], constants: Constants) -> Tensor | None:
    """A constant as [L, d]; None where it differs between images or heads."""
    value = constants.get(node)
    if not isinstance(value, Tensor) or value.dim() > 4:
        return None
    flat = value.expand(*value.shape[:-2], *shape[-2:]).reshape(-1, *shape[-2:])
    return flat[0].contiguous() if bool((flat == flat[:1]).all()) else None
