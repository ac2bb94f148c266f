"""Order, resuming, sharding and augmentation of batches."""

from __future__ import annotations

import itertools

import pytest
import torch

from sparseland.core.errors import SparselandError
from sparseland.data import Split, batches
from sparseland.data.loader import augment
from sparseland.data.order import generator


def _split(count: int = 50, channels: int = 3, side: int = 8) -> Split:
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator("images"))
    return Split(images, torch.arange(count))


def _batches(split: Split, batch_size: int = 8, **kw):
    channels = split.images.shape[1]
    settings = {"mean": (0.4,) * channels, "std": (0.2,) * channels, "shuffle": True, "seed": 1, "epoch": 2, **kw}
    return batches(split, batch_size, **settings)


def _labels(loader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def _flat(lists) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def test_normalises_bytes_and_floats_alike() -> None:
    split = _split(4)
    as_float = Split(split.images.float() / 255, split.labels)
    (one, _), (two, _) = (next(iter(_batches(s, shuffle=False))) for s in (split, as_float))
    torch.testing.assert_close(one, (split.images.float() / 255 - 0.4) / 0.2)
    torch.testing.assert_close(one, two)


def test_stored_images_are_not_changed() -> None:
    split = Split(torch.rand(6, 1, 4, 4), torch.arange(6))
    before = split.images.clone()
    list(_batches(split, augment="crop+flip"))
    list(_batches(split, 6, shuffle=False))
    assert torch.equal(split.images, before)


def test_every_image_once_per_epoch_in_a_new_order() -> None:
    split = _split()
    orders = [_flat(_labels(_batches(split, epoch=epoch))) for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] != orders[1] != list(range(50))
    assert _flat(_labels(_batches(split, shuffle=False))) == list(range(50))
    assert _flat(_labels(_batches(split, epoch=0))) == orders[0]
    assert _flat(_labels(_batches(split, epoch=0, seed=2))) != orders[0]


@pytest.mark.parametrize("kind", [None, "crop+flip"])
@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_resuming_is_bit_equal(kind: str | None, start: int) -> None:
    split = _split()
    straight = list(_batches(split, augment=kind))
    torch.manual_seed(start)  # the global generator plays no part
    for resumed in (_batches(split, augment=kind, start=start), _batches(split, augment=kind).skip(start)):
        assert len(resumed) == len(straight) - start and resumed.total == 7
        for (x, y), (a, b) in zip(resumed, straight[start:], strict=True):
            assert torch.equal(x, a) and torch.equal(y, b)


def test_skipping_twice_adds_up() -> None:
    split = _split()
    assert _labels(_batches(split).skip(2).skip(3)) == _labels(_batches(split, start=5))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("count", [48, 50, 49])
def test_ranks_together_see_what_one_would(world: int, count: int) -> None:
    split = _split(count)
    ranks = [_labels(_batches(split, 4, rank=rank, world=world)) for rank in range(world)]
    alone = _labels(_batches(split, 4 * world))
    assert {len(rank) for rank in ranks} == {len(alone)}
    for step, whole in enumerate(alone):
        together = _flat(rank[step] for rank in ranks)
        # Only a last batch with fewer images than ranks repeats some, so that nobody has none.
        assert together[: len(whole)] == whole and all(rank[step] for rank in ranks)
        assert len(together) == max(len(whole), world)


def test_more_ranks_than_images() -> None:
    split = _split(2)
    ranks = [_labels(_batches(split, 4, rank=rank, world=5)) for rank in range(5)]
    assert all(len(rank) == 1 and len(rank[0]) == 1 for rank in ranks)


def test_indices_say_what_a_batch_holds() -> None:
    loader = _batches(_split(), rank=1, world=2)
    assert [loader.indices(step).tolist() for step in range(len(loader))] == _labels(loader)


def test_drop_last() -> None:
    loader = _batches(_split(), drop_last=True)
    assert len(loader) == 6 and all(len(labels) == 8 for labels in _labels(loader))


def test_ranks_draw_their_own_augmentation() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).repeat(8, 1, 1, 1)
    split = Split(images, torch.arange(8))
    one, two = (next(iter(_batches(split, 4, rank=rank, world=2, augment="crop+flip")))[0] for rank in (0, 1))
    assert not torch.equal(one, two)


def test_crops_are_windows_of_the_padded_image() -> None:
    image = torch.rand(1, 2, 5, 6, generator=generator("crop")) + 0.1
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
    windows = [padded[..., r : r + 5, c : c + 6] for r in range(9) for c in range(9)]
    allowed = windows + [window.flip(3) for window in windows]
    seen = set()
    for out in augment(image.expand(200, -1, -1, -1), "crop+flip", generator("draw")).split(1):
        index = [i for i, window in enumerate(allowed) if torch.equal(out, window)]
        assert index
        seen.add(index[0])
    assert len(seen) > 100  # of 162 possible


def test_half_of_the_images_are_flipped() -> None:
    image = torch.arange(4.0).view(1, 1, 1, 4).expand(2000, -1, -1, -1)
    flipped = augment(image, "flip", generator("flip"))[:, 0, 0, 0] == 3
    assert 0.45 < flipped.float().mean() < 0.55


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"batch_size": 0}, "batch_size is at least 1; got 0"),
        ({"rank": 2, "world": 2}, "rank=2, world=2"),
        ({"world": 0}, "world=0"),
        ({"mean": (0.1,)}, "3 channel"),
        ({"std": (0.1, 0.0, 0.1)}, "std above 0"),
        ({"augment": "crop+flop"}, r"unknown augmentation 'crop\+flop': did you mean 'crop\+flip'"),
        ({"start": 8}, r"start must be in 0 … 7.*got 8"),
        ({"start": -1}, "got -1"),
    ],
)
def test_impossible_arguments_are_quoted(bad: dict, message: str) -> None:
    with pytest.raises(SparselandError, match=message):
        _batches(_split(), **{"batch_size": 8, **bad})


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(SparselandError, match="empty"):
        _batches(_split()[:0])
