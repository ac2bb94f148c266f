"""ONNX out: a `Graph` as a file of standard ops in which zeros are stored like any other number.

Every engine reads such a file; those that know sparsity find the zeros themselves.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import SparselandError
from ..files import write_file
from .graph import Array, Graph, Node
from .onnx_read import _onnx

OPSET = 17
LARGEST = (1 << 31) - 1  # bytes of one protobuf message
TYPES = {"float32": 1, "int64": 7, "bool": 9}  # ONNX's numbers for types


def to_onnx(graph_or_model: Any, path: str | os.PathLike[str], sample: Any = None, *, opset: int = OPSET) -> Path:
    """Write a graph, or a torch model as it computes ``sample``, as an ONNX file.

    Parameters:
        graph_or_model: a `Graph`, or a torch module, which is captured in inference mode.
        path: where to; replaced as a whole.
        sample: an input of the model, or a tuple of its inputs; not for graphs.
        opset: version of ONNX's operators, 13 to 17. Below 17 a layer norm is written as its arithmetic, which older
            engines know.

    Returns:
        The path.

    Raises:
        SparselandError: a model without a sample, a part that stays in torch, another opset, more than 2 GiB.
        OutputError: the disk refuses; what was at ``path`` is as it was.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as place:
    ...     path = to_onnx(torch.nn.Linear(3, 2), f"{place}/m.onnx", torch.zeros(1, 3))
    ...     path.name, path.stat().st_size > 100
    ('m.onnx', True)
    """
    onnx = _onnx()
    if not 13 <= opset <= OPSET:
        raise SparselandError(f"opset is 13 to {OPSET}; got {opset}")
    graph = graph_or_model if isinstance(graph_or_model, Graph) else _captured(graph_or_model, sample)
    writer = Writer(graph, opset)
    for node in graph.check().nodes:
        if node.op not in WRITE:
            raise SparselandError(
                f"{node.name!r} stays in torch ({node.attrs.get('reason')}); ONNX has no place for it"
            )
        writer.node = node
        made = WRITE[node.op](writer, node)
        writer.finish(made, node)
    made_here = {output for one in writer.nodes for output in one.output}
    outputs = [name if name in made_here else writer.op("Identity", [name], to=f"{name}:out") for name in graph.outputs]
    info = onnx.helper.make_tensor_value_info
    values = [(name, graph.values[name]) for name in graph.inputs]
    result = [(out, graph.values[name]) for out, name in zip(outputs, graph.outputs, strict=True)]
    body = onnx.helper.make_graph(
        writer.nodes,
        "sparseland",
        [info(name, TYPES[value.dtype], value.shape) for name, value in values],
        [info(name, TYPES[value.dtype], value.shape) for name, value in result],
        writer.initializers,
    )
    # IR version 8 came with opset 17's op set; a newer number would shut out older engines.
    operators = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(body, opset_imports=operators, ir_version=8, producer_name="sparseland")
    if model.ByteSize() > LARGEST:
        raise SparselandError(f"the model takes {model.ByteSize():,} bytes; one ONNX file holds {LARGEST:,}")
    data = model.SerializeToString()
    place = Path(path).expanduser()
    write_file(place, lambda file: file.write(data))
    return place


def _captured(model: Any, sample: Any) -> Graph:
    from .capture import capture
    from .fuse import fuse

    if sample is None:
        raise SparselandError(f"a {type(model).__name__} needs a sample to be captured: to_onnx(model, path, sample)")
    graph: Graph = fuse(capture(model, sample))
    return graph


class Writer:
    """The ONNX nodes and initializers so far, and how to append to them."""

    def __init__(self, graph: Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.onnx = _onnx()
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.node = Node("", "", [], [])
        self._count = 0

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of the graph."""
        return self.graph.values[name].shape

    def op(self, kind: str, inputs: Iterable[str], to: str = "", **attrs: Any) -> str:
        """Append one ONNX node; the name of its output."""
        self._count += 1
        made = to or f"{self.node.name}:{self._count}"
        name = f"/{self.node.name}/{kind}_{self._count}"  # as torch's exporter writes a module's path
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [made], name=name, **attrs))
        return made

    def weight(self, array: Array, name: str) -> str:
        """Append an initializer; its name."""
        self._count += 1
        made = f"{self.node.name}.{name}:{self._count}"
        self.initializers.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), made))
        return made

    def number(self, value: float) -> str:
        """A constant float."""
        return self.weight(np.array(value, np.float32), "number")

    def ints(self, *values: int) -> str:
        """A constant list of integers."""
        return self.weight(np.array(values, np.int64), "ints")

    def along(self, vector: Array, axis: int, rank: int, name: str) -> str:
        """A vector that varies along one axis, as broadcasting wants it."""
        return self.weight(vector.reshape([-1 if i == axis else 1 for i in range(rank)]), name)

    def finish(self, made: str, node: Node) -> None:
        """Residual and activation of a node, and its output's name."""
        if node.op in ("conv", "linear") and len(node.inputs) > 1 and node.inputs[1]:
            made = self.op("Add", [made, node.inputs[1]])
        made = self.act(made, node)
        last = self.nodes[-1] if self.nodes else None
        if last is not None and list(last.output) == [made] and made not in self.graph.values:
            last.output[0] = node.output
        else:
            self.op("Identity", [made], to=node.output)

    def act(self, x: str, node: Node) -> str:
        """The activation at the end of a node."""
        name, lo, hi = node.act()
        if name == "clamp":
            if (lo, hi) == (0.0, math.inf):
                return self.op("Relu", [x])
            bounds = [self.number(one) if math.isfinite(one) else "" for one in (lo, hi)]
            return self.op("Clip", [x, *bounds] if bounds[1] else [x, *bounds[:1]])
        if name == "silu":
            return self.op("Mul", [x, self.op("Sigmoid", [x])])
        if name == "gelu":
            root = self.op("Div", [x, self.number(math.sqrt(2))])
            gate = self.op("Add", [self.op("Erf", [root]), self.number(1)])
            return self.op("Mul", [self.op("Mul", [x, gate]), self.number(0.5)])
        if name == "gelu_tanh":
            cube = self.op("Mul", [self.op("Pow", [x, self.number(3)]), self.number(0.044715)])
            inner = self.op("Mul", [self.op("Add", [x, cube]), self.number(math.sqrt(2 / math.pi))])
            gate = self.op("Add", [self.op("Tanh", [inner]), self.number(1)])
            return self.op("Mul", [self.op("Mul", [x, gate]), self.number(0.5)])
        if name == "hardswish" and self.opset < 14:
            return self.op("Mul", [x, self.op("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])
        if name == "hardsigmoid":
            return self.op("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
        kinds = {"hardswish": "HardSwish", "sigmoid": "Sigmoid", "tanh": "Tanh"}
        return x if name == "none" else self.op(kinds[name], [x])


def _conv(w: Writer, node: Node) -> str:
    weight = node.weights["weight"]
    inputs = [node.inputs[0], w.weight(weight, "weight")]
    if "bias" in node.weights:
        inputs.append(w.weight(node.weights["bias"], "bias"))
    a = node.attrs
    return w.op(
        "Conv", inputs, kernel_shape=list(weight.shape[2:]), strides=list(a["stride"]), pads=list(a["padding"]),
        dilations=list(a["dilation"]), group=int(a["groups"]),
    )  # fmt: skip


def _linear(w: Writer, node: Node) -> str:
    x, weight, bias = node.inputs[0], node.weights["weight"], node.weights.get("bias")
    if len(w.shape(x)) == 2:
        more = [] if bias is None else [w.weight(bias, "bias")]
        return w.op("Gemm", [x, w.weight(weight, "weight"), *more], transB=1)
    made = w.op("MatMul", [x, w.weight(weight.T, "weight")])
    return made if bias is None else w.op("Add", [made, w.weight(bias, "bias")])


def _scale(w: Writer, node: Node) -> str:
    x, axis = node.inputs[0], node.attrs["axis"]
    rank = len(w.shape(x))
    made = w.op("Mul", [x, w.along(node.weights["scale"], axis, rank, "scale")])
    return w.op("Add", [made, w.along(node.weights["shift"], axis, rank, "shift")])


def _affine(w: Writer, node: Node) -> str:
    return w.op("Add", [w.op("Mul", [node.inputs[0], w.number(node.attrs["a"])]), w.number(node.attrs["b"])])


def _pool(w: Writer, node: Node) -> str:
    a = node.attrs
    window: dict[str, Any] = {
        "kernel_shape": list(a["kernel"]),
        "strides": list(a["stride"]),
        "pads": list(a["padding"]),
    }
    if node.op == "max_pool":
        return w.op("MaxPool", node.inputs, **window)
    return w.op("AveragePool", node.inputs, **window, count_include_pad=int(a["count_include_pad"]))


def _mean(w: Writer, node: Node) -> str:
    x, axes = node.inputs[0], tuple(node.attrs["axes"])
    if axes == (2, 3) and len(w.shape(x)) == 4:
        made = w.op("GlobalAveragePool", [x])
        return made if node.attrs["keepdim"] else w.op("Flatten", [made], axis=1)
    return w.op("ReduceMean", [x], axes=list(axes), keepdims=int(node.attrs["keepdim"]))


def _norm(w: Writer, node: Node) -> str:
    """Layer and RMS norm."""
    x, axis = node.inputs[0], node.attrs["axis"]
    rank, eps = len(w.shape(x)), float(node.attrs["eps"])
    weights = node.weights
    if node.op == "layer_norm" and w.opset >= 17 and axis in (-1, rank - 1):
        names = [w.weight(weights[name], name) for name in ("weight", "bias") if name in weights]
        return w.op("LayerNormalization", [x, *names], axis=-1, epsilon=eps)
    if node.op == "layer_norm":
        x = w.op("Sub", [x, w.op("ReduceMean", [x], axes=[axis], keepdims=1)])
    moment = w.op("ReduceMean", [w.op("Pow", [x, w.number(2)])], axes=[axis], keepdims=1)
    made = w.op("Div", [x, w.op("Sqrt", [w.op("Add", [moment, w.number(eps)])])])
    made = w.op("Mul", [made, w.along(weights["weight"], axis % rank, rank, "weight")])
    return w.op("Add", [made, w.along(weights["bias"], axis % rank, rank, "bias")]) if "bias" in weights else made


def _attention(w: Writer, node: Node) -> str:
    q, k, v = node.inputs[:3]
    mask = node.inputs[3] if len(node.inputs) > 3 else ""
    _, heads, length, _ = w.shape(q)
    groups = heads // w.shape(k)[1]
    if groups > 1:
        k, v = (_repeated(w, name, groups) for name in (k, v))
    keys = w.op("Transpose", [k], perm=[0, 1, 3, 2])
    scores = w.op("Mul", [w.op("MatMul", [q, keys]), w.number(node.attrs["scale"])])
    size = w.shape(node.inputs[1])[2]
    if node.attrs["causal"]:
        hidden = np.triu(np.full((length, size), -np.inf, np.float32), 1)
        scores = w.op("Add", [scores, w.weight(hidden, "causal")])
    if mask and w.graph.values[mask].dtype == "int64":  # [B, Lk]: the tokens that count
        counts = w.op("Not", [w.op("Equal", [mask, w.ints(0)])])
        mask = w.op("Reshape", [counts, w.ints(w.shape(mask)[0], 1, 1, size)])
        scores = w.op("Where", [mask, scores, w.number(-math.inf)])
    elif mask and w.graph.values[mask].dtype == "bool":
        scores = w.op("Where", [mask, scores, w.number(-math.inf)])
    elif mask:
        scores = w.op("Add", [scores, mask])
    return w.op("MatMul", [w.op("Softmax", [scores], axis=-1), v])


def _repeated(w: Writer, name: str, groups: int) -> str:
    """Each head of keys or values as often as there are queries for it."""
    batch, heads, length, size = w.shape(name)
    wide = w.op("Reshape", [name, w.ints(batch, heads, 1, length, size)])
    wide = w.op("Expand", [wide, w.ints(batch, heads, groups, length, size)])
    return w.op("Reshape", [wide, w.ints(batch, heads * groups, length, size)])


def _rope(w: Writer, node: Node) -> str:
    x = node.inputs[0]
    half = w.shape(x)[-1] // 2
    low, high = (w.op("Slice", [x, w.ints(i * half), w.ints((i + 1) * half), w.ints(3)]) for i in (0, 1))
    turned = w.op("Concat", [w.op("Neg", [high]), low], axis=3)
    cos, sin = (w.weight(node.weights[name], name) for name in ("cos", "sin"))
    return w.op("Add", [w.op("Mul", [x, cos]), w.op("Mul", [turned, sin])])


def _slice(w: Writer, node: Node) -> str:
    a = node.attrs
    return w.op("Slice", [node.inputs[0], w.ints(a["start"]), w.ints(a["stop"]), w.ints(a["axis"])])


def _pad(w: Writer, node: Node) -> str:
    top, left, bottom, right = node.attrs["padding"]
    return w.op("Pad", [node.inputs[0], w.ints(0, 0, top, left, 0, 0, bottom, right)], mode="constant")


def _plain(kind: str) -> Callable[[Writer, Node], str]:
    return lambda w, node: w.op(kind, node.inputs)


WRITE: dict[str, Callable[[Writer, Node], str]] = {
    "conv": _conv, "linear": _linear, "scale": _scale, "affine": _affine, "max_pool": _pool, "avg_pool": _pool,
    "add": _plain("Add"), "sub": _plain("Sub"), "mul": _plain("Mul"), "act": lambda w, node: node.inputs[0],
    "constant": lambda w, node: w.weight(node.weights["value"], "value"), "mean": _mean,
    "layer_norm": _norm, "rms_norm": _norm, "attention": _attention, "rope": _rope,
    "softmax": lambda w, node: w.op("Softmax", node.inputs, axis=int(node.attrs["axis"])),
    "embedding": lambda w, node: w.op("Gather", [w.weight(node.weights["weight"], "weight"), node.inputs[0]]),
    "reshape": lambda w, node: w.op("Reshape", [node.inputs[0], w.ints(*node.attrs["shape"])]),
    "transpose": lambda w, node: w.op("Transpose", node.inputs, perm=list(node.attrs["perm"])),
    "concat": lambda w, node: w.op("Concat", node.inputs, axis=int(node.attrs["axis"])), "slice": _slice, "pad": _pad,
}  # fmt: skip
