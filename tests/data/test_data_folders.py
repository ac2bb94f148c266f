"""Image folders: layouts, colours, sizes, and what is wrong with those that do not work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.data import load
from sparseland.data.images import to_array

Image = pytest.importorskip("PIL.Image")


def _write(path: Path, value: int, mode: str = "L", size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode == "L" else (value, 0, 255 - value)
    Image.new(mode, size, colour).save(path)


def _flat(root: Path, per_class: int = 10, **kw) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for i in range(per_class):
            _write(root / name / f"{i}.png", 100 * label + i, **kw)
    return root


def test_class_folders_are_cut_60_20_20(tmp_path) -> None:
    data = load(f"folder:{_flat(tmp_path)}")
    assert [len(split) for split in data.splits.values()] == [12, 4, 4]
    assert data.class_names == ("cat", "dog") and data.shape == (1, 8, 8)
    for split in data.splits.values():  # the value says the class, so images and labels belong together
        assert torch.equal((split.images[:, 0, 0, 0] >= 100).long(), split.labels)
    values = [set(split.images[:, 0, 0, 0].tolist()) for split in data.splits.values()]
    assert len(set.union(*values)) == 20
    assert "20 %" in data.note and data.licence == "not stated"


def test_a_prefix_holds_every_class(tmp_path) -> None:
    data = load(f"folder:{_flat(tmp_path, 20)}", limit=12)
    assert set(data.train.labels.tolist()) == {0, 1}


@pytest.mark.parametrize("validation", ["val", "valid", "validation", None])
def test_split_folders(tmp_path, validation: str | None) -> None:
    _flat(tmp_path / "train")
    _write(tmp_path / "test" / "dog" / "1.png", 222)
    if validation:
        _write(tmp_path / validation / "cat" / "1.png", 33)
    data = load(f"folder:{tmp_path}")
    assert data.test.images.unique().tolist() == [222] and data.test.labels.tolist() == [1]
    assert [len(data.train), len(data.validation)] == ([20, 1] if validation else [18, 2])


def test_colour_and_resizing(tmp_path) -> None:
    _flat(tmp_path)
    _write(tmp_path / "dog" / "wide.jpg", 200, "RGB", (40, 20))
    with pytest.raises(SparselandError, match=r"0\.png is 8×8, wide\.jpg is 20×40.*give size=.*size=8"):
        load(f"folder:{tmp_path}")
    data = load(f"folder:{tmp_path}", size=16)
    assert data.shape == (3, 16, 16) and data.train.images.dtype == torch.uint8


def test_wide_images_are_cropped_not_squeezed() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    assert to_array(Image.fromarray(wide), 1, (10, 10)).min() == 255


def test_unusual_pixel_formats() -> None:
    deep = Image.fromarray(np.full((4, 4), 256 * 77, np.uint16))
    assert (to_array(deep, 1, None) == 77).all()
    palette = Image.new("RGBA", (4, 4), (9, 8, 7, 255)).convert("P")
    palette.info["transparency"] = bytes([255, 0])
    assert to_array(palette, 3, None).shape == (3, 4, 4)
    with pytest.raises(SparselandError, match="no fixed range"):
        to_array(Image.new("F", (4, 4)), 1, None)


def test_files_that_are_no_images_are_passed_over(tmp_path) -> None:
    _flat(tmp_path)
    (tmp_path / "cat" / "readme.txt").write_text("not an image")
    (tmp_path / "cat" / "._0.png").write_bytes(b"junk of a file system")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "empty").mkdir()
    assert load(f"folder:{tmp_path}").classes == 2


def test_what_is_wrong_is_said(tmp_path) -> None:
    with pytest.raises(DataNotFound, match="is not a folder"):
        load(f"folder:{tmp_path}/absent")
    with pytest.raises(DataNotFound, match=r"class folders with images.*found nothing"):
        load(f"folder:{tmp_path}")
    _flat(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataNotFound, match="no class folder with images"):
        load(f"folder:{tmp_path}")
    _write(tmp_path / "test" / "dogs" / "1.png", 1)
    with pytest.raises(SparselandError, match=r"no class of train: did you mean 'dog'"):
        load(f"folder:{tmp_path}")


def test_two_validation_folders_are_one_too_many(tmp_path) -> None:
    _flat(tmp_path / "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "valid").mkdir()
    with pytest.raises(SparselandError, match="val, valid"):
        load(f"folder:{tmp_path}")


def test_a_damaged_image_is_named(tmp_path) -> None:
    _flat(tmp_path)
    (tmp_path / "dog" / "bad.png").write_bytes(b"not a png")
    with pytest.raises(SparselandError, match=r"bad\.png cannot be read"):
        load(f"folder:{tmp_path}")
    whole = (tmp_path / "dog" / "0.png").read_bytes()
    (tmp_path / "dog" / "bad.png").write_bytes(whole[: len(whole) // 2 + 8])  # the header is fine, the pixels are not
    with pytest.raises(SparselandError, match=r"bad\.png cannot be read"):
        load(f"folder:{tmp_path}")
