"""Train, validation and test share nothing; what depends on seed, limit, validation and size, and what does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sparseland.core.errors import SparselandError
from sparseland.data import Dataset, Split, load
from sparseland.data.order import generator, permutation, stratified_cut
from sparseland.data.source import Pool, Source, assemble, measure, resize


def _numbered(count: int, classes: int = 3) -> Pool:
    """Images whose one pixel says which image it is."""
    images = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1) / count
    return Pool(torch.arange(count) % classes, images.__getitem__)


def _members(split: Split, count: int) -> set[int]:
    return {round(v * count) for v in split.images.flatten().tolist()}


def _load(count: int = 300, test: Pool | None = None, validation_pool: Pool | None = None, **kw) -> Dataset:
    arguments = {"seed": 0, "limit": None, "validation": None, "size": None, **kw}
    return assemble(Source("demo", _numbered(count), validation_pool, test, 3), **arguments)


def test_splits_partition_the_data_and_are_stratified() -> None:
    data = _load()
    parts = [_members(split, 300) for split in data.splits.values()]
    assert [len(part) for part in parts] == [180, 60, 60]
    assert set.union(*parts) == set(range(300))
    for split in data.splits.values():
        assert torch.bincount(split.labels).unique().numel() == 1


def test_with_a_test_set_of_its_own_train_gives_a_tenth() -> None:
    data = _load(test=_numbered(30))
    assert [len(split) for split in data.splits.values()] == [270, 30, 30]
    assert not _members(data.train, 300) & _members(data.validation, 300)


def test_a_published_validation_split_is_used() -> None:
    data = _load(test=_numbered(30), validation_pool=_numbered(60), validation=0.5)
    assert [len(split) for split in data.splits.values()] == [300, 60, 30]
    assert "own validation split" in data.note


@pytest.mark.parametrize("change", [{"seed": 5}, {"limit": 10}, {"validation": 0.5}])
def test_the_test_split_never_moves(change: dict) -> None:
    assert torch.equal(_load().test.images, _load(**change).test.images)


def test_validation_follows_the_seed_alone() -> None:
    assert torch.equal(_load(limit=7).validation.images, _load().validation.images)
    assert not torch.equal(_load(seed=1).validation.images, _load().validation.images)
    assert torch.equal(_load(seed=1).validation.images, _load(seed=1).validation.images)


def test_limit_is_a_prefix_with_all_classes() -> None:
    whole, part = _load(), _load(limit=30)
    assert torch.equal(part.train.images, whole.train.images[:30])
    assert set(part.train.labels.tolist()) == {0, 1, 2}
    assert len(_load(limit=10_000).train) == 180


def test_no_validation_when_asked_for_none() -> None:
    data = load("digits", validation=0.0)
    assert len(data.validation) == 0 and len(data.train) == 1438
    assert "empty" in data.describe()


def test_size_resizes_every_split() -> None:
    data = load("digits", size=16, validation=0.0)
    assert data.shape == (1, 16, 16) and data.validation.images.shape == (0, 1, 16, 16)
    assert load("digits", size=(8, 12)).shape == (1, 8, 12)


def test_resize_keeps_type_and_range() -> None:
    images = torch.randint(0, 256, (5, 3, 9, 7), dtype=torch.uint8, generator=generator("images"))
    sized = resize(images, (4, 4))
    assert sized.dtype == torch.uint8 and sized.shape == (5, 3, 4, 4)
    assert images.min() <= sized.min() and sized.max() <= images.max()


def test_measure_agrees_with_torch_and_leaves_constants_alone() -> None:
    images = torch.rand(2500, 2, 3, 3, generator=generator("measure"))
    images[:, 1] = 0.5
    mean, std = measure(images)
    assert mean == pytest.approx((images[:, 0].mean().item(), 0.5), abs=1e-4)
    assert std == pytest.approx((images[:, 0].std().item(), 1.0), abs=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"limit": 0}, {"limit": 2.5}, {"limit": True}, {"validation": 1.0}, {"validation": -0.1}, {"seed": "a"},
        {"size": 0}, {"size": (3, 4, 5)}, {"size": 2.5},
    ],
)  # fmt: skip
def test_impossible_arguments_are_quoted(bad: dict) -> None:
    with pytest.raises(SparselandError, match=r"got|must"):
        load("digits", **bad)


def test_stratified_cut_is_exact_and_keeps_every_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 2 + [3])
    for fraction in (0.0, 0.1, 0.33, 0.5):
        rest, cut = stratified_cut(labels, fraction, "x")
        assert len(cut) == round(fraction * 60)
        assert sorted(rest.tolist() + cut.tolist()) == list(range(60))
        assert set(labels[rest].tolist()) == {0, 1, 2, 3}


def test_permutations_are_the_same_everywhere() -> None:
    # Frozen values: a change here would silently change every published split and batch order.
    assert permutation(8, "golden", 0).tolist() == GOLDEN
    assert permutation(8, "golden", 0).tolist() != permutation(8, "golden", 1).tolist()


GOLDEN = [3, 6, 1, 5, 2, 7, 4, 0]


def test_records_are_frozen_and_checked() -> None:
    data = load("digits", limit=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.classes = 3  # type: ignore[misc]
    with pytest.raises(SparselandError, match="no split 'val'; possible: train, validation, test"):
        data.split("val")
    assert data.split("train") is data.train and data.train.to("cpu").labels.equal(data.train.labels)
    with pytest.raises(SparselandError, match="images must be uint8 or float32"):
        Split(torch.zeros(2, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(SparselandError, match="labels must be int64"):
        Split(torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64))


def test_describe_names_what_the_command_line_shows() -> None:
    text = load("digits").describe()
    for part in ("digits: 10 classes", "1×8×8", "train", "1,078", "validation", "360", "test", "359", "CC BY 4.0"):
        assert part in text
