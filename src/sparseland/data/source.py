"""From where images lie to a `Dataset`: every loader describes a `Source`, `assemble` cuts the splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from sparseland.core.errors import SparselandError
from sparseland.data.dataset import Dataset, Split
from sparseland.data.order import permutation, stratified_cut

# A test set, once cut, never moves: its permutation has this key and nothing of the caller's.
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled images that may not have been read yet.

    Parameters:
        labels: int64 [n].
        take: indices, int64 [k] -> images [k, C, H, W]; called only for the images that are needed.
        shuffled: the stored order is random already, so a prefix is a fair subset.
    """

    labels: torch.Tensor
    take: Callable[[torch.Tensor], torch.Tensor]
    shuffled: bool = False


@dataclass(frozen=True, eq=False)
class Source:
    """What a loader found: one pool per published split, and what is known about them."""

    name: str
    train: Pool
    validation: Pool | None
    test: Pool | None
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    note: str = ""
    licence: str = "not stated"
    class_names: tuple[str, ...] = ()


def assemble(
    source: Source, *, seed: int, limit: int | None, validation: float | None, size: tuple[int, int] | None
) -> Dataset:
    """Cut what the publisher did not cut, read what is needed, and measure what is not known.

    Test first (fixed for ever), then validation (a function of ``seed``), then the prefix of train.
    """
    notes = [source.note] if source.note else []
    train = _indices(source.train)
    if source.test is None:
        rest, cut = stratified_cut(source.train.labels[train], TEST_FRACTION, "test")
        test_pool, test, train = source.train, train[cut], train[rest]
    else:
        test_pool, test = source.test, _indices(source.test)

    if source.validation is not None:
        validation_pool, held = source.validation, _indices(source.validation)
        notes.append("The publisher's own validation split.")
    else:
        # 60 / 20 / 20 where the test images had to come from the same pile, else 10 % of train.
        default = TEST_FRACTION / (1 - TEST_FRACTION) if source.test is None else VALIDATION_FRACTION
        fraction = default if validation is None else validation
        rest, cut = stratified_cut(source.train.labels[train], fraction, "validation", seed)
        validation_pool, held, train = source.train, train[cut], train[rest]

    splits = (
        _read(source.train, train[:limit], size),
        _read(validation_pool, held, size),
        _read(test_pool, test, size),
    )
    return _describe(source, splits, " ".join(notes))


def _describe(source: Source, splits: tuple[Split, Split, Split], note: str) -> Dataset:
    shapes = [tuple(split.images.shape[1:]) for split in splits if len(split)]
    if len(set(shapes)) > 1:
        listed = ", ".join(map(str, shapes))
        raise SparselandError(f"{source.name}: train, validation and test images differ in shape: {listed}; give size=")
    train, validation, test = splits
    mean, std = (source.mean, source.std) if source.mean and source.std else measure(train.images)
    channels, height, width = train.images.shape[1:]
    return Dataset(
        name=source.name, train=train, validation=validation, test=test, classes=source.classes, mean=mean, std=std,
        note=note, shape=(channels, height, width), licence=source.licence, class_names=source.class_names,
    )  # fmt: skip


def _indices(pool: Pool) -> torch.Tensor:
    if len(pool.labels) == 0:
        raise SparselandError("a published split is empty; remove it, or fill it")
    # Shuffle before any subset, with a key that no caller can change, so that every prefix is fair and stable.
    return torch.arange(len(pool.labels)) if pool.shuffled else permutation(len(pool.labels), "stored order")


def _read(pool: Pool, indices: torch.Tensor, size: tuple[int, int] | None) -> Split:
    images = pool.take(indices)
    if size is not None and tuple(images.shape[2:]) != size and len(images):
        images = resize(images, size)
    elif size is not None and not len(images):
        images = images.new_zeros((0, images.shape[1], *size))
    return Split(images, pool.labels[indices])


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize [n, C, H, W] to [n, C, *size], bilinear with antialiasing, in the type that came in.

    >>> resize(torch.full((2, 1, 8, 8), 7, dtype=torch.uint8), (4, 4)).unique().tolist()
    [7]
    """
    parts = []
    for part in torch.split(images, 1000):
        sized = F.interpolate(part.float(), size=size, mode="bilinear", antialias=True, align_corners=False)
        parts.append(sized.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else sized)
    return torch.cat(parts)


def measure(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in units where an image runs from 0 to 1, to four decimals.

    >>> measure(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    channels = images.shape[1]
    total, square = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    for part in torch.split(images, 1000):  # in parts: a float64 copy of everything would be eight times the data
        x = part.double() / 255 if images.dtype == torch.uint8 else part.double()
        total += x.sum((0, 2, 3))
        square += x.square().sum((0, 2, 3))
    count = max(images.numel() // channels, 1)
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    # A constant channel is left as it is: dividing by zero would make it NaN.
    std = torch.where(std < 1e-4, torch.ones_like(std), std)
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())
