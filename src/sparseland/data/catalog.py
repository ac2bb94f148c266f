"""The front door: one name in, one `Dataset` out."""

from __future__ import annotations

import os

from sparseland.core.errors import SparselandError, nearest
from sparseland.data.dataset import Dataset
from sparseland.data.folders import image_folder
from sparseland.data.huggingface import hugging_face
from sparseland.data.packed import PACKED
from sparseland.data.source import Source, assemble

NAMES = (*PACKED, "hf:<name or folder>", "folder:<path>")


def load(
    name: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    limit: int | None = None,
    validation: float | None = None,
    size: int | tuple[int, int] | None = None,
) -> Dataset:
    """Load a dataset with train, validation and test strictly apart.

    The test split never depends on any argument. Validation is cut from train by a class-stratified permutation, a
    function of ``seed`` alone; where the publisher has a validation split, that one is used.

    Parameters:
        name: one of

            - ``"digits"``: inside the package, 1797 images 8×8 (needs no folder);
            - ``"fashion-mnist"``, ``"mnist-test"``, ``"cifar10-jpeg"``: from the data folder;
            - ``"hf:<name>"`` or ``"hf:/path"``: Hugging Face, from the hub or saved with ``save_to_disk``; with
              ``?config=…&image=…&label=…`` where they cannot be guessed;
            - ``"folder:/path"``: image folders, ``/path/<class>/*.png`` or ``/path/{train,val,test}/<class>/*.png``.
        folder: the data folder; None: the environment variable SPARSELAND_DATA.
        seed: of the validation cut only (not of the order of batches).
        limit: at most so many train images, a prefix in random order; validation and test stay whole.
        validation: share of train to set apart, in [0, 1); None: 0.1, or a 60/20/20 split where the test images
            have to come from the same pile (digits, mnist-test, folders without a test folder).
        size: side in pixels or (height, width); images are resized to it.

    Raises:
        DataNotFound: the files are not where they were looked for.
        SparselandError: an unknown name or an impossible argument.

    >>> from sparseland.data import load
    >>> one, two = load("digits"), load("digits", seed=1, limit=100)
    >>> len(one.train), len(one.validation), len(one.test), len(two.train)
    (1078, 360, 359, 100)
    >>> bool((one.test.images == two.test.images).all())  # the test split never moves
    True
    >>> bool((one.validation.images == two.validation.images).all())
    False
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise SparselandError(f"limit is a number of train images, at least 1, or None; got {limit!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SparselandError(f"seed is an integer; got {seed!r}")
    if validation is not None and not 0.0 <= validation < 1.0:
        raise SparselandError(f"validation is a share of train in [0, 1), or None; got {validation!r}")
    sides = _sides(size)
    return assemble(_source(name, folder, sides), seed=seed, limit=limit, validation=validation, size=sides)


def _source(name: str, folder: str | os.PathLike[str] | None, size: tuple[int, int] | None) -> Source:
    if name in PACKED:
        return PACKED[name](folder)
    kind, colon, rest = str(name).partition(":")
    if colon and kind == "hf":
        return hugging_face(rest, size)
    if colon and kind == "folder" and rest:
        return image_folder(rest, size)
    raise SparselandError(f"unknown dataset {name!r}: {nearest(name, NAMES)}")


def _sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise SparselandError(f"size is a side in pixels, (height, width), or None; got {size!r}")
    return sides[0], sides[1]
