"""The packed checkpoint: safetensors in which every tensor takes the smallest of several forms.

`sparseland.deploy.forms` lists the forms and the bytes each takes; the choice counts what the header needs as well.
Zero means the bit pattern of +0, so that −0.0 and NaN payloads come back as they were. Tensors that share their memory
(tied weights) are stored once.

A file is data only. Its metadata name the format and its version, list every tensor with its form and the CRC-32 of
its bytes, and seal the whole header with a SHA-256. A checkpoint in shards has an index that carries the
shards' seals and is sealed as well. Saving holds one tensor in memory at a time, loading one tensor per thread; a save
that is killed leaves the old checkpoint as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import DataNotFound, SparselandError, nearest
from ..files import clear, write_file
from .container import NAME_OF, TYPES, Reader
from .forms import layouts
from .planning import FORMAT, Fetch, FilePlan, entries_of, plan, twins, words_of
from .reading import PackedFile, Stored, each, write_into
from .sharding import INDEX, SINGLE, Shard, byte_count, find, index_text, save_shards, shard_names


def save(
    model: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str], *, shard_bytes: int | str | None = None,
    dtype: torch.dtype | None = None,
) -> int:  # fmt: skip
    """Write a model's state dict to ``path``, packed; nothing is left behind if that fails.

    Parameters:
        model: a module, or a mapping of names to tensors of any type that safetensors knows.
        path: the file, or with ``shard_bytes`` the folder; an existing checkpoint is replaced, in one step.
        shard_bytes: the most that a file may take, as in ``"2GB"``; a bigger tensor gets a file of its own.
        dtype: store floating-point tensors in this type.

    Returns:
        The size of the file, or of all files, in bytes.

    Raises:
        SparselandError: an entry that is not a tensor, or of a type that safetensors does not know.
        OutputError: a file cannot be written.

    >>> import tempfile
    >>> weight = torch.zeros(100, 100)
    >>> weight[0] = torch.arange(100)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     small = save({"w": weight}, f"{place}/packed.safetensors")
    ...     same = torch.equal(load(f"{place}/packed.safetensors")["w"], weight)
    >>> same, small < dense_bytes({"w": weight}) / 10
    (True, True)
    """
    entries, fetch, files = _planned(model, shard_bytes, dtype)
    place = Path(path).expanduser()
    if shard_bytes is not None:
        return save_shards(place, files, fetch, list(entries))
    write_file(place, lambda file: files[0].write(file, fetch))
    clear(place)
    return files[0].size()


def packed_bytes(
    model: nn.Module | Mapping[str, Tensor], *, shard_bytes: int | str | None = None, dtype: torch.dtype | None = None
) -> int:
    """The size in bytes of what `save` would write, exactly.

    >>> packed_bytes({"w": torch.zeros(1000)}) < dense_bytes({"w": torch.zeros(1000)}) == 4000
    True
    """
    entries, _, files = _planned(model, shard_bytes, dtype)
    if shard_bytes is None:
        return files[0].size()
    blank = ["0" * 64] * len(files)
    index = index_text(files, shard_names(len(files)), blank, entries)
    return sum(file.size() for file in files) + len(index)


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of data of a tensor's smallest form, without what the header says of it.

    >>> tensor_bytes(torch.eye(8)), tensor_bytes(torch.ones(8, 8))
    (35, 256)
    """
    if tensor.dtype not in NAME_OF:
        return tensor.numel() * tensor.element_size()
    return min(one.nbytes for one in layouts(words_of(tensor), tuple(tensor.shape), NAME_OF[tensor.dtype]))


def dense_bytes(model: nn.Module | Mapping[str, Tensor]) -> int:
    """Σ itemsize · N over the tensors of a state dict, tied ones counted once.

    >>> weight = torch.ones(3, 4)
    >>> dense_bytes({"a": weight, "tied": weight})
    48
    """
    entries = entries_of(model)
    own = [name for name, of in twins(entries).items() if of == name]
    return sum(entries[name].numel() * entries[name].element_size() for name in own)


def _planned(
    model: nn.Module | Mapping[str, Tensor], shard_bytes: int | str | None, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], Fetch, list[FilePlan]]:
    entries = entries_of(model)
    if dtype is not None and not dtype.is_floating_point:
        raise SparselandError(f"dtype={dtype}: floating-point tensors are stored in a floating-point type")

    def fetch(name: str) -> Tensor:
        tensor = entries[name]
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    most = None if shard_bytes is None else byte_count(shard_bytes)
    return entries, fetch, plan(entries, fetch, twins(entries), most)


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a packed file, or a folder of shards, back into the state dict it was made from, bit by bit.

    Tied tensors come back as one tensor under their names.

    Raises:
        DataNotFound: no such file, or a shard is missing.
        SparselandError: damaged, cut short, of a later version, or not a packed file.
    """
    shards, order = find(path)
    state: dict[str, Tensor] = {}
    for shard in shards:
        with opened(shard) as file:
            state |= file.state()
    return {name: state[name] for name in order} if order else state


def load_shards(path: str | os.PathLike[str]) -> Iterator[dict[str, Tensor]]:
    """The state dict in pieces: one dict per shard, read when it is asked for.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = save({"a": torch.ones(1000), "b": torch.ones(1000)}, place, shard_bytes=5000)
    ...     [list(piece) for piece in load_shards(place)]
    [['a'], ['b']]
    """
    for shard in find(path)[0]:
        with opened(shard) as file:
            yield file.state()


def load_into(model: nn.Module, path: str | os.PathLike[str], *, strict: bool = True) -> nn.Module:
    """Fill a model from a packed checkpoint, in place, with at most one packed shard in memory beside it.

    Everything is checked before the model is touched: names and shapes from the headers, then the sums and the content
    of every tensor. Types may differ; values are converted as ``Tensor.copy_`` does.

    Parameters:
        strict: the names must be exactly the model's; else those that both have are loaded.

    Raises:
        DataNotFound, SparselandError: as in `load`, or the checkpoint does not fit; the model is as it was.

    >>> import tempfile
    >>> one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = save(one, f"{place}/packed.safetensors")
    ...     torch.equal(load_into(two, f"{place}/packed.safetensors").weight, one.weight)
    True
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    shards, _ = find(path)
    with ExitStack() as stack:
        files = [stack.enter_context(opened(shard)) for shard in shards]
        here = {name: file.tensors[of] for file in files for name, of in file.listed.items()}
        _fit(own, here, strict, f"{path} does not fit {type(model).__name__}")
        jobs = [
            (file, one, names) for file in files for one in file.tensors.values() if (names := _wanted(file, one, own))
        ]
        each(lambda job: _checked(*job[:2]), jobs)

        def write(job: tuple[PackedFile, Stored, list[Tensor]]) -> None:
            file, stored, targets = job
            words = file.parts(stored)  # read again: the file is in the system's cache, and no second copy is held
            for target in targets:
                write_into(target, stored, words, lambda: file.tensor(stored, words))

        each(write, jobs)
    return model


def _wanted(file: PackedFile, stored: Stored, own: Mapping[str, Tensor]) -> list[Tensor]:
    """The model's tensors that one stored tensor fills, each piece of memory once."""
    named = {name: own[name] for name, of in file.listed.items() if of == stored.name and name in own}
    return [tensor for name, tensor in named.items() if twins(named)[name] == name]


def _checked(file: PackedFile, stored: Stored) -> None:
    file.parts(stored)


def _fit(own: Mapping[str, Tensor], here: Mapping[str, Stored], strict: bool, says: str) -> None:
    both = [name for name in own if name in here]
    wrong = [name for name in both if tuple(own[name].shape) != here[name].shape]
    if wrong:
        name = wrong[0]
        raise SparselandError(
            f"{says}: {name!r} is {tuple(own[name].shape)} in the model, {here[name].shape} in the file"
        )
    missing, extra = [name for name in own if name not in here], [name for name in here if name not in own]
    if strict and missing:
        raise SparselandError(f"{says}: the file lacks {_some(missing)}; {nearest(missing[0], here)}")
    if strict and extra:
        raise SparselandError(f"{says}: the model has no {_some(extra)}; {nearest(extra[0], own)}")
    if not both:
        raise SparselandError(f"{says}: they have no name in common")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def opened(shard: Shard) -> PackedFile:
    """Open a shard and compare it with what its index says.

    Raises:
        SparselandError: it is damaged, or another file.
    """
    file = PackedFile(shard.place)
    about = (file.size, file.seal, set(file.listed))
    if shard.seal is not None and about != (shard.size, shard.seal, set(shard.names)):
        file.__exit__()
        raise SparselandError(
            f"{shard.place} is not the shard that its index speaks of: damaged, swapped or of another save"
        )
    return file


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file is a packed one (of any version), or a folder or an index is that of packed shards.

    Raises:
        DataNotFound: no such file.
        SparselandError: not a safetensors file.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return (place / INDEX).is_file() or (place / SINGLE).is_file()
    if not place.is_file():
        raise DataNotFound(f"no file {place}")
    if place.suffix == ".json":
        return place.name == INDEX
    with Reader(place) as reader:
        return reader.header.metadata.get("format") == FORMAT


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a packed checkpoint: its form, and its bytes in memory and on disk (0 for the tied)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    form: str
    dense: int
    stored: int
    file: str


@dataclass(frozen=True)
class Info:
    """A packed checkpoint without its values: format version, files, and its tensors in order."""

    version: int
    files: tuple[str, ...]
    bytes: int
    tensors: tuple[TensorInfo, ...]

    @property
    def dense(self) -> int:
        """Bytes of the tensors in memory, tied ones once."""
        return sum(one.dense for one in self.tensors if one.form != "tied")


def describe(path: str | os.PathLike[str]) -> Info:
    """What a packed checkpoint holds, read from its headers alone.

    Raises:
        DataNotFound, SparselandError: as in `load`; the values themselves are not checked.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = save({"w": torch.eye(64)}, f"{place}/packed.safetensors")
    ...     [(one.name, one.form, one.dense, one.stored) for one in describe(f"{place}/packed.safetensors").tensors]
    [('w', 'csr', 16384, 320)]
    """
    shards, order = find(path)
    found: dict[str, TensorInfo] = {}
    version, total = 0, 0
    for shard in shards:
        with opened(shard) as file:
            version, total = file.version, total + file.size
            for name, of in file.listed.items():
                one = file.tensors[of]
                form = "tied" if of != name else _form(one)
                stored = 0 if of != name else one.layout.nbytes
                kind = str(TYPES[one.dtype]).removeprefix("torch.")
                found[name] = TensorInfo(name, kind, one.shape, form, one.dense, stored, shard.place.name)
    if order:
        place = Path(path).expanduser()
        total += (place / INDEX if place.is_dir() else place).stat().st_size
    return Info(version, tuple(s.place.name for s in shards), total, tuple(found[n] for n in (order or found)))


def _form(stored: Stored) -> str:
    fields = stored.layout.fields
    return f"nm {fields['keep']}:{fields['of']}" if stored.layout.form == "nm" else stored.layout.form
