"""Image classification datasets of Hugging Face `datasets`, from the hub or from a local copy.

The only file of this folder that imports `datasets`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch

from sparseland.core.errors import DataNotFound, SparselandError, nearest
from sparseland.data.images import GREY_MODES, to_array
from sparseland.data.source import Pool, Source, resize

OPTIONS = ("config", "image", "label")
IMAGE_NAMES = ("image", "img", "images", "pixel_values")
LABEL_NAMES = ("label", "labels", "class", "target")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")


def hugging_face(description: str, size: tuple[int, int] | None = None) -> Source:
    """Describe a dataset by its hub name or by the folder it was saved in with ``save_to_disk``.

    Parameters:
        description: ``"cifar10"``, ``"owner/name"`` or ``"/path/to/folder"``, then optionally a configuration and
            column names: ``"uoft-cs/cifar100?config=cifar100&image=img&label=fine_label"``. Columns that are not
            given are detected: the one of type Image, and the one of type ClassLabel (or named label).
        size: (H, W) in pixels, to which every image is scaled and centre-cropped; None: all have one size already.

    Raises:
        DataNotFound: `datasets` is not installed, or the dataset is neither on the hub nor on this disk.
        SparselandError: unknown options; no image or no label column, or several; images that differ in size.
    """
    name, options = _parse(description)
    splits = _open(name, options.get("config"))
    if "train" not in splits:
        raise SparselandError(f"'hf:{name}' has no split 'train'; it has {', '.join(splits)}")
    train = splits["train"]
    image = options.get("image") or _image_column(name, train)
    label = options.get("label") or _label_column(name, train)
    for column in (image, label):
        if column not in train.column_names:
            raise SparselandError(f"'hf:{name}' has no column {column!r}: {nearest(column, train.column_names)}")

    classes, encode = _classes(name, train, label)
    channels, shape = _shape(name, train, image, size)
    pools = {}
    for role, names in (("train", ("train",)), ("validation", VALIDATION_NAMES), ("test", ("test",))):
        found = next((splits[key] for key in names if key in splits), None)
        labels = encode(found) if found is not None else None
        # The hub hides the labels of some test sets as -1: such a split cannot be scored, so it is none.
        if labels is not None and len(labels) and int(labels.min()) >= 0:
            pools[role] = Pool(labels, partial(_take, found, image, channels, shape, name, size is not None))
    if "train" not in pools:
        raise SparselandError(f"'hf:{name}': column {label!r} of 'train' holds no usable labels")
    note = "" if "test" in pools else "No labelled test split: 20 % of every class were set apart (fixed for ever)."
    return Source(
        f"hf:{description}", pools["train"], pools.get("validation"), pools.get("test"), len(classes),
        note=note, licence=(train.info.license or "not stated").strip(), class_names=classes,
    )  # fmt: skip


def _parse(description: str) -> tuple[str, dict[str, str]]:
    name, _, query = description.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key in options:
        if key not in OPTIONS:
            raise SparselandError(f"'hf:{description}': unknown option {key!r}: {nearest(key, OPTIONS)}")
    if not name:
        raise SparselandError("'hf:' needs a name or a folder, for example 'hf:cifar10' or 'hf:/path/to/saved'")
    return name, {key: value for key, value in options.items() if value}


def _open(name: str, config: str | None) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataNotFound(
            f"'hf:{name}' needs the package `datasets`, which is not installed: pip install 'sparseland[data]'"
        ) from error

    place = Path(name).expanduser()
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            loaded = datasets.load_from_disk(str(place))
        elif name.startswith(("/", ".", "~")):
            raise DataNotFound(
                f"'hf:{name}': looked for a dataset saved with save_to_disk (dataset_dict.json or state.json) in "
                f"{place}, and there is none"
            )
        else:
            loaded = datasets.load_dataset(name, config)
    except SparselandError:
        raise
    except Exception as error:  # the hub fails in many ways: no network, no such name, no such configuration, a script
        raise DataNotFound(
            f"'hf:{name}' could not be opened from the hub or its local cache ({type(error).__name__}: {error}). "
            f"Check the name and the network, or save it once with save_to_disk and give that folder: 'hf:/path'."
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _image_column(name: str, split: Any) -> str:
    typed = [key for key, feature in split.features.items() if type(feature).__name__ == "Image"]
    named = [key for key in split.column_names if key in IMAGE_NAMES]
    return _one(name, "image", typed or named, split.column_names)


def _label_column(name: str, split: Any) -> str:
    typed = [key for key, feature in split.features.items() if type(feature).__name__ == "ClassLabel"]
    named = [key for key in split.column_names if key in LABEL_NAMES]
    both = [key for key in typed if key in named]
    return _one(name, "label", both if len(both) == 1 else typed or named, split.column_names)


def _one(name: str, role: str, found: list[str], columns: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    what = f"several {role} columns ({', '.join(found)})" if found else f"no {role} column"
    example = found[0] if found else columns[0]
    raise SparselandError(
        f"'hf:{name}' has {what} among {', '.join(columns)}; say which, for example 'hf:{name}?{role}={example}'"
    )


def _classes(name: str, train: Any, label: str) -> tuple[tuple[str, ...], Callable[[Any], torch.Tensor]]:
    """Class names, and the function that turns the labels of a split into int64 [n]."""
    names = getattr(train.features[label], "names", None)
    if names:
        return tuple(names), lambda split: torch.tensor(np.asarray(split[label][:], dtype=np.int64))
    values = sorted(set(train[label][:]))
    if not values or not all(isinstance(value, (int, str)) for value in values):
        raise SparselandError(f"'hf:{name}': column {label!r} must hold integers or strings; got {values[:3]}")
    index = {value: i for i, value in enumerate(values)}
    return tuple(map(str, values)), lambda split: torch.tensor([index.get(v, -1) for v in split[label][:]])


def _shape(name: str, train: Any, image: str, size: tuple[int, int] | None) -> tuple[int, tuple[int, int]]:
    """(channels, (H, W)) from the first image."""
    first = train[0][image]
    if hasattr(first, "convert"):
        return 1 if first.mode in GREY_MODES else 3, size or (first.height, first.width)
    array = _plain(first, name, image)
    return array.shape[0], size or (array.shape[1], array.shape[2])


def _plain(value: Any, name: str, image: str) -> np.ndarray:
    """An image stored as nested numbers, as uint8 [C, H, W]."""
    array = np.asarray(value)
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[-1] in (1, 3):
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] not in (1, 3) or array.min() < 0 or array.max() > 255:
        raise SparselandError(
            f"'hf:{name}': column {image!r} holds no image that is understood: expected a picture, or numbers 0 … 255 "
            f"of shape [H, W], [H, W, 3] or [3, H, W]; got {type(value).__name__} of shape {list(array.shape)}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise SparselandError(f"'hf:{name}': column {image!r} must hold integers 0 … 255; got {array.dtype}")
    return array.astype(np.uint8)


def _take(
    split: Any, image: str, channels: int, shape: tuple[int, int], name: str, size: bool, indices: torch.Tensor
) -> torch.Tensor:
    images = torch.empty((len(indices), channels, *shape), dtype=torch.uint8)
    for row, index in enumerate(indices.tolist()):
        value = split[index][image]
        if hasattr(value, "convert"):
            array = torch.from_numpy(to_array(value, channels, shape if size else None).copy())
        else:
            array = torch.from_numpy(_plain(value, name, image))
            array = resize(array[None], shape)[0] if size else array
        if array.shape != images.shape[1:]:
            raise SparselandError(
                f"'hf:{name}': images differ in shape: {list(images.shape[1:])} and {list(array.shape)} "
                f"(channels, height, width); give size=, for example size={min(shape)}"
            )
        images[row] = array
    return images
