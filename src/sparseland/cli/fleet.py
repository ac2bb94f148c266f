"""Many runs on one machine: a few processes of one thread each, so that the runs neither disturb nor wait for another.

A process that dies takes only its run with it. Ctrl-C lets every process write its checkpoint first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A run to train: a name for people, its configuration as plain data, its folder."""

    name: str
    config: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a task; ``error`` is None if it is done."""

    task: Task
    error: str | None = None


class Fleet:
    """Trains tasks in ``jobs`` processes.

    Parameters:
        tasks: what to train.
        jobs: how many at a time.
        log: file that takes what the processes print (for looking into failures).
        started, ended: called, one at a time, when a task begins and ends.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        jobs: int,
        log: Path,
        started: Callable[[Task], object] = lambda task: None,
        ended: Callable[[Outcome], object] = lambda outcome: None,
    ) -> None:
        self.waiting: SimpleQueue[Task] = SimpleQueue()
        for task in tasks:
            self.waiting.put(task)
        self.jobs, self.log = min(jobs, len(tasks)), log
        self.started, self.ended = started, ended
        self.outcomes: list[Outcome] = []
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._processes: list[subprocess.Popen[str]] = []

    def train(self) -> list[Outcome]:
        """Train them all; outcomes in the order in which they ended.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when every process has written its checkpoint and ended.
        """
        threads = [threading.Thread(target=self._attend, daemon=True) for _ in range(self.jobs)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        except KeyboardInterrupt:
            self._stop()
            for thread in threads:
                thread.join(60)
            raise
        finally:
            self._end()
        return self.outcomes

    def _attend(self) -> None:
        """Keep one process busy until nothing is waiting."""
        process: subprocess.Popen[str] | None = None
        with open(self.log, "a", encoding="utf-8") as log:
            while not self._stopped.is_set():
                try:
                    task = self.waiting.get_nowait()
                except Empty:
                    break
                if process is None or process.poll() is not None:
                    process = self._process(log)
                self._tell(self.started, task)
                outcome = Outcome(task, _ask(process, task))
                with self._lock:
                    self.outcomes.append(outcome)
                self._tell(self.ended, outcome)
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait(30)

    def _process(self, log: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "sparseland.cli.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env={**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        with self._lock:
            self._processes.append(process)
        return process

    def _tell(self, function: Callable[[Any], object], what: Any) -> None:
        with self._lock:
            function(what)

    def _stop(self) -> None:
        """Start nothing more, and ask every process to write its checkpoint."""
        self._stopped.set()
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)

    def _end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _ask(process: subprocess.Popen[str], task: Task) -> str | None:
    """Have a process train a task; None if it did, else why not."""
    assert process.stdin is not None and process.stdout is not None
    question = {"config": task.config, "folder": str(task.folder)}
    try:
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except (BrokenPipeError, ValueError):
        line = ""
    if not line:
        return f"its process died (status {process.wait(30)}); out of memory?"
    answer: dict[str, Any] = json.loads(line)
    return None if answer["ok"] else str(answer["error"])
