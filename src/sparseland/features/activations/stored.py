"""Activations on disk: written once from any source, read by many trainings, one shard in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...core.errors import DataNotFound, ResumeError, SparselandError
from ...files import write_file, write_json
from .source import Block
from .stream import ActivationStream

INDEX = "activations.json"


def store(
    source: Any,
    folder: str | os.PathLike[str],
    *,
    rows: int | None = None,
    shard: int = 65_536,
    dtype: torch.dtype = torch.float32,
) -> StoredActivations:
    """Write a source's activations (and gradients) as safetensors shards; what is there already is not made again.

    Parameters:
        source: whatever `as_source` takes. folder: made if it is not there.
        rows: stop after so many; None: one epoch. shard: rows of a file. dtype: on disk.

    Raises:
        OutputError: the disk refuses; whole shards stay. ResumeError: the folder was begun with other options.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     stored = store(torch.arange(10.0).view(5, 2), place, shard=2)
    ...     stored.rows, stored.d_in, len(list(stored.blocks(0, 0)))
    (5, 2, 3)
    """
    from safetensors.torch import save

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    stream = ActivationStream(source, batch=shard, buffer=shard, shuffle=False, epochs=1, dtype=dtype)
    settings = {"rows": rows, "shard": shard, "dtype": str(dtype).removeprefix("torch.")}
    index: dict[str, Any] = {"settings": settings, "shards": [], "whole": False, "stream": None}
    if (place / INDEX).is_file():
        index = _read(place)
        if index["settings"] != settings:
            raise ResumeError(f"{place} was begun with {index['settings']}; now {settings}. Take another folder.")
        if index["stream"] is not None and not index["whole"]:
            stream.load_state_dict(index["stream"])
    while not index["whole"]:
        block = next(stream, None)
        done = sum(index["shards"])
        if block is not None:
            parts = {"x": block} if isinstance(block, torch.Tensor) else {"x": block[0], "g": block[1]}
            if rows is not None:
                parts = {name: part[: rows - done] for name, part in parts.items()}
            data = save({name: part.contiguous() for name, part in parts.items()})
            write_file(place / _name(len(index["shards"])), lambda file, data=data: file.write(data))  # type: ignore[misc]
            index["shards"].append(len(parts["x"]))
            index |= {"d_in": parts["x"].shape[1], "pairs": "g" in parts, "stream": stream.state_dict()}
        index["whole"] = block is None or (rows is not None and sum(index["shards"]) >= rows)
        write_json(place / INDEX, index)
    return StoredActivations(place)


def _name(number: int) -> str:
    return f"{number:05d}.safetensors"


def _read(place: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((place / INDEX).read_text(encoding="utf-8"))
        found["settings"], found["shards"], found["whole"]
    except FileNotFoundError:
        raise DataNotFound(f"no stored activations in {place} (no {INDEX}); `store` makes them") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SparselandError(f"{place / INDEX} is damaged: {error!r}") from error
    return found


class StoredActivations:
    """A folder that `store` wrote, as a source: the shards in another order each epoch.

    Raises:
        DataNotFound: no such folder, or a shard is missing. SparselandError: it is not whole, or damaged.
    """

    repeats = True

    def __init__(self, folder: str | os.PathLike[str], *, shuffle: bool = False, seed: int = 0) -> None:
        self.folder, self.shuffle, self.seed = Path(folder), shuffle, seed
        index = _read(self.folder)
        if not index["whole"]:
            raise SparselandError(f"{self.folder} is not whole: `store` was interrupted; the same call goes on")
        if not index["shards"]:
            raise SparselandError(f"{self.folder} holds no activations")
        self.shards: list[int] = index["shards"]
        self.d_in: int = index["d_in"]
        self.pairs: bool = index["pairs"]
        absent = [_name(i) for i in range(len(self.shards)) if not (self.folder / _name(i)).is_file()]
        if absent:
            raise DataNotFound(
                f"{self.folder} lacks {', '.join(absent[:4])}: {len(absent)} of {len(self.shards)} files"
            )

    @property
    def rows(self) -> int:
        """How many activations there are."""
        return sum(self.shards)

    def blocks(self, epoch: int, start: int) -> Iterator[Block]:
        """One shard after the other."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        order = torch.arange(len(self.shards))
        if self.shuffle:
            drawn = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
            order = torch.randperm(len(self.shards), generator=drawn)
        for number in order[start:].tolist():
            path = self.folder / _name(number)
            try:
                found = load_file(path)
            except (SafetensorError, OSError) as error:
                raise SparselandError(f"{path} cannot be read: {error}") from error
            yield (found["x"], found["g"]) if self.pairs else found["x"]
