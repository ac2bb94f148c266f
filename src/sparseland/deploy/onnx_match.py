"""Putting together again what exporters take apart: GELU, SiLU, norms, biases and attention.

Each rule looks at one node and, going back from it, at the nodes that only it reads. What it recognises becomes one
node of the graph; nothing else changes. `tidy` repeats the rules until none fits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.errors import SparselandError
from .graph import Node, Value
from .onnx_draft import PSEUDO, Draft

CLOSE = 1e-3  # how far a constant of a recognised formula may be off, relative


class Matcher:
    """The nodes of a draft by what they make, and how often each tensor is read."""

    def __init__(self, draft: Draft, outputs: list[str]) -> None:
        self.draft, self.outputs = draft, outputs
        self.makers = {node.outputs[0]: node for node in draft.nodes}
        self.reads = Counter([name for node in draft.nodes for name in node.inputs if name] + outputs)

    def maker(self, name: str, op: str, alone: bool = True) -> Node | None:
        """The node that makes a tensor if it is of this op (and, with ``alone``, the tensor is read once)."""
        node = self.makers.get(name)
        return node if node is not None and node.op == op and (not alone or self.reads[name] == 1) else None

    def act(self, name: str, act: str) -> Node | None:
        """The same for an activation of this name."""
        node = self.maker(name, "act", alone=False)
        return node if node is not None and node.attrs["act"] == act else None

    def line(self, name: str, alone: bool = True) -> tuple[str, float, float]:
        """(x, a, b) with the tensor = a·x + b; (itself, 1, 0) if nothing of that kind makes it."""
        node = self.maker(name, "affine", alone)
        return (name, 1.0, 0.0) if node is None else (node.inputs[0], node.attrs["a"], node.attrs["b"])

    def become(self, node: Node, op: str, inputs: list[str], attrs: dict[str, Any], **weights: Any) -> bool:
        """Turn a node into another one that makes the same tensor."""
        for name in inputs:
            self.reads[name] += 1
        for name in node.inputs:
            self.reads[name] -= 1
        node.op, node.inputs, node.attrs = op, inputs, attrs
        node.weights = {name: np.array(w, np.float32, order="C", copy=None) for name, w in weights.items()}
        return True

    def before(self, node: Node, op: str, inputs: list[str], attrs: dict[str, Any], what: str) -> str:
        """Put a new node before one; the tensor it makes."""
        made = self.draft.free(f"{node.outputs[0]}:{what}")
        new = Node(op, self.draft.free(f"{node.name}.{what}"), inputs, [made], attrs)
        shape = self.draft.values[inputs[0]].shape
        self.draft.values[made] = Value(tuple(shape[i] for i in attrs["perm"]) if op == "transpose" else shape)
        self.draft.nodes.insert(next(i for i, one in enumerate(self.draft.nodes) if one is node), new)
        self.makers[made] = new
        for name in inputs:
            self.reads[name] += 1
        return made


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE)


def lines(m: Matcher, node: Node) -> bool:
    """a (c x + d) + b = ac x + (ad + b)."""
    if node.op != "affine" or (first := m.maker(node.inputs[0], "affine")) is None:
        return False
    a, b = node.attrs["a"], node.attrs["b"]
    return m.become(node, "affine", list(first.inputs), {"a": a * first.attrs["a"], "b": a * first.attrs["b"] + b})


def scales(m: Matcher, node: Node) -> bool:
    """Two scales along one axis; a scale behind a linear, or behind a norm, along the last."""
    if node.op != "scale":
        return False
    last, w = len(m.draft.values[node.outputs[0]].shape) - 1, node.weights
    if (first := m.maker(node.inputs[0], "scale")) is not None and first.attrs["axis"] == node.attrs["axis"]:
        shift = first.weights["shift"] * w["scale"] + w["shift"]
        scale = first.weights["scale"] * w["scale"]
        return m.become(node, "scale", list(first.inputs), dict(node.attrs), scale=scale, shift=shift)
    for op in ("linear", "layer_norm", "rms_norm"):
        first = m.maker(node.inputs[0], op)
        if first is None or node.attrs["axis"] != last or first.attrs.get("axis", last) != last:
            continue
        bias = first.weights.get("bias", np.zeros(1, np.float32)) * w["scale"] + w["shift"]
        weight = first.weights["weight"]
        weight = weight * (w["scale"][:, None] if weight.ndim == 2 else w["scale"])
        kept = {"bias": bias} if bias.any() or "bias" in first.weights else {}
        return m.become(node, op, list(first.inputs), dict(first.attrs), weight=weight, **kept)
    return False


def silu(m: Matcher, node: Node) -> bool:
    """x · sigmoid(x), x · hardsigmoid(x)."""
    if node.op != "mul":
        return False
    for gated, x in (node.inputs, node.inputs[::-1]):
        for name, act in (("sigmoid", "silu"), ("hardsigmoid", "hardswish")):
            gate = m.act(gated, name)
            if gate is not None and gate.inputs[0] == x:
                return m.become(node, "act", [x], {"act": act})
    return False


def _gelu_gate(m: Matcher, name: str) -> tuple[str, str, float] | None:
    """(activation, x, factor) if the tensor is factor · (1 + erf(x/√2)) or its approximation by tanh."""
    inner, a, b = m.line(name)
    if a != b or a == 0:
        return None
    if (erf := m.maker(inner, "erf")) is not None:
        x, c, d = m.line(erf.inputs[0])
        return ("gelu", x, a) if d == 0 and _near(c, math.sqrt(0.5)) else None
    if (tanh := m.act(inner, "tanh")) is None:
        return None
    total, c, d = m.line(tanh.inputs[0])
    adds = m.maker(total, "add")
    if adds is None or d != 0 or not _near(c, math.sqrt(2 / math.pi)):
        return None
    for x, cubed in (adds.inputs, adds.inputs[::-1]):
        power, e, f = m.line(cubed)
        if f == 0 and _near(e, 0.044715) and _cube(m, power, x):
            return "gelu_tanh", x, a
    return None


def _cube(m: Matcher, name: str, x: str) -> bool:
    node = m.makers.get(name)
    if node is None or m.reads[name] != 1:
        return False
    if node.op == "pow":
        return node.inputs == [x] and bool(node.attrs["exponent"] == 3)
    if node.op != "mul":
        return False
    square = next((one for one in node.inputs if one != x), "")
    return x in node.inputs and _square(m, square) == x


def _square(m: Matcher, name: str) -> str | None:
    """x if the tensor is x²."""
    node = m.makers.get(name)
    if node is None:
        return None
    if node.op == "pow" and node.attrs["exponent"] == 2:
        return node.inputs[0]
    return node.inputs[0] if node.op == "mul" and node.inputs[0] == node.inputs[1] else None


def gelu(m: Matcher, node: Node) -> bool:
    """x · (1 + erf(x / √2)) / 2, with the half anywhere."""
    if node.op == "affine" and node.attrs["b"] == 0:
        product, half = m.maker(node.inputs[0], "mul"), float(node.attrs["a"])
    else:
        product, half = (node if node.op == "mul" else None), 1.0
    if product is None:
        return False
    for one, other in (product.inputs, product.inputs[::-1]):
        found = _gelu_gate(m, other)
        if found is None:
            continue
        act, x, factor = found
        plain, a, b = (one, 1.0, 0.0) if one == x else m.line(one, alone=False)
        if plain == x and b == 0 and _near(a * factor * half, 0.5):
            return m.become(node, "act", [x], {"act": act})
    return False


def inverse(m: Matcher, node: Node) -> bool:
    """x · (1 / r) = x / r, where r is a root; 1 / √ and ^(-1/2) are the same."""
    if node.op == "pow" and node.attrs["exponent"] == -0.5:
        root = m.before(node, "sqrt", list(node.inputs), {}, "root")
        return m.become(node, "reciprocal", [root], {})
    if node.op == "pow" and node.attrs["exponent"] == 0.5:
        return m.become(node, "sqrt", list(node.inputs), {})
    if node.op != "mul":
        return False
    for x, factor in (node.inputs, node.inputs[::-1]):
        found = m.maker(factor, "reciprocal")
        if found is not None and m.maker(found.inputs[0], "sqrt", alone=False) is not None:
            return m.become(node, "div", [x, found.inputs[0]], {})
    return False


def norm(m: Matcher, node: Node) -> bool:
    """c / √(mean(c²) + eps): a layer norm if c = x - mean(x), else an RMS norm of c, with weights of one."""
    if node.op != "div" or (root := m.maker(node.inputs[1], "sqrt")) is None:
        return False
    moment, a, eps = m.line(root.inputs[0])
    mean, centred = m.maker(moment, "mean"), node.inputs[0]
    shape = m.draft.values[centred].shape
    if mean is None or a != 1 or eps < 0 or not mean.attrs["keepdim"] or len(mean.attrs["axes"]) != 1:
        return False
    axis = mean.attrs["axes"][0]
    if axis not in (len(shape) - 1, 1):
        return False
    source = _square(m, mean.inputs[0])
    less, op, x = m.maker(centred, "sub", alone=False), "rms_norm", centred
    if less is not None and (middle := m.maker(less.inputs[1], "mean", alone=False)) is not None:
        if middle.inputs[0] == less.inputs[0] and middle.attrs == mean.attrs:
            op, x = "layer_norm", less.inputs[0]
    same = source == centred or (source is not None and _same_difference(m, source, less))
    return same and m.become(node, op, [x], {"axis": axis, "eps": eps}, weight=np.ones(shape[axis], np.float32))


def _same_difference(m: Matcher, name: str, less: Node | None) -> bool:
    """Some exporters subtract the mean twice, once for the variance."""
    other = m.makers.get(name)
    return less is not None and other is not None and (other.op, other.inputs) == (less.op, less.inputs)


def attention(m: Matcher, node: Node) -> bool:
    """softmax(q kᵀ · scale + mask) v over four axes."""
    if node.op != "matmul" or (weights := m.maker(node.inputs[0], "softmax")) is None:
        return False
    rank = len(m.draft.values[node.outputs[0]].shape)
    if rank != 4 or weights.attrs["axis"] != 3:
        return False
    scores, scale, shift = m.line(weights.inputs[0])
    masks: list[str] = []
    adds = m.maker(scores, "add")
    if adds is not None and shift == 0:
        for i in (0, 1):
            inner, a, b = m.line(adds.inputs[i])
            if b == 0 and scale == 1 and m.maker(inner, "matmul") is not None:
                scores, scale, shift, masks = inner, a, b, [adds.inputs[1 - i]]
                break
    product = m.maker(scores, "matmul")
    if product is None or shift != 0:
        return False
    (q, a, b), (k, c, d) = (m.line(name) for name in product.inputs)
    if b != 0 or d != 0:
        q, a, k, c = product.inputs[0], 1.0, product.inputs[1], 1.0
    maker = m.makers.get(k)
    perm = [0, 1, 3, 2]
    if maker is not None and maker.op == "transpose":
        old = maker.attrs["perm"]
        k, perm = maker.inputs[0], [old[i] for i in perm]
    if perm != [0, 1, 2, 3]:
        k = m.before(node, "transpose", [k], {"perm": tuple(perm)}, "keys")
    return m.become(node, "attention", [q, k, node.inputs[1], *masks], {"scale": scale * a * c, "causal": 0})


def steps(m: Matcher, node: Node) -> bool:
    """Every second row, then every second column: one pooling."""
    if node.op != "max_pool" or node.attrs["kernel"] != (1, 1):
        return False
    first = m.maker(node.inputs[0], "max_pool")
    if first is None or first.attrs["kernel"] != (1, 1):
        return False
    stride = tuple(a * b for a, b in zip(first.attrs["stride"], node.attrs["stride"], strict=True))
    return m.become(node, "max_pool", list(first.inputs), {**node.attrs, "stride": stride})


RULES: tuple[Callable[[Matcher, Node], bool], ...] = (
    lines, scales, silu, gelu, inverse, norm, attention, steps,
)  # fmt: skip


def tidy(draft: Draft, outputs: list[str]) -> None:
    """Apply the rules until none fits, and drop what nobody reads; in place.

    Raises:
        SparselandError: a piece is left that means nothing by itself.
    """
    changed = True
    while changed:
        matcher = Matcher(draft, outputs)
        fits = [rule(matcher, node) for node in list(draft.nodes) for rule in RULES]  # all of them, not the first
        changed = any(fits)
        alive = set(outputs)
        kept: list[Node] = []
        for node in reversed(draft.nodes):
            if alive & set(node.outputs):
                alive.update(node.inputs)
                kept.append(node)
        draft.nodes = kept[::-1]
    if left := [node for node in draft.nodes if node.op in PSEUDO]:
        node = left[0]
        raise SparselandError(
            f"{node.op} {node.name!r} stands alone ({len(left)} such in all); it is known within {PSEUDO[node.op]}"
        )
