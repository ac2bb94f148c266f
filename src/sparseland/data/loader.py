"""Batches whose order is a pure function of (seed, epoch), so that a resumed run sees the same ones bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

from sparseland.core.errors import SparselandError, nearest
from sparseland.data.dataset import Split
from sparseland.data.order import generator, permutation

AUGMENTATIONS = ("crop+flip", "crop", "flip")
PADDING = 4  # pixels on each side before a random crop


class Batches:
    """The batches of one epoch; made by `batches`. Iterating twice gives the same batches twice."""

    def __init__(
        self, split: Split, batch_size: int, *, mean: Sequence[float], std: Sequence[float], shuffle: bool, seed: int,
        epoch: int, augment: str | None, device: str | torch.device, rank: int, world: int, start: int, drop_last: bool,
    ) -> None:  # fmt: skip
        self.split, self.batch_size, self.shuffle, self.seed, self.epoch = split, batch_size, shuffle, seed, epoch
        self.augment, self.device = augment, torch.device(device)
        self.rank, self.world, self.start, self.drop_last = rank, world, start, drop_last
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self._check()

    def _check(self) -> None:
        channels = self.split.images.shape[1]
        if self.batch_size < 1:
            raise SparselandError(f"batch_size is at least 1; got {self.batch_size}")
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise SparselandError(f"rank must be in 0 … world-1; got rank={self.rank}, world={self.world}")
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise SparselandError(
                f"images have {channels} channel(s), so mean and std need {channels} number(s), std above 0; "
                f"got mean={self.mean}, std={self.std}"
            )
        if self.augment is not None and self.augment not in AUGMENTATIONS:
            raise SparselandError(
                f"unknown augmentation {self.augment!r}: {nearest(self.augment, AUGMENTATIONS)}, None"
            )
        if len(self.split) == 0:
            raise SparselandError("the split is empty, so there is nothing to make batches of")
        if not 0 <= self.start <= self.total:
            raise SparselandError(f"start must be in 0 … {self.total}, the batches of an epoch; got {self.start}")

    @property
    def total(self) -> int:
        """Number of batches of the whole epoch, the same on every rank."""
        whole = self.batch_size * self.world
        return len(self.split) // whole if self.drop_last else -(-len(self.split) // whole)

    def __len__(self) -> int:
        """Number of batches that iterating will give: `total` minus those skipped."""
        return self.total - self.start

    def skip(self, n: int) -> Batches:
        """The same epoch without its next ``n`` batches; those are never computed."""
        return Batches(
            self.split, self.batch_size, mean=self.mean, std=self.std, shuffle=self.shuffle, seed=self.seed,
            epoch=self.epoch, augment=self.augment, device=self.device, rank=self.rank, world=self.world,
            start=self.start + n, drop_last=self.drop_last,
        )  # fmt: skip

    def indices(self, batch: int) -> torch.Tensor:
        """Which images batch number ``batch`` of this rank holds: int64, positions in the split."""
        return self._share(self._order(), batch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = self._order()
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, device=self.device).view(shape)
        std = torch.tensor(self.std, device=self.device).view(shape)
        for batch in range(self.start, self.total):
            index = self._share(order, batch).to(self.split.images.device)
            images = self.split.images[index].to(self.device)
            if self.augment is not None:
                # On the CPU whatever the device, so that a GPU run draws the same crops.
                images = augment(images, self.augment, generator("augment", self.seed, self.epoch, batch, self.rank))
            if images.dtype == torch.uint8:
                images = images.float().div_(255)
            yield images.sub(mean).div_(std), self.split.labels[index].to(self.device)

    def _order(self) -> torch.Tensor:
        count = len(self.split)
        return permutation(count, "batches", self.seed, self.epoch) if self.shuffle else torch.arange(count)

    def _share(self, order: torch.Tensor, batch: int) -> torch.Tensor:
        """This rank's part of one global batch of up to ``batch_size * world`` images."""
        whole = self.batch_size * self.world
        members = order[batch * whole : (batch + 1) * whole]
        if len(members) < self.world:
            # Every rank must step together: the ranks left without an image repeat the first ones of the order.
            members = torch.cat([members, order.repeat(-(-self.world // len(order)))])[: self.world]
        return members.tensor_split(self.world)[self.rank]


def batches(
    split: Split,
    batch_size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    shuffle: bool,
    seed: int = 0,
    epoch: int = 0,
    augment: str | None = None,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    drop_last: bool = False,
) -> Batches:
    """Iterate over one epoch as (images float32 [b, C, H, W] normalised, labels int64 [b]).

    Equation: x = (image − mean) / std, with images in 0 … 1.

    The order is a function of (seed, epoch); the augmentation of a batch is one of (seed, epoch, batch, rank). So batch
    n is the same bit for bit whether the epoch began at 0 or at n. One global batch of ``batch_size * world`` images is
    shared out over the ranks, so that W ranks with B images each see what one rank with W·B images sees.

    Parameters:
        split: the images.
        batch_size: images per batch and rank, ≥ 1. The last batch may be smaller; it is shared evenly over the ranks.
            If it has fewer images than there are ranks, the ranks left over repeat the first images of the order.
        mean, std: one number per channel (`Dataset.mean`, `Dataset.std`).
        shuffle: a random order (training), or the stored one (evaluation).
        seed, epoch: what the order is a function of.
        augment: "crop+flip" (pad 4 pixels of black, crop at random, flip half of the images left-right), "crop", "flip"
            or None.
        device: where the batches go. Move the split there once (`Split.to`) to spare the copies.
        rank, world: which part of how many; every rank gets the same number of batches.
        start: first batch to give; earlier ones are not computed.
        drop_last: leave out a last batch that is not full.

    Returns:
        `Batches`: an iterable with ``len``, ``skip(n)``, ``total`` and ``indices(batch)``.

    Raises:
        SparselandError: an argument out of its range, an unknown augmentation, an empty split.

    >>> from sparseland.data import batches, load
    >>> digits = load("digits")
    >>> epoch = batches(digits.train, 64, mean=digits.mean, std=digits.std, shuffle=True, seed=3, epoch=1)
    >>> len(epoch), next(iter(epoch))[0].shape
    (17, torch.Size([64, 1, 8, 8]))
    >>> straight, resumed = list(epoch)[10], next(iter(epoch.skip(10)))
    >>> bool((straight[0] == resumed[0]).all() and (straight[1] == resumed[1]).all())
    True
    """
    return Batches(
        split, batch_size, mean=mean, std=std, shuffle=shuffle, seed=seed, epoch=epoch, augment=augment, device=device,
        rank=rank, world=world, start=start, drop_last=drop_last,
    )  # fmt: skip


def augment(images: torch.Tensor, kind: str, draw: torch.Generator) -> torch.Tensor:
    """Random crops of the image padded by 4 pixels of black, and left-right flips, each image its own.

    Parameters:
        images: [n, C, H, W].
        kind: "crop+flip", "crop" or "flip".
        draw: a CPU generator.

    Returns:
        The same shape, type and device.

    >>> images = torch.arange(16.0).view(1, 1, 4, 4)
    >>> flipped = {str(augment(images, "flip", generator(i)).tolist()) for i in range(20)}
    >>> flipped == {str(images.tolist()), str(images.flip(3).tolist())}
    True
    """
    count, _, height, width = images.shape
    steps = kind.split("+")
    rows = torch.arange(height).expand(count, height)
    columns = torch.arange(width).expand(count, width)
    if "flip" in steps:
        flip = torch.rand(count, generator=draw) < 0.5
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    if "crop" in steps:
        images = F.pad(images, (PADDING,) * 4)
        rows = rows + torch.randint(0, 2 * PADDING + 1, (count, 1), generator=draw)
        columns = columns + torch.randint(0, 2 * PADDING + 1, (count, 1), generator=draw)
    rows, columns = rows.to(images.device), columns.to(images.device)
    which = torch.arange(count, device=images.device)
    # Indices around the channel axis: [n, H, W] of them, and the channels come last.
    picked = images[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [n, H, W, C]
    return picked.permute(0, 3, 1, 2).contiguous()
