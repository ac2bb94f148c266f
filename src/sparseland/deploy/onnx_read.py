"""ONNX in: a file as a `Graph`, its shapes made static and its taken-apart layers put together again.

The file is data: nothing in it is executed, what is computed from constants is bounded, and weights beside it are read
only from its own folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataNotFound, SparselandError, nearest
from .graph import Array, Graph, Node, Value
from .onnx_draft import Draft, Item, contiguous
from .onnx_fold import FOLD, TYPES, fold
from .onnx_match import tidy
from .onnx_rules import RULES

OPSETS = (7, 24)  # versions of the operator set that are read
INPUTS = {1: "float32", 6: "int64", 7: "int64"}  # ONNX's numbers for types of inputs; int32 ids are read as int64
SUPPORTED = tuple(sorted({*RULES, *FOLD, "Constant"}))


def from_onnx(
    path: str | os.PathLike[str], *, batch: int | None = None, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """Read an ONNX file as a graph.

    Convolutional nets and encoders are understood, as torch, TensorFlow and SparseML export them: convolution, batch
    norm, linear layers, the usual activations, pooling, norms and attention (also taken apart into their arithmetic),
    embeddings, masks of 0 and 1, and shapes that are computed in the graph.

    Parameters:
        path: the file. Weights beside it (external data) are read from its own folder only.
        batch: the size of a first axis that the file leaves open; 1 by default.
        shapes: ``{input: shape}`` for inputs that leave other axes open too.

    Returns:
        A graph of float32 tensors with the inputs and outputs of the file, checked.

    Raises:
        DataNotFound: no such file, or no such file of weights.
        SparselandError: no ONNX, damaged, of another opset, an op or form of it that graphs do not have, open axes.

    >>> import tempfile, numpy as np
    >>> from sparseland.deploy.graph import Graph, Node, Value
    >>> from sparseland.deploy.onnx_write import to_onnx
    >>> one = Node("linear", "fc", ["x"], ["y"], {}, {"weight": np.eye(3, 4, dtype="f")})
    >>> graph = Graph(["x"], ["y"], [one], {"x": Value((2, 4)), "y": Value((2, 3))})
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = to_onnx(graph, f"{place}/m.onnx")
    ...     back = from_onnx(f"{place}/m.onnx")
    >>> [(node.op, node.name) for node in back.nodes], back.values[back.outputs[0]].shape
    ([('linear', 'fc')], (2, 3))
    """
    place = Path(path).expanduser()
    model = _load(place)
    opsets = {one.domain: one.version for one in model.opset_import}
    draft = Draft(opset=opsets.get("", opsets.get("ai.onnx", 0)))
    if not OPSETS[0] <= draft.opset <= OPSETS[1]:
        raise SparselandError(f"{place} is of opset {draft.opset}; possible: {OPSETS[0]} to {OPSETS[1]}")
    file = model.graph
    if file.sparse_initializer:
        raise SparselandError(f"{place} stores sparse initializers; possible: dense ones, with their zeros")
    for tensor in file.initializer:
        draft.constants[tensor.name] = _array(tensor, place)
    inputs = _inputs(file, draft, batch, dict(shapes or {}))
    for node in file.node:
        item = _item(node, draft, place)
        try:
            _step(draft, item)
        except SparselandError as error:
            raise SparselandError(f"{place.name}: {item}: {error}") from error
        except Exception as error:  # a file may hold any nonsense, and each kind fails in its own way
            raise SparselandError(f"{place.name}: {item} is damaged: {type(error).__name__}: {error}") from error
    outputs = [_output(draft, one.name, place) for one in file.output]
    try:
        tidy(draft, outputs)
        return _graph(draft, inputs, outputs).check()
    except SparselandError as error:
        raise SparselandError(f"{place.name}: {error}") from error


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise SparselandError(
            "ONNX files need `onnx`, which is not installed: pip install 'sparseland[onnx]'"
        ) from error
    return onnx


def _load(place: Path) -> Any:
    onnx = _onnx()
    if not place.is_file():
        raise DataNotFound(f"no ONNX file at {place}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(place.read_bytes())
    except Exception as error:  # protobuf's errors differ between its implementations
        raise SparselandError(f"{place} is damaged or no ONNX: {type(error).__name__}: {error}") from error
    if not model.graph.node or not model.opset_import:
        raise SparselandError(f"{place} is damaged or no ONNX: it has no {'opset' if model.graph.node else 'node'}")
    return model


def _array(tensor: Any, place: Path) -> Array:
    """An initializer as an array; what is stored outside is read below the file's folder only."""
    onnx = _onnx()
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _outside(tensor, place)
        array: Array = np.array(onnx.numpy_helper.to_array(tensor))  # its own memory, not the file's
    except SparselandError:
        raise
    except Exception as error:
        raise SparselandError(f"{place.name}: the tensor {tensor.name!r} is damaged: {error}") from error
    return array


def _outside(tensor: Any, place: Path) -> Array:
    entries = {one.key: one.value for one in tensor.external_data}
    folder = place.resolve().parent
    location = entries.get("location", "")
    file = (folder / location).resolve()
    if not location or folder not in file.parents:
        raise SparselandError(f"{place.name}: {tensor.name!r} is stored at {location!r}, outside the file's folder")
    if not file.is_file():
        raise DataNotFound(f"{place} keeps {tensor.name!r} in {location!r}, which is missing")
    dtype = np.dtype(TYPES[tensor.data_type])
    count = int(np.prod([int(n) for n in tensor.dims], dtype=np.int64))
    offset, size = int(entries.get("offset", 0)), count * dtype.itemsize
    if offset < 0 or min(tensor.dims, default=0) < 0 or offset + size > file.stat().st_size:
        raise SparselandError(f"{place.name}: {tensor.name!r} reaches past the end of {location!r}")
    return np.fromfile(file, dtype, count, offset=offset).reshape(tuple(tensor.dims))


def _inputs(file: Any, draft: Draft, batch: int | None, shapes: dict[str, Sequence[int]]) -> list[str]:
    """Names of the inputs; their shapes and types go into the draft."""
    names = []
    for one in file.input:
        if one.name in draft.constants:  # old files list their weights among the inputs
            continue
        kind = one.type.tensor_type
        if kind.elem_type not in INPUTS:
            raise SparselandError(
                f"input {one.name!r} is of ONNX type {kind.elem_type}; possible: float32, int64, int32"
            )
        dims: list[int | str] = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
        if one.name in shapes:
            dims = [int(n) for n in shapes.pop(one.name)]
        elif dims and (not isinstance(dims[0], int) or dims[0] < 1):
            dims[0] = 1 if batch is None else int(batch)
        if not all(isinstance(n, int) and n > 0 for n in dims):
            example = tuple(n if isinstance(n, int) else 128 for n in dims)
            raise SparselandError(
                f"input {one.name!r} is {tuple(dims)}, and graphs have fixed sizes: shapes={{{one.name!r}: {example}}}"
            )
        if batch is not None and dims and dims[0] != batch:
            raise SparselandError(f"input {one.name!r} is {tuple(dims)} in the file; got batch={batch}")
        draft.values[one.name] = Value(tuple(int(n) for n in dims), INPUTS[kind.elem_type])
        names.append(one.name)
    if shapes:
        raise SparselandError(f"no input is named {next(iter(shapes))!r}: {nearest(next(iter(shapes)), names)}")
    return names


def _item(node: Any, draft: Draft, place: Path) -> Item:
    onnx = _onnx()
    item = Item(node.op_type, node.name, [draft.now(name) for name in node.input], list(node.output), {})
    if node.domain not in ("", "ai.onnx"):
        raise SparselandError(f"{place.name}: {item} is of the domain {node.domain!r}; possible: standard ONNX")
    if not any(item.outputs):
        raise SparselandError(f"{place.name}: {item} makes nothing")
    for one in node.attribute:
        if one.type == onnx.AttributeProto.TENSOR:
            value: Any = _array(one.t, place)
        elif one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise SparselandError(f"{place.name}: {item} holds a graph of its own ({one.name}); possible: plain ops")
        else:
            value = onnx.helper.get_attribute_value(one)
        item.attrs[one.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return item


def _step(draft: Draft, item: Item) -> None:
    """Fold an item, or append what it becomes."""
    for name in filter(None, item.inputs):
        if name not in draft.constants and name not in draft.values:
            raise SparselandError(f"reads {name!r}, which nothing before it makes")
    for name in filter(None, item.outputs):
        if name in draft.values or name in draft.constants:
            raise SparselandError(f"makes {name!r}, which is there already")
    if item.op == "Constant":
        key, value = next(iter(item.attrs.items()))
        draft.constants[item.outputs[0]] = np.asarray(value, np.float32 if "float" in key else None)
        return
    if item.op == "Shape" and item.inputs[0] not in draft.constants:
        shape = np.broadcast_to(np.False_, draft.shape(item.inputs[0]))  # a shape without memory
        draft.constants[item.outputs[0]] = FOLD["Shape"](item.attrs, [shape])
        return
    xs = [draft.constants.get(name) for name in item.inputs]
    if all(x is not None or not name for x, name in zip(xs, item.inputs, strict=True)):
        made = fold(item.op, item.attrs, xs, len(item.outputs))
        if made is not None:
            draft.constants.update(zip(item.outputs, made, strict=False))
            return
    if item.op not in RULES:
        raise SparselandError(f"the op is not supported. {nearest(item.op, SUPPORTED)}")
    RULES[item.op](draft, item)


def _output(draft: Draft, name: str, place: Path) -> str:
    now = draft.now(name)
    if now in draft.constants and now not in draft.values:
        value = contiguous(draft.constants[now])
        draft.nodes.append(Node("constant", draft.free(now), [], [now], {}, {"value": value}))
        draft.values[now] = Value(value.shape)
    if now not in draft.values:
        raise SparselandError(f"{place.name}: the output {name!r} is made by no node")
    return now


def _graph(draft: Draft, inputs: list[str], outputs: list[str]) -> Graph:
    """The graph, with the values that are still there."""
    alive = {*inputs, *outputs, *(name for node in draft.nodes for name in (*node.inputs, *node.outputs))}
    values = {name: value for name, value in draft.values.items() if name in alive}
    return Graph(inputs, outputs, draft.nodes, values)
