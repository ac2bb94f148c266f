"""Hugging Face datasets, made here and saved to disk; the hub itself is never asked."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.data import load

# Other people's deprecations, raised while the package is imported, are not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("datasets")


def _pictures(hub, count: int = 20, side: int = 8, label: str = "label", **columns):
    image = pytest.importorskip("PIL.Image")
    pixels = [np.full((side, side), 10 * (i % 2) + i, np.uint8) for i in range(count)]
    features = hub.Features({"img": hub.Image(), label: hub.ClassLabel(names=["cat", "dog"])})
    made = hub.Dataset.from_dict({"img": [image.fromarray(p) for p in pixels], label: [i % 2 for i in range(count)]},
                                 features=features)  # fmt: skip
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


def test_published_splits_and_detected_columns(hub, tmp_path) -> None:
    made = hub.DatasetDict(train=_pictures(hub), validation=_pictures(hub, 6), test=_pictures(hub, 4))
    made.save_to_disk(str(tmp_path / "saved"))
    data = load(f"hf:{tmp_path}/saved")
    assert [len(split) for split in data.splits.values()] == [20, 6, 4]
    assert data.class_names == ("cat", "dog") and data.shape == (1, 8, 8)
    for split in data.splits.values():
        parity = split.images[:, 0, 0, 0].long() % 2
        assert torch.equal(parity, split.labels)  # images and labels still belong together


def test_one_split_is_cut_in_three_and_resized(hub, tmp_path) -> None:
    _pictures(hub).save_to_disk(str(tmp_path / "saved"))
    data = load(f"hf:{tmp_path}/saved", size=16, limit=5)
    assert [len(split) for split in data.splits.values()] == [5, 4, 4]
    assert data.shape == (1, 16, 16) and "20 %" in data.note


def test_hidden_test_labels_are_no_test_split(hub, tmp_path) -> None:
    hidden = _pictures(hub, 4).map(lambda row: {"label": -1}, load_from_cache_file=False)
    hub.DatasetDict(train=_pictures(hub), test=hidden).save_to_disk(str(tmp_path / "saved"))
    data = load(f"hf:{tmp_path}/saved")
    assert len(data.test) == 4 and data.test.labels.min() >= 0 and "No labelled test split" in data.note


def test_arrays_and_text_labels(hub, tmp_path) -> None:
    pixels = [np.full((6, 6, 3), i, np.uint8).tolist() for i in range(20)]
    made = hub.Dataset.from_dict({"pixel_values": pixels, "label": ["cat" if i % 2 else "dog" for i in range(20)]})
    made.save_to_disk(str(tmp_path / "saved"))
    data = load(f"hf:{tmp_path}/saved", size=4)
    assert data.shape == (3, 4, 4) and data.class_names == ("cat", "dog")
    assert torch.equal((data.train.images[:, 0, 0, 0] % 2 == 0).long(), data.train.labels)


def test_columns_can_be_named(hub, tmp_path) -> None:
    made = _pictures(hub, label="fine_label").add_column("coarse_label", [0] * 20)
    made = made.cast_column("coarse_label", hub.ClassLabel(names=["animal"]))
    place = tmp_path / "saved"
    made.save_to_disk(str(place))
    with pytest.raises(
        SparselandError, match=r"several label columns \(fine_label, coarse_label\).*\?label=fine_label"
    ):
        load(f"hf:{place}")
    assert load(f"hf:{place}?label=fine_label&image=img").classes == 2
    assert load(f"hf:{place}?label=coarse_label").classes == 1
    with pytest.raises(SparselandError, match="no column 'fine_labels': did you mean 'fine_label'"):
        load(f"hf:{place}?label=fine_labels")
    with pytest.raises(SparselandError, match="unknown option 'labels': did you mean 'label'"):
        load(f"hf:{place}?labels=fine_label")


def test_what_is_wrong_is_said(hub, tmp_path) -> None:
    hub.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(SparselandError, match="no image column among text, label"):
        load(f"hf:{tmp_path}/text")
    hub.DatasetDict(other=_pictures(hub, 4)).save_to_disk(str(tmp_path / "split"))
    with pytest.raises(SparselandError, match="no split 'train'; it has other"):
        load(f"hf:{tmp_path}/split")
    with pytest.raises(DataNotFound, match=r"save_to_disk.*there is none"):
        load(f"hf:{tmp_path}/absent")
    hub.concatenate_datasets([_pictures(hub, 4), _pictures(hub, 4, side=9)]).save_to_disk(str(tmp_path / "sizes"))
    with pytest.raises(SparselandError, match=r"differ in shape.*give size="):
        load(f"hf:{tmp_path}/sizes")
    with pytest.raises(SparselandError, match="needs a name or a folder"):
        load("hf:")


def test_no_hub_is_a_clear_error(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(name, config):
        asked.append((name, config))
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(hub, "load_dataset", offline)
    with pytest.raises(DataNotFound, match=r"'hf:owner/name'.*ConnectionError: no route.*save_to_disk"):
        load("hf:owner/name?config=small")
    assert asked == [("owner/name", "small")]


def test_no_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataNotFound, match=r"pip install 'sparseland\[data\]'"):
        load("hf:cifar10")
