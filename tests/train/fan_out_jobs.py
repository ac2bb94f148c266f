"""The jobs of the fan_out tests, and how to look at processes.

A worker imports this file; it starts fast because nothing at the top imports torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def job(marks: str = "", name: str = "", act: str = "", value: Any = None) -> Any:
    """Leave a mark (a file with this process's number), do what ``act`` says, return ``value``."""
    first = True
    if marks:
        number = len(list(Path(marks).glob(f"{name}.*")))
        first = number == 0
        draft = Path(marks) / f".{name}.{os.getpid()}"
        draft.write_text(str(os.getpid()))
        draft.rename(Path(marks) / f"{name}.{number}")  # whole as soon as it is seen
    if act == "raise":
        raise RuntimeError(f"no luck with {name}")
    if act == "die" or (act == "die once" and first):
        print(f"{name} says farewell")
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "kill the watcher once" and first:  # on Ray: the actor that has started this process
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(100)
    if act == "exit":
        os._exit(3)
    if act == "leave":
        sys.exit(0)
    if act == "hang":
        time.sleep(100)
    if act == "be told":  # ends by Ctrl-C in good order
        try:
            time.sleep(100)
        except KeyboardInterrupt:
            (Path(marks) / "told").write_text("")
            raise
    if act == "hold":  # a child of its own, and native code that never lets the interpreter go
        subprocess.Popen(["sleep", "101"])
        ctypes.PyDLL(None).sleep(100)
    return value


def who(act: str = "", where: str = "") -> Any:
    """The number of this process, after doing what ``act`` says."""
    print(f"{act or 'nothing'} is done")
    if act == "raise":
        raise RuntimeError("no luck")
    if act == "refuse":
        from sparseland.core.errors import RecipeError

        raise RecipeError("lr is 3;\npossible: 1, 2")
    if act == "die once" and not os.path.exists(where):
        Path(where).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "start":
        return [os.getpid(), subprocess.Popen(["sleep", "103"]).pid]
    if act == "hang":
        time.sleep(100)
    return os.getpid()


def unplain(value: str) -> Any:
    """Something that is no JSON."""
    return {"inner": [float(value)]}


def pools() -> dict[str, Any]:
    """What a job finds: threads of torch, variables, the process."""
    import torch

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {"torch": torch.get_num_threads(), "env": [os.environ[name] for name in names], "pid": os.getpid()}


def strays() -> int:
    """Start a process and forget it; its number."""
    return subprocess.Popen(["sleep", "102"]).pid


class Group:
    """A name with a dot."""

    @staticmethod
    def add(a: int, b: int = 1) -> int:
        """a + b"""
        return a + b


# ------------------------------------------------------------------------------------------------------ for the tests
def wait(until: Callable[[], Any], patience: float = 60.0) -> bool:
    """Whether it comes true."""
    end = time.monotonic() + patience
    while not until() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(until())


def in_session(leaders: list[int]) -> list[int]:
    """The processes that run in the sessions of these."""
    return _alive(3, leaders)


def workers_of(parent: int) -> list[int]:
    """The processes that a process has started."""
    return _alive(1, [parent])


def _alive(field: int, numbers: list[int]) -> list[int]:
    """The processes whose field of /proc/PID/stat, counted after the name, is one of these."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[field]) in numbers and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found
