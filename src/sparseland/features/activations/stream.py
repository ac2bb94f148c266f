"""A stream of shuffled batches with bounded memory, the same for the same seed, and exact when it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ResumeError, SparselandError
from ...files import probe
from .source import Block, Source, as_source, block_of


class ActivationStream:
    """Batches [B, d], or pairs (x, g) of them, from any source of activations.

    ``buffer`` rows are read, shuffled together, handed out as batches, and replaced by the next: memory is bounded by
    the buffer and one block of the source. The order depends on ``seed`` alone, so the state is a place in the source,
    not the buffer: a stream that goes on reads at most one buffer again.

    Parameters:
        source: whatever `as_source` takes.
        batch: rows B of a batch, >= 1. buffer: rows held, rounded down to whole batches, >= batch.
        shuffle: within the buffer. seed: of the shuffling, >= 0.
        epochs: passes over the source; None goes on for ever (a source that cannot be read again ends all the same).
        folder: keep the buffer in a file there instead of in memory.
        device, dtype: of the batches.
        drop_last: leave out the last batch if it is short.

    Raises:
        SparselandError: a bad size; while reading: rows of another width, NaN or infinite values, nothing at all.
        OutputError: the folder has no room for the buffer.
        ResumeError: see `load_state_dict`.

    >>> stream = ActivationStream(torch.arange(12.0).view(6, 2), batch=2, buffer=4, epochs=1)
    >>> batches = list(stream)
    >>> len(batches), sorted(torch.cat(batches)[:, 0].tolist())
    (3, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0])
    """

    def __init__(
        self,
        source: Any,
        *,
        batch: int = 1024,
        buffer: int = 65_536,
        shuffle: bool = True,
        seed: int = 0,
        epochs: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        drop_last: bool = False,
    ) -> None:
        least = {"batch": (batch, 1), "buffer": (buffer, 1), "seed": (seed, 0), "epochs": (epochs, 1)}
        for name, (value, low) in least.items():
            if value is None and name == "epochs":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise SparselandError(f"{name} is a whole number, at least {low}; got {value!r}")
        if buffer < batch:
            raise SparselandError(f"the buffer holds at least one batch: buffer={buffer}, batch={batch}")
        self.source: Source = as_source(source)
        self.batch, self.buffer = batch, buffer // batch * batch
        self.shuffle, self.seed, self.epochs, self.drop_last = shuffle, seed, epochs, drop_last
        self.device, self.dtype = device, dtype
        self.folder = None if folder is None else Path(folder)
        self._width: int | None = None
        self._pair: bool | None = None
        self.restart()

    # ------------------------------------------------------------------------------------------------- where it stands
    def restart(self) -> None:
        """Go back to the first row of the first epoch."""
        self._go_to({"epoch": 0, "block": 0, "offset": 0, "chunk": 0, "given": 0})

    def _go_to(self, place: Mapping[str, int]) -> None:
        self._place = dict(place)  # of the first row of the chunk that is being handed out
        self._epoch, self._block, self._offset = place["epoch"], place["block"], place["offset"]
        self._blocks: Iterator[Block] | None = None
        self._pending: Block | None = None
        self._held: list[Tensor] = []  # the chunk: x, or x and g
        self._order: Tensor | None = None
        self._rows_of_epoch = 0 if place["block"] == place["offset"] == 0 else 1
        self._ended = False

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain numbers: a place in the source, batches given since, and the settings."""
        settings = {"batch": self.batch, "buffer": self.buffer, "shuffle": self.shuffle, "seed": self.seed}
        place = dict(self._place)
        if self._order is not None and place["given"] * self.batch >= len(
            self._order
        ):  # the next chunk is not read yet
            now = {"epoch": self._epoch, "block": self._block, "offset": self._offset}
            place |= {**now, "chunk": place["chunk"] + 1, "given": 0}
        return {"place": place, "settings": settings, "width": self._width}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: the next batch is the one that would have come.

        Raises:
            ResumeError: other settings, or a source that cannot be read again.
        """
        mine = self.state_dict()["settings"]
        if dict(state["settings"]) != mine:
            raise ResumeError(f"the stream was saved with {dict(state['settings'])}; this one has {mine}")
        if not self.source.repeats:
            raise ResumeError(
                "an iterator cannot be read again; give the stream a function that makes it: lambda: make()"
            )
        self._width = state["width"]
        self._go_to(state["place"])

    # --------------------------------------------------------------------------------------------------------- reading
    @property
    def d_in(self) -> int:
        """Width d of the activations; reads the first block if nothing has been read."""
        if self._width is None and self._peek() is None:
            raise SparselandError("the source of the stream yields no activations")
        assert self._width is not None
        return self._width

    @property
    def pairs(self) -> bool:
        """Whether gradients come with the activations."""
        if self._pair is None:
            self._peek()
        return bool(self._pair)

    def _peek(self) -> Block | None:
        """The block that is being read, or None at the end of all epochs."""
        while self._pending is None and not self._ended:
            if self._blocks is None:
                self._blocks = iter(self.source.blocks(self._epoch, self._block))
            item = next(self._blocks, None)
            if item is not None:
                self._pending = self._check(block_of(item, self._block))
                self._rows_of_epoch += len(_parts(self._pending)[0])
                if self._offset >= len(_parts(self._pending)[0]):  # an empty block
                    self._next_block()
            else:
                self._next_epoch()
        return self._pending

    def _next_block(self) -> None:
        self._pending, self._offset, self._block = None, 0, self._block + 1

    def _next_epoch(self) -> None:
        if self._rows_of_epoch == 0:
            if self._epoch == 0:
                raise SparselandError("the source of the stream yields no activations")
            raise SparselandError(f"the source of the stream yields nothing in epoch {self._epoch}")
        self._blocks, self._epoch, self._block, self._offset, self._rows_of_epoch = None, self._epoch + 1, 0, 0, 0
        self._ended = not self.source.repeats or (self.epochs is not None and self._epoch >= self.epochs)

    def _check(self, block: Block) -> Block:
        parts = _parts(block)
        width, pair = parts[0].shape[1], len(parts) == 2
        where = f"block {self._block} of epoch {self._epoch}"
        if self._width is not None and width != self._width:
            raise SparselandError(f"{where} is {width} wide; the activations before it were {self._width} wide")
        if self._pair is not None and pair != self._pair:
            said = "has gradients, the blocks before it had none" if pair else "has no gradients; those before it had"
            raise SparselandError(f"{where} {said}")
        for part, name in zip(parts, ("activation", "gradient"), strict=False):
            if not torch.isfinite(part).all():
                bad = int((~torch.isfinite(part)).sum())
                raise SparselandError(f"{where}: {bad} {name} values are NaN or infinite, of {part.numel()}")
        self._width, self._pair = width, pair
        return block

    def _fill(self) -> bool:
        """Read the next chunk; False where nothing is left."""
        if self._peek() is None:
            return False
        self._place |= {"epoch": self._epoch, "block": self._block, "offset": self._offset, "given": 0}
        if not self._held:
            self._held = [self._space(name) for name in ("x", "g")[: 1 + bool(self._pair)]]
        rows = 0
        while rows < self.buffer and (block := self._peek()) is not None:
            parts = _parts(block)
            take = min(len(parts[0]) - self._offset, self.buffer - rows)
            for space, part in zip(self._held, parts, strict=True):
                space[rows : rows + take] = part[self._offset : self._offset + take]
            rows, self._offset = rows + take, self._offset + take
            if self._offset == len(parts[0]):
                self._next_block()
        self._order = torch.arange(rows)
        if self.shuffle:
            drawn = torch.Generator().manual_seed(1_000_003 * self.seed + self._place["chunk"])
            self._order = torch.randperm(rows, generator=drawn)
        return True

    def _space(self, name: str) -> Tensor:
        size = self.buffer * self.d_in
        if self.folder is None:
            return torch.empty(self.buffer, self.d_in, dtype=self.dtype)
        probe(self.folder, size * self.dtype.itemsize)  # a full disk is found now, not by a crash in the mapping
        path = self.folder / f"buffer-{os.getpid()}-{id(self)}-{name}.tmp"
        space = torch.from_file(str(path), shared=True, size=size, dtype=self.dtype).view(self.buffer, self.d_in)
        path.unlink()  # the mapping keeps it; nothing is left behind, whatever happens
        return space

    def __iter__(self) -> ActivationStream:
        return self

    def __next__(self) -> Tensor | tuple[Tensor, Tensor]:
        first = self._place["given"] * self.batch
        if self._order is None:
            given = self._place["given"]  # a saved place may lie within a chunk
            if not self._fill():
                raise StopIteration
            self._place["given"], first = given, given * self.batch
        elif first >= len(self._order):
            self._place["chunk"] += 1
            if not self._fill():
                self._place["chunk"] -= 1
                raise StopIteration
            first = 0
        assert self._order is not None
        chosen = self._order[first : first + self.batch]
        self._place["given"] += 1
        if len(chosen) == 0 or (self.drop_last and len(chosen) < self.batch):
            return next(self)
        out = [space[chosen].to(self.device) for space in self._held]
        return out[0] if len(out) == 1 else (out[0], out[1])


def _parts(block: Block) -> tuple[Tensor, ...]:
    return (block,) if isinstance(block, Tensor) else block
