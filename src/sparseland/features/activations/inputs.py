"""What a model is called with: tensors of token ids, mappings of tensors, or anything that yields them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError

Inputs = Tensor | Mapping[str, Any]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """``model(inputs)``, a mapping as named arguments; ``labels`` are ours, the model does not get them.

    >>> call(nn.Flatten(), torch.ones(1, 2, 2)).shape
    torch.Size([1, 4])
    """
    device = next((p.device for p in model.parameters()), None)
    if isinstance(inputs, Tensor):
        return model(inputs if device is None else inputs.to(device))
    moved = {
        name: value.to(device) if isinstance(value, Tensor) and device is not None else value
        for name, value in inputs.items()
        if name != "labels"
    }
    return model(**moved)


def ids_of(inputs: Inputs) -> Tensor | None:
    """The token ids [B, L] in ``inputs``, or None where it holds none.

    >>> ids_of({"input_ids": torch.zeros(1, 3, dtype=torch.long)}).shape
    torch.Size([1, 3])
    """
    ids = inputs if isinstance(inputs, Tensor) else inputs.get("input_ids")
    return ids if isinstance(ids, Tensor) and not ids.is_floating_point() else None


def real_tokens(inputs: Inputs, shape: torch.Size) -> Tensor:
    """Bool [B, L]: which places are text, by the attention mask; all, where there is none."""
    mask = None if isinstance(inputs, Tensor) else inputs.get("attention_mask")
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    if mask.shape != shape:
        raise SparselandError(f"attention_mask is {tuple(mask.shape)}, the activations are {tuple(shape)} + (d,)")
    real: Tensor = mask.bool().cpu()
    return real


def last_places(real: Tensor) -> Tensor:
    """Bool [B, L]: the last real place of every sequence.

    >>> last_places(torch.tensor([[True, True, False]])).tolist()
    [[False, True, False]]
    """
    later = real.flip(1).cumsum(1).flip(1)  # real places from here on
    return real & (later == 1)


class Batches:
    """Batches of a model's inputs, in an order that epoch and seed fix, from any batch on.

    Parameters:
        data: a tensor of ids [n, L] or a mapping of tensors with n rows each (cut here into batches, in another order
            each epoch); or an iterable of such batches, or a function that makes one (taken as they come).
        batch: sequences at once, where they are cut here. shuffle: another order each epoch. seed: of the orders.

    Raises:
        TypeError: nothing of this kind. SparselandError: rows that differ in number, no rows.

    >>> data = Batches(torch.arange(6).view(3, 2), batch=2, shuffle=False)
    >>> [part.tolist() for part in data.read(0, 0)], [part.tolist() for part in data.read(0, 1)]
    ([[[0, 1], [2, 3]], [[4, 5]]], [[[4, 5]]])
    """

    def __init__(self, data: Any, *, batch: int = 32, shuffle: bool = True, seed: int = 0) -> None:
        self.data, self.batch, self.shuffle, self.seed = data, batch, shuffle, seed
        if not isinstance(batch, int) or batch < 1:
            raise SparselandError(f"batch is a whole number of sequences, at least 1; got {batch!r}")
        self.rows: int | None = None
        if isinstance(data, Tensor):
            self.rows = len(data)
        elif isinstance(data, Mapping):
            sizes = {name: len(value) for name, value in data.items() if isinstance(value, Tensor)}
            if len(set(sizes.values())) > 1:
                raise SparselandError(f"inputs differ in their number of rows: {sizes}")
            self.rows = next(iter(sizes.values()), 0)
        elif not (callable(data) or isinstance(data, Iterable)):
            raise TypeError(
                f"the model's inputs are a tensor, a mapping of tensors, an iterable of them or a function that makes "
                f"one, not {type(data).__name__}"
            )
        if self.rows == 0:
            raise SparselandError("the model's inputs have no rows")

    @property
    def repeats(self) -> bool:
        """Whether it can be read more than once."""
        return self.rows is not None or callable(self.data) or not isinstance(self.data, Iterator)

    def read(self, epoch: int, start: int) -> Iterator[Inputs]:
        """The batches of an epoch, from number ``start`` on."""
        if self.rows is None:
            made = self.data() if callable(self.data) else self.data
            for number, item in enumerate(made):
                if number >= start:
                    yield _checked(item, number)
            return
        order = torch.arange(self.rows)
        if self.shuffle:
            order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(1_000_003 * self.seed + epoch))
        for chosen in order[start * self.batch :].split(self.batch):
            if isinstance(self.data, Tensor):
                yield self.data[chosen]
            else:
                yield {name: v[chosen] if isinstance(v, Tensor) else v for name, v in self.data.items()}


def _checked(item: Any, number: int) -> Inputs:
    if isinstance(item, (tuple, list)) and item and isinstance(item[0], Tensor):
        item = item[0]
    if not isinstance(item, (Tensor, Mapping)):
        raise TypeError(f"batch {number} of the model's inputs is {type(item).__name__}; a tensor or a mapping is read")
    return item


def as_batches(data: Any, **options: Any) -> Batches:
    """``data`` as `Batches`, in its own order unless it says otherwise."""
    return data if isinstance(data, Batches) else Batches(data, **{"shuffle": False, **options})
