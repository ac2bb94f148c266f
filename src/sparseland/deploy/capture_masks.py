"""The attention mask that a network makes of "which tokens count": read from its calls, so that none of them need run.

Encoders and decoders are called with ``attention_mask`` [B, L] and make a mask [B, 1, Lq, Lk] of it by moving it,
repeating it and joining it with constants (the past). Every such call is applied to *places* instead of numbers: where
in the argument each entry of the mask comes from. If entry (b, h, q, k) is token k of text b, and what is joined to it
keeps everything or the past, the engine needs the argument alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from .capture_constants import Constants

LOWEST = -1e30  # an additive mask below this is a score of zero weight
_MOVES = {
    f"aten.{name}"
    for name in (
        *("expand.default", "view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default"),
        *("squeeze.dim", "slice.Tensor", "select.int", "transpose.int", "permute.default", "index.Tensor"),
        *("clone.default", "contiguous.default", "alias.default", "detach.default", "expand_as.default"),
    )
}
_TYPES = {f"aten.{name}" for name in ("to.dtype", "to.device", "to.dtype_layout", "_to_copy.default", "to.other")}
_JOINS = {f"aten.{name}" for name in ("__and__.Tensor", "bitwise_and.Tensor", "logical_and.default")}
_NOT = ("aten.logical_not.default", "aten.bitwise_not.default")


@dataclass(frozen=True)
class Mask:
    """True where ``kept`` and the argument's entry at ``places`` is not zero; with ``inverted`` where not.

    Parameters:
        source: the argument; None: nothing but ``kept``.
        places: flat places in it, of the mask's shape.
        kept: bool, of the mask's shape.
    """

    source: Node | None
    places: Tensor | None
    kept: Tensor
    inverted: bool = False


def tokens_that_count(mask: Node, keys: int, constants: Constants) -> tuple[Node, bool] | None:
    """Of a mask [B, 1, queries, keys]: the argument [B, keys] it is made of, and whether only the past counts."""
    found = _read(mask, constants)
    if found is None or found.source is None or found.places is None or found.inverted or not _only_masks(found.source):
        return None
    batch, length = found.source.meta["val"].shape
    shape = (1,) * (4 - found.kept.dim()) + tuple(found.kept.shape)
    if len(shape) != 4 or length != keys:
        return None
    places, kept = found.places.expand(found.kept.shape).reshape(shape), found.kept.reshape(shape)
    right = torch.arange(batch * length).reshape(batch, 1, 1, length)
    if shape[0] != batch or shape[3] != length or not bool((places == right).all()):
        return None
    if bool(kept.all()):
        return found.source, False
    past = torch.ones(shape[2:], dtype=torch.bool).tril()
    return (found.source, True) if shape[2] == length and bool((kept == past).all()) else None


def _read(node: Any, constants: Constants) -> Mask | None:
    """What a node says, or None where it cannot be followed."""
    if not isinstance(node, Node):
        return None
    value = constants.get(node)
    if isinstance(value, Tensor):
        return Mask(None, None, value != 0) if not value.is_floating_point() else None
    if node.op == "placeholder":
        return _argument(node)
    target = str(node.target)
    if target in _TYPES:
        return _read(node.args[0], constants) if _counts(node) else None
    if target in _MOVES:
        return _moved(node, constants)
    if target in _JOINS:
        return _joined(*(_read(one, constants) for one in node.args))
    if target in _NOT and (found := _read(node.args[0], constants)) is not None and _is_bool(node.args[0]):
        return Mask(found.source, found.places, found.kept, not found.inverted)
    if target in ("aten.ne.Scalar", "aten.gt.Scalar", "aten.eq.Scalar") and node.args[1] in (0, False):
        if target.startswith("aten.gt") and not _is_bool(node.args[0]):
            return None  # a negative number counts, too
        found = _read(node.args[0], constants)
        flip = target.startswith("aten.eq")
        return found and Mask(found.source, found.places, found.kept, found.inverted != flip)
    return _added(node, constants)


def _argument(node: Node) -> Mask | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.dim() != 2 or value.is_floating_point() or value.is_complex():
        return None
    shape = tuple(int(n) for n in value.shape)
    return Mask(node, torch.arange(shape[0] * shape[1]).reshape(shape), torch.ones(shape, dtype=torch.bool))


def _moved(node: Node, constants: Constants) -> Mask | None:
    """The call itself, done to places and to what is kept."""
    found = _read(node.args[0], constants)
    rest = [one for one in node.all_input_nodes if one is not node.args[0]]
    shapes_alone = str(node.target) == "aten.expand_as.default"
    if found is None or (not shapes_alone and any(one not in constants for one in rest)):
        return None

    def moved(tensor: Tensor) -> Tensor:
        def value(one: Node) -> Any:
            return constants[one] if one in constants else torch.zeros(tuple(one.meta["val"].shape))

        assert callable(node.target)
        made: Tensor = node.target(tensor, *map_arg(node.args[1:], value), **map_arg(node.kwargs, value))
        return made

    places = None if found.places is None else moved(found.places.expand(found.kept.shape))
    return Mask(found.source, places, moved(found.kept), found.inverted)


def _joined(one: Mask | None, two: Mask | None) -> Mask | None:
    """Both."""
    if one is None or two is None or one.inverted or two.inverted:
        return None
    kept = one.kept & two.kept
    if one.source is None or two.source is None:
        source, places = (two.source, two.places) if one.source is None else (one.source, one.places)
        return Mask(source, None if places is None else places.expand(kept.shape), kept)
    assert one.places is not None and two.places is not None
    places = one.places.expand(kept.shape)
    if one.source is not two.source or not torch.equal(places, two.places.expand(kept.shape)):
        return None
    return Mask(one.source, places, kept)


def _added(node: Node, constants: Constants) -> Mask | None:
    """0 where a condition holds and minus infinity, or nearly, elsewhere."""
    target = str(node.target)
    if target.startswith("aten.where."):
        condition, yes, no = node.args
    elif target in ("aten.masked_fill.Scalar", "aten.masked_fill.Tensor"):
        yes, condition, no = node.args[0], node.args[1], node.args[2]
    else:
        return None
    found = _read(condition, constants)
    inverted = target.startswith("aten.masked_fill")
    if found is None or found.inverted != inverted or not _all(yes, constants, lambda x: x == 0):
        return None
    if not _all(no, constants, lambda x: x <= LOWEST) or not node.meta["val"].is_floating_point():
        return None
    kept = found.kept.expand(torch.broadcast_shapes(found.kept.shape, node.meta["val"].shape))
    return Mask(found.source, found.places, kept)


def _all(value: Any, constants: Constants, test: Any) -> bool:
    """Whether all numbers of a constant pass a test."""
    value = constants.get(value) if isinstance(value, Node) else value
    return isinstance(value, int | float | Tensor) and bool(torch.as_tensor(test(torch.as_tensor(value))).all())


def _is_bool(node: Any) -> bool:
    return isinstance(node, Node) and node.meta["val"].dtype == torch.bool


def _counts(node: Node) -> bool:
    """Whether a change of type leaves zero zero and all else not."""
    dtype = node.meta["val"].dtype
    return not dtype.is_floating_point and dtype in (torch.bool, torch.int32, torch.int64)


def _only_masks(source: Node) -> bool:
    """Whether an argument has no other use than masks of attention: the engine takes it as a mask and nothing else."""
    waiting, seen = [source], {source}
    while waiting:
        for user in waiting.pop().users:
            if user in seen or "scaled_dot_product_attention" in str(user.target):
                continue
            if user.op == "output" or len(seen) > 1000:
                return False
            seen.add(user)
            if not (str(user.target) in _MOVES | _TYPES | _JOINS | set(_NOT) or _compares(user)):
                return False
            waiting.append(user)
    return True


def _compares(node: Node) -> bool:
    """Whether a call only asks for zero, or makes 0 and minus infinity of a condition."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    return name in ("ne", "gt", "eq", "where", "masked_fill")
