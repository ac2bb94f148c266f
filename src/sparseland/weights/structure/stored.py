"""A shrunk network in one file: safetensors, with the plans as JSON in its header. Nothing in it is executed."""

from __future__ import annotations

import ctypes
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError, TargetError
from ...files import write_file
from ..targets import plain_module
from . import surgery
from .plan import Plan

KEY = "sparseland.structure"
LONGEST = 100_000_000  # bytes of header; the limit of safetensors itself
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def save(model: nn.Module, plans: Plan | Sequence[Plan], path: str | os.PathLike[str]) -> None:
    """Write a shrunk network and the plans that made it, in the order in which they were applied.

    Raises:
        SparselandError: an entry of the state is no tensor. OutputError: the disk refuses; an old file is as it was.

    >>> import tempfile, copy
    >>> import sparseland.weights.structure as structure
    >>> whole = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> graph = structure.trace(whole, torch.zeros(1, 4))
    >>> plan = graph.plan(scores=graph.random(), ratio=0.5)
    >>> small = plan.apply(copy.deepcopy(whole))
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save(small, plan, place + "/small.safetensors")
    ...     again = load(copy.deepcopy(whole), place + "/small.safetensors")
    >>> torch.equal(again[0].weight, small[0].weight), again[2].in_features
    (True, 4)
    """
    plans = [plans] if isinstance(plans, Plan) else list(plans)
    entries: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in plain_module(model).state_dict().items():
        if not isinstance(tensor, Tensor) or tensor.dtype not in DTYPES.values():
            raise SparselandError(f"{name!r} is {getattr(tensor, 'dtype', type(tensor).__name__)}: not for this file")
        mark = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and mark in first:
            same[name] = first[mark]
        else:
            entries[name] = tensor
            first[mark] = name
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {
        "__metadata__": {KEY: json.dumps({"plans": [plan.to_dict() for plan in plans], "same": same})}
    }
    offset = 0
    for name, tensor in entries.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def write(file: Any) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in entries.values():
            plain = tensor.detach().cpu().contiguous()
            file.write(ctypes.string_at(plain.data_ptr(), plain.numel() * plain.element_size()))

    write_file(Path(path), write)


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Shrink an unpruned network as the file says and give it the file's weights, in place; returns it.

    Raises:
        SparselandError: no such file, damaged, or without plans. TargetError: another network; it is unchanged then.
    """
    model = plain_module(model)
    tensors, data = _read(Path(path))
    plans = [Plan.from_dict(plan) for plan in data["plans"]]
    for name, other in data["same"].items():
        tensors[name] = tensors[other]
    _check(model, plans, tensors, path)
    for plan in plans:
        plan.apply(model)
    model.load_state_dict(tensors, strict=True)
    return model


def _check(model: nn.Module, plans: Sequence[Plan], tensors: dict[str, Tensor], path: object) -> None:
    """Raise TargetError, before anything is changed, if the weights will not fit."""
    known = {id(t): name for name, t in reversed(surgery.tensors_by_name(model).items())}
    shapes = {name: list(tensor.shape) for name, tensor in surgery.tensors_by_name(model).items()}
    first = {name: known[id(t)] for name, t in surgery.tensors_by_name(model).items()}
    for plan in plans:
        for cut in plan.cuts:
            shape = shapes.get(first.get(cut.name, ""))
            if shape is None or cut.dim >= len(shape) or shape[cut.dim] != cut.left.numel():
                raise TargetError(
                    f"{path} cuts dimension {cut.dim} of {cut.name!r} from {cut.left.numel()} units; it is "
                    f"{'not there' if shape is None else shape} in this {type(model).__name__}"
                )
            shape[cut.dim] = int(cut.left.sum())
    wanted = {name: shapes.get(first.get(name, "")) for name in model.state_dict()}
    for name in wanted.keys() ^ tensors.keys():
        where = "the file" if name in tensors else "the network"
        raise TargetError(f"{name!r} is only in {where}: {path} was made of another network")
    for name, sizes in wanted.items():
        if sizes is not None and list(tensors[name].shape) != sizes:
            raise TargetError(f"{name!r} is {list(tensors[name].shape)} in {path} and {sizes} in the shrunk network")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        if not 2 <= length <= min(LONGEST, len(raw) - 8):
            raise ValueError(f"a header of {length} bytes in a file of {len(raw)}")
        header = json.loads(raw[8 : 8 + length])
        data = json.loads(header.pop("__metadata__", {}).get(KEY, "null"))
        if not isinstance(data, dict):
            raise ValueError("no plan of sparseland's structure in the header")
        tensors = {name: _tensor(raw, 8 + length, entry) for name, entry in header.items()}
        if not all(other in tensors and name not in tensors for name, other in data["same"].items()):
            raise ValueError("names of shared tensors that are not there")
        return tensors, {"plans": list(data["plans"]), "same": dict(data["same"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise SparselandError(f"{path} cannot be loaded as a shrunk network: {error}") from error


def _tensor(raw: bytes, base: int, entry: Any) -> Tensor:
    dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    sizes = [int(n) for n in shape]
    wanted = math.prod(sizes) * torch.empty((), dtype=dtype).element_size()
    if min(sizes, default=0) < 0 or not 0 <= start <= end <= len(raw) - base or end - start != wanted:
        raise ValueError(f"an entry of shape {sizes} from byte {start} to {end}")
    if start == end:
        return torch.empty(sizes, dtype=dtype)
    return torch.frombuffer(bytearray(raw[base + start : base + end]), dtype=dtype).reshape(sizes)
