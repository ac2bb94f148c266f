"""How every op of a graph but the layers with weights becomes ops of a program."""

from __future__ import annotations

import math

import numpy as np

from .graph import Node
from .lower_build import Builder, act_of, single_reader
from .lower_ports import widened
from .lower_view import Array, Atom, Held, NotLowered, heads, merged, reshaped, transposed, whole

BINARY = {"add": 0, "mul": 1, "sub": 2}


def constant(b: Builder, node: Node) -> None:
    """Kept aside until somebody reads it: it may become a scale, a table or a mask."""
    b.constants[node.output] = node.weights["value"]


def act(b: Builder, node: Node) -> None:
    """y = act(x)."""
    _unary(b, node, 1.0, 0.0)


def affine(b: Builder, node: Node) -> None:
    """y = a·x + b."""
    _unary(b, node, float(node.attrs["a"]), float(node.attrs["b"]))


def _unary(b: Builder, node: Node, a: float, c: float, of: str = "") -> None:
    x = b.get(of or node.inputs[0])
    if x.layout == "ids":
        raise NotLowered("arithmetic on token ids")
    number, lo, hi = act_of(node)
    b.held[node.output] = b.op("unary", [x.tensor], b.like(x), (number,), (lo, hi, a, c))


def scale(b: Builder, node: Node) -> None:
    """y = act(x · scale[c] + shift[c])."""
    x = b.get(node.inputs[0])
    if x.channel_axis() != node.attrs["axis"] % len(x.view):
        raise NotLowered("a scale along another axis than the channels")
    _channel(b, node, x, node.weights["scale"], node.weights["shift"])


def _channel(b: Builder, node: Node, x: Held, factor: Array, shift: Array) -> None:
    x = x if x.is_vector else b.as_tiles(x)
    number, lo, hi = act_of(node)
    blobs = [np.ascontiguousarray(one, np.float32).ravel() for one in (factor, shift)]
    b.held[node.output] = b.op("channel", [x.tensor], b.like(x), (number,), (lo, hi), blobs)


def two(b: Builder, node: Node) -> None:
    """y = act(a op b): alike, with a vector per channel, or with a constant."""
    first, second = node.inputs
    if second in b.constants or first in b.constants:
        _with_constant(b, node, first in b.constants)
        return
    x, y = b.get(first), b.get(second)
    shapes = [b.graph.values[name].shape for name in (first, second)]
    if shapes[0] == shapes[1]:
        if not (x.layout == y.layout == "plain" and (x.view, x.interleaved) == (y.view, y.interleaved)):
            x = b.as_tiles(x)
            y = b.retiled(y, *x.size[2:], x.rows)
        if x.view != y.view:
            raise NotLowered("its two inputs lie differently")
        _binary(b, node, x, y, x, 0)
        return
    swapped = math.prod(shapes[0]) < math.prod(shapes[1])
    if swapped and node.op == "sub":
        raise NotLowered("a vector less a tensor")
    _per_channel(b, node, *((y, x) if swapped else (x, y)), shapes[0 if swapped else 1])


def _binary(b: Builder, node: Node, x: Held, y: Held, like: Held, mode: int) -> None:
    number, lo, hi = act_of(node)
    b.held[node.output] = b.op(
        "binary", [x.tensor, y.tensor], b.like(like), (BINARY[node.op], mode, number), (lo, hi)
    )  # fmt: skip


def _per_channel(b: Builder, node: Node, x: Held, factor: Held, shape: tuple[int, ...]) -> None:
    if factor.pixels != 1:
        raise NotLowered(f"broadcasting {shape}: the engine broadcasts one number per channel")
    factor = b.as_vector(factor)
    view = ((),) * (len(x.view) - len(factor.view)) + factor.view
    fits = all(small in ((), large) for small, large in zip(view, x.view, strict=True))
    if not fits or factor.size[1] != x.size[1] or factor.size[0] not in (1, x.size[0]):
        raise NotLowered(f"broadcasting {shape}: the engine broadcasts one number per channel")
    reader = single_reader(b.graph, b.readers, node.output)
    if node.op == "mul" and reader is not None and factor.size[0] == x.size[0] and act_of(node)[0] == 0:
        if x.layout == "tiles" and _takes_factor(reader, node.output):
            b.factors[node.output] = (x, factor)
            return
    _binary(b, node, x, factor, x, 1)


def _takes_factor(reader: Node, name: str) -> bool:
    """A 1x1 convolution multiplies its input while it reads it."""
    if reader.op != "conv" or reader.inputs[0] != name or name in reader.inputs[1:]:
        return False
    attrs = reader.attrs
    plain = tuple(attrs["stride"]) == (1, 1) and not any(attrs["padding"]) and attrs["groups"] == 1
    return plain and reader.weights["weight"].shape[2:] == (1, 1)


def _with_constant(b: Builder, node: Node, constant_first: bool) -> None:
    names = node.inputs[::-1] if constant_first else node.inputs
    value, x = b.constants[names[1]], b.get(names[0])
    shape = b.graph.values[node.output].shape
    minus = node.op == "sub"
    if value.dtype != np.float32 or shape != b.graph.values[names[0]].shape:
        raise NotLowered(f"a constant of {value.dtype}{list(value.shape)} with {shape}")
    if value.size == 1:
        number = float(value.reshape(-1)[0])
        a, c = (number, 0.0) if node.op == "mul" else (1.0, -number if minus else number)
        _unary(b, node, *((-1.0, number) if minus and constant_first else (a, c)), of=names[0])
        return
    axis, padded = x.channel_axis(), (1,) * (len(shape) - value.ndim) + value.shape
    if axis is not None and padded == tuple(size if i == axis else 1 for i, size in enumerate(shape)):
        ones = np.ones(value.size, np.float32)
        if node.op == "mul":
            _channel(b, node, x, value, 0 * ones)
        else:
            sign = -1.0 if minus else 1.0
            _channel(b, node, x, sign * ones if constant_first else ones, value if constant_first else sign * value)
        return
    x = x if x.is_vector else b.as_tiles(x)
    other = b.placed(np.broadcast_to(value, shape), x)
    _binary(b, node, *((other, x) if constant_first else (x, other)), x, 0)


def pool(b: Builder, node: Node) -> None:
    """Max and average over windows; over everything it is a mean."""
    x, attrs = b.as_image(b.get(node.inputs[0])), node.attrs
    kernel, n, c = tuple(attrs["kernel"]), *x.size[:2]
    if node.op == "avg_pool" and kernel == x.size[2:] and not any(attrs["padding"]):
        b.held[node.output] = b.op("gap", [x.tensor], b.plain(n, c))
        return
    kind = 0 if node.op == "max_pool" else 1
    ints = (kind, *kernel, *attrs["stride"], *attrs["padding"], int(bool(attrs["count_include_pad"])))
    b.held[node.output] = b.op("pool", [x.tensor], b.image_of(node), ints)


def mean(b: Builder, node: Node) -> None:
    """The mean over all pixels."""
    x = b.get(node.inputs[0])
    axes = {axis % len(x.view) for axis in node.attrs["axes"]}
    gone = merged(atom for axis in sorted(axes) for atom in x.view[axis])
    if gone not in ((), whole("P", x.pixels)):
        raise NotLowered("a mean over other axes than all pixels or tokens")
    keep = bool(node.attrs["keepdim"])
    view = tuple(() if i in axes else dim for i, dim in enumerate(x.view) if keep or i not in axes)
    if not gone:
        b.held[node.output] = x.seen(view)
        return
    x = b.as_tiles(x)
    b.held[node.output] = b.op("gap", [x.tensor], b.plain(*x.size[:2], view=view))


def norm(b: Builder, node: Node) -> None:
    """Layer norm and RMS norm over the channels."""
    x = b.get(node.inputs[0])
    if x.channel_axis() != node.attrs["axis"] % len(x.view):
        raise NotLowered("a norm over another axis than the channels")
    x, empty = b.as_tiles(x), np.zeros(0, np.float32)
    blobs = [node.weights["weight"], node.weights.get("bias", empty)]
    ints = (int(node.op == "rms_norm"),)
    b.held[node.output] = b.op("norm", [x.tensor], b.like(x), ints, (float(node.attrs["eps"]),), blobs)


def softmax(b: Builder, node: Node) -> None:
    """Softmax over an axis that lies in one piece in plain memory."""
    x = b.get(node.inputs[0])
    dim = x.view[node.attrs["axis"] % len(x.view)]
    if len(dim) != 1 or dim[0].stride != 1 or dim[0].axis == "N":
        raise NotLowered("a softmax over an axis that does not lie in one piece")
    by_channel = dim[0].axis == "C"
    if x.layout == "plain" and not x.is_vector and x.interleaved != by_channel:
        x = b.as_tiles(x)
    x = b.as_plain(x, interleaved=by_channel)
    b.held[node.output] = b.op("softmax", [x.tensor], b.like(x), (dim[0].size,))


def attention(b: Builder, node: Node) -> None:
    """softmax(q kᵀ · scale + mask) v, head by head."""
    q, k, v = (b.get(name) for name in node.inputs[:3])
    count, kv = q.as_heads(), k.as_heads()
    if count is None or kv is None or kv != v.as_heads():
        raise NotLowered("its q, k and v do not lie as [N, heads, L, d]")
    mask = _mask(b, node, node.inputs[3], q, k) if len(node.inputs) > 3 and node.inputs[3] else -1
    q, k, v = (b.as_tokens(one) for one in (q, k, v))
    ins = [q.tensor, k.tensor, v.tensor, mask]
    channels = count * v.size[1] // kv
    y = b.like(q, c=channels, view=heads(q.size[0], channels, q.pixels, count))
    b.held[node.output] = b.op(
        "attention", ins, y, (count, kv, int(bool(node.attrs["causal"]))), (float(node.attrs["scale"]),)
    )


def _mask(b: Builder, node: Node, name: str, q: Held, k: Held) -> int:
    lengths = (q.pixels, k.pixels)
    if name in b.constants:
        return int(b.program.constant(widened(b.constants[name], lengths)))
    x = b.get(name)
    if x.layout != "plain" or x.interleaved or x.size[2] not in (1, q.pixels) or x.size[3] != k.pixels:
        raise NotLowered("a mask that is computed")
    return x.tensor


def rope(b: Builder, node: Node) -> None:
    """Rotary positions, head by head."""
    x = b.get(node.inputs[0])
    count = x.as_heads()
    if count is None:
        raise NotLowered("its input does not lie as [N, heads, L, d]")
    x = b.as_tokens(x)
    b.held[node.output] = b.op("rope", [x.tensor], b.like(x), (count,), (), [node.weights["cos"], node.weights["sin"]])


def embedding(b: Builder, node: Node) -> None:
    """Rows of a table, one per token."""
    ids, table = b.get(node.inputs[0]), node.weights["weight"]
    if ids.layout != "ids":
        raise NotLowered("an embedding of something else than token ids")
    n, _, length, _ = ids.size
    y = b.tiles(n, table.shape[1], length, 1, (*ids.view, whole("C", table.shape[1])))
    positions, last = _added(b, node, (length, table.shape[1]))
    ins, tables = ([ids.tensor, -1], [table, positions]) if positions is not None else ([ids.tensor], [table])
    b.held[last.output] = b.op("embedding", ins, y, (), (), tables)


def _added(b: Builder, node: Node, shape: tuple[int, int]) -> tuple[Array | None, Node]:
    """The sum of all constants that are added to an embedding, alike for all texts, and the last addition."""
    total: Array | None = None
    while (reader := single_reader(b.graph, b.readers, node.output)) is not None:
        other = [name for name in reader.inputs if name != node.output]
        if reader.op != "add" or act_of(reader)[0] or len(other) != 1 or other[0] not in b.constants:
            break
        value = b.constants[other[0]]
        if value.dtype != np.float32 or value.ndim > 3:
            break
        value = value.reshape((1,) * (3 - value.ndim) + value.shape)
        if value.shape[1] not in (1, shape[0]) or value.shape[2] not in (1, shape[1]) or (value != value[:1]).any():
            break
        table = np.broadcast_to(value[0], shape)
        total = np.ascontiguousarray(table if total is None else total + table)
        b.done.add(reader.name)
        node = reader
    return total, node


def reshape(b: Builder, node: Node) -> None:
    """Nothing moves."""
    x = b.get(node.inputs[0])
    b.held[node.output] = x.seen(reshaped(x.view, node.attrs["shape"]))


def transpose(b: Builder, node: Node) -> None:
    """Nothing moves."""
    x = b.get(node.inputs[0])
    b.held[node.output] = x.seen(transposed(x.view, node.attrs["perm"]))


def cut(b: Builder, node: Node) -> None:
    """Channels or rows from start to stop."""
    x, attrs = b.get(node.inputs[0]), node.attrs
    axis = attrs["axis"] % len(x.view)
    dim, start, stop = x.view[axis], attrs["start"], attrs["stop"]
    if (start, stop) == (0, b.graph.values[node.inputs[0]].shape[axis]):
        b.held[node.output] = x
        return
    if len(dim) != 1 or dim[0].axis == "N":
        raise NotLowered("a slice of an axis that does not lie in one piece")
    atom, x = dim[0], b.as_tiles(x)
    n, c, h, w = x.size
    if atom.stride * atom.size != (c if atom.axis == "C" else h * w):
        raise NotLowered("a slice inside an axis that the engine cannot cut")
    if atom.axis == "P" and atom.stride % w:
        x, (h, w) = b.as_tokens(x), (h * w, 1)
    step = atom.stride if atom.axis == "C" else atom.stride // w
    ints = (1 if atom.axis == "C" else 2, start * step, stop * step)
    view = tuple(
        merged([Atom(atom.axis, atom.stride, stop - start)]) if i == axis else dim for i, dim in enumerate(x.view)
    )
    if atom.axis == "C":
        y = b.tiles(n, (stop - start) * step, h, w, view, x.rows)
    elif (stop - start) * step == 1 and w == 1:
        y = b.plain(n, c, view=view)
    else:
        y = b.tiles(n, c, (stop - start) * step, w, view)
    b.held[node.output] = b.op("slice", [x.tensor], y, ints)


def concat(b: Builder, node: Node) -> None:
    """Channels after channels, or tokens after tokens."""
    xs = [b.get(name) for name in node.inputs]
    axis = node.attrs["axis"] % len(xs[0].view)
    rest = {tuple(dim for i, dim in enumerate(x.view) if i != axis) for x in xs}
    images = [x.as_image() for x in xs]
    if all(x.view[axis] == whole("C", x.size[1]) for x in xs) and len(rest) == 1:
        first = b.as_tiles(xs[0])
        xs = [b.retiled(x, *first.size[2:], first.rows) for x in xs]
        n, c, h, w = first.size
        total = sum(x.size[1] for x in xs)
        view = tuple(whole("C", total) if i == axis else dim for i, dim in enumerate(first.view))
        y = b.tiles(n, total, h, w, view, first.rows)
    elif all(x.view[axis] == whole("P", x.pixels) for x in xs) and len(rest) == 1:
        xs = [b.as_tokens(x) for x in xs]
        n, c = xs[0].size[:2]
        total = sum(x.pixels for x in xs)
        view = tuple(whole("P", total) if i == axis else dim for i, dim in enumerate(xs[0].view))
        y = b.tiles(n, c, total, 1, view)
    elif axis == 2 and all(images) and len({found[1] for found in images if found}) == 1:
        xs = [b.as_image(x) for x in xs]
        y = b.image_of(node)
    else:
        raise NotLowered("a concatenation along an axis that the engine cannot join")
    ints = (1 if y.size[1] != xs[0].size[1] else 2,)
    b.held[node.output] = b.op("concat", [x.tensor for x in xs], y, ints)


def pad(b: Builder, node: Node) -> None:
    """Taken over by the convolution that reads it."""
    if not any(node.attrs["padding"]):
        b.held[node.output] = b.get(node.inputs[0])
        return
    reader = single_reader(b.graph, b.readers, node.output)
    if reader is None or reader.op != "conv" or node.output in reader.inputs[1:]:
        raise NotLowered("padding that no convolution takes over")
    b.skipped[node.output] = node


def other(b: Builder, node: Node) -> None:
    """What stays in torch."""
    raise NotLowered(str(node.attrs.get("reason") or "an op that the engine does not have"))
