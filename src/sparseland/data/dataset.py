"""What a dataset is: three splits that share nothing, and the numbers that describe them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparseland.core.errors import SparselandError


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their classes.

    Parameters:
        images: [n, C, H, W], uint8 (0 … 255) or float32 (0 … 1).
        labels: int64 [n], classes 0 … classes-1.

    Raises:
        SparselandError: shapes, types or lengths do not fit.

    >>> split = Split(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    >>> len(split), split[:2].labels.tolist()
    (3, [0, 1])
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise SparselandError(
                f"images must be uint8 or float32 of shape [n, C, H, W]; "
                f"got {self.images.dtype} of shape {list(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise SparselandError(
                f"labels must be int64 of shape [{len(self.images)}]; "
                f"got {self.labels.dtype} of shape {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | torch.Tensor) -> Split:
        return Split(self.images[index], self.labels[index])

    def to(self, device: str | torch.device) -> Split:
        """The same split with both tensors on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, validation and test, strictly apart, with what is needed to normalise and to describe them.

    Parameters:
        name: the name it was loaded by.
        train, validation, test: the splits. ``validation`` was cut from train (or is the publisher's own);
            ``test`` has never been part of either.
        classes: number of classes.
        mean, std: one number per channel, in units where an image runs from 0 to 1: x = (image - mean) / std.
        note: what a reader of results has to know (how the splits came about, what is unusual).
        shape: (C, H, W).
        licence: as stated by the publisher, or "not stated".
        class_names: one name per class; empty where none are known.

    >>> from sparseland.data import load
    >>> digits = load("digits")
    >>> digits.shape, digits.classes, [len(s) for s in (digits.train, digits.validation, digits.test)]
    ((1, 8, 8), 10, [1078, 360, 359])
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str
    shape: tuple[int, int, int]
    licence: str = "not stated"
    class_names: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def split(self, name: str) -> Split:
        """One split by name, "train", "validation" or "test".

        Raises:
            SparselandError: another name.
        """
        if name not in self.splits:
            raise SparselandError(f"no split {name!r}; possible: {', '.join(self.splits)}")
        return self.splits[name]

    def describe(self) -> str:
        """A few lines for people: shapes, counts per split and per class, normalisation, licence, note.

        >>> from sparseland.data import load
        >>> print(load("digits").describe().splitlines()[0])
        digits: 10 classes, images 1×8×8 float32
        """
        channels, height, width = self.shape
        kind = str(self.train.images.dtype).removeprefix("torch.")
        lines = [f"{self.name}: {self.classes} classes, images {channels}×{height}×{width} {kind}"]
        for name, split in self.splits.items():
            per_class = torch.bincount(split.labels.cpu(), minlength=self.classes)
            spread = f"{int(per_class.min()):,} to {int(per_class.max()):,} per class" if len(split) else "empty"
            lines.append(f"  {name:<10} {len(split):>9,}  ({spread})")
        if self.class_names:
            shown = ", ".join(self.class_names[:10])
            lines.append(f"  classes    {shown}{', …' if self.classes > 10 else ''}")
        lines.append(f"  mean       {', '.join(f'{value:.4f}' for value in self.mean)}")
        lines.append(f"  std        {', '.join(f'{value:.4f}' for value in self.std)}")
        lines.append(f"  licence    {self.licence}")
        if self.note:
            lines.append(f"  note       {self.note}")
        return "\n".join(lines)
