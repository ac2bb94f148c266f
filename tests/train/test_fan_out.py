"""fan_out with real processes: failures stay where they are, results are kept, nobody outlives the parent."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparseland.core.errors import OutputError, RecipeError, ResumeError, SparselandError
from sparseland.train.fan_out import fan_out, require
from tests.train.fan_out_jobs import Group, in_session, job, pools, strays, unplain, wait, who

HERE = job.__module__
PATIENCE = 60.0  # seconds until a process that should come or go is missed

quiet = functools.partial(fan_out, progress=False)


# ---------------------------------------------------------------------------------------------------------------- tools
def marks(folder: Path, name: str = "*") -> list[Path]:
    """The marks of jobs."""
    return sorted(folder.glob(f"{name}.*"))


def alive(pid: int) -> bool:
    """Whether a process runs (one that ended and was not asked how does not count)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


# --------------------------------------------------------------------------------------------------- results and errors
def test_results_in_the_order_of_the_jobs() -> None:
    results = quiet(job, {k: {"value": [k, {"n": 1.5}, None]} for k in ("b", "a", "c")}, workers=2)
    assert list(results) == ["b", "a", "c"]
    assert require(results) == {k: [k, {"n": 1.5}, None] for k in ("b", "a", "c")}
    assert {(r.status, r.attempts, r.error) for r in results.values()} == {("done", 1, None)}
    assert all(r.seconds > 0 for r in results.values())


def test_failures_are_isolated_retried_and_told(tmp_path: Path) -> None:
    acts = ("raise", "die", "die once", "exit", "leave", "")
    jobs = {a or "fine": {"marks": str(tmp_path), "name": a or "fine", "act": a, "value": a} for a in acts}
    results = quiet(job, jobs, workers=2)
    assert {k: (r.status, r.attempts) for k, r in results.items()} == {
        "raise": ("failed", 2), "die": ("failed", 2), "die once": ("done", 2),
        "exit": ("failed", 2), "leave": ("failed", 2), "fine": ("done", 1),
    }  # fmt: skip
    assert results["die once"].value == "die once"
    assert results["raise"].error.startswith("Traceback")
    assert "in job" in results["raise"].error
    assert "die says farewell" in results["die"].error
    assert len(marks(tmp_path, "die")) == 2
    with pytest.raises(SparselandError) as told:
        require(results)
    lines = str(told.value).splitlines()
    assert lines[0] == "4 of 6 jobs failed:"
    assert lines[1] == "  raise: RuntimeError: no luck with raise (attempts: 2)"
    assert "was ended by signal SIGKILL" in lines[2]
    assert "exit code 3" in lines[3]
    assert "SystemExit: 0" in lines[4]


def test_no_retries() -> None:
    assert quiet(job, {"a": {"act": "raise"}}, retries=0)["a"].attempts == 1


def test_timeout_says_where_it_hung() -> None:
    result = quiet(job, {"slow": {"act": "hang"}}, timeout=2, retries=0)["slow"]
    assert result.status == "failed"
    assert result.error.endswith("timeout: it took more than 2 s")
    assert "in job" in result.error


@linux
def test_what_a_job_leaves_behind_is_ended() -> None:
    pid = quiet(strays, {"a": {}})["a"].value
    assert wait(lambda: not alive(pid))


def test_a_result_that_json_cannot_say_is_not_tried_again() -> None:
    result = quiet(unplain, {"a": {"value": "nan"}}, on="inline")["a"]
    assert (result.status, result.attempts) == ("failed", 1)
    assert result.error.rstrip().endswith("the result.inner[0] is nan, which JSON cannot say: give None, or a text")


def test_threads_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = quiet(pools, {"a": {}}, threads=2)["a"].value
    assert found["torch"] == 2
    assert found["env"] == ["2", "2", "2"]
    assert found["pid"] != os.getpid()


def test_inline_equals_processes() -> None:
    jobs = {"a": {"a": 1}, "b": {"a": 2, "b": 5}}
    here, there = quiet(Group.add, jobs, on="inline"), quiet(f"{HERE}:Group.add", jobs)
    assert require(here) == require(there) == {"a": 2, "b": 7}
    assert quiet(job, {"t": {"value": (1, (2,))}}, on="inline")["t"].value == [1, [2]]


def test_inline_failures_too(tmp_path: Path) -> None:
    results = quiet(job, {"a": {"marks": str(tmp_path), "name": "a", "act": "raise"}, "b": {"value": 1}}, on="inline")
    assert [(r.status, r.attempts) for r in results.values()] == [("failed", 2), ("done", 1)]
    assert len(marks(tmp_path)) == 2


def test_deliberate_errors_are_not_tried_again_and_end_in_their_reason() -> None:
    for on in ("inline", "processes"):
        result = quiet(who, {"a": {"act": "refuse"}}, on=on)["a"]
        assert (result.status, result.attempts) == ("failed", 1)
        assert result.error.rstrip().splitlines()[-1] == "RecipeError: lr is 3; possible: 1, 2"


# ---------------------------------------------------------------------------------------------- one process, many jobs
def test_a_process_is_not_shared_unless_asked() -> None:
    pids = require(quiet(who, {k: {} for k in "abc"}, workers=1))
    assert len(set(pids.values())) == 3


def test_a_process_that_ended_a_job_well_takes_the_next(tmp_path: Path) -> None:
    acts = ("", "", "raise", "", "die once", "")
    jobs = {str(i): {"act": act, "where": str(tmp_path / "died")} for i, act in enumerate(acts)}
    results = quiet(who, jobs, workers=1, reuse=True, out=tmp_path / "out")
    assert [r.status for r in results.values()] == ["done", "done", "failed", "done", "done", "done"]
    assert [r.attempts for r in results.values()] == [1, 1, 2, 1, 2, 1]
    pids = [r.value for r in results.values()]
    assert pids[0] == pids[1], "kept after a good end"
    assert pids[3] != pids[1], "replaced after an error"
    assert pids[5] != pids[3] and pids[4] != pids[3], "replaced after a death"
    logs = {path.name: path.read_text() for path in (tmp_path / "out").glob("*.log")}
    assert logs["0.log"] == "nothing is done\n" and logs["1.log"] == "nothing is done\n"
    assert logs["2.log"] == "raise is done\n" * 2 and logs["4.log"].startswith("die once is done\n")


@linux
def test_a_process_with_children_is_replaced_and_they_end() -> None:
    results = require(quiet(who, {"a": {"act": "start"}, "b": {}, "c": {}}, workers=1, reuse=True))
    (worker, child), second, third = results.values()
    assert second == third != worker
    assert not alive(child) and not alive(worker) and not alive(second)


def test_a_late_job_of_a_shared_process_is_ended_by_its_own_clock() -> None:
    results = quiet(who, {"a": {}, "b": {"act": "hang"}, "c": {}}, workers=1, reuse=True, timeout=3, retries=0)
    assert [r.status for r in results.values()] == ["done", "failed", "done"]
    assert "hang is done" in results["b"].error and "nothing is done" not in results["b"].error
    assert results["b"].error.endswith("timeout: it took more than 3 s")
    assert results["a"].value != results["c"].value


def test_progress_may_be_an_object_that_is_told() -> None:
    told: list[tuple[Any, ...]] = []

    class Listener:
        def begin(self, key: str) -> None:
            told.append(("begin", key))

        def end(self, key: str, outcome: Any, again: bool) -> None:
            told.append(("end", key, outcome.error is None, again))

    fan_out(job, {"a": {}, "b": {"act": "raise"}}, on="inline", progress=Listener())
    assert told == [
        ("begin", "a"), ("end", "a", True, False), ("begin", "b"), ("end", "b", False, True), ("begin", "b"),
        ("end", "b", False, False),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- said before work
@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"value": {"lr": [0.1, {1}]}}, "job 'x': value.lr[1] is a set, not plain data: {1}"),
        ({"value": {"lr": float("inf")}}, "job 'x': value.lr is inf"),
        ({"value": {3: "a"}}, "job 'x': value has the key 3, which is not a text"),
        ({"value": Path("a")}, "job 'x': value is a PosixPath"),
        ({"valeu": 1}, "got an unexpected keyword argument 'valeu'"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as told:
        quiet(job, {"fine": {"marks": str(tmp_path), "name": "fine"}, "x": kwargs}, on="inline")
    assert words in str(told.value)
    assert not marks(tmp_path)


def test_a_missing_argument_quotes_the_signature() -> None:
    with pytest.raises(RecipeError, match=r"job 'x': missing a required argument: 'a'; .*:Group.add takes \(a: "):
        quiet(Group.add, {"x": {}})


@pytest.mark.parametrize(
    "function", [lambda: 1, functools.partial(job), f"{HERE}:nothing", f"{HERE}:__name__", "no.such.module:f", "job"]
)
def test_bad_functions(function: Any) -> None:
    with pytest.raises(RecipeError, match=r"a worker cannot import '.*module:qualname"):
        quiet(function, {"a": {}})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"workers": 0}, "workers=0 is not an integer ≥ 1"),
        ({"threads": 1.5}, "threads=1.5"),
        ({"retries": -1}, "retries=-1 is not an integer ≥ 0"),
        ({"timeout": 0}, "timeout=0"),
        ({"grace": -1}, "grace=-1 is not a number of seconds ≥ 0"),
        ({"on": "process"}, "did you mean 'processes'"),
    ],
)
def test_bad_options(option: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as told:
        quiet(job, {"a": {}}, **option)
    assert words in str(told.value)


def test_bad_jobs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not empty"):
        quiet(job, {"": {}})
    with pytest.raises(RecipeError, match="a dict of arguments"):
        quiet(job, {"a": 3})  # type: ignore[dict-item]
    with pytest.raises(RecipeError, match="jobs 'a b' and 'A/b' would share the file A_b.json"):
        quiet(job, {"a b": {}, "A/b": {}}, on="inline", out=tmp_path)
    assert quiet(job, {}) == {}


# ------------------------------------------------------------------------------------------------------------- resuming
def test_resume_runs_only_what_is_not_finished(tmp_path: Path) -> None:
    out, seen = tmp_path / "out", tmp_path / "seen"
    seen.mkdir()
    jobs = {n: {"marks": str(seen), "name": n, "act": "raise" if n == "b" else "", "value": n} for n in ("a", "b")}
    first = quiet(job, jobs, out=out, retries=0)
    assert [r.status for r in first.values()] == ["done", "failed"]
    assert sorted(p.name for p in out.iterdir()) == ["a.json", "a.log", "b.log"]
    second = quiet(job, jobs | {"c/1": {"value": 3}}, out=out, retries=0)
    assert [r.status for r in second.values()] == ["cached", "failed", "done"]
    assert second["a"].value == "a"
    assert second["a"].seconds == pytest.approx(first["a"].seconds, abs=1e-3)
    assert (len(marks(seen, "a")), len(marks(seen, "b"))) == (1, 2)
    assert json.loads((out / "c_1.json").read_text())["key"] == "c/1"
    quiet(job, {"a": jobs["a"]}, out=out, resume=False, on="inline")
    assert len(marks(seen, "a")) == 2


def test_changed_arguments_are_an_error(tmp_path: Path) -> None:
    before = {"a": {"value": {"lr": 0.1, "seeds": [1, 2]}}}
    quiet(job, before, out=tmp_path, on="inline")
    for after, words in (
        ({"value": {"lr": 0.2, "seeds": [1, 2]}}, "value.lr was 0.1, now it is 0.2;"),
        ({"value": {"seeds": [1, 2]}}, "value.lr was 0.1, now it is absent"),
        ({"value": before["a"]["value"], "name": "n"}, "name was absent, now it is 'n'"),
    ):
        for resume in (True, False):
            with pytest.raises(ResumeError) as told:
                quiet(job, {"a": after}, out=tmp_path, on="inline", resume=resume)
            assert words in str(told.value)
            assert "overwrite=True" in str(told.value)
    with pytest.raises(ResumeError, match="function was '.*:job', now it is '.*:unplain'"):
        quiet(unplain, {"a": {"value": "1"}}, out=tmp_path, on="inline")
    assert quiet(job, {"a": {"value": 2}}, out=tmp_path, on="inline", overwrite=True)["a"].status == "done"
    assert quiet(job, {"a": {"value": 2}}, out=tmp_path, on="inline")["a"].status == "cached"
    with pytest.raises(ResumeError, match="value was 2, now it is 2.0"):
        quiet(job, {"a": {"value": 2.0}}, out=tmp_path, on="inline")


def test_half_a_file_does_not_count_and_a_foreign_one_is_not_touched(tmp_path: Path) -> None:
    quiet(job, {"a": {"value": 1}}, out=tmp_path, on="inline")
    whole = (tmp_path / "a.json").read_bytes()
    (tmp_path / "a.json").write_bytes(whole[: len(whole) // 2])
    (tmp_path / ".a.json.1.tmp").write_bytes(whole)
    assert quiet(job, {"a": {"value": 1}}, out=tmp_path, on="inline")["a"].status == "done"
    (tmp_path / "b.json").write_text('{"mine": 1}')
    with pytest.raises(ResumeError, match="is no result of fan_out"):
        quiet(job, {"b": {}}, out=tmp_path, on="inline", overwrite=True)
    assert (tmp_path / "b.json").read_text() == '{"mine": 1}'


def test_keys_become_file_names(tmp_path: Path) -> None:
    long = "k" * 300
    keys = ["../up", ".hidden", "a/b c", "seed=1,lr=0.1", "größe", long, long + "2"]
    quiet(job, {key: {} for key in keys}, out=tmp_path, on="inline")
    names = {path.name for path in tmp_path.iterdir()}
    assert names > {"_._up.json", "_hidden.json", "a_b_c.json", "seed=1,lr=0.1.json", "größe.json"}
    assert len(names) == len(keys)
    assert all(len(name) < 200 for name in names)
    with pytest.raises(ResumeError, match="it belongs to job 'a/b c'"):
        quiet(job, {"a b c": {}}, out=tmp_path, on="inline")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        quiet(job, {"a": {}}, out=tmp_path / "file" / "out", on="inline")


# ----------------------------------------------------------------------------------------------------- what one can see
def test_lines_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    jobs = {"a": {"value": 1}, "b": {"act": "raise", "name": "b"}}
    fan_out(job, jobs, on="inline", out=tmp_path)
    fan_out(job, jobs, on="inline", out=tmp_path, retries=0)
    said = capfd.readouterr()
    lines = said.err.splitlines()
    assert said.out == ""
    assert lines[0] == "1 of 2  a: done after 0.0 s"
    assert lines[1] == "1 of 2  b: failed, is tried again after 0.0 s: RuntimeError: no luck with b"
    assert lines[2] == "2 of 2  b: failed after 0.0 s: RuntimeError: no luck with b"
    assert lines[3] == "1 of 2 jobs were done before"
    assert len(lines) == 5


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    results = fan_out(job, {"[a]": {"value": 1}}, on="inline")
    assert results["[a]"].value == 1
    assert "[a]: done" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ ends of parents
PARENT = """
import sys
from sparseland.train import fan_out
if __name__ == "__main__":
    marks, out = sys.argv[1:]
    jobs = {"fine": {"marks": marks, "name": "fine", "value": 1}}
    jobs |= {n: {"marks": marks, "name": n, "act": n} for n in ("hang", "hold")}
    fan_out.fan_out("tests.train.fan_out_jobs:job", jobs, out=out, workers=3, threads=1)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has one finished job, one that sleeps, and one that holds on to its interpreter."""
    (tmp_path / "marks").mkdir()
    command = [sys.executable, "-W", "error", "-c", PARENT, str(tmp_path / "marks"), str(tmp_path / "out")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        names = ("hang.0", "hold.0")
        ready = wait(
            lambda: (tmp_path / "out/fine.json").exists() and all((tmp_path / "marks" / n).exists() for n in names)
        )
        if not ready:
            process.kill()
            pytest.fail(f"not ready: {process.communicate()[1]}")
        time.sleep(0.2)  # `hold` has left its mark; now it holds
        yield process
        process.kill()


@linux
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nobody_outlives_the_parent(parent: subprocess.Popen[str], by: signal.Signals, tmp_path: Path) -> None:
    leaders = [int(path.read_text()) for path in marks(tmp_path / "marks") if path.name != "fine.0"]
    before = in_session(leaders)
    assert len(before) == 3, "two jobs, and the process that one of them has started"
    parent.send_signal(by)
    said = parent.communicate(timeout=PATIENCE)[1]
    assert wait(lambda: not in_session(leaders))
    assert json.loads((tmp_path / "out/fine.json").read_text())["value"] == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["fine.json"]
    if by is signal.SIGINT:
        assert parent.returncode != 0
        assert said.rstrip().endswith("KeyboardInterrupt")
    else:
        assert parent.returncode == -by
