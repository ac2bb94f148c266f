"""Streams of activations: every row once, bounded, the same again, exact after a stop; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparseland.core.errors import DataNotFound, OutputError, ResumeError, SparselandError
from sparseland.features.activations import (
    ActivationStream,
    StoredActivations,
    as_source,
    store,
)


def rows(n: int, d: int = 3) -> Tensor:
    """Rows that say which they are in their first column."""
    return torch.arange(n, dtype=torch.float32)[:, None] + torch.zeros(n, d)


def firsts(batches: Any) -> list[float]:
    return [float(v) for batch in batches for v in (batch[0] if isinstance(batch, tuple) else batch)[:, 0]]


class Gated:
    """A source that counts the blocks it was asked for."""

    repeats = True

    def __init__(self, blocks: list[Tensor]) -> None:
        self.all, self.read = blocks, 0

    def blocks(self, epoch: int, start: int) -> Iterator[Tensor]:
        for block in self.all[start:]:
            self.read += 1
            yield block


# ------------------------------------------------------------------------------------------------------------- batches
@pytest.mark.parametrize("buffer", [4, 7, 16, 1000])
@pytest.mark.parametrize("blocks", [[1] * 37, [5, 0, 20, 12], [37]])
def test_every_row_comes_once_an_epoch(buffer: int, blocks: list[int]) -> None:
    parts = list(rows(37).split(blocks))
    stream = ActivationStream(parts, batch=4, buffer=buffer, epochs=2)
    got = firsts(stream)
    assert sorted(got) == sorted([float(i) for i in range(37)] * 2)
    assert got != sorted(got)
    with pytest.raises(StopIteration):
        next(stream)


def test_the_buffer_bounds_what_is_read_ahead() -> None:
    source = Gated(list(rows(1000).split(10)))
    stream = ActivationStream(source, batch=5, buffer=50)
    next(stream)
    assert source.read <= 6  # 50 rows are 5 blocks; one more may have been opened
    assert len(stream._held) == 1 and stream._held[0].shape == (50, 3)


def test_without_shuffling_the_order_is_kept() -> None:
    assert firsts(ActivationStream(rows(11), batch=4, buffer=8, shuffle=False, epochs=1)) == list(range(11))


def test_the_last_short_batch_can_be_dropped() -> None:
    assert [len(b) for b in ActivationStream(rows(10), batch=4, buffer=8, epochs=1, drop_last=True)] == [4, 4]
    assert [len(b) for b in ActivationStream(rows(10), batch=4, buffer=8, epochs=1)] == [4, 4, 2]


def test_seeds_and_epochs_give_other_orders() -> None:
    def first(seed: int, batches: int = 10) -> list[float]:
        stream = ActivationStream(rows(40), batch=4, buffer=40, seed=seed)
        return firsts(next(stream) for _ in range(batches))

    assert first(0) == first(0) and first(0) != first(1)
    two = first(0, 20)
    assert two[:40] != two[40:] and sorted(two[:40]) == sorted(two[40:])


def test_pairs_stay_together() -> None:
    x = rows(30)
    for a, b in ActivationStream((x, -x), batch=4, buffer=12, epochs=1):  # type: ignore[misc]
        assert torch.equal(a, -b)


def test_a_disk_without_room_is_found_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 100

    monkeypatch.setattr("sparseland.files.shutil.disk_usage", lambda _: Full)
    with pytest.raises(OutputError, match="100 bytes are free"):
        next(ActivationStream(rows(50), batch=4, buffer=12, folder=tmp_path))


def test_a_buffer_on_disk_gives_the_same_and_leaves_nothing(tmp_path: Path) -> None:
    plain = firsts(ActivationStream(rows(50), batch=4, buffer=12, epochs=1))
    assert firsts(ActivationStream(rows(50), batch=4, buffer=12, epochs=1, folder=tmp_path)) == plain
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [0, 1, 3, 5, 9, 12])
def test_goes_on_exactly(stop: int) -> None:
    def make() -> ActivationStream:
        return ActivationStream(list(rows(41).split(6)), batch=4, buffer=12, seed=3)

    whole = make()
    expected = [next(whole) for _ in range(25)]
    begun = make()
    for _ in range(stop):
        next(begun)
    state = begun.state_dict()
    again = make()
    again.load_state_dict(state)
    for one in expected[stop:]:
        assert torch.equal(next(again), one)  # type: ignore[arg-type]


def test_state_is_small_and_of_its_own_stream() -> None:
    stream = ActivationStream(rows(40), batch=4, buffer=12)
    next(stream)
    state = stream.state_dict()
    assert len(repr(state)) < 400
    with pytest.raises(ResumeError, match="saved with"):
        ActivationStream(rows(40), batch=5, buffer=15).load_state_dict(state)
    with pytest.raises(ResumeError, match="cannot be read again"):
        ActivationStream(iter([rows(40)]), batch=4, buffer=12).load_state_dict(state)


# -------------------------------------------------------------------------------------------------------------- sources
def test_iterators_generators_functions_arrays() -> None:
    def make() -> Iterator[Tensor]:
        yield from rows(10).split(3)

    for source in (rows(10), rows(10).numpy(), list(rows(10).split(3)), make, make(), rows(10).view(2, 5, 3)):
        stream = ActivationStream(source, batch=4, buffer=8, epochs=1)
        assert stream.d_in == 3 and not stream.pairs
        assert sorted(firsts(stream)) == list(range(10))
    assert not as_source(make()).repeats and as_source(make).repeats
    # one pass, although no number of epochs was given
    assert len(firsts(ActivationStream(make(), batch=4, buffer=8))) == 10


def test_changing_width_is_refused_with_its_place() -> None:
    stream = ActivationStream([torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, 5)], batch=2, buffer=20)
    with pytest.raises(SparselandError, match=r"block 2 of epoch 0 is 5 wide; the activations before it were 3 wide"):
        next(stream)


def test_changing_between_pairs_and_plain_is_refused() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(SparselandError, match="has gradients"):
        list(ActivationStream([x, (x, x)], batch=2, buffer=20, epochs=1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float) -> None:
    x = torch.zeros(4, 3)
    x[1, 2] = value
    with pytest.raises(SparselandError, match="1 activation values are NaN or infinite, of 12"):
        next(ActivationStream(x, batch=2, buffer=4))
    with pytest.raises(SparselandError, match="1 gradient values"):
        next(ActivationStream((torch.zeros(4, 3), x), batch=2, buffer=4))


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ([], SparselandError, "yields no activations"),
        ([torch.zeros(0, 3)], SparselandError, "yields no activations"),
        ([torch.zeros(3)], SparselandError, "at least two axes"),
        ([torch.zeros(3, 2, dtype=torch.long)], TypeError, "floating-point"),
        (["text"], TypeError, "block 0 of the activations is str"),
        ([(torch.zeros(2, 3), torch.zeros(2, 4))], SparselandError, "gradients"),
    ],
)
def test_sources_that_are_none(source: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        next(ActivationStream(source, batch=2, buffer=4))


def test_what_is_no_source_at_all() -> None:
    for bad in (3, "text", {"x": 1}, None):
        with pytest.raises(TypeError, match="activations are a tensor"):
            ActivationStream(bad)
    with pytest.raises(SparselandError, match="gradients"):
        ActivationStream((torch.zeros(2, 3), torch.zeros(3, 3)))


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"batch": 2.5}, {"buffer": 0}, {"batch": 9, "buffer": 8}, {"seed": -1}, {"epochs": 0}]
)
def test_bad_sizes(options: dict[str, Any]) -> None:
    with pytest.raises(SparselandError):
        ActivationStream(rows(4), **{"batch": 2, "buffer": 4, **options})


# --------------------------------------------------------------------------------------------------------------- stored
def test_stored_activations_are_the_same_numbers(tmp_path: Path) -> None:
    x = torch.randn(25, 4)
    kept = store((x, 2 * x), tmp_path / "a", shard=10)
    assert (kept.rows, kept.d_in, kept.pairs, kept.shards) == (25, 4, True, [10, 10, 5])
    back = [torch.cat(parts) for parts in zip(*kept.blocks(0, 0), strict=True)]  # type: ignore[arg-type]
    assert torch.equal(back[0], x) and torch.equal(back[1], 2 * x)
    assert sorted(firsts(ActivationStream(kept, batch=4, buffer=8, epochs=1))) == sorted(x[:, 0].tolist())
    assert store((x, 2 * x), tmp_path / "a", shard=10).rows == 25  # nothing is made again


def test_storing_goes_on_where_it_stopped(tmp_path: Path) -> None:
    class Breaks(Gated):
        def blocks(self, epoch: int, start: int) -> Iterator[Tensor]:
            for number, block in enumerate(super().blocks(epoch, start), start):
                if number == 5 and self.broken:
                    raise RuntimeError("stop")
                yield block

        broken = True

    source = Breaks(list(rows(40).split(4)))
    with pytest.raises(RuntimeError, match="stop"):
        store(source, tmp_path, shard=8)
    with pytest.raises(SparselandError, match="not whole"):
        StoredActivations(tmp_path)
    with pytest.raises(ResumeError, match="begun with"):
        store(source, tmp_path, shard=9)
    source.broken, before = False, source.read
    kept = store(source, tmp_path, shard=8)
    assert firsts(kept.blocks(0, 0)) == list(range(40))
    assert source.read - before <= 7  # only what was missing


def test_stored_rows_can_be_limited_and_shuffled_by_shard(tmp_path: Path) -> None:
    kept = store(rows(100), tmp_path, rows=35, shard=10)
    assert kept.shards == [10, 10, 10, 5]
    mixed = StoredActivations(tmp_path, shuffle=True, seed=1)
    a, b = firsts(mixed.blocks(0, 0)), firsts(mixed.blocks(1, 0))
    assert sorted(a) == sorted(b) == list(range(35)) and a != b
    assert firsts(mixed.blocks(1, 2)) == b[-len(firsts(mixed.blocks(1, 2))) :]


def test_folders_that_hold_none(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no stored activations"):
        StoredActivations(tmp_path)
    (tmp_path / "activations.json").write_text("{")
    with pytest.raises(SparselandError, match="damaged"):
        StoredActivations(tmp_path)
    kept = store(rows(20), tmp_path / "b", shard=10)
    (kept.folder / "00001.safetensors").write_bytes(b"no")
    with pytest.raises(SparselandError, match="cannot be read"):
        list(kept.blocks(0, 0))
    (kept.folder / "00001.safetensors").unlink()
    with pytest.raises(DataNotFound, match="lacks 00001"):
        StoredActivations(tmp_path / "b")
