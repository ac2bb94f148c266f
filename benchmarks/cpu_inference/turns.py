"""Engines that take turns: one process each, pinned to the same processors, all but one waiting on its pipe."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PR_SET_PDEATHSIG = 1
REST = 0.003  # seconds between turns, in which the threads of the last engine fall asleep
Answer = dict[str, Any]


class Worker:
    """An engine's process, started when first asked and again after it died."""

    def __init__(self, name: str, python: str, cpus: list[int]) -> None:
        self.name, self.python, self.cpus = name, python, cpus
        self.process: subprocess.Popen[str] | None = None
        self.log = open(os.devnull, "w")  # noqa: SIM115

    def ask(self, **message: Any) -> Answer:
        """Send a message and wait for the answer; {"error": …} if the process is gone."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: Answer = json.loads(line) if line else {"error": f"its process ended ({self.process.wait()})"}
        return answer

    def _start(self) -> None:
        threads = str(len(self.cpus))
        own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [self.python, str(HERE / "worker.py"), self.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, env={**os.environ, **own}, cwd=HERE,
            preexec_fn=lambda: _alone(self.cpus),
        )  # fmt: skip

    def close(self) -> None:
        """End the process."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def _alone(cpus: list[int]) -> None:
    """In a worker: its processors, and its end where whoever started it ends, however that may be."""
    os.sched_setaffinity(0, cpus)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def take_turns(workers: list[Worker], rounds: int, per_turn: int) -> dict[str, Any]:
    """``{engine: {"median", "best", "runs"}}`` in seconds, or ``{"error": …}``; every other turn in reverse order."""
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    errors: dict[str, str] = {}
    for turn in range(-(-rounds // per_turn)):
        for worker in workers if turn % 2 == 0 else workers[::-1]:
            if worker.name in errors:
                continue
            time.sleep(REST)
            # The runs that are not counted bring its weights back into the caches.
            answer = worker.ask(do="run", warm=3 if turn == 0 else 1, times=per_turn)
            if "error" in answer:
                errors[worker.name] = answer["error"]
            else:
                seconds[worker.name] += answer["seconds"]
    found: dict[str, Any] = {name: {"error": why} for name, why in errors.items()}
    for name, taken in seconds.items():
        if name not in errors:
            found[name] = {"median": float(np.median(taken)), "best": min(taken), "runs": len(taken)}
    return found


def difference(reference: Path, other: Path) -> float:
    """The largest difference of two engines' outputs, relative to the largest number of the first."""
    with np.load(reference) as a, np.load(other) as b:
        one, two = a[a.files[0]], b[b.files[0]]
    if one.shape != two.shape:
        return float("inf")
    return float(np.abs(one - two).max() / max(float(np.abs(one).max()), 1e-30))


def python() -> str:
    """This Python."""
    return sys.executable
