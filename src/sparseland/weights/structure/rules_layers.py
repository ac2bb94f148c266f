"""What each operation of torch does to axes, part two: products with weights, norms, reductions, pooling, attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .axes import Axis, dims, factor, fixed, lock, prod, unify
from .rules import RULES, at, rule, unknown
from .tape import Call, Tape, tensors_of

__all__ = ["RULES"]
SIDES = {
    **dict.fromkeys(("mm", "bmm"), ("self", "mat2")),
    **dict.fromkeys(("addmm", "_addmm_activation"), ("mat1", "mat2")),
    "baddbmm": ("batch1", "batch2"),
    "mv": ("self", "vec"),
    "addmv": ("mat", "vec"),
}
ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math "
    "_scaled_dot_product_attention_math_for_mps _scaled_dot_product_fused_attention_overrideable "
    "scaled_dot_product_attention"
)


def contract(tape: Tape, left: tuple[Tensor, int], right: tuple[Tensor, int]) -> None:
    """Two axes are summed over together: exact for what is removed where one side is a weight."""
    axes = [tape.axes(tensor)[dim] for tensor, dim in (left, right)]
    unify(*axes)
    weighted = False
    for tensor, dim in (left, right):
        if tape.origins(tensor)[dim] is not None:
            weighted = True
            for other in range(tensor.ndim):
                tape.role(tensor, "in" if other == dim else "out", other)
    if not weighted:
        tape.hold(axes, "two activations are multiplied and summed over the axis")


@rule("mm bmm addmm baddbmm mv addmv _addmm_activation")
def matmul(tape: Tape, call: Call) -> None:
    """(…, n, k) times (…, k, m)."""
    left, right = (call[name] for name in SIDES[call.name.rstrip("_")])
    batch = left.ndim - 2
    if batch:
        unify(tape.axes(left)[0], tape.axes(right)[0])
        for axis in (tape.axes(left)[0], tape.axes(right)[0]):
            _tag(axis, "head")
    contract(tape, (left, left.ndim - 1), (right, batch))
    axes = [*tape.axes(left)[:-1], *tape.axes(right)[batch + 1 :]]
    for tensor in (left, right):
        if any(origin is not None for origin in tape.origins(tensor)):
            for axis in tape.axes(tensor):
                _tag(axis, "linear")
    if len(list(tensors_of(list(call.args.values())))) == 3:
        bias = call["self"]
        for axis, other in zip(reversed(tape.axes(bias)), reversed(axes), strict=False):
            if axis.size == other.size:
                unify(axis, other)
        tape.role(bias, "bias")
    tape.count(*tape.axes(left), *tape.axes(right)[batch + 1 :])
    tape.put(call.out, axes)


def _tag(axis: Axis, tag: str) -> None:
    for dim in dims(axis):
        dim.tags.add(tag)


@rule("linear")
def linear(tape: Tape, call: Call) -> None:
    """(…, k) times (m, k) transposed."""
    x, weight, bias = call["input"], call["weight"], call.args.get("bias")
    contract(tape, (x, x.ndim - 1), (weight, 1))
    out = tape.axes(weight)[0]
    tape.role(weight, "out", 0)
    _tag(out, "linear")
    if bias is not None:
        unify(tape.axes(bias)[0], out)
        tape.role(bias, "bias")
    tape.count(*tape.axes(x), out)
    tape.put(call.out, [*tape.axes(x)[:-1], out])


@rule("convolution conv1d conv2d conv3d _convolution mkldnn_convolution")
def convolution(tape: Tape, call: Call) -> None:
    """Channels in and out, in groups; places of the kernel and of the image stay."""
    x, weight, bias = call["input"], call["weight"], call.args.get("bias")
    groups, flipped = call.args.get("groups", 1), call.args.get("transposed", False)
    if x.ndim != weight.ndim:
        return unknown(tape, call)
    places = [*tape.axes(weight)[2:], *tape.axes(x)[2:], tape.axes(x)[0]]
    tape.hold(places, "places of images and kernels stay")
    entering, leaving = (0, 1) if flipped else (1, 0)
    tape.role(weight, "in", entering)
    tape.role(weight, "out", leaving)
    inside, outside = tape.axes(weight)[entering], tape.axes(weight)[leaving]
    _tag(outside, "conv")
    if groups == 1:
        unify(tape.axes(x)[1], inside)
        per_group, out = inside, outside
    else:
        found = _grouped(tape, call, x, weight, groups, flipped)
        if found is None:
            tape.barrier(
                [tape.axes(x)[1], *tape.axes(weight)[:2]], call, "groups of channels across the borders of parts"
            )
            found = tape.axes(weight)[entering], fixed(call.out.shape[1], "groups across the borders of parts")
        per_group, out = found
    if bias is not None:
        unify(tape.axes(bias)[0], out)
        tape.role(bias, "bias")
    image = x.shape[2:] if flipped else call.out.shape[2:]
    whole, part = (tape.axes(x)[1], tape.axes(weight)[1]) if flipped else (out, per_group)
    taps = weight[0, 0].numel()
    tape.count(whole, part, times=taps * int(x.shape[0]) * _numel(image))
    tape.put(call.out, [tape.axes(x)[0], out, *(fixed(s, "places of an image") for s in call.out.shape[2:])])


def _grouped(tape: Tape, call: Call, x: Tensor, weight: Tensor, groups: int, flipped: bool) -> tuple[Axis, Axis] | None:
    """(inputs of a group, all outputs): the unit is a whole group, with what it reads and makes."""
    entering, leaving = tape.axes(weight)[1 - flipped], tape.axes(weight)[0 + flipped]
    stored = tape.axes(weight)[0]  # (groups, …)
    read = factor(tape.axes(x)[1], [groups, x.shape[1] // groups])
    held = factor(stored, [groups, stored.size // groups])
    if read is None or held is None:
        return None
    unify(read[0], held[0])
    args, kwargs = tape.scope[1] if tape.scope is not None else ((), {})
    number = kwargs.get("groups", args[6] if len(args) > 6 and not flipped else args[6:7] and args[6])
    if tape.scope is not None:
        tape.require(held[0], number if isinstance(number, int) and number == groups else groups, call)
    if flipped:
        unify(read[1], held[1])
        return leaving, prod([held[0], leaving])
    unify(read[1], entering)
    return entering, leaving


def _numel(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result


@rule("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
      "batch_norm _batch_norm_with_update _batch_norm_no_update miopen_batch_norm")  # fmt: skip
def batch_norm(tape: Tape, call: Call) -> None:
    """Each channel by itself."""
    x: Tensor = call["input"]
    channels = tape.axes(x)[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = call.args.get(name)
        if tensor is not None:
            unify(tape.axes(tensor)[0], channels)
            tape.role(tensor, "norm")
    out, *rest = tensors_of([call.out])
    tape.put(out, tape.axes(x))
    for tensor in rest:
        tape.put(tensor, [channels if s == channels.size else fixed(s) for s in tensor.shape])


@rule("native_layer_norm layer_norm _fused_rms_norm rms_norm")
def layer_norm(tape: Tape, call: Call) -> None:
    """Mean and variance over the last axes: fewer of them would be other statistics."""
    x: Tensor = call["input"]
    count = len(call["normalized_shape"])
    tape.hold(tape.axes(x)[-count:], "a norm over the axis: its mean would change")
    for name in ("weight", "bias"):
        tensor = call.args.get(name)
        if tensor is not None:
            for axis, other in zip(tape.axes(tensor), tape.axes(x)[-count:], strict=True):
                unify(axis, other)
            tape.role(tensor, "norm")
    out, *rest = tensors_of([call.out])
    tape.put(out, tape.axes(x))
    for tensor in rest:
        tape.put(tensor, [fixed(s) for s in tensor.shape])


@rule("native_group_norm group_norm")
def group_norm(tape: Tape, call: Call) -> None:
    """Statistics over groups of channels: only whole groups can go."""
    x: Tensor = call["input"]
    groups = int(call.args.get("group", call.args.get("num_groups", 1)))
    channels = tape.axes(x)[1]
    for name in ("weight", "bias"):
        if call.args.get(name) is not None:
            unify(tape.axes(call[name])[0], channels)
            tape.role(call[name], "norm")
    found = factor(channels, [groups, channels.size // groups])
    if found is not None:
        tape.hold([found[1], *tape.axes(x)[2:]], "a norm over the channels of a group: its mean would change")
        numbers = tape.written([groups])
        tape.require(found[0], numbers[0] if numbers[0] is not None else groups, call)
    out, *rest = tensors_of([call.out])
    tape.put(out, tape.axes(x))
    for tensor in rest:
        tape.put(tensor, [fixed(s) for s in tensor.shape])


@rule("mean sum amax amin max min prod var std var_mean std_mean norm linalg_vector_norm logsumexp all any argmax "
      "argmin median nansum _softmax _log_softmax softmax log_softmax native_dropout_softmax")  # fmt: skip
def reduced(tape: Tape, call: Call) -> None:
    """Over some axes, which stay whole; all others go through."""
    x: Tensor = next(tensors_of(list(call.args.values())))
    if call.args.get("other") is not None and isinstance(call.args["other"], Tensor):
        return RULES["(pointwise)"](tape, call)
    dim = call.args.get("dim")
    listed = list(range(x.ndim)) if dim is None or dim == [] else dim if isinstance(dim, (list, tuple)) else [dim]
    over = {at(d, x.ndim) for d in listed}
    axes = tape.axes(x)
    tape.hold([axes[d] for d in over], f"{call.name.strip('_')} over the axis")
    for out in tensors_of([call.out]):
        if out.ndim == x.ndim:
            tape.put(out, [fixed(s) if axes[d].size != s else axes[d] for d, s in enumerate(out.shape)])
        else:
            tape.put(out, [axis for d, axis in enumerate(axes) if d not in over])


@rule("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
      "avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
      "adaptive_max_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d "
      "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_linear1d upsample_trilinear3d "
      "_upsample_nearest_exact2d reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d")  # fmt: skip
def places(tape: Tape, call: Call) -> None:
    """Each channel by itself, its places in another number."""
    x: Tensor = next(tensors_of(list(call.args.values())))
    spatial = next((int(n) for n in "123" if f"{n}d" in call.name), 2)
    through = x.ndim - spatial
    tape.hold(tape.axes(x)[through:], "places of an image stay")
    for out in tensors_of([call.out]):
        new = [fixed(s, "places of an image") for s in out.shape[through:]]
        tape.put(out, [*tape.axes(x)[:through], *new])


@rule("pixel_shuffle channel_shuffle pixel_unshuffle")
def shuffled(tape: Tape, call: Call) -> None:
    """Channels to places and back: a channel outside goes with its whole square inside."""
    x: Tensor = call["self"]
    axes = list(tape.axes(x))
    if call.name == "channel_shuffle":
        return unknown(tape, call)
    few, many = sorted((x.shape[-3], call.out.shape[-3]))
    if call.name == "pixel_shuffle":
        found = factor(axes[-3], [few, many // few])
        if found is None:
            return unknown(tape, call)
        lock(found[1], "channels that become places")
        channels = found[0]
    else:
        channels = prod([axes[-3], fixed(many // few, "places that became channels")])
    tape.hold(axes[-2:], "places of an image stay")
    tape.put(call.out, [*axes[:-3], channels, *(fixed(s, "places of an image") for s in call.out.shape[-2:])])


@rule("embedding")
def embedding(tape: Tape, call: Call) -> None:
    """Rows of a table: the rows stay, their entries may go."""
    table, index = call["weight"], call["indices"]
    tape.hold([tape.axes(table)[0]], "rows of a table are looked up by number")
    tape.role(table, "out", 1)
    _tag(tape.axes(table)[1], "linear")
    tape.put(call.out, [*tape.axes(index), tape.axes(table)[1]])


@rule(ATTENTION)
def attention(tape: Tape, call: Call) -> None:
    """(…, heads, n, d), (…, heads, m, d), (…, heads, m, e): each head by itself."""
    query, key, value = call["query"], call["key"], call["value"]
    q, k, v = (tape.axes(t) for t in (query, key, value))
    for i in range(query.ndim - 2):
        rows = k[i].size and q[i].size // k[i].size
        if rows > 1:  # grouped queries: each head of the keys serves several
            found = factor(q[i], [k[i].size, rows])
            if found is not None:
                lock(found[1], "heads that share their keys")
                unify(found[0], k[i])
        else:
            unify(q[i], k[i])
        unify(k[i], v[i])
        _tag(q[i], "head")
    scale = "" if call.args.get("scale") is not None else " and its size is the scale"
    tape.hold([q[-1], k[-1]], f"two activations are multiplied and summed over the axis{scale}")
    tape.hold([q[-2], k[-2], v[-2]], "softmax over the axis")
    mask = call.args.get("attn_mask", call.args.get("attn_bias"))
    if isinstance(mask, Tensor):
        for axis, other in zip(reversed(tape.axes(mask)), reversed([*q[:-1], k[-2]]), strict=False):
            if axis.size == other.size:
                unify(axis, other)
    tape.count(*q, k[-2])
    tape.count(*q[:-1], k[-2], v[-1])
    out, *rest = tensors_of([call.out])
    tape.put(out, [*q[:-1], v[-1]])
    for tensor in rest:
        tape.put(tensor, [fixed(s) for s in tensor.shape])
