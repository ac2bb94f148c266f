"""Image folders: one sub-folder per class, with or without train, validation and test folders above them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch

from sparseland.core.errors import DataNotFound, SparselandError, nearest
from sparseland.data.images import EXTENSIONS, probe, read_files
from sparseland.data.source import Pool, Source

VALIDATION_NAMES = ("val", "valid", "validation")


def image_folder(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Source:
    """Describe a folder of images.

    Either ``path/<class>/*.png``, of which 20 % are set apart as the test set (stratified, fixed for ever), or
    ``path/train/<class>/*.png``, with ``test`` and ``val`` (``valid``, ``validation``) beside it where they exist.
    Classes are the folder names in alphabetical order. Images are grey if all of them are, else RGB.

    Parameters:
        path: the folder.
        size: (H, W) in pixels, to which every image is scaled and centre-cropped; None: all have one size already.

    Raises:
        DataNotFound: no such folder, or no class folder with images in it.
        SparselandError: images differ in size and no size was given; a split has an unknown class; a damaged file.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataNotFound(f"'folder:{path}': looked for a folder of images, and {root} is not a folder")
    names = [entry.name for entry in _folders(root)]
    if "train" in names:
        places = {"train": root / "train"}
        places |= {"test": root / "test"} if "test" in names else {}
        found = [name for name in VALIDATION_NAMES if name in names]
        if len(found) > 1:
            raise SparselandError(f"{root} has several validation folders: {', '.join(found)}; keep one")
        places |= {"validation": root / found[0]} if found else {}
    else:
        places = {"train": root}

    classes = [entry.name for entry in _folders(places["train"]) if _files(entry)]
    if not classes:
        raise DataNotFound(
            f"'folder:{path}': looked for class folders with images ({', '.join(EXTENSIONS)}) in {places['train']}; "
            f"found {', '.join(names) or 'nothing'}"
        )
    listed = {split: _list(place, classes) for split, place in places.items()}
    files = [file for found_files, _ in listed.values() for file in found_files]
    channels, shape = _shape(files, size)
    pools = {
        split: Pool(torch.tensor(labels), partial(_take, found_files, channels, shape))
        for split, (found_files, labels) in listed.items()
    }
    note = "" if "test" in pools else "No test folder: 20 % of every class were set apart (fixed for ever)."
    return Source(
        f"folder:{path}", pools["train"], pools.get("validation"), pools.get("test"), len(classes),
        note=note, class_names=tuple(classes),
    )  # fmt: skip


def _folders(place: Path) -> list[Path]:
    return sorted(entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(place: Path) -> list[Path]:
    return sorted(
        entry
        for entry in place.iterdir()
        if entry.is_file() and entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".")
    )


def _list(place: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    for folder in _folders(place):
        members = _files(folder)
        if members and folder.name not in classes:
            raise SparselandError(f"{folder} is no class of train: {nearest(folder.name, classes)}")
        files += members
        labels += [classes.index(folder.name)] * len(members) if members else []
    if not files:
        raise DataNotFound(f"{place} holds no class folder with images; remove it, or fill it")
    return files, labels


def _shape(files: list[Path], size: tuple[int, int] | None) -> tuple[int, tuple[int, int]]:
    """(channels, (H, W)) for all of them, from the headers."""
    headers = [probe(file) for file in files]
    channels = 1 if all(grey for grey, _ in headers) else 3
    if size is not None:
        return channels, size
    first = headers[0][1]
    for file, (_, other) in zip(files, headers, strict=True):
        if other != first:
            raise SparselandError(
                f"images differ in size: {files[0].name} is {first[0]}×{first[1]}, {file.name} is "
                f"{other[0]}×{other[1]} (height×width); give size=, for example size={min(first + other)}"
            )
    return channels, first


def _take(files: list[Path], channels: int, shape: tuple[int, int], indices: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(read_files([files[i] for i in indices.tolist()], channels, shape))
