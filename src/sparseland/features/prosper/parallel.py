"""EM over several processes: each holds a part of the data, sums are taken over all of them (torch.distributed)."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Data = TypeVar("Data")


def world() -> int:
    """Number of processes (1 without torch.distributed)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def shard(X: Data) -> Data:
    """This process's part of the data: a contiguous block of rows, the residue to the first ranks. All of it if alone.

    >>> shard([1, 2, 3])
    [1, 2, 3]

    Source: ``stride_data`` of arXiv 1908.06843's code.
    """
    first, last = block(len(X), rank(), world())  # type: ignore[arg-type]
    return X[first:last]  # type: ignore[index, no-any-return]


def block(rows: int, place: int, places: int) -> tuple[int, int]:
    """First and last row (exclusive) of part ``place`` of ``places``.

    >>> [block(10, place, 4) for place in range(4)]
    [(0, 3), (3, 6), (6, 8), (8, 10)]
    """
    size, residue = divmod(rows, places)
    first = place * size + min(place, residue)
    return first, first + size + (place < residue)


def total(tensor: Tensor) -> Tensor:
    """Sum over all processes; the same bits everywhere."""
    if world() > 1:
        tensor = tensor.contiguous().clone()
        dist.all_reduce(tensor)
    return tensor


def totals(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum every tensor over all processes, in one message."""
    if world() == 1:
        return sums
    flat = total(torch.cat([value.reshape(-1) for value in sums.values()]))
    parts = flat.split([value.numel() for value in sums.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(sums.items(), parts, strict=True)}


def gathered(values: Tensor) -> Tensor:
    """The 1-d tensors of all processes, one after the other; their lengths may differ."""
    if world() == 1:
        return values
    sizes = _sizes(values)
    padded = torch.zeros(max(sizes), dtype=values.dtype, device=values.device)
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def first_row(values: Tensor) -> int:
    """How many rows the processes before this one hold."""
    return sum(_sizes(values)[: rank()]) if world() > 1 else 0


def _sizes(values: Tensor) -> list[int]:
    sizes = torch.zeros(world(), dtype=torch.int64, device=values.device)
    sizes[rank()] = len(values)
    return [int(size) for size in total(sizes)]


def from_first(value: Any) -> Any:
    """What process 0 has, on every process."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def anywhere(problem: str | None) -> str | None:
    """A problem of any process, told to all, so that none waits for ever in a collective."""
    if world() == 1:
        return problem
    problems: list[Any] = [None] * world()
    dist.all_gather_object(problems, problem)
    return next((f"process {place}: {text}" for place, text in enumerate(problems) if text), None)
