"""kill -9 at random points, full and read-only disks: nothing written is lost, and the end is the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# How many processes kill -9 really ended, at least; random points may lie behind the end of a run.
KILLS = {
    ("training", "calls"): 10, ("training", "times"): 3, ("training", "imp"): 6,
    ("saving", "file"): 6, ("saving", "shards"): 20, ("saving", "folder"): 12, ("saving", "times"): 3,
    ("comparing", "calls"): 5, ("comparing", "parent"): 2, ("comparing", "workers"): 1,
}  # fmt: skip
NAMESPACE = ("unshare", "--mount", "--propagation", "private")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def script(module: str, *words: object, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run one of the scripts beside this file, and everything it starts, in a session of its own; its last line."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    }
    command = [*before, sys.executable, "-W", "error", "-m", f"tests.faults.{module}", *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, errors = process.communicate(timeout=900)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(said.splitlines()[-1])


def kills(tmp_path: Path, module: str, mode: str) -> dict[str, Any]:
    """Run a killing script; it must have hit often enough."""
    told = script(module, tmp_path, mode)
    assert told["kills"] >= KILLS[module, mode], told
    return told


def test_fifty_kills_are_asserted_in_all() -> None:
    assert sum(KILLS.values()) >= 50


@pytest.mark.parametrize("mode", ["calls", "times", "imp"])
def test_training_resumed_equals_unbroken(tmp_path: Path, mode: str) -> None:
    kills(tmp_path, "training", mode)


@pytest.mark.parametrize("mode", ["file", "shards", "folder", "times"])
def test_saved_is_the_old_state_or_the_new_one(tmp_path: Path, mode: str) -> None:
    told = kills(tmp_path, "saving", mode)
    assert told["old"] > 0, "every kill came too late to prove anything"


@linux
@pytest.mark.parametrize("mode", ["calls", "parent", pytest.param("workers", marks=pytest.mark.slow)])
def test_compared_again_equals_undisturbed(tmp_path: Path, mode: str) -> None:
    kills(tmp_path, "comparing", mode)


def may_mount() -> bool:
    """Whether this user may mount a disk where nobody else sees it."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return False
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("real", "training"), ("real", "saving"), pytest.param("real", "comparing", marks=pytest.mark.slow),
        ("simulated", "training"), ("simulated", "saving"), ("simulated", "comparing"),
    ],
)  # fmt: skip
def test_a_bad_disk_loses_nothing_that_was_written(tmp_path: Path, how: str, what: str) -> None:
    if how == "real" and not may_mount():
        pytest.skip("no disk may be mounted here (root may); the simulated one was tested")
    told = script("disk", tmp_path, how, what, before=NAMESPACE if how == "real" else ())
    assert told["done"] == ["full", "read-only"]


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """SIGINT from outside: the process saves, raises KeyboardInterrupt, and the shell sees it."""
    code = (
        "import sys; from sparseland.train import TrainConfig, run\n"
        "config = TrainConfig(model='mlp-32', epochs=100000, limit=400, threads=1, checkpoint_every=100000)\n"
        "run(config, sys.argv[1], callback=lambda entry: print(entry['step'], flush=True))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "7\n"
        process.send_signal(2)
        process.stdout.read()
        message = process.stderr.read()
    assert process.returncode == -2 or process.returncode == 130
    assert "KeyboardInterrupt: stopped at step" in message and "resume=True" in message
    told = json.loads((tmp_path / "run" / "last" / "state.json").read_text())
    assert told["position"]["step"] >= 7
