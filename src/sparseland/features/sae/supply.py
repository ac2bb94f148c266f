"""What a trainer reads: one table of activations, reshuffled each time it ends, or any iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...core.errors import SparselandError

Batch = tuple[Tensor, Tensor | None]
SAMPLE = 16_384  # tokens looked at for the first b_dec


class StreamEnded(SparselandError):
    """A stream had fewer batches than were asked for."""


class Table:
    """Batches of a table (N, d), or of pairs (x, g) of tables, in an order that is shuffled anew in every epoch.

    >>> table = Table(torch.arange(4.0)[:, None], batch=2, seed=0)
    >>> sorted(torch.cat([next(table), next(table)]).squeeze(1).tolist())
    [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, x: Tensor, batch: int, seed: int, gradient: Tensor | None = None) -> None:
        if x.ndim != 2 or not 1 <= batch <= x.shape[0]:
            raise SparselandError(f"a table is (N, d) with N >= batch; got {tuple(x.shape)} and batch={batch}")
        if gradient is not None and gradient.shape != x.shape:
            raise SparselandError(f"activations {tuple(x.shape)} and gradients {tuple(gradient.shape)} differ in shape")
        self.x, self.g, self.batch, self.seed = x, gradient, batch, seed
        self.epoch, self.place = 0, 0
        self._shuffle()

    def _shuffle(self) -> None:
        generator = torch.Generator().manual_seed(self.seed + 7919 * self.epoch)
        self.order = torch.randperm(self.x.shape[0], generator=generator)

    def __iter__(self) -> Table:
        return self

    def __next__(self) -> Tensor | tuple[Tensor, Tensor]:
        if self.place + self.batch > self.x.shape[0]:  # the rest of an epoch is left out: batches are equal
            self.epoch, self.place = self.epoch + 1, 0
            self._shuffle()
        chosen = self.order[self.place : self.place + self.batch].to(self.x.device)
        self.place += self.batch
        return self.x[chosen] if self.g is None else (self.x[chosen], self.g[chosen])

    def state_dict(self) -> dict[str, int]:
        """Epoch and place."""
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a state was taken."""
        self.epoch, self.place = int(state["epoch"]), int(state["place"])
        self._shuffle()


class Supply:
    """Batches (x, g or None) of one width and size, from a table or an iterable; knows how to go on after a break.

    Parameters:
        stream: (N, d) tensor, a pair of them, or an iterable of tensors or pairs. d_in: the width asked for.
        batch: tokens of a batch; None takes what the stream yields (needed for a table).

    Raises:
        SparselandError: another width, or one that changes on the way; the stream ended; pairs that do not match.
    """

    def __init__(self, stream: Any, d_in: int, batch: int | None, seed: int) -> None:
        self.d_in, self.batch, self.taken, self.read = d_in, batch, 0, 0
        if _is_table(stream):
            x, g = stream if isinstance(stream, tuple) else (stream, None)
            stream = Table(x, min(batch or 4096, x.shape[0]), seed, g)
            self.batch = None
        elif not isinstance(stream, Iterable):
            raise TypeError(
                f"a stream is a tensor, a pair of them, or an iterable of those; got {type(stream).__name__}"
            )
        self.stream = stream
        self._iterator: Iterator[Any] | None = None
        self._waiting: list[Batch] = []  # cut off from what was read
        self._ahead: list[Batch] = []  # read before it was asked for

    @property
    def resumes(self) -> bool:
        """Whether the stream can say where it is (and nothing is held back by cutting to batches)."""
        able = hasattr(self.stream, "state_dict") and hasattr(self.stream, "load_state_dict")
        return able and self.batch is None

    def state_dict(self) -> dict[str, Any]:
        """The stream's own state, or how many batches were taken."""
        return {"taken": self.taken, "stream": self.stream.state_dict() if self.resumes else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; a stream without a state is read again up to that place."""
        if state["stream"] is not None and self.resumes:
            self.stream.load_state_dict(state["stream"])
            self.taken = int(state["taken"])
            return
        while self.taken < int(state["taken"]):
            self.next()

    def peek(self) -> int:
        """Tokens of the next item of the stream, which stays to be taken."""
        if not self._ahead:
            self._ahead.append(self._read())
        return self._ahead[0][0].shape[0]

    def ahead(self, tokens: int) -> Tensor:
        """About the next ``tokens`` tokens, which stay to be taken; at most 64 items of the stream are read."""
        if isinstance(self.stream, Table):
            return self.stream.x[self.stream.order[:tokens].to(self.stream.x.device)]
        if self.resumes:
            return self._ahead[0][0] if self._ahead else self._keep(self._read())
        while sum(x.shape[0] for x, _ in self._ahead) < tokens and len(self._ahead) < 64:
            try:
                self._keep(self._read())
            except StreamEnded:
                if not self._ahead:
                    raise
                break  # how short it is will be said when it is used up
        return torch.cat([x for x, _ in self._ahead])

    def _keep(self, item: Batch) -> Tensor:
        self._ahead.append(item)
        return item[0]

    def next(self) -> Batch:
        """The next batch."""
        self.taken += 1
        if self.batch is None:
            return self._read()
        while sum(x.shape[0] for x, _ in self._waiting) < self.batch:
            self._waiting.append(self._read())
        x = torch.cat([x for x, _ in self._waiting])
        pairs = [g for _, g in self._waiting if g is not None]
        if len(pairs) not in (0, len(self._waiting)):
            raise SparselandError("some batches of the stream have gradients and some have none")
        g = torch.cat(pairs) if pairs else None
        self._waiting = [(x[self.batch :], None if g is None else g[self.batch :])] if x.shape[0] > self.batch else []
        return x[: self.batch], None if g is None else g[: self.batch]

    def _read(self) -> Batch:
        if self._ahead and self.taken:
            return self._ahead.pop(0)
        if self._iterator is None:
            self._iterator = iter(self.stream)
        try:
            item = next(self._iterator)
        except StopIteration:
            raise StreamEnded(
                f"the stream ended after {self.read} batches; train fewer steps, or hand over one that goes on"
            ) from None
        self.read += 1
        x, g = item if isinstance(item, tuple | list) else (item, None)
        if not isinstance(x, Tensor):
            raise TypeError(f"a stream yields tensors or pairs of them, not {type(x).__name__}")
        if x.ndim < 2 or x.shape[-1] != self.d_in:
            raise SparselandError(
                f"batch {self.read} of the stream is {tuple(x.shape)}; activations of width {self.d_in} were expected"
            )
        if g is not None and g.shape != x.shape:
            raise SparselandError(f"batch {self.read}: x is {tuple(x.shape)} and g is {tuple(g.shape)}")
        flat = x.reshape(-1, self.d_in)
        return flat, None if g is None else g.reshape(-1, self.d_in)


def _is_table(stream: Any) -> bool:
    if isinstance(stream, tuple):
        return len(stream) == 2 and all(isinstance(part, Tensor) and part.ndim == 2 for part in stream)
    return isinstance(stream, Tensor)
