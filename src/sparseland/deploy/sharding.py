"""A checkpoint of several files: the shards, and an index that says which tensor is in which.

The shards of a new save get names that no file has yet; the index is written last, in one step, and the old shards are
removed after it. Whoever is killed in between leaves the old index and all it speaks of. The index carries every
shard's size and seal, and a seal of its own, so that shards which were swapped, mixed or cut are found.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..core.errors import DataNotFound, OutputError, SparselandError, nearest
from ..files import TEMPORARY, write_file
from .checksum import BLANK_SEAL, is_sealed, seal
from .container import ERRORS, unique
from .planning import FORMAT, VERSION, Fetch, FilePlan

INDEX = "packed.safetensors.index.json"
SINGLE = "packed.safetensors"
_SHARD = re.compile(r"packed(?:\.(\d+))?-(\d{5,})-of-(\d{5,})\.safetensors")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint as its index describes it."""

    place: Path
    names: tuple[str, ...]
    size: int | None = None  # None: a file that stands alone, without an index
    seal: str | None = None


def byte_count(given: int | str) -> int:
    """A number of bytes from ``"2GB"``, ``"500 MB"`` (powers of ten, as Hugging Face has it) or a number.

    Raises:
        SparselandError: neither, or not above zero.

    >>> byte_count("2GB"), byte_count("1.5 kb"), byte_count(70)
    (2000000000, 1500, 70)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(given).strip().upper())
    if found is None or found[2] not in _UNITS or int(float(found[1]) * _UNITS[found[2]]) < 1:
        raise SparselandError(f"{given!r} is no number of bytes; write it as in 2GB, 500MB or 1000000")
    return int(found[1]) * _UNITS[found[2]] if found[1].isdigit() else int(float(found[1]) * _UNITS[found[2]])


def index_text(files: Sequence[FilePlan], shards: Sequence[str], seals: Sequence[str], order: Iterable[str]) -> bytes:
    """The index, sealed; of the same length whatever the seals."""
    home = {name: shard for shard, file in zip(shards, files, strict=True) for name in file.listed}
    listed = {shard: {"bytes": file.size(), "seal": one} for shard, file, one in zip(shards, files, seals, strict=True)}
    dense = sum(file.dense for file in files)
    metadata = {"format": FORMAT, "version": str(VERSION), "total_size": dense, "shards": listed, "sha256": BLANK_SEAL}
    whole = {"metadata": metadata, "weight_map": {name: home[name] for name in order}}
    return seal(json.dumps(whole, indent=1).encode() + b"\n")


def shard_names(count: int, generation: int = 1) -> list[str]:
    """The files' names.

    >>> shard_names(1), shard_names(1, generation=3)
    (['packed-00001-of-00001.safetensors'], ['packed.3-00001-of-00001.safetensors'])
    """
    word = "packed" if generation == 1 else f"packed.{generation}"
    return [f"{word}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def save_shards(folder: Path, files: Sequence[FilePlan], fetch: Fetch, order: Sequence[str]) -> int:
    """Write the shards, then the index, then remove what an earlier save left; returns the bytes of all files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [found for entry in folder.iterdir() if (found := _SHARD.fullmatch(entry.name))]
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    used = {int(found[1] or 1) for found in there}
    generation = next(i for i in range(1, len(used) + 2) if i not in used)
    shards = shard_names(len(files), generation)
    seals: list[str] = []

    def write(plan: FilePlan, file: IO[bytes]) -> None:
        seals.append(plan.write(file, fetch))

    try:
        for shard, plan in zip(shards, files, strict=True):
            write_file(folder / shard, partial(write, plan))
        text = index_text(files, shards, seals, order)
        write_file(folder / INDEX, lambda open_file: open_file.write(text))
    except BaseException:
        for shard in shards:
            with contextlib.suppress(OSError):  # a disk that refuses this too must not hide the first error
                (folder / shard).unlink(missing_ok=True)
        raise
    for entry in [*folder.glob("packed*"), *folder.glob(f".packed*{TEMPORARY}")]:
        if entry.name not in shards and (_SHARD.fullmatch(entry.name) or entry.name.endswith(TEMPORARY)):
            entry.unlink(missing_ok=True)
    return sum(file.size() for file in files) + len(text)


def find(path: str | os.PathLike[str]) -> tuple[list[Shard], list[str]]:
    """The shards of a checkpoint and the order of its names; a single file is one shard without names.

    Raises:
        DataNotFound: nothing there.
        SparselandError: the index is damaged, of a later version, or contradicts itself.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        for name in (INDEX, SINGLE):
            if (place / name).is_file():
                return find(place / name)
        raise DataNotFound(f"{place} holds no packed checkpoint: neither {INDEX} nor {SINGLE}")
    if not place.is_file():
        raise DataNotFound(f"no file {place}")
    if place.suffix != ".json":
        return [Shard(place, ())], []
    return _read_index(place)


def _read_index(place: Path) -> tuple[list[Shard], list[str]]:
    try:
        text = place.read_bytes()
        whole = json.loads(text.decode(), object_pairs_hook=unique)
        metadata, homes = whole["metadata"], whole["weight_map"]
        if metadata.get("format") != FORMAT:
            raise SparselandError(f"{place} is not the index of a packed checkpoint")
        if metadata["version"] != str(VERSION):
            raise SparselandError(
                f"{place} has version {metadata['version']!r} of the format {FORMAT}; this library reads version "
                f"{VERSION} of an index: update it"
            )
        if not is_sealed(text):
            raise SparselandError(f"{place} is damaged: its SHA-256 is not the one that was written with it")
        return _shards(place, metadata["shards"], homes), list(homes)
    except SparselandError:
        raise
    except (*ERRORS, OSError) as error:
        raise SparselandError(f"{place} is damaged or no index: {type(error).__name__}: {error}") from error


def _shards(place: Path, listed: Mapping[str, Any], homes: Mapping[str, str]) -> list[Shard]:
    names: dict[str, list[str]] = {shard: [] for shard in listed}
    for name, shard in homes.items():
        if shard not in names:
            raise SparselandError(f"{place} puts {name!r} into {shard!r}; {nearest(shard, names)}")
        names[shard].append(name)
    found = []
    for shard, about in listed.items():
        if not _SHARD.fullmatch(shard):  # a path out of the folder among them
            raise SparselandError(f"{place} names a shard {shard!r}; shards are called {shard_names(1)[0]} and so on")
        if not (place.parent / shard).is_file():
            raise DataNotFound(f"{place} speaks of {shard}, which is missing")
        size, one = about["bytes"], about["seal"]
        if type(size) is not int or type(one) is not str:
            raise SparselandError(f"{place} describes {shard} by {about}")
        found.append(Shard(place.parent / shard, tuple(names[shard]), size, one))
    return found
