"""The packed datasets: digits (in the package), and fashion-mnist, mnist-test, cifar10-jpeg (in a data folder)."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.data.images import decode_jpeg
from sparseland.data.source import Pool, Source

FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FIGURES = tuple("0123456789")


def digits(folder: str | os.PathLike[str] | None = None) -> Source:
    """UCI handwritten digits: 1797 images 8×8, inside the package; float32, exactly k/16 for k = 0 … 16.

    Ready-made split 60/20/20: 1078 train, 360 validation, 359 test, stratified. ``folder`` is not needed.
    """
    stored = _arrays(Path(__file__).with_name("digits.npz"), "images", "labels")
    images = torch.from_numpy(stored["images"]).unsqueeze(1).float() / 16
    return Source(
        "digits", Pool(_labels(stored["labels"]), images.__getitem__), None, None, 10,
        mean=(0.3051,), std=(0.3758,),
        note="Stratified split: the test images are fixed for ever, the validation images depend on seed=.",
        licence="CC BY 4.0 (E. Alpaydin, C. Kaynak; UCI Machine Learning Repository)", class_names=FIGURES,
    )  # fmt: skip


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> Source:
    """Fashion-MNIST: 60,000 + 10,000 images 28×28 of clothes, uint8 (arXiv:1708.07747)."""
    place = _locate("fashion-mnist", ("train.npz", "test.npz"), folder)
    return Source(
        "fashion-mnist", _grey(place / "train.npz"), None, _grey(place / "test.npz"), 10,
        mean=(0.2860,), std=(0.3530,), licence="MIT (Zalando SE)", class_names=FASHION,
    )  # fmt: skip


def mnist_test(folder: str | os.PathLike[str] | None = None) -> Source:
    """The 10,000 test digits of MNIST, 28×28 uint8; its 60,000 train digits are not part of it.

    Split here, stratified, into train / validation / test (60/20/20 by default); the test digits are fixed for ever.
    Results are therefore not comparable with published MNIST numbers.
    """
    place = _locate("mnist-test", ("test.npz",), folder)
    return Source(
        "mnist-test", _grey(place / "test.npz"), None, None, 10,
        mean=(0.1307,), std=(0.3081,),
        note="Only the 10,000 test digits of MNIST, cut here into train, validation and test (stratified, test fixed "
        "for ever): not comparable with published MNIST numbers.",
        licence="CC BY-SA 3.0 (Y. LeCun, C. Cortes)", class_names=FIGURES,
    )  # fmt: skip


def cifar10_jpeg(folder: str | os.PathLike[str] | None = None) -> Source:
    """CIFAR-10 re-encoded as JPEG: 50,000 + 10,000 images 32×32×3, decoded once and kept as uint8.

    Published accuracies do not carry over: compare only with baselines trained on it, and write "CIFAR-10 (JPEG)".
    The normalisation is the one the stored CIFAR ResNets were trained with (ImageNet's mean and std), so that
    ``zoo.pretrained`` fits as it is: ResNet-20 scores 81.03 % here with it, and 80.73 % with CIFAR's own statistics.
    """
    place = _locate("cifar10-jpeg", ("train.npz", "test.npz"), folder)
    return Source(
        "cifar10-jpeg", _jpeg(place / "train.npz"), None, _jpeg(place / "test.npz"), 10,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        note="CIFAR-10 (JPEG): re-encoded, so accuracies published for CIFAR-10 do not carry over.",
        licence="none stated; research use", class_names=CIFAR,
    )  # fmt: skip


PACKED: dict[str, Callable[[str | os.PathLike[str] | None], Source]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "mnist-test": mnist_test,
    "cifar10-jpeg": cifar10_jpeg,
}


def _locate(name: str, files: tuple[str, ...], folder: str | os.PathLike[str] | None) -> Path:
    """The sub-folder of the data folder that holds ``files``.

    Raises:
        DataNotFound: no data folder is known, or a file is not in it.
    """
    given = folder if folder is not None else os.environ.get("SPARSELAND_DATA")
    wanted = " and ".join(f"{name}/{file}" for file in files)
    if not given:
        raise DataNotFound(
            f"{name!r} needs {wanted} in a data folder, and no folder was given: set the environment variable "
            f"SPARSELAND_DATA to the folder that holds {name}/, or give folder=. Without any folder there is 'digits'."
        )
    place = Path(given).expanduser() / name
    missing = [file for file in files if not (place / file).is_file()]
    if missing:
        origin = "folder=" if folder is not None else "SPARSELAND_DATA"
        raise DataNotFound(
            f"{name!r}: looked for {wanted} in {given} (from {origin}); missing: {', '.join(missing)}. Set the "
            f"environment variable SPARSELAND_DATA to the folder that holds {name}/, or give folder=."
        )
    return place


def _arrays(path: Path, *keys: str) -> dict[str, np.ndarray]:
    """The named arrays of an npz file; never unpickles."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:  # numpy leaves damaged files open
            absent = [key for key in keys if key not in stored.files]
            if absent:
                raise SparselandError(f"{path} lacks {', '.join(absent)}; it holds {', '.join(stored.files)}")
            return {key: stored[key] for key in keys}
    except (OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise SparselandError(f"{path} is damaged or no npz file: {error}") from error
    except ValueError as error:  # numpy's word for "this array would need pickle"
        if isinstance(error, SparselandError):
            raise
        raise SparselandError(f"{path} cannot be read without executing code: {error}") from error


def _labels(labels: np.ndarray, classes: int = 10) -> torch.Tensor:
    result = torch.from_numpy(labels.astype(np.int64))
    if len(result) and (int(result.min()) < 0 or int(result.max()) >= classes):
        raise SparselandError(
            f"labels run from {int(result.min())} to {int(result.max())}, not within 0 … {classes - 1}"
        )
    return result


def _grey(path: Path) -> Pool:
    stored = _arrays(path, "images", "labels")
    images, labels = stored["images"], stored["labels"]
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise SparselandError(
            f"{path}: expected images uint8 [n, H, W] and labels [n]; "
            f"got {images.dtype} {list(images.shape)} and {list(labels.shape)}"
        )
    return Pool(_labels(labels), torch.from_numpy(images).unsqueeze(1).__getitem__, shuffled=True)


def _jpeg(path: Path) -> Pool:
    stored = _arrays(path, "jpeg_bytes", "offsets", "labels")
    data, offsets, labels = stored["jpeg_bytes"], stored["offsets"], stored["labels"]
    fits = len(offsets) == len(labels) + 1 and bool((np.diff(offsets) > 0).all())
    if not fits or offsets[0] < 0 or offsets[-1] > len(data):
        raise SparselandError(
            f"{path}: {len(labels)} labels need {len(labels) + 1} rising offsets within the {len(data)} bytes stored; "
            f"got {len(offsets)} offsets"
        )
    return Pool(_labels(labels), partial(_decode, data, offsets), shuffled=True)


def _decode(data: np.ndarray, offsets: np.ndarray, indices: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(decode_jpeg(data, offsets, indices.numpy(), (32, 32)))
