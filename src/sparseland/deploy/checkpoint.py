"""The packed checkpoint: safetensors in which every tensor takes the smaller of two forms, dense or bitmask + values.

A packed tensor ``w`` is stored as ``w.bitmask`` (one bit per entry in row-major order, lowest bit first, 1 = stored)
and ``w.values`` (the stored entries, in order, in the tensor's own type): N/8 + itemsize · nnz bytes instead of
itemsize · N. Zero means the bit pattern of +0, so that −0.0 and NaN payloads come back as they were. Tensors that
share their memory (tied weights) are stored once. The file is data only; its metadata name the version of the format,
how each tensor is stored, and a SHA-256 of everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import DataNotFound, OutputError, SparselandError
from ..core.mask import pack_bits, unpack_bits

FORMAT = "sparseland.packed"
VERSION = 1
# An integer type of the same width: comparing it with 0 asks for the bit pattern of +0.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save(model: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]) -> int:
    """Write a model's state dict to ``path``, packed; nothing is left behind if that fails.

    Parameters:
        model: a module, or a mapping of names to tensors of any type that safetensors knows.
        path: the file; an existing one is replaced, in one step.

    Returns:
        The size of the file in bytes.

    Raises:
        SparselandError: an entry that is not a tensor, or of a type that safetensors does not know.
        OutputError: the file cannot be written.

    >>> import tempfile
    >>> weight = torch.zeros(100, 100)
    >>> weight[0] = torch.arange(100)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     small = save({"w": weight}, f"{place}/packed.safetensors")
    ...     same = torch.equal(load(f"{place}/packed.safetensors")["w"], weight)
    >>> same, small < dense_bytes({"w": weight}) / 10
    (True, True)
    """
    data = _encode(_entries(model))
    _write(Path(path).expanduser(), data)
    return len(data)


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a packed file back into the state dict it was made from, bit by bit.

    Tied tensors come back as one tensor under their names.

    Raises:
        DataNotFound: no such file.
        SparselandError: damaged, cut short, of a later version, or not a packed file.
    """
    from safetensors import SafetensorError, safe_open

    place = _existing(path)
    try:
        with safe_open(place, framework="pt") as file:
            metadata = file.metadata() or {}
            index = _index(place, metadata)
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise SparselandError(f"{place} is damaged, cut short or no safetensors file: {error}") from error
    if _checksum(stored, metadata["tensors"]) != metadata.get("sha256"):
        raise SparselandError(f"{place} is damaged: its SHA-256 is not the one that was written with it")
    try:
        return _restore(index, stored)
    except (KeyError, TypeError, RuntimeError, IndexError, SparselandError) as error:
        raise SparselandError(f"{place} contradicts itself: {type(error).__name__}: {error}") from error


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file is a packed one (of any version).

    Raises:
        DataNotFound: no such file.
        SparselandError: not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    place = _existing(path)
    try:
        with safe_open(place, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError) as error:
        raise SparselandError(f"{place} is damaged, cut short or no safetensors file: {error}") from error


def packed_bytes(model: nn.Module | Mapping[str, Tensor]) -> int:
    """The size in bytes of the file that `save` would write, exactly.

    >>> packed_bytes({"w": torch.zeros(1000)}) < dense_bytes({"w": torch.zeros(1000)}) == 4000
    True
    """
    return len(_encode(_entries(model)))


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's smaller form, without its entry in the file's header: min(itemsize N, itemsize nnz + N / 8).

    >>> tensor_bytes(torch.eye(8)), tensor_bytes(torch.ones(8, 8))
    (40, 256)
    """
    plain = tensor.detach().cpu().contiguous()
    packed = sum(part.numel() * part.element_size() for part in _pack(plain).values())
    return min(plain.numel() * plain.element_size(), packed)


def dense_bytes(model: nn.Module | Mapping[str, Tensor]) -> int:
    """Σ itemsize · N over the tensors of a state dict, tied ones counted once."""
    entries = _entries(model)
    return sum(t.numel() * t.element_size() for name, t in entries.items() if _twins(entries)[name] == name)


def _entries(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = model.state_dict() if isinstance(model, nn.Module) else model
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise SparselandError(f"a checkpoint holds tensors by name; entry {name!r} is {type(value).__name__}")
        if value.layout != torch.strided:
            raise SparselandError(f"{name!r} has layout {value.layout}; give it as a dense tensor with zeros")
    return {name: value.detach() for name, value in state.items()}


def _twins(entries: Mapping[str, Tensor]) -> dict[str, str]:
    """The first name under which each tensor's very memory appears."""
    first: dict[tuple[Any, ...], str] = {}
    return {
        name: first.setdefault((t.data_ptr(), t.device, t.dtype, t.shape, t.stride()), name) if t.numel() else name
        for name, t in entries.items()
    }


def _encode(entries: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save as to_bytes

    stored: dict[str, Tensor] = {}
    index: dict[str, dict[str, Any]] = {}
    twins = _twins(entries)
    for name, tensor in entries.items():
        if twins[name] != name:
            index[name] = {"same as": twins[name]}
            continue
        plain = tensor.cpu().contiguous()
        packed = _pack(plain)
        taken = f"{name}.bitmask" in entries or f"{name}.values" in entries
        if taken or _cost(name, {"": plain}) <= _cost(name, packed):
            index[name] = {}
            stored[name] = plain.clone()  # a clone, because safetensors refuses tensors that share memory
        else:
            index[name] = {"shape": list(plain.shape)}
            stored |= {name + key: part for key, part in packed.items()}
    text = json.dumps(index, separators=(",", ":"))
    metadata = {"format": FORMAT, "version": str(VERSION), "tensors": text, "sha256": _checksum(stored, text)}
    try:
        data: bytes = to_bytes(stored, metadata)
    except (KeyError, ValueError) as error:
        types = ", ".join(sorted({str(t.dtype) for t in entries.values()}))
        raise SparselandError(f"safetensors cannot hold one of the types {types}: {error}") from error
    return data


def _cost(name: str, parts: Mapping[str, Tensor]) -> int:
    """Bytes in the file: the data, and about what the header says of them."""
    header = sum(len(name) + len(key) + 60 for key in parts)
    return header + sum(part.numel() * part.element_size() for part in parts.values())


def _pack(tensor: Tensor) -> dict[str, Tensor]:
    flat = tensor.reshape(-1)
    alive = flat.view(_BITS[flat.element_size()]) != 0 if flat.element_size() in _BITS else torch.ones_like(flat) != 0
    return {".bitmask": pack_bits(alive), ".values": flat[alive]}


def _restore(index: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, entry in index.items():
        if "same as" in entry:
            state[name] = state[entry["same as"]]
        elif "shape" in entry:
            state[name] = _unpack(stored[f"{name}.bitmask"], stored[f"{name}.values"], entry["shape"], name)
        else:
            state[name] = stored[name]
    return state


def _unpack(bits: Tensor, values: Tensor, shape: list[int], name: str) -> Tensor:
    alive = unpack_bits(bits, shape, name)
    if int(alive.sum()) != values.numel():
        raise SparselandError(f"{name!r} has {int(alive.sum())} bits set for {values.numel()} values")
    flat = torch.zeros(alive.numel(), dtype=values.dtype)
    flat[alive.view(-1)] = values
    return flat.view(shape)


def _index(place: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    if metadata.get("format") != FORMAT:
        raise SparselandError(f"{place} is a plain safetensors file, not a packed one; read it with safetensors")
    version = metadata.get("version", "")
    if version != str(VERSION):
        raise SparselandError(
            f"{place} has version {version!r} of the format {FORMAT}; this library reads version {VERSION}: update it"
        )
    try:
        index: dict[str, dict[str, Any]] = json.loads(metadata["tensors"])
    except (KeyError, ValueError) as error:
        raise SparselandError(f"{place} is damaged: its list of tensors cannot be read ({error})") from error
    return index


def _checksum(stored: Mapping[str, Tensor], index: str) -> str:
    sha = hashlib.sha256(index.encode())
    for key in sorted(stored):
        tensor = stored[key]
        sha.update(f"{key}{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor.numel():
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _write(place: Path, data: bytes) -> None:
    """All of it under a temporary name, then renamed."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        os.replace(temporary, place)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {place}: {error.strerror or error}") from error
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _existing(path: str | os.PathLike[str]) -> Path:
    place = Path(path).expanduser()
    if not place.is_file():
        raise DataNotFound(f"no file {place}")
    return place
