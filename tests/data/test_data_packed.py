"""digits against scikit-learn; the packed datasets of the data folder; damaged and missing files."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.data import NAMES, load
from sparseland.data import packed as packed_module
from sparseland.data.source import measure


def test_digits_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    with np.load(os.path.join(os.path.dirname(packed_module.__file__), "digits.npz"), allow_pickle=False) as ours:
        assert ours["images"].dtype == np.uint8
        np.testing.assert_array_equal(ours["images"], theirs.images)
        np.testing.assert_array_equal(ours["labels"], theirs.target)


def test_digits_notice_ships_with_them() -> None:
    notice = os.path.join(os.path.dirname(packed_module.__file__), "NOTICE")
    with open(notice, encoding="utf-8") as file:
        assert "CC BY 4.0" in file.read()


def test_digits_values_and_statistics() -> None:
    digits = load("digits")
    steps = (digits.train.images * 16).unique()
    assert steps.tolist() == list(range(17))
    seen = torch.cat([digits.train.images, digits.validation.images])
    assert measure(seen) == (digits.mean, digits.std)  # test images took no part in the statistics


def test_digits_need_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSELAND_DATA", "/nowhere")
    assert len(load("digits").test) == 359


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [
        ("fashion-mnist", (1, 28, 28), (54_000, 6_000, 10_000)),
        ("mnist-test", (1, 28, 28), (6_000, 2_000, 2_000)),
    ],
)
def test_grey_sets(data_folder, name: str, shape: tuple[int, ...], counts: tuple[int, ...]) -> None:
    data = load(name, folder=data_folder)
    assert data.shape == shape and data.classes == 10
    assert tuple(len(split) for split in data.splits.values()) == counts
    assert data.train.images.dtype == torch.uint8
    measured = measure(data.train.images)
    assert abs(measured[0][0] - data.mean[0]) < 0.003 and abs(measured[1][0] - data.std[0]) < 0.003


def test_mnist_test_says_what_it_is(data_folder) -> None:
    assert "not comparable" in load("mnist-test", folder=data_folder, limit=1).note


def test_cifar_decodes_and_is_found_by_the_environment(data_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSELAND_DATA", str(data_folder))
    monkeypatch.setattr(packed_module, "decode_jpeg", _first_only(packed_module.decode_jpeg))
    data = load("cifar10-jpeg", limit=32)
    assert data.shape == (3, 32, 32) and len(data.train) == 32
    assert (len(data.validation), len(data.test)) == (5_000, 10_000)
    assert data.train.images.float().mean() > 60  # pictures, not zeros
    assert "JPEG" in data.note and data.mean == (0.485, 0.456, 0.406)
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10


def _first_only(decode):
    """Decode at most 32 images of every split and leave the others black: the order is what is tested, not Pillow."""

    def quick(data, offsets, indices, shape):
        images = np.zeros((len(indices), 3, *shape), dtype=np.uint8)
        images[:32] = decode(data, offsets, indices[:32], shape)
        return images

    return quick


def test_missing_folder_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv("SPARSELAND_DATA", raising=False)
    with pytest.raises(DataNotFound, match=r"fashion-mnist/train\.npz.*SPARSELAND_DATA.*folder="):
        load("fashion-mnist")
    with pytest.raises(DataNotFound, match=r"looked for cifar10-jpeg/train\.npz.*from folder=.*missing: train\.npz"):
        load("cifar10-jpeg", folder=tmp_path)
    monkeypatch.setenv("SPARSELAND_DATA", str(tmp_path))
    with pytest.raises(DataNotFound, match="from SPARSELAND_DATA"):
        load("mnist-test")


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(SparselandError, match=r"unknown dataset 'digit'.*did you mean 'digits'.*cifar10-jpeg"):
        load("digit")
    for name in ("", "folder:", "cifar10"):
        with pytest.raises(SparselandError, match="unknown dataset"):
            load(name)
    assert "digits" in NAMES


def _write(place, **arrays) -> None:
    place.mkdir(exist_ok=True)
    np.savez_compressed(place / "test.npz", **arrays)


def test_damaged_files_are_refused(tmp_path) -> None:
    place = tmp_path / "mnist-test"
    _write(place, images=np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(SparselandError, match="lacks labels; it holds images"):
        load("mnist-test", folder=tmp_path)
    _write(place, images=np.zeros((3, 28, 28), np.uint8), labels=np.array([0, 1, 10], np.uint8))
    with pytest.raises(SparselandError, match="labels run from 0 to 10"):
        load("mnist-test", folder=tmp_path)
    _write(place, images=np.zeros((3, 28, 28), np.uint8), labels=np.zeros(4, np.uint8))
    with pytest.raises(SparselandError, match=r"\[3, 28, 28\] and \[4\]"):
        load("mnist-test", folder=tmp_path)
    _write(place, images=np.array([{"a": 1}], dtype=object), labels=np.zeros(1, np.uint8))
    with pytest.raises(SparselandError, match="without executing code"):
        load("mnist-test", folder=tmp_path)
    (place / "test.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(SparselandError, match="damaged"):
        load("mnist-test", folder=tmp_path)


def _jpeg(side: int) -> bytes:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.new("RGB", (side, side), (200, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def _cifar(folder, blobs: list[bytes], labels: list[int] | None = None) -> None:
    place = folder / "cifar10-jpeg"
    place.mkdir(exist_ok=True)
    data = np.frombuffer(b"".join(blobs), np.uint8)
    offsets = np.cumsum([0, *map(len, blobs)])
    classes = np.array(labels if labels is not None else [i % 2 for i in range(len(blobs))], np.uint8)
    for name in ("train", "test"):
        np.savez(place / f"{name}.npz", jpeg_bytes=data, offsets=offsets, labels=classes)


def test_damaged_jpegs_are_refused(tmp_path) -> None:
    _cifar(tmp_path, [_jpeg(32)] * 4)
    assert load("cifar10-jpeg", folder=tmp_path, validation=0.0).train.images[:, 0].float().mean() > 150
    _cifar(tmp_path, [_jpeg(16)] * 4)
    with pytest.raises(SparselandError, match=r"image 0 is \(16, 16\), not \(32, 32\)"):
        load("cifar10-jpeg", folder=tmp_path)
    _cifar(tmp_path, [b"nonsense"] * 4)
    with pytest.raises(SparselandError, match="image 0 cannot be decoded"):
        load("cifar10-jpeg", folder=tmp_path)
    _cifar(tmp_path, [_jpeg(32)] * 4, labels=[0, 1])
    with pytest.raises(SparselandError, match="2 labels need 3 rising offsets"):
        load("cifar10-jpeg", folder=tmp_path)
