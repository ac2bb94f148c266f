"""fan_out on a real Ray: the same results and the same failures as in processes, and nothing left over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparseland.core.errors import SparselandError
from sparseland.train.fan_out import Result, fan_out, require
from tests.train.fan_out_jobs import in_session, job, pools, wait

pytestmark = pytest.mark.distributed

PATIENCE = 40.0


@pytest.fixture
def ray() -> Any:
    """The module, where it is installed."""
    return pytest.importorskip("ray", reason="Ray is not installed")


def jobs(marks: Path, *acts: str) -> dict[str, dict[str, Any]]:
    """One job per act; each returns its name and a number."""
    marks.mkdir()
    return {act or "fine": {"marks": str(marks), "name": act, "act": act, "value": [act, 0.1]} for act in acts}


def heads(results: dict[str, Result]) -> dict[str, Any]:
    """What has to be equal wherever jobs run."""
    return {key: (r.status, r.attempts, r.value, (r.error or "").splitlines()[-1:]) for key, r in results.items()}


def test_a_local_ray_gives_what_processes_give(ray: Any, tmp_path: Path) -> None:
    acts = ("", "raise", "die", "die once", "exit")
    handler = signal.getsignal(signal.SIGTERM)
    there = fan_out(job, jobs(tmp_path / "a", *acts), on="ray", workers=2, progress=False, out=tmp_path / "out")
    here = fan_out(job, jobs(tmp_path / "b", *acts), workers=2, progress=False)
    assert heads(there) == heads(here)
    assert {k: (r.status, r.attempts) for k, r in there.items()} == {
        "fine": ("done", 1), "raise": ("failed", 2), "die": ("failed", 2), "die once": ("done", 2),
        "exit": ("failed", 2),
    }  # fmt: skip
    assert "die says farewell" in (there["die"].error or "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["die_once.json", "fine.json"]
    assert not ray.is_initialized(), "the local Ray was started by fan_out, and ends with it"
    assert signal.getsignal(signal.SIGTERM) is handler
    again = {"fine": {"marks": str(tmp_path / "a"), "name": "", "act": "", "value": ["", 0.1]}}
    assert fan_out(job, again, on="ray", progress=False, out=tmp_path / "out")["fine"].status == "cached"


def test_a_ray_that_runs_here_is_used_and_left(ray: Any, tmp_path: Path) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        asked = jobs(tmp_path / "marks", "kill the watcher once")
        results = fan_out(job, asked, on="ray", progress=False)
        result = results["kill the watcher once"]
        assert (result.status, result.attempts) == ("done", 2)
        late = fan_out(job, {"a": {"act": "hang"}}, on="ray", timeout=0.5, retries=0, progress=False)["a"]
        assert (late.error or "").endswith("timeout: it took more than 0.5 s")
        found = require(fan_out(pools, {"a": {}}, on="ray", threads=2, progress=False))["a"]
        assert (found["torch"], found["env"]) == (2, ["2", "2", "2"])
        with pytest.raises(SparselandError, match="threads=3, but the largest node of this Ray has 2 CPUs"):
            fan_out(pools, {"a": {}}, on="ray", threads=3, progress=False)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def elsewhere(ray: Any) -> Iterator[tuple[str, str]]:
    """A cluster that is none of ours: its two addresses."""
    port, client = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2",
               "--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--port={port}",
               f"--ray-client-server-port={client}", "--object-store-memory=80000000"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    with process:
        try:
            if not wait(lambda: answers(port) and answers(client), PATIENCE):
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail(f"no cluster: {process.communicate()[0]!r}")
            yield f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            finally:
                process.kill()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_cluster_elsewhere_is_entered_and_left(elsewhere: tuple[str, str], tmp_path: Path) -> None:
    for i, address in enumerate(elsewhere):
        asked = jobs(tmp_path / str(i), "", "die once")
        results = fan_out(job, asked, on=address, progress=False)
        assert {k: (r.status, r.attempts) for k, r in results.items()} == {"fine": ("done", 1), "die once": ("done", 2)}
    assert all(answers(int(address.rpartition(":")[2])) for address in elsewhere)


def test_ray_that_is_not_there(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    since = time.monotonic()
    nobody = free_port()
    for on in (f"127.0.0.1:{nobody}", f"ray://127.0.0.1:{nobody}"):
        with pytest.raises(SparselandError, match=f"nothing answers at '{on}'"):
            fan_out(job, {"a": {}}, on=on)
    with pytest.raises(SparselandError, match="nothing answers at 'ray://'"):
        fan_out(job, {"a": {}}, on="ray://")
    assert time.monotonic() - since < PATIENCE
    with pytest.raises(SparselandError, match="cannot use Ray at 'auto': ConnectionError: "):
        fan_out(job, {"a": {}}, on="auto")
    assert not ray.is_initialized()


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SparselandError, match="Ray is not installed .*: pip install ray, or use on='processes'"):
        fan_out(job, {"a": {}}, on="ray")


PARENT = """
import sys
from sparseland.train.fan_out import fan_out
jobs = {"fine": {"value": 1}, "hold": {"marks": sys.argv[1], "name": "hold", "act": "hold"}}
fan_out("tests.train.fan_out_jobs:job", jobs, out=sys.argv[2], on="ray", workers=2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_nobody_outlives_the_parent(ray: Any, by: signal.Signals, tmp_path: Path) -> None:
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", PARENT, str(marks), str(out)]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True) as parent:
        ready = wait(lambda: (out / "fine.json").exists() and (marks / "hold.0").exists(), PATIENCE)
        time.sleep(0.2)  # `hold` has left its mark; now it holds
        parent.send_signal(by if ready else signal.SIGKILL)
        said = parent.communicate(timeout=PATIENCE)[1]
    assert ready, said
    leader = int((marks / "hold.0").read_text())
    assert wait(lambda: not in_session([leader, parent.pid]), PATIENCE), "the job, its child, and what Ray has started"
    assert (out / "fine.json").exists()
    if by is signal.SIGINT:
        assert "KeyboardInterrupt" in said
