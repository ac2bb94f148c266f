"""Reading a packed file: the seal first, then every number of its list, then tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..core.errors import SparselandError
from . import version1
from .checksum import is_sealed, seal_of, tensor_sum
from .container import ERRORS, TYPES, WIDTH, WORDS, Reader, Slot, as_tensor, byte_size, length_of, unique
from .decoding import check, decode, rebuild
from .forms import Layout, Words
from .planning import FORMAT, VERSION

T = TypeVar("T")
S = TypeVar("S")
# What a form's parts are called, the values last.
_PARTS = {"dense": ("",), "bitmask": (".bitmask", ".values"), "nm": (".codes", ".values"),
          "absolute": (".rows", ".columns", ".values"), "gaps": (".gaps", ".values")}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: type, shape, form, and where its parts are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: Layout
    slots: tuple[Slot, ...]
    sum: str | None  # None: version 1, whose only sum is over the whole file

    @property
    def dense(self) -> int:
        """Bytes of the tensor in memory."""
        return byte_size(self.dtype, self.shape)


class PackedFile:
    """An open packed file whose seal and list of tensors have been checked.

    Raises:
        SparselandError: damaged, of a later version, not packed, or its list contradicts its header.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._reader = Reader(place)
        try:
            metadata = self._reader.header.metadata
            self.version = _version(place, metadata)
            self.seal = self._sealed()
            self.tensors: dict[str, Stored] = {}
            self.listed: dict[str, str] = {}  # every name in order -> the tensor it is
            self._guarded("", self._list, metadata)
            if self.version == 1:
                self._guarded("", version1.verify, self._reader)
        except BaseException:
            self._reader.__exit__()
            raise

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._reader.header.size

    def _sealed(self) -> str:
        text = self._reader.header.text
        if self.version > 1 and not is_sealed(text, length_of(text)):
            raise SparselandError(
                f"{self.place} is damaged: its header's SHA-256 is not the one that was written with it"
            )
        return seal_of(text)

    def _list(self, metadata: Mapping[str, str]) -> None:
        entries = json.loads(metadata["tensors"], object_pairs_hook=unique)
        unused = set(self._reader.header.slots)
        for name, entry in entries.items():
            if "same as" in entry:
                self.listed[name] = entry["same as"]
                continue
            whole = version1.entry(entry) if self.version == 1 else entry
            self.tensors[name] = self._stored(name, whole, unused)
            self.listed[name] = name
        lost = [name for name, of in self.listed.items() if of not in self.tensors]
        if lost or unused:
            raise ValueError(f"{lost or sorted(unused)} belong to no tensor")

    def _stored(self, name: str, entry: Mapping[str, Any], unused: set[str]) -> Stored:
        base, slots = entry.get("base", name), self._reader.header.slots
        keys = [base + suffix for suffix in _PARTS[entry["columns" if entry["form"] == "csr" else "form"]]]
        for key in keys:
            unused.remove(key)  # KeyError: absent, or claimed twice
        parts = tuple(slots[key] for key in keys)
        shape = tuple(entry["shape"]) if entry["form"] != "dense" else parts[-1].shape
        if not all(type(side) is int and 0 <= side < 2**63 for side in shape) or len(shape) > 64:
            raise ValueError(f"{name!r} has shape {shape}")
        layout = rebuild(entry, shape, parts[-1].dtype, parts[-1].shape[0] if entry["form"] != "dense" else 0)
        wanted = [(part.dtype, part.shape) for part in layout.parts]
        if wanted != [(slot.dtype, slot.shape) for slot in parts]:
            raise ValueError(f"{name!r} of shape {shape} as {entry['form']} needs parts {wanted}, not {parts}")
        if self.version > 1 and type(entry["sum"]) is not str:
            raise ValueError(f"{name!r} has no sum")
        return Stored(name, parts[-1].dtype, shape, layout, parts, entry.get("sum"))

    def _guarded(self, name: str, call: Callable[..., T], *given: Any) -> T:
        try:
            return call(*given)
        except SparselandError as error:
            if str(self.place) in str(error):
                raise
            raise SparselandError(f"{self.place} contradicts itself: {name} {error}") from error
        except ERRORS as error:
            raise SparselandError(f"{self.place} contradicts itself: {name} {type(error).__name__}: {error}") from error

    def parts(self, stored: Stored) -> list[Words]:
        """A tensor's parts, their sum compared and their content checked; good until this thread's next call.

        Raises:
            SparselandError: the bytes are not those that were written, or contradict each other.
        """
        return self._checked(stored, self._reader.passing)

    def _checked(self, stored: Stored, read: Callable[[Sequence[Slot]], list[Words]]) -> list[Words]:
        found = self._guarded(stored.name, read, stored.slots)
        if stored.sum is not None and tensor_sum(found) != stored.sum:
            raise SparselandError(
                f"{self.place} is damaged: the CRC-32 of {stored.name!r} is not the one that was written with it"
            )
        self._guarded(stored.name, check, stored.layout, stored.shape, found)
        return found

    def tensor(self, stored: Stored, parts: list[Words] | None = None) -> Tensor:
        """A tensor of its own memory."""
        if parts is None and stored.layout.form == "dense":  # what is read is the tensor
            return self._guarded(stored.name, _tensor, stored, self._checked(stored, self._apart))
        found = self.parts(stored) if parts is None else parts
        return self._guarded(stored.name, _tensor, stored, found)

    def _apart(self, slots: Sequence[Slot]) -> list[Words]:
        return [self._reader.array(slot) for slot in slots]

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, tied ones as one tensor under their names."""
        made = dict(zip(self.tensors, each(self.tensor, self.tensors.values()), strict=True))
        return {name: made[of] for name, of in self.listed.items()}


def _tensor(stored: Stored, parts: list[Words]) -> Tensor:
    width = WIDTH[stored.dtype]
    if stored.layout.form == "dense":
        words = parts[0]
    else:
        words = np.zeros(stored.dense // width, f"<u{width}")  # zeros from the system are not written twice
        decode(stored.layout, stored.shape, parts, words, zeroed=True)
    return as_tensor(words, stored.dtype, stored.shape)


def write_into(target: Tensor, stored: Stored, parts: list[Words], made: Callable[[], Tensor]) -> None:
    """Overwrite a tensor, in its own memory where type and layout allow that."""
    if target.device.type == "cpu" and target.dtype == TYPES[stored.dtype] and target.is_contiguous():
        width = WIDTH[stored.dtype]
        own: Words = target.detach().reshape(-1).view(WORDS[width]).numpy().view(f"<u{width}")
        decode(stored.layout, stored.shape, parts, own)
    else:
        with torch.no_grad():
            target.copy_(made())


def each(call: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """``call`` on every item, on as many threads as torch uses; results in order."""
    whole = list(items)
    workers = min(torch.get_num_threads(), len(whole))
    if workers < 2:
        return [call(item) for item in whole]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, whole))


def _version(place: Path, metadata: Mapping[str, str]) -> int:
    if metadata.get("format") != FORMAT:
        raise SparselandError(f"{place} is a plain safetensors file, not a packed one; read it with safetensors")
    version = metadata.get("version", "")
    if version not in [str(known) for known in range(1, VERSION + 1)]:
        raise SparselandError(
            f"{place} has version {version!r} of the format {FORMAT}; this library reads versions 1 to {VERSION}: "
            "update it"
        )
    return int(version)
