"""fan_out on a real Ray: the same results and the same failures as in processes, and nothing left over."""

from __future__ import annotations

import contextlib
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

PATIENCE = 60.0  # seconds until what should come or go is missed


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
    acts = ("", "raise", "die", "die once")
    handler = signal.getsignal(signal.SIGTERM)
    there = fan_out(job, jobs(tmp_path / "a", *acts), on="ray", workers=2, progress=False, out=tmp_path / "out")
    here = fan_out(job, jobs(tmp_path / "b", *acts), workers=2, progress=False)
    assert heads(there) == heads(here)
    assert {k: (r.status, r.attempts) for k, r in there.items()} == {
        "fine": ("done", 1), "raise": ("failed", 2), "die": ("failed", 2), "die once": ("done", 2),
    }  # fmt: skip
    assert "die says farewell" in (there["die"].error or "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["die_once.json", "fine.json"]
    assert not ray.is_initialized(), "the local Ray was started by fan_out, and ends with it"
    assert signal.getsignal(signal.SIGTERM) is handler
    again = {"fine": {"marks": str(tmp_path / "a"), "name": "", "act": "", "value": ["", 0.1]}}
    assert fan_out(job, again, on="ray", progress=False, out=tmp_path / "out")["fine"].status == "cached"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, str]]:
    """A cluster that is none of ours: its two addresses."""
    pytest.importorskip("ray", reason="Ray is not installed")
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


def test_a_cluster_elsewhere_is_entered_and_left(
    elsewhere: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", elsewhere[0])
    for i, address in enumerate(("auto", elsewhere[1])):
        results = fan_out(job, jobs(tmp_path / str(i), "", "kill the watcher once"), on=address, progress=False)
        assert {key: (r.status, r.attempts) for key, r in results.items()} == {
            "fine": ("done", 1), "kill the watcher once": ("done", 2),
        }  # fmt: skip
    assert all(answers(int(address.rpartition(":")[2])) for address in elsewhere)


def test_a_ray_that_this_process_has_entered_is_used(ray: Any, elsewhere: tuple[str, str]) -> None:
    ray.init(elsewhere[0], log_to_driver=False, logging_level="error")
    try:
        late = fan_out(job, {"a": {"act": "hang"}}, on="ray", timeout=0.5, retries=0, progress=False)["a"]
        assert (late.error or "").endswith("timeout: it took more than 0.5 s")
        found = require(fan_out(pools, {"a": {}}, on="ray", threads=2, progress=False))["a"]
        assert (found["torch"], found["env"]) == (2, ["2", "2", "2"])
        with pytest.raises(SparselandError, match="threads=3, but the largest node of this Ray has 2 CPUs"):
            fan_out(pools, {"a": {}}, on="ray", threads=3, progress=False)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_ray_that_is_not_there(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = free_port()
    for on in (f"127.0.0.1:{nobody}", f"ray://127.0.0.1:{nobody}", "ray://", "localhost:many"):
        with pytest.raises(SparselandError, match=f"nothing answers at '{on}'"):
            fan_out(job, {"a": {}}, on=on)

    def nobody_home(**options: Any) -> None:
        raise ConnectionError("nobody")

    monkeypatch.setattr(ray, "init", nobody_home)
    token = "; if that Ray asks for a token, set RAY_AUTH_MODE=token here too"
    for on, where, hint in (("auto", "at 'auto'", token), ("ray", "on this machine", "")):
        with pytest.raises(SparselandError, match=f"cannot use Ray {where}: ConnectionError: nobody{hint}$"):
            fan_out(job, {"a": {}}, on=on)


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SparselandError, match="Ray is not installed .*: pip install ray, or use on='processes'"):
        fan_out(job, {"a": {}}, on="ray")


PARENT = """
import sys
from sparseland.train.fan_out import fan_out
marks, out, on, act = sys.argv[1:]
jobs = {"fine": {"value": 1}, "other": {"marks": marks, "name": "other", "act": act}}
fan_out("tests.train.fan_out_jobs:job", jobs, out=out, on=on, workers=2)
"""


@contextlib.contextmanager
def parent(folder: Path, on: str, act: str) -> Iterator[subprocess.Popen[str]]:
    """A process whose job "fine" is done and whose job "other" runs."""
    (folder / "marks").mkdir()
    command = [sys.executable, "-W", "error", "-c", PARENT, str(folder / "marks"), str(folder / "out"), on, act]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        files = (folder / "out/fine.json", folder / "marks/other.0")
        if not wait(lambda: all(file.exists() for file in files), PATIENCE):
            process.kill()
            pytest.fail(f"not ready: {process.communicate()[1]}")
        time.sleep(0.2)  # it has left its mark; now it acts
        yield process
        process.kill()


def test_ctrl_c_tells_the_jobs(elsewhere: tuple[str, str], tmp_path: Path) -> None:
    with parent(tmp_path, elsewhere[0], "be told") as process:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert (tmp_path / "marks/told").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fine.json"]
    assert not in_session([int((tmp_path / "marks/other.0").read_text())])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_job_outlives_the_parent(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")  # as users have it: a local Ray makes its token
    monkeypatch.setenv("HOME", str(tmp_path))
    with parent(tmp_path, "ray", "hold") as process:
        leader = int((tmp_path / "marks/other.0").read_text())
        assert len(in_session([leader])) == 2, "the job, and the process that it has started"
        process.kill()
    assert wait(lambda: not in_session([leader]), PATIENCE)
