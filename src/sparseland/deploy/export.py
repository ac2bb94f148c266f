"""From one way of storing weights to another: packed to plain safetensors and back, files or whole model folders.

A plain file is what Hugging Face's ``save_pretrained`` writes: tensors under their names and the metadata
``{"format": "pt"}``, nothing about sparsity. Tied tensors are written out under each of their names. Of a folder, what
is not weights (config.json, the tokenizer's files) is copied. One tensor is in memory at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO

from torch import Tensor

from ..core.errors import DataNotFound, OutputError, SparselandError
from ..files import write_file, write_folder
from .checkpoint import is_packed, opened
from .container import ERRORS, Reader, Slot, as_tensor, byte_size, header_text, length_of, slot_text, unique
from .planning import Fetch, plan, words_of
from .sharding import INDEX, SINGLE, byte_count, find, save_shards

PLAIN = "model.safetensors"
PLAIN_INDEX = "model.safetensors.index.json"
_WEIGHTS = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|gguf)|.*\.index\.json|\..*")
Progress = Callable[[str, int, int], object]  # what was written, tensors done, tensors in all


class Source:
    """Weights on disk, plain or packed, in one file or many: names, types and shapes at once, values when asked for.

    Raises:
        DataNotFound: nothing there.
        SparselandError: damaged, or no weights that can be read safely.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.place = Path(path).expanduser()
        self.about: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._get: dict[str, Callable[[], Tensor]] = {}
        self._stack = ExitStack()
        self.packed = (self.place.exists() and is_packed(self.place)) or not _is_plain(self.place)
        try:
            order = self._packed() if self.packed else self._plain()
        except BaseException:
            self._stack.close()
            raise
        self.names = [name for name in order if name in self._get]

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fetch(self, name: str) -> Tensor:
        """Read one tensor, checked."""
        return self._get[name]()

    def _packed(self) -> list[str]:
        shards, order = find(self.place)
        for shard in shards:
            file = self._stack.enter_context(opened(shard))
            for name, of in file.listed.items():
                stored = file.tensors[of]
                self.about[name] = (stored.dtype, stored.shape)
                self._get[name] = partial(file.tensor, stored)
        return order or list(self._get)

    def _plain(self) -> list[str]:
        for place in _plain_files(self.place):
            reader = self._stack.enter_context(Reader(place))
            for name, slot in reader.header.slots.items():
                if name in self._get:
                    raise SparselandError(f"{name!r} is in several files of {self.place}")
                self.about[name] = (slot.dtype, slot.shape)
                self._get[name] = partial(_tensor, reader, slot)
        return list(self._get)


def _tensor(reader: Reader, slot: Slot) -> Tensor:
    return as_tensor(reader.array(slot), slot.dtype, slot.shape)


def _is_plain(place: Path) -> bool:
    if place.is_dir():
        return (place / PLAIN).is_file() or (place / PLAIN_INDEX).is_file()
    return place.is_file()


def _plain_files(place: Path) -> list[Path]:
    """The files of a plain checkpoint; a folder's index is believed only about files beside it."""
    if place.is_file() and place.suffix != ".json":
        return [place]
    index = place / PLAIN_INDEX if place.is_dir() else place
    if not index.is_file():
        return [place / PLAIN]
    try:
        homes = json.loads(index.read_bytes().decode(), object_pairs_hook=unique)["weight_map"]
        names = list(dict.fromkeys(homes.values()))
        if not all(Path(name).name == name for name in names):
            raise ValueError(f"it names files outside its folder: {names}")
    except (*ERRORS, OSError) as error:
        raise SparselandError(f"{index} is damaged or no index: {type(error).__name__}: {error}") from error
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise DataNotFound(f"{index} speaks of {absent[0]}, which is missing")
    return [index.parent / name for name in names]


def export_dense(
    path_in: str | os.PathLike[str], path_out: str | os.PathLike[str], *, shard_bytes: int | str | None = None,
    overwrite: bool = False, progress: Progress | None = None,
) -> int:  # fmt: skip
    """Write weights as plain safetensors without a trace of sparsity, as ``save_pretrained`` would.

    Parameters:
        path_in: a packed or plain file, or a folder with weights and, for Hugging Face, config.json.
        path_out: a file if ``path_in`` is one and ``shard_bytes`` is not given, else a folder, written as a whole.
        shard_bytes: the most that one file may take, as in ``"5GB"``.
        overwrite: replace what is at ``path_out``.
        progress: called after each tensor with (file, tensors written, tensors in all).

    Returns:
        Bytes of weights written.

    Raises:
        DataNotFound, SparselandError: the weights are not there, damaged, or ``path_out`` is in use.
        OutputError: the disk refuses; what was at ``path_out`` is as it was.

    >>> import tempfile, torch
    >>> from safetensors.torch import load_file
    >>> from sparseland.deploy import save
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = save({"w": torch.eye(64)}, f"{place}/packed.safetensors")
    ...     _ = export_dense(f"{place}/packed.safetensors", f"{place}/plain.safetensors")
    ...     torch.equal(load_file(f"{place}/plain.safetensors")["w"], torch.eye(64))
    True
    """
    most = None if shard_bytes is None else byte_count(shard_bytes)

    def fill(source: Source, folder: Path) -> int:
        return _write_plain(source, folder, most, progress)

    def single(source: Source, file: IO[bytes], name: str) -> int:
        return _stream(source, source.names, file, name, 0, progress)

    return _export(path_in, path_out, most, overwrite, fill, single)


def export_packed(
    path_in: str | os.PathLike[str], path_out: str | os.PathLike[str], *, shard_bytes: int | str | None = None,
    overwrite: bool = False, progress: Progress | None = None,
) -> int:  # fmt: skip
    """Write weights in the packed format; parameters, results and errors as in `export_dense`."""
    most = None if shard_bytes is None else byte_count(shard_bytes)

    def counted(source: Source, name: str) -> Fetch:
        written = iter(range(1, len(source.names) + 1))

        def fetch(key: str) -> Tensor:
            if progress is not None:
                progress(name, next(written), len(source.names))
            return source.fetch(key)

        return fetch

    def fill(source: Source, folder: Path) -> int:
        files = plan(source.names, source.fetch, most=most)
        if most is not None:
            return save_shards(folder, files, counted(source, INDEX), source.names)
        write_file(folder / SINGLE, lambda file: files[0].write(file, counted(source, SINGLE)))
        return files[0].size()

    def single(source: Source, file: IO[bytes], name: str) -> int:
        made = plan(source.names, source.fetch)[0]
        made.write(file, counted(source, name))
        return made.size()

    return _export(path_in, path_out, most, overwrite, fill, single)


def _export(
    path_in: str | os.PathLike[str], path_out: str | os.PathLike[str], most: int | None, overwrite: bool,
    fill: Callable[[Source, Path], int], single: Callable[[Source, IO[bytes], str], int],
) -> int:  # fmt: skip
    start, end = Path(path_in).expanduser(), Path(path_out).expanduser()
    with Source(start) as source:
        as_file = start.is_file() and start.suffix != ".json" and most is None
        _free(start, end, as_file, overwrite)
        written: list[int] = []
        if as_file:
            write_file(end, lambda file: written.append(single(source, file, end.name)))
            return written[0]

        def whole(folder: Path) -> None:
            for item in sorted(start.iterdir()) if start.is_dir() else []:
                if item.is_file() and not _WEIGHTS.fullmatch(item.name):
                    shutil.copyfile(item, folder / item.name)
            written.append(fill(source, folder))

        write_folder(end, whole)
    return written[0]


def _free(start: Path, end: Path, as_file: bool, overwrite: bool) -> None:
    """Refuse a place in use, before anything is read or written."""
    inside = end.resolve() in start.resolve().parents or start.resolve() in end.resolve().parents
    if start.resolve() == end.resolve() or (inside and not as_file):
        raise SparselandError(f"{end} is where the weights are read from; give another place")
    if not end.parent.is_dir():
        raise OutputError(f"cannot write {end}: there is no folder {end.parent}")
    if not end.exists():
        return
    if as_file == end.is_dir():
        raise SparselandError(f"{end} is a {'folder' if as_file else 'file'}; give a {'file' if as_file else 'folder'}")
    if (
        end.is_dir()
        and any(end.iterdir())
        and not any(end.glob("*.safetensors"))
        and not (end / "config.json").is_file()
    ):
        raise SparselandError(f"{end} is a folder of something else than weights; give another place")
    if not overwrite and not (end.is_dir() and not any(end.iterdir())):
        raise SparselandError(f"{end} exists; say overwrite (--overwrite) to replace it, or give another place")


def _write_plain(source: Source, folder: Path, most: int | None, progress: Progress | None) -> int:
    pieces: list[list[str]] = [[]]
    room = 0
    for name in source.names:
        size = byte_size(*source.about[name])
        if most is not None and pieces[-1] and room + size > most:
            pieces.append([])
            room = 0
        pieces[-1].append(name)
        room += size
    files = [PLAIN] if len(pieces) == 1 else list(_plain_names(len(pieces)))
    total, done = 0, 0
    for file_name, names in zip(files, pieces, strict=True):
        with open(folder / file_name, "wb") as file:
            total += _stream(source, names, file, file_name, done, progress)
            file.flush()
            os.fsync(file.fileno())
        done += len(names)
    if len(pieces) > 1:
        homes = {name: file for file, names in zip(files, pieces, strict=True) for name in names}
        dense = sum(byte_size(*source.about[name]) for name in source.names)
        text = json.dumps({"metadata": {"total_size": dense}, "weight_map": homes}, indent=2)
        (folder / PLAIN_INDEX).write_text(text + "\n", encoding="utf-8")
    return total


def _plain_names(count: int) -> Iterator[str]:
    return (f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1))


def _stream(
    source: Source, names: list[str], file: IO[bytes], file_name: str, done: int, progress: Progress | None
) -> int:
    """Write a plain file, tensor by tensor; its bytes."""
    slots, at = [], 0
    for name in names:
        dtype, shape = source.about[name]
        slots.append(slot_text(name, dtype, shape, at, at + byte_size(*source.about[name])))
        at += byte_size(*source.about[name])
    metadata: Mapping[str, str] = {"format": "pt"}
    text = header_text(metadata, slots)
    file.write(length_of(text) + text)
    for i, name in enumerate(names):
        file.write(words_of(source.fetch(name)).data)
        if progress is not None:
            progress(file_name, done + i + 1, len(source.names))
    return 8 + len(text) + at
