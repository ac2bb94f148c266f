"""Two gloo processes that stay alive over many tests: `Pair.run(job, …)` calls ``job(rank, …)`` in both of them.

Starting torch twice costs seconds, a job costs milliseconds. A job is a plain function of a file in this folder; the
processes load that file by its path. After a failure or a timeout the processes are replaced, so that no test hangs on
the collective of another one. Every rank has its own PYTHONHASHSEED: nothing may depend on the order of a set.

Run as a script, this file is one of the two processes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import queue
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

RANKS = 2
PATIENCE = 60.0  # seconds a job may take before both processes are ended
COLLECTIVE = 20.0  # seconds a collective may wait for the other rank


def send(pipe: BinaryIO, value: Any) -> None:
    """Write one pickled message."""
    data = pickle.dumps(value)
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def receive(pipe: BinaryIO) -> Any:
    """Read one pickled message; EOFError when the other side is gone."""
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    return pickle.loads(pipe.read(struct.unpack("<Q", head)[0]))


class Failed(AssertionError):
    """A job raised in one rank; the text holds the traceback of each."""


class Pair:
    """Two processes in one gloo group."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.folder = ""

    def start(self) -> None:
        """Start both processes and wait until they have met (done by `run` after a failure)."""
        self.folder = tempfile.mkdtemp(prefix="sparseland-pair-")
        meeting = Path(self.folder) / "meeting"
        for rank in range(RANKS):
            env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(rank), "ACCELERATE_USE_CPU": "true"}
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # asked for by Accelerate, not used
            env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            command = [sys.executable, str(Path(__file__).resolve()), str(rank), str(meeting)]
            self.processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, env=env)
            )
        self._answers(2 * PATIENCE)  # they say hello once torch is there and the group stands

    def stop(self) -> None:
        """End both processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]
        self.processes = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """[job(0, …), job(1, …)], each computed in its own process at the same time."""
        if not self.processes:
            self.start()
        for process in self.processes:
            send(process.stdin, (job.__code__.co_filename, job.__name__, args, kwargs))  # type: ignore[arg-type]
        return self._answers(PATIENCE)

    def _answers(self, patience: float) -> list[Any]:
        answers: queue.Queue[tuple[int, bool, Any]] = queue.Queue()
        for rank, process in enumerate(self.processes):
            threading.Thread(target=_listen, args=(rank, process, answers), daemon=True).start()
        results: dict[int, Any] = {}
        errors: dict[int, str] = {}
        while len(results) + len(errors) < RANKS:
            try:
                rank, fine, value = answers.get(timeout=patience)
            except queue.Empty:
                missing = [r for r in range(RANKS) if r not in results and r not in errors]
                errors |= dict.fromkeys(missing, f"no answer within {patience:g} s")
                break
            (results if fine else errors)[rank] = value
            patience = min(patience, 3.0) if errors else patience  # the other one waits in a collective
        if errors:
            self.stop()
            raise Failed("\n".join(f"--- rank {rank}\n{text}" for rank, text in sorted(errors.items())))
        return [results[rank] for rank in range(RANKS)]


def _listen(rank: int, process: subprocess.Popen[bytes], answers: queue.Queue[tuple[int, bool, Any]]) -> None:
    try:
        answers.put((rank, *receive(process.stdout)))  # type: ignore[arg-type]
    except (EOFError, OSError, ValueError):
        answers.put((rank, False, "the process ended"))


def _serve(rank: int, meeting: str) -> None:
    """Take jobs from stdin until it closes; the answers leave on the original stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of a job go to stderr
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=COLLECTIVE)
    )
    send(answers, (True, "hello"))
    modules: dict[str, Any] = {}
    while True:
        try:
            path, name, args, kwargs = receive(sys.stdin.buffer)
        except EOFError:
            os._exit(0)  # no farewell: the other rank may already be gone
        try:
            torch.manual_seed(1000 + rank)  # never the same on both
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                if path not in modules:
                    spec = importlib.util.spec_from_file_location(f"jobs_{Path(path).stem}", path)
                    modules[path] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
                    spec.loader.exec_module(modules[path])  # type: ignore[union-attr]
                send(answers, (True, getattr(modules[path], name)(rank, *args, **kwargs)))
        except BaseException:
            send(answers, (False, traceback.format_exc()))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
