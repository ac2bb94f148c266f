"""Before a byte is written: which form every tensor takes, where it lies, and so the exact size of every file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import torch
from torch import Tensor

from ..core.errors import SparselandError
from .checksum import BLANK_SEAL, BLANK_SUM, seal, seal_of, tensor_sum
from .container import NAME_OF, WORDS, byte_size, compact, header_text, length_of, slot_text
from .forms import Layout, Words, encode, layouts

FORMAT = "sparseland.packed"
VERSION = 2
Fetch = Callable[[str], Tensor]
_SUFFIXES = (".bitmask", ".codes", ".rows", ".columns", ".gaps", ".values")


@dataclass(frozen=True)
class Planned:
    """One tensor: the form it takes, and the name its parts' keys begin with."""

    name: str
    base: str
    dtype: str
    shape: tuple[int, ...]
    layout: Layout

    def entry(self, digest: str = BLANK_SUM) -> dict[str, Any]:
        """What the file's list of tensors says about it."""
        made: dict[str, Any] = {"form": self.layout.form, **self.layout.fields}
        if self.layout.form != "dense":
            made["shape"] = list(self.shape)
        if self.base != self.name:
            made["base"] = self.base
        return made | {"sum": digest}

    def slots(self, at: int) -> list[str]:
        """Its entries in the header, the data beginning at byte ``at``."""
        made = []
        for part in self.layout.parts:
            made.append(slot_text(self.base + part.suffix, part.dtype, part.shape, at, at + part.nbytes))
            at += part.nbytes
        return made

    def cost(self, at: int) -> int:
        """Bytes it adds to the file: data, header, list of tensors."""
        listed = json.dumps(compact({self.name: self.entry()}))  # a text within a text: quotes are escaped
        return self.layout.nbytes + sum(len(text) + 1 for text in self.slots(at)) + len(listed) - 3


@dataclass
class FilePlan:
    """One file: its tensors in order, and the names that are tied to one of them."""

    tensors: list[Planned] = field(default_factory=list)
    listed: dict[str, str] = field(default_factory=dict)  # every name in order -> the tensor it is
    data: int = 0
    bound: int = 400  # the file's size is not above this

    def add(self, tensor: Planned) -> None:
        """Put a tensor behind the others."""
        self.bound += tensor.cost(self.data)
        self.data += tensor.layout.nbytes
        self.tensors.append(tensor)
        self.listed[tensor.name] = tensor.name

    def header(self, sums: Mapping[str, str]) -> bytes:
        """The header; of the same length whatever the sums, its seal still blank."""
        by_name = {tensor.name: tensor for tensor in self.tensors}
        entries = {
            name: by_name[name].entry(sums.get(name, BLANK_SUM)) if of == name else {"same as": of}
            for name, of in self.listed.items()
        }
        metadata = {"format": FORMAT, "version": str(VERSION), "tensors": compact(entries), "sha256": BLANK_SEAL}
        slots, at = [], 0
        for tensor in self.tensors:
            slots += tensor.slots(at)
            at += tensor.layout.nbytes
        return header_text(metadata, slots)

    @property
    def dense(self) -> int:
        """Bytes of its tensors in memory."""
        return sum(byte_size(one.dtype, one.shape) for one in self.tensors)

    def size(self) -> int:
        """Bytes of the file."""
        return 8 + len(self.header({})) + self.data

    def write(self, file: IO[bytes], fetch: Fetch) -> str:
        """Write the file, one tensor in memory at a time; returns its seal."""
        blank = self.header({})
        file.write(length_of(blank) + blank)
        sums = {}
        for tensor in self.tensors:
            parts = encode(tensor.layout, words_of(fetch(tensor.name)), tensor.shape)
            if [part.nbytes for part in parts] != [part.nbytes for part in tensor.layout.parts]:
                raise SparselandError(f"{tensor.name!r} was changed while it was being saved")
            sums[tensor.name] = tensor_sum(parts)
            for part in parts:
                file.write(part.data)
        text = seal(self.header(sums), length_of(blank))
        file.seek(8)
        file.write(text)
        return seal_of(text)


def words_of(tensor: Tensor) -> Words:
    """A tensor's entries in row-major order, as unsigned integers of their width; no copy where none is needed."""
    whole = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    width = whole.element_size()
    made: Words = whole.view(WORDS[width]).numpy().view(f"<u{width}")
    return made


def entries_of(model: torch.nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of what is to be saved.

    Raises:
        SparselandError: an entry that cannot be stored.
    """
    state = model.state_dict() if isinstance(model, torch.nn.Module) else model
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise SparselandError(f"a checkpoint holds tensors by name; entry {name!r} is {type(value).__name__}")
        if value.layout != torch.strided:
            raise SparselandError(f"{name!r} has layout {value.layout}; give it as a dense tensor with zeros")
        if value.is_meta:
            raise SparselandError(f"{name!r} is on the meta device and has no values; load or initialise it first")
    return {name: value.detach() for name, value in state.items()}


def twins(entries: Mapping[str, Tensor]) -> dict[str, str]:
    """The first name under which each tensor's very memory appears."""
    first: dict[tuple[Any, ...], str] = {}
    return {
        name: first.setdefault((t.data_ptr(), t.device, t.dtype, t.shape, t.stride()), name) if t.numel() else name
        for name, t in entries.items()
    }


def plan(
    names: Iterable[str], fetch: Fetch, same: Mapping[str, str] | None = None, most: int | None = None
) -> list[FilePlan]:
    """Choose every tensor's smallest form and share the tensors out over files, in order.

    Parameters:
        names: of all tensors; fetch: name -> tensor, called once for each here and once when it is written.
        same: name -> the name it is tied to (itself if none).
        most: bytes of a file; None: one file. A tensor bigger than that gets a file of its own.

    Raises:
        SparselandError: a type that safetensors does not know, or a name that is no text.
    """
    names = list(names)
    taken = {*names, "__metadata__"}
    files = [FilePlan()]
    home: dict[str, FilePlan] = {}
    for name in names:
        target = same[name] if same else name
        if target != name:
            home[target].listed[name] = target
            continue
        tensor = _planned(name, fetch(name), taken, files[-1].data)
        if most is not None and files[-1].tensors and files[-1].bound + tensor.cost(files[-1].data) > most:
            files.append(FilePlan())
        files[-1].add(tensor)
        home[name] = files[-1]
    return files


def _planned(name: str, tensor: Tensor, taken: set[str], at: int) -> Planned:
    if tensor.dtype not in NAME_OF:
        kinds = ", ".join(sorted(str(dtype) for dtype in NAME_OF))
        raise SparselandError(f"safetensors cannot hold the type {tensor.dtype} of {name!r}; possible: {kinds}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise SparselandError(f"the name {name!r} is no text that can be written: {error.reason}") from error
    shape, dtype = tuple(tensor.shape), NAME_OF[tensor.dtype]
    base = name if name != "__metadata__" else name + "~"
    while any(base + suffix in taken for suffix in _SUFFIXES) or (base != name and base in taken):
        base += "~"
    taken.update(base + suffix for suffix in _SUFFIXES)
    taken.add(base)
    ways = [Planned(name, base, dtype, shape, layout) for layout in layouts(words_of(tensor), shape, dtype)]
    return min(ways, key=lambda way: way.cost(at))
