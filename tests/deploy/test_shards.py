"""Checkpoints of several files: what is in memory, what a killed save leaves, and what fits where."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparseland import deploy
from sparseland.core.errors import DataNotFound, OutputError, SparselandError
from sparseland.deploy import container, planning, reading, sharding
from sparseland.deploy.container import Reader

INDEX = "packed.safetensors.index.json"


def layers(count: int = 12, side: int = 60) -> dict[str, torch.Tensor]:
    """A model of equal layers, a tenth alive."""
    torch.manual_seed(0)
    return {
        f"layer{i}.weight": torch.randn(side, side).masked_fill(torch.rand(side, side) > 0.1, 0) for i in range(count)
    }


def test_shards_come_back_whole_and_in_order(tmp_path: Path) -> None:
    state = layers() | {"tied": torch.ones(3), "first": torch.zeros(2)}
    state["same"] = state["layer0.weight"]
    total = deploy.save(state, tmp_path / "model", shard_bytes=7000)
    files = sorted((tmp_path / "model").iterdir())
    assert total == sum(file.stat().st_size for file in files) == deploy.packed_bytes(state, shard_bytes=7000)
    assert all(file.stat().st_size <= 7000 for file in files if file.suffix == ".safetensors") and len(files) > 4
    for path in (tmp_path / "model", tmp_path / "model" / INDEX):
        back = deploy.load(path)
        assert list(back) == list(state) and back["same"] is back["layer0.weight"]
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
        assert deploy.is_packed(path)
        info = deploy.describe(path)
        assert info.bytes == total and info.dense == deploy.dense_bytes(state) and len(info.files) == len(files) - 1
        assert [one.name for one in info.tensors] == list(state)
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    assert list(index["weight_map"]) == list(state) and set(index["weight_map"].values()) == set(info.files)
    assert index["metadata"]["total_size"] == info.dense
    one = deploy.load(tmp_path / "model" / index["weight_map"]["first"])  # each shard is a whole packed file
    assert torch.equal(one["first"], torch.zeros(2))


def test_a_tensor_bigger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    state = {"a": torch.ones(3), "big": torch.randn(100, 100), "c": torch.ones(3)}
    deploy.save(state, tmp_path, shard_bytes="2KB")
    assert [list(piece) for piece in deploy.load_shards(tmp_path)] == [["a"], ["big"], ["c"]]


@pytest.mark.parametrize("given", ["", "2XB", "-1", "0", 0, -5, "GB", "1e3", None])
def test_sizes_that_are_none(given: object) -> None:
    with pytest.raises(SparselandError, match="is no number of bytes"):
        sharding.byte_count(given)  # type: ignore[arg-type]


class Alive:
    """Counts the bytes of arrays that hooked functions return while something still holds them."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watch(self, array: np.ndarray) -> np.ndarray:
        base = array if array.base is None else array.base
        size = array.nbytes
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(base, self._gone, size)
        return array

    def _gone(self, size: int) -> None:
        self.now -= size


def test_saving_holds_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every encoded part is counted until it is freed: never more than one tensor's."""
    alive, encode = Alive(), planning.encode
    monkeypatch.setattr(planning, "encode", lambda *given: [alive.watch(part.copy()) for part in encode(*given)])
    state = layers(20)
    total = deploy.save(state, tmp_path, shard_bytes=9000)
    one = max(info.stored for info in deploy.describe(tmp_path).tensors)
    assert one <= alive.most <= 2 * one < total / 5  # the next is made before the name of the last is reused


def test_loading_into_a_model_holds_one_shard_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    state = layers(20)
    model = torch.nn.ModuleDict({f"layer{i}": torch.nn.Linear(60, 60, bias=False) for i in range(20)})
    total = deploy.save(state, tmp_path, shard_bytes=9000)
    held, passing = [], Reader.passing

    def watched(*given: Any) -> Any:
        made = passing(*given)
        held.append(container._scratch.size)
        return made

    monkeypatch.setattr(Reader, "passing", watched)
    monkeypatch.setattr(Reader, "array", None)  # nothing else is read into,
    monkeypatch.setattr(reading, "_tensor", None)  # and no dense tensor made: values go into the model's own memory
    deploy.load_into(model, tmp_path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert len(held) == 40 and 0 < max(held) <= 9000 < total / 3 and container._scratch.size == 0


def test_reading_shards_one_by_one_frees_them(tmp_path: Path) -> None:
    deploy.save(layers(20), tmp_path, shard_bytes=9000)
    held = []
    for piece in deploy.load_shards(tmp_path):
        assert not any(one() is not None for one in held)  # what came before has gone
        held = [weakref.ref(tensor) for tensor in piece.values()]
        piece.clear()
    assert held


def test_what_is_damaged_in_the_last_shard_leaves_the_model_alone(tmp_path: Path) -> None:
    state = layers(6)
    model = torch.nn.ModuleDict({f"layer{i}": torch.nn.Linear(60, 60, bias=False) for i in range(6)})
    deploy.save(state, tmp_path, shard_bytes=4000)
    last = sorted(tmp_path.glob("packed-*"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"!")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SparselandError, match="CRC-32"):
        deploy.load_into(model, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Killed(BaseException):
    """Like SIGKILL: nothing is tidied up after it."""


@pytest.mark.parametrize("moment", range(5))
def test_a_save_killed_at_any_file_leaves_the_old_checkpoint(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = layers(6), {name: tensor + 1 for name, tensor in layers(6).items()}
    deploy.save(old, tmp_path, shard_bytes=4000)
    (tmp_path / "config.json").write_text("{}")
    count, replace, unlink = 0, os.replace, Path.unlink

    def dies(*given: object) -> None:
        nonlocal count
        count += 1
        if count > moment:
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
            raise Killed
        replace(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(Killed):
        deploy.save(new, tmp_path, shard_bytes=20_000)  # several dense shards, then the index
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert all(torch.equal(tensor, old[name]) for name, tensor in deploy.load(tmp_path).items())
    deploy.save(new, tmp_path, shard_bytes=20_000)
    assert all(torch.equal(tensor, new[name]) for name, tensor in deploy.load(tmp_path).items())
    listed = json.loads((tmp_path / INDEX).read_text())["metadata"]["shards"]
    assert {path.name for path in tmp_path.iterdir()} == {*listed, INDEX, "config.json"}  # leftovers are gone


def test_a_save_that_fails_tidies_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = layers(4)
    deploy.save(old, tmp_path, shard_bytes=4000)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls, replace = 0, os.replace

    def full(*given: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")
        replace(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        deploy.save({name: tensor + 1 for name, tensor in old.items()}, tmp_path, shard_bytes=15_000)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="holds no packed checkpoint"):
        deploy.load(tmp_path)
    with pytest.raises(DataNotFound, match="no file"):
        deploy.describe(tmp_path / "absent")
    assert not deploy.is_packed(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        deploy.save({"w": torch.ones(1)}, tmp_path / "file", shard_bytes=1000)
