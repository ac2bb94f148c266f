"""``sparseland compare --on ray`` on a real local Ray, with a worker killed in the middle of its training."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.faults.forks import run_content
from tests.train.fan_out_jobs import wait

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
LONGER = ("--set", "epochs=40", "--set", "checkpoint_every=3 steps", "--set", "evaluate_every=10", "--set",
          "compare.seeds=[0]", "--set", "compare.methods=[dense, {name: rigl, every: 3}]")  # fmt: skip


def workers_in(folder: Path) -> list[int]:
    """Worker processes of fan_out whose current folder is this one: ours, and nobody else's."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = os.readlink(entry / "cwd") == str(folder)
            if ours and b"fan_out_worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_killed_worker_is_replaced_and_the_end_is_the_same(
    call: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    whole = call("compare", tiny, "--out", tmp_path / "whole", "--on", "inline", *LONGER)
    assert whole.exit_code == 0, whole.output
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    out, killed = tmp_path / "out", []
    checkpoint = out / "rigl/seed-0/last/state.json"

    def kill() -> None:
        assert wait(lambda: checkpoint.exists(), 300)
        for pid in workers_in(tmp_path / "here"):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    said = call("compare", tiny, "--out", out, "--on", "ray", "--jobs", "1", *LONGER)
    killer.join()
    assert said.exit_code == 0, said.output
    assert len(killed) == 1, "one worker at a time, and it was at work"
    assert "[1/2] rigl seed 0: failed, is tried again: the process was ended by signal SIGKILL" in said.stdout
    assert "[2/2] rigl seed 0: test " in said.stdout
    assert json.loads((out / "rigl/seed-0/result.json").read_text())["resumed"] == 1, "from its checkpoint"
    for run in ("dense/seed-0", "rigl/seed-0"):
        assert run_content(out / run) == run_content(tmp_path / "whole" / run)
    record = json.loads((out / "run.json").read_text())
    assert not record["failed"] and "--on ray" in record["command"]
    assert not workers_in(tmp_path / "here")


def test_an_address_where_nobody_answers(call: Any, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    said = call("compare", tiny, "--out", tmp_path / "out", "--on", "127.0.0.1:1")
    assert said.exit_code == 2 and "nothing answers at '127.0.0.1:1'" in said.stderr
    assert "on='ray' for a local one" in said.stderr
