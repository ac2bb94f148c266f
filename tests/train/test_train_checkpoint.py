"""Files are whole or absent, also on a disk that is full, read-only, or torn away."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland import files
from sparseland.core.errors import OutputError, ResumeError
from sparseland.train import checkpoint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root; the simulated full disk is tested everywhere")
    yield place
    subprocess.run(["umount", str(place)], check=True)


BIG = {"a": torch.zeros(100_000)}
WRITERS = {
    "state": lambda path: checkpoint.write_state(path, BIG),
    "weights": lambda path: checkpoint.write_weights(path, BIG),
    "json": lambda path: files.write_json(path, "0" * 100_000),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file(small_disk: Path, kind: str) -> None:
    path = small_disk / "file"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"cannot write .*file: No space left on device \([\d,]+ bytes are free\)"):
        WRITERS[kind](path)
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["file"]


def test_a_full_disk_leaves_the_old_folder(small_disk: Path) -> None:
    path = small_disk / "last"
    files.write_folder(path, lambda place: files.write_json(place / "a.json", 1))
    with pytest.raises(OutputError, match="No space left"):
        files.write_folder(path, lambda place: checkpoint.write_state(place / "state.pt", BIG))
    assert os.listdir(small_disk) == ["last"] and os.listdir(path) == ["a.json"]


def test_probe_knows_a_small_disk_before_training(small_disk: Path) -> None:
    files.probe(small_disk / "run", needed=1000)
    with pytest.raises(OutputError, match="checkpoints of this run take about 1,000,000 bytes"):
        files.probe(small_disk / "run", needed=1_000_000)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_simulated_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, call, full)
    for write in WRITERS.values():
        with pytest.raises(OutputError, match="No space left"):
            write(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        files.probe(tmp_path / "file" / "run")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="Permission denied"):
            files.probe(tmp_path / "locked" / "run")


def test_probe_makes_the_folder_and_leaves_nothing(tmp_path: Path) -> None:
    files.probe(tmp_path / "a" / "b", needed=1)
    assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("moment", [1, 2])
def test_dying_between_two_moves_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """The folder is replaced by two renames; whichever is not reached, a whole one is found again."""
    path, calls, rename = tmp_path / "last", 0, os.rename

    def dying(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise SystemExit  # as if killed: no handler below cleans up, see the next line
        rename(source, target)

    files.write_folder(path, lambda place: files.write_json(place / "a.json", 1))
    monkeypatch.setattr(os, "rename", dying)
    monkeypatch.setattr(files, "settle", lambda path: path)
    with pytest.raises(SystemExit):
        files.write_folder(path, lambda place: files.write_json(place / "a.json", 2))
    monkeypatch.undo()
    assert path.exists() == (moment == 1)
    assert (files.settle(path) / "a.json").read_text() == "1\n"
    assert os.listdir(tmp_path) == ["last"]


def test_sweep_removes_what_was_half_written(tmp_path: Path) -> None:
    (tmp_path / ".last.123.tmp").mkdir()
    (tmp_path / ".last.123.tmp" / "state.pt").write_text("half")
    (tmp_path / ".best.safetensors.123.tmp").write_text("half")
    (tmp_path / "result.json").write_text("{}")
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["result.json"]


def test_states_hold_data_only(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return print, ("executed",)

    torch.save({"a": Code()}, tmp_path / "evil.pt")
    with pytest.raises(ResumeError, match="damaged or no checkpoint"):
        checkpoint.read_state(tmp_path / "evil.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ResumeError, match=r"cut\.pt"):
        checkpoint.read_state(tmp_path / "cut.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ResumeError, match="list"):
        checkpoint.read_state(tmp_path / "list.pt")


def test_weights_are_the_same_bytes_and_untie(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    tensors = {"a": shared, "b": shared, "c": shared.t()}
    for name in ("one", "two"):
        checkpoint.write_weights(tmp_path / name, tensors)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = checkpoint.read_weights(tmp_path / "one")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert os.listdir(tmp_path) == []


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = [
        f".w[1].bin.{dead.pid}.tmp",
        f".w[1].bin.{os.getppid()}.tmp",
        f".w[1].binary.{dead.pid}.tmp",
        ".w[1].bin.x.tmp",
    ]
    for name in names:
        (tmp_path / name).write_text("half")
    files.clear(tmp_path / "w[1].bin")
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
