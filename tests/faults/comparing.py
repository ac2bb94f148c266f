"""kill -9 while methods are compared: ``python -m tests.faults.comparing PLACE calls|parent|workers``.

The process of the comparison dies (at calls to the file system, or at random times with workers at work), or its
workers die; the same command goes on, and the end is that of a comparison nobody disturbed.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sparseland.cli.app import app
from tests.faults.forks import at_call, attempt, calls_of, killed, run_content, start, stripped
from tests.train.fan_out_jobs import in_session, wait, workers_of

RECIPE = """\
name: tiny
model: mlp-32
data: digits
limit: 400
lr: 0.05
epochs: {epochs}
evaluate_every: {every}
checkpoint_every: 3 steps
compare: {{seeds: [0], methods: [dense, {{name: random, sparsity: 0.8}}, {{name: rigl, sparsity: 0.8, every: 3}}]}}
"""
RUNS = ("dense/seed-0", "random/seed-0", "rigl/seed-0")
EARLIER = 1.0  # seconds after its checkpoint within which a worker is killed


def compare(recipe: Path, out: Path, on: str) -> None:
    """The command, in this process."""
    try:
        app(["compare", str(recipe), "--out", str(out), "--on", on])
    except SystemExit as leaving:
        if leaving.code:
            raise


def content(out: Path) -> Any:
    """Everything that a comparison leaves, without clocks and places."""
    record = json.loads((out / "run.json").read_text())
    for key in ("created", "command", "seconds", "jobs"):
        record.pop(key)
    for row in record["aggregate"]:
        row.pop("seconds"), row.pop("peak_bytes", None)
    record["runs"] = [{**run, "result": stripped(run["result"])} for run in record["runs"]]
    assert not record["failed"]
    assert (out / "report.html").stat().st_size > 10_000
    names = sorted(path.name for path in out.iterdir())
    return names, [run_content(out / run) for run in RUNS], record


def running(pid: int) -> bool:
    """Whether a process of ours has not ended."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def kill_parents(act: Any, draw: random.Random, seconds: float, log: Path, times: int) -> int:
    """Kill the comparison at random times; its workers end with it."""
    kills = 0
    for _ in range(times):
        pid, workers = start(act, log=log), set[int]()
        deadline = time.monotonic() + draw.uniform(0.1, 0.4) * seconds  # two such cuts always come before the end
        while time.monotonic() < deadline and running(pid):
            time.sleep(0.02)
            workers |= set(workers_of(pid))
        workers |= set(workers_of(pid))
        os.kill(pid, signal.SIGKILL)
        kills += killed(pid)
        assert wait(lambda workers=workers: not in_session(list(workers))), "somebody outlived the comparison"
    return kills


def kill_workers(act: Any, draw: random.Random, out: Path, log: Path) -> int:
    """Kill workers of one comparison while they train. A run that is hit twice has failed: the command says so."""
    pid, kills, dead = start(act, log=log), 0, set[int]()
    marks = {run: out / run / "last" / "state.json" for run in RUNS}
    while running(pid) and kills < 3:
        time.sleep(0.02)
        at_work = [run for run, mark in marks.items() if mark.exists() and not (out / run / "result.json").exists()]
        if not at_work:
            continue
        time.sleep(draw.uniform(0, EARLIER))
        workers = [worker for worker in workers_of(pid) if worker not in dead]
        if workers:
            dead.add(chosen := draw.choice(workers))
            os.kill(chosen, signal.SIGKILL)
            kills += 1
            wait(lambda chosen=chosen: not in_session([chosen]))
            wait(lambda pid=pid: len(workers_of(pid)) > 1 or not running(pid), 10)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, 1), status
    return kills


def main(place: Path, mode: str) -> None:
    """Kill, go on, compare."""
    torch.set_num_threads(1)
    recipe, log, out = place / "tiny.yaml", place / "log", place / "out"
    recipe.write_text(RECIPE.format(**({"epochs": 2, "every": 1} if mode == "calls" else {"epochs": 60, "every": 20})))
    draw, on = random.Random(mode), "inline" if mode == "calls" else "processes"
    began = time.monotonic()
    assert not attempt(functools.partial(compare, recipe, place / "whole", on), log=log)
    seconds, whole, kills = time.monotonic() - began, content(place / "whole"), 0
    act = functools.partial(compare, recipe, out, on)
    if mode == "calls":
        calls = calls_of(functools.partial(compare, recipe, place / "counted", on), place / "note")
        for share in (0.1, 0.2, 0.3, 0.3, 0.4):  # of the calls that are left, roughly
            number = draw.randint(1, max(2, int(share * calls)))
            kills += attempt(act, functools.partial(at_call, number, draw.random() < 0.5), log)
        for number in (3, 6, 9):  # when all runs are finished: in the files of the comparison itself
            assert not attempt(act, log=log)
            kills += attempt(act, functools.partial(at_call, number), log)
    elif mode == "parent":
        kills += kill_parents(act, draw, seconds, log, 6)
    else:
        kills += kill_workers(act, draw, out, log)
    assert not attempt(act, log=log)
    assert content(out) == whole, "the end is another one"
    assert not workers_of(os.getpid())
    print(json.dumps({"kills": kills, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
