"""The safetensors container: eight bytes of length, a JSON header, raw little-endian data without holes.

Written here and not by the library of that name because the parts of a packed tensor are streamed one tensor at a time;
read here because every number in the header is checked before anything is allocated. Any reader of safetensors reads
these files.
"""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import SparselandError

LONGEST = 100_000_000  # bytes of header; the limit of safetensors itself
_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16",
    "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
TYPES: dict[str, torch.dtype] = {name: getattr(torch, own) for name, own in _NAMES.items() if hasattr(torch, own)}
NAME_OF: dict[torch.dtype, str] = {dtype: name for name, dtype in TYPES.items()}
WIDTH: dict[str, int] = {name: dtype.itemsize for name, dtype in TYPES.items()}
# An integer type of the same width: comparing it with 0 asks for the bit pattern of +0.
WORDS: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# What a contradictory file may run into; RuntimeError is torch's, RecursionError one of its kinds.
ERRORS = (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Slot:
    """One entry of a header: type, shape, and where its bytes lie in the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A file's header as read: metadata, slots by key, where the data begin, and the raw text."""

    metadata: dict[str, str]
    slots: dict[str, Slot]
    data: int
    text: bytes
    size: int


def length_of(text: bytes) -> bytes:
    """The eight bytes before a header."""
    return struct.pack("<Q", len(text))


def slot_text(key: str, dtype: str, shape: Sequence[int], start: int, end: int) -> str:
    """One entry of a header, as it is written."""
    return f'{json.dumps(key)}:{{"dtype":"{dtype}","shape":{compact(list(shape))},"data_offsets":[{start},{end}]}}'


def header_text(metadata: Mapping[str, str], slots: Iterable[str]) -> bytes:
    """A header, padded with spaces to a multiple of 8 so that the data are aligned.

    >>> len(header_text({"format": "pt"}, [slot_text("w", "F32", (2, 3), 0, 24)])) % 8
    0
    """
    text = "{" + ",".join([f'"__metadata__":{compact(dict(metadata))}', *slots]) + "}"
    return text.encode() + b" " * (-len(text) % 8)


def compact(data: Any) -> str:
    """JSON without a space."""
    return json.dumps(data, separators=(",", ":"))


def byte_size(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor in memory.

    >>> byte_size("F32", (2, 3))
    24
    """
    return math.prod(shape) * WIDTH[dtype]


def as_tensor(words: np.ndarray[Any, Any], dtype: str, shape: Sequence[int]) -> torch.Tensor:
    """Words of a type's width, in row-major order, as the tensor they are; the memory is shared.

    >>> as_tensor(np.array([0, 1065353216], np.uint32), "F32", (2, 1)).tolist()
    [[0.0], [1.0]]
    """
    kind = str(WORDS[WIDTH[dtype]]).removeprefix("torch.")
    return torch.from_numpy(words.view(kind)).view(TYPES[dtype]).reshape(tuple(shape))


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: a dict in which no name stands twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


class _Scratch(threading.local):
    """Memory that a thread reads into again and again, whichever file; given back when a file is closed."""

    def __init__(self) -> None:
        self.memory: np.ndarray[Any, Any] = np.empty(0, np.uint8)

    @property
    def size(self) -> int:
        """Bytes of it."""
        return int(self.memory.size)


_scratch = _Scratch()


class Reader:
    """An open safetensors file whose header has been checked; threads may read from it at once.

    Raises:
        SparselandError: the file is no safetensors file, damaged or cut short.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._lock = threading.Lock()
        try:
            self._file = open(place, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise SparselandError(f"cannot read {place}: {error.strerror or error}") from error
        try:
            self.header = self._header()
        except (*ERRORS, OSError) as error:
            self._file.close()
            raise SparselandError(f"{place} is damaged, cut short or no safetensors file: {error}") from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        _scratch.memory = np.empty(0, np.uint8)

    def _header(self) -> Header:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        first = self._file.read(8) or b""
        if len(first) < 8:
            raise ValueError(f"it has {size} bytes, a header's length takes 8")
        length = struct.unpack("<Q", first)[0]
        if length > min(size - 8, LONGEST):
            raise ValueError(f"its header would take {length:,} bytes of {size:,}")
        text = bytearray(length)
        self._fill(memoryview(text))
        whole = json.loads(text.decode(), object_pairs_hook=unique)
        if not isinstance(whole, dict):
            raise ValueError("its header is no JSON object")
        metadata = whole.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are not texts by name")
        slots = {key: _slot(key, entry) for key, entry in whole.items()}
        _without_holes(slots, size - 8 - length)
        return Header(metadata, slots, 8 + length, bytes(text), size)

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):  # one call reads at most 2 GiB
            got = self._file.readinto(view[done:])
            if not got:
                raise ValueError(f"{len(view) - done:,} bytes are missing at its end")
            done += got

    def into(self, slot: Slot, target: np.ndarray[Any, Any]) -> None:
        """Read a slot's bytes into a contiguous array of as many."""
        with self._lock:
            try:
                self._file.seek(self.header.data + slot.start)
                self._fill(target.view(np.uint8).data)  # 1-D
            except (OSError, ValueError) as error:
                raise SparselandError(f"{self.place} is damaged, cut short or no safetensors file: {error}") from error

    def array(self, slot: Slot) -> np.ndarray[Any, Any]:
        """A slot's words: unsigned integers of its type's width, one per entry."""
        made: np.ndarray[Any, Any] = np.empty(math.prod(slot.shape), f"<u{WIDTH[slot.dtype]}")
        self.into(slot, made)
        return made

    def passing(self, slots: Sequence[Slot]) -> list[np.ndarray[Any, Any]]:
        """As `array` of each, in memory that the next call from the same thread writes over.

        Memory fresh from the system is handed out page by page, which takes longer than reading the file into it.
        """
        starts = [0]
        for slot in slots:
            starts.append(starts[-1] + -(-(slot.end - slot.start) // 64) * 64)
        if _scratch.size < starts[-1]:
            _scratch.memory = np.empty(starts[-1], np.uint8)
        made = []
        for start, slot in zip(starts, slots, strict=False):
            words = _scratch.memory[start : start + slot.end - slot.start].view(f"<u{WIDTH[slot.dtype]}")
            self.into(slot, words)
            made.append(words)
        return made


def _slot(key: str, entry: Any) -> Slot:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in TYPES:
        raise ValueError(f"{key!r} has type {dtype!r}; possible: {', '.join(sorted(TYPES))}")
    numbers = [*shape, *offsets]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"{key!r} has shape {shape} and offsets {offsets}")
    if math.prod(shape) * WIDTH[dtype] != offsets[1] - offsets[0]:
        raise ValueError(f"{key!r}: shape {shape} of {dtype} does not take bytes {offsets[0]} to {offsets[1]}")
    return Slot(dtype, tuple(shape), offsets[0], offsets[1])


def _without_holes(slots: Mapping[str, Slot], size: int) -> None:
    at = 0
    for key, slot in sorted(slots.items(), key=lambda item: (item[1].start, item[1].end)):
        if slot.start != at:
            raise ValueError(f"{key!r} begins at byte {slot.start:,} of the data, not at {at:,}")
        at = slot.end
    if at != size:
        raise ValueError(f"its header speaks of {at:,} bytes of data, there are {size:,}")
