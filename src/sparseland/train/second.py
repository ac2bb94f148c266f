"""The second stream of batches, for methods whose scores learn on data of their own (bi-level problems)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from sparseland.train.supply import Batch, Supply
from sparseland.weights import Method

APART = 1_000_000  # its epochs are drawn under numbers that no run reaches


class Second(Sequence[Batch]):
    """``length`` batches of the training images in an order of their own, a function of the run's seed.

    >>> from sparseland.train import TrainConfig
    >>> from sparseland.train.processes import Processes
    >>> stream = Second(Supply(TrainConfig(limit=100, batch_size=32), Processes()), 5)
    >>> len(stream), bool((stream[4][1] == stream[4][1]).all()), stream[0][1].equal(stream[4][1])
    (5, True, False)
    """

    def __init__(self, supply: Supply, length: int) -> None:
        self.supply, self.length = supply, length
        self._next = -1
        self._batches: Iterator[Batch] = iter(())

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if not 0 <= index < self.length:
            raise IndexError(f"batch {index} of a stream of {self.length}")
        epoch, batch = divmod(index, self.supply.epoch(0).total)
        if index != self._next or not batch:
            self._batches = iter(self.supply.epoch(APART + epoch).skip(batch))
        self._next = index + 1
        return next(self._batches)


def scoring(method: Method, supply: Supply, steps: int) -> tuple[Sequence[Batch], int]:
    """What a method measures on, and the images of one measurement over all ranks.

    A few first batches; where scores learn on a stream, as many as there are steps, one for each.
    """
    stream = getattr(method.criterion, "turns", None) == "stream"
    found: Sequence[Batch] = Second(supply, steps) if stream else supply.first()
    images = sum(len(labels) for _, labels in (found[:1] if stream else found))
    return found, images * supply.processes.world
