"""A disk that is full, or read-only: ``python -m tests.faults.disk PLACE real|simulated training|saving|comparing``.

Really: a small tmpfs in a mount namespace of its own, which ends with this process. Simulated, where one may not mount:
the library's files fail as they would there.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sparseland.files
from sparseland.cli.app import app
from sparseland.core.errors import OutputError
from sparseland.deploy import load, save
from sparseland.train import TrainConfig, run
from tests.faults import comparing, saving
from tests.faults.forks import files, run_content

STATES = {"full": "No space left on device", "read-only": "Read-only file system"}
BYTES = 16 * 2**20


class Disk:
    """A folder on a disk whose state can be set; ``really``, or for the library's own writes in this process only."""

    def __init__(self, folder: Path, really: bool) -> None:
        self.folder, self.really, self.state = folder, really, "fine"
        folder.mkdir()
        if really:
            _mount("-t", "tmpfs", "-o", f"size={BYTES}", "tmpfs", str(folder))
        else:
            sparseland.files.open = self._open  # type: ignore[attr-defined]

    def set(self, state: str) -> None:
        """fine, full or read-only, from now on."""
        before, self.state = self.state, state
        if not self.really:
            return
        if "read-only" in (before, state):
            end = time.monotonic() + 30  # a file that is open for writing is in the way
            while not _mount("-o", f"remount,{'ro' if state == 'read-only' else 'rw'}", str(self.folder), strict=False):
                assert time.monotonic() < end, "cannot be remounted"
                time.sleep(0.001)
        if state == "full":
            with contextlib.suppress(OSError), open(self.folder / "ballast", "ab", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))
        elif state == "fine":
            (self.folder / "ballast").unlink(missing_ok=True)

    def _open(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        inside = Path(path).is_relative_to(self.folder)
        if inside and "w" in mode and self.state == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        made = builtins.open(path, mode, *args, **kwargs)  # noqa: SIM115 - closed by who asked for it
        return _Full(made, self) if inside and "w" in mode else made


class _Full:
    """A file that takes nothing while its disk is full."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self.file, self.disk = file, disk

    def write(self, data: Any) -> int:
        if self.disk.state == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _mount(*words: str, strict: bool = True) -> bool:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    assert not strict or done.returncode == 0, done.stderr
    return done.returncode == 0


def whole(folder: Path) -> dict[str, bytes]:
    """What is there, and finished: no ballast, nothing temporary."""
    return {n: data for n, data in files(folder).items() if n != "ballast" and ".tmp" not in n}


def refused(act: Callable[[], Any], folder: Path, state: str) -> str:
    """The error of an act that cannot be done: it names a file below the folder, and the reason."""
    try:
        act()
    except OutputError as error:
        assert f"cannot write {folder}" in str(error) and STATES[state] in str(error), error
        return str(error)
    raise AssertionError("it went on")


def training(disk: Disk, place: Path, state: str) -> None:
    """A run meets the fault in its middle, and again at once; then there is space."""
    config = TrainConfig(
        model="mlp-32", method={"name": "rigl", "sparsity": 0.8, "every": 3}, epochs=4, limit=400, threads=1,
        checkpoint_every="3 steps",
    )  # fmt: skip
    folder, seen = disk.folder / "run", {}

    def callback(entry: dict[str, Any]) -> None:
        if entry["epoch"] == 2:
            disk.set(state)
            seen.update(whole(folder))

    refused(lambda: run(config, folder, progress=False, callback=callback), folder, state)
    assert {"last/state.pt", "log.jsonl"} <= set(seen) and whole(folder) == seen
    refused(lambda: run(config, folder, progress=False, resume=True), folder, state)
    assert whole(folder) == seen, "a second attempt lost something"
    disk.set("fine")
    result = run(config, folder, progress=False, resume=True)
    assert result["resumed"] >= 1
    run(config, place / state, progress=False)
    assert run_content(folder) == run_content(place / state)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(place / state))


def saving_(disk: Disk, place: Path, state: str) -> None:
    """A file, and shards, are to be replaced."""
    old, new = saving.state(0, 256), saving.state(1, 256)
    for name, options in (("w.safetensors", {}), ("shards", {"shard_bytes": 6000})):
        path = disk.folder / name
        save(old, path, **options)
        before = whole(disk.folder)
        disk.set(state)
        refused(lambda path=path, options=options: save(new, path, **options), path, state)
        assert whole(disk.folder) == before and saving.same(load(path), old)
        disk.set("fine")
        save(new, path, **options)
        assert saving.same(load(path), new)
        assert not [file for file in files(disk.folder) if ".tmp" in file]


def command(*words: Any) -> tuple[int, str]:
    """Exit code and standard error of the program, in this process."""
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="sparseland")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stderr


def comparing_(disk: Disk, place: Path, state: str) -> None:
    """A comparison meets the fault when its second run has begun to train."""
    recipe, out = place / "tiny.yaml", disk.folder / "out"
    if not recipe.exists():
        recipe.write_text(comparing.RECIPE.format(epochs=12, every=2))
        assert command("compare", recipe, "--out", place / "whole", "--on", "inline")[0] == 0
    on = ("--on", "processes" if disk.really else "inline")
    words = ("compare", recipe, "--jobs", 1, "--out", out)
    second, first, seen = out / comparing.RUNS[1] / "last" / "state.json", out / comparing.RUNS[0], {}

    def fault() -> None:
        while not second.exists():
            time.sleep(0.001)
        disk.set(state)
        seen.update({f"{comparing.RUNS[0]}/{name}": data for name, data in whole(first).items()})

    watcher = threading.Thread(target=fault, daemon=True)
    watcher.start()
    code, said = command(*words, *on)
    watcher.join(60)
    assert code == 2, (code, said)
    assert f"cannot write {out}" in said and STATES[state] in said, said
    assert "Traceback" not in said
    kept = whole(out)
    assert seen and {name: kept[name] for name in seen} == seen, "a finished run has lost something"
    code, said = command(*words, "--on", "inline")
    assert code == 2 and f"cannot write {out}" in said, said
    assert whole(out) == kept
    disk.set("fine")
    code, said = command(*words, *on)
    assert code == 0, said
    assert comparing.content(out) == comparing.content(place / "whole")


def main(place: Path, how: str, what: str) -> None:
    """Both faults, one after the other."""
    torch.set_num_threads(1)
    acts = {"training": training, "saving": saving_, "comparing": comparing_}
    for state in STATES:
        disk = Disk(place / f"disk-{state}", how == "real")
        acts[what](disk, place, state)
    print(json.dumps({"done": [*STATES]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
