"""The worker process of `fan_out`: one attempt at one job, and what its parent sees of it.

A worker is a plain child process. It reads one line (a `Call` as JSON) from its standard input and writes one answer
(JSON) to its standard output; what the job prints goes to standard error, its log. Nothing is pickled.

This file stands on the standard library alone: a worker imports it, and so starts in milliseconds and has its threads
and signals in order before the job loads torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

GRACE = 5.0  # seconds a job gets to write its checkpoint after Ctrl-C
MARGIN = 0.5  # seconds between a worker's report of where it hangs and its end
TAIL = 4000  # bytes of a dead job's output that go into its error
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
START = (
    "import json, sys; asked = json.loads(sys.stdin.readline()); sys.path[:] = asked['call']['path']; "
    f"from {__name__} import serve; serve(**asked)"
)
importing = ""  # the function that this worker is importing right now


@dataclass(frozen=True)
class Call:
    """A job as plain data.

    Parameters:
        key: of the job.
        function: ``module:qualname``.
        kwargs: its arguments.
        threads: of the pools in `POOLS` and of torch, ≥ 1.
        timeout: seconds it may take, or None.
        log: the file that its output is added to, or None.
        path: ``sys.path`` of the worker; cwd: its folder, where there is one of that name.
    """

    key: str
    function: str
    kwargs: dict[str, Any]
    threads: int = 1
    timeout: float | None = None
    log: str | None = None
    path: tuple[str, ...] = ()
    cwd: str = ""

    @property
    def fingerprint(self) -> str:
        """sha256 of the function's name and the arguments (not of its code).

        >>> one = Call("a", "math:hypot", {"x": 1, "y": 2})
        >>> one.fingerprint == Call("b", "math:hypot", {"y": 2, "x": 1}, threads=2).fingerprint
        True
        """
        return hashlib.sha256(canonical({"function": self.function, "kwargs": self.kwargs}).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended: with a ``value``, or with an ``error`` whose last line is the reason.

    Parameters:
        value: what the function returned.
        error: a traceback, or the last output of a process that died.
        final: trying again would not help.
        seconds: from the start of the process to its end.
    """

    value: Any = None
    error: str | None = None
    final: bool = False
    seconds: float = 0.0


class NotPlain(TypeError):
    """JSON cannot say a value."""


def canonical(value: Any) -> str:
    """One text per value, whatever the order of its keys.

    >>> canonical({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any, where: str = "the value") -> Any:
    """The value as JSON gives it back (tuples are lists).

    Raises:
        NotPlain: JSON cannot say it; the message names the place.

    >>> plain({"lr": (0.1, 1)})
    {'lr': [0.1, 1]}
    >>> plain({"lr": [0.1, float("nan")]}, "kwargs")
    Traceback (most recent call last):
    sparseland.train.fan_out_worker.NotPlain: kwargs.lr[1] is nan, which JSON cannot say: give None, or a text
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise NotPlain(f"{where} has the key {key!r}, which is not a text")
        return {str(key): plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, f"{where}[{i}]") for i, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise NotPlain(f"{where} is {float(value)!r}, which JSON cannot say: give None, or a text")
    if value is None or isinstance(value, bool | int | float | str):
        return json.loads(json.dumps(value))
    raise NotPlain(f"{where} is a {type(value).__name__}, not plain data: {repr(value)[:80]}")


def load(name: str) -> Any:
    """What ``module:qualname`` names.

    >>> load("math:hypot")(3, 4)
    5.0
    """
    module, _, qualname = name.partition(":")
    if not module or not qualname:
        raise ValueError("it has not the form 'module:qualname'")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def attempt(call: Call, *, pin: bool = True) -> Outcome:
    """Call the function here; an exception (``SystemExit`` too) is an outcome. ``pin``: set torch's threads.

    >>> attempt(Call("a", "math:sqrt", {}), pin=False).error.splitlines()[-1]
    'TypeError: math.sqrt() takes exactly one argument (0 given)'
    """
    global importing
    since = time.monotonic()
    value, error, final = None, None, False
    try:
        importing = call.function if pin else ""
        function = load(call.function)
        importing = ""
        if pin and "torch" in sys.modules:  # if not, it will read the environment
            sys.modules["torch"].set_num_threads(call.threads)
        value = plain(function(**call.kwargs), "the result")
    except (Exception, SystemExit) as raised:
        error, final = traceback.format_exc(), isinstance(raised, NotPlain)
    return Outcome(value, error, final, time.monotonic() - since)


def last_line(error: str | None) -> str:
    """The reason that ends an error.

    >>> last_line("Traceback:\\n  ...\\nValueError: no\\n")
    'ValueError: no'
    """
    return (error or "").rstrip().rpartition("\n")[2].strip()


def room(threads: int) -> int:
    """For how many jobs of so many threads this process has cores; at least one.

    >>> room(1) >= room(2) >= room(1000) == 1
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


# ----------------------------------------------------------------------------------------------------- in the worker
def serve(call: dict[str, Any], since: float) -> None:
    """The whole life of a worker process, started by `Worker` at ``since`` (of the monotonic clock)."""
    parent, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the last words of a killed job
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, Ray has it blocked
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faulthandler.enable()
    if call["timeout"] is not None:
        faulthandler.dump_traceback_later(max(0.01, since + call["timeout"] - time.monotonic()))
    outcome = attempt(Call(**call))
    with os.fdopen(answers, "wb") as file:
        file.write(json.dumps(asdict(outcome)).encode())


def _end_with(parent: int) -> None:
    """When the parent is gone its end of the pipe is closed: then kill this process and all that it started.

    A thread waits for that. A job that never releases the interpreter would hold it up, so on Linux the kernel is asked
    too: it sends a signal to the process group when something happens to the pipe, and nothing but the end will.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(parent, 1)
        _kill_group(0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(parent, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(parent, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(parent, fcntl.F_SETFL, fcntl.fcntl(parent, fcntl.F_GETFL) | os.O_ASYNC)


def _kill_group(group: int) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


# ----------------------------------------------------------------------------------------------------- in the parent
class Worker:
    """One attempt in a process (and session) of its own.

    >>> worker = Worker(Call("a", "statistics:fmean", {"data": [1, 3]}, path=tuple(sys.path)))
    >>> while (outcome := worker.poll()) is None:
    ...     time.sleep(0.01)
    >>> outcome.value
    2.0
    """

    def __init__(self, call: Call) -> None:
        self.call, self.since = call, time.monotonic()
        self.answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`; has no name to be left over
        self.log: IO[bytes] = open(call.log, "ab+") if call.log else tempfile.TemporaryFile()  # noqa: SIM115
        self.log_start = self.log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            stdout=self.answer,
            stderr=self.log,
            env=os.environ | dict.fromkeys(POOLS, str(call.threads)),
            cwd=call.cwd if os.path.isdir(call.cwd) else None,
            start_new_session=True,  # Ctrl-C comes to the parent only; the job's own children are found by the group
        )
        with contextlib.suppress(BrokenPipeError):  # it died already: `poll` says of what
            asked = json.dumps({"call": asdict(call), "since": self.since})
            self.process.stdin.write(asked.encode() + b"\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def poll(self) -> Outcome | None:
        """How it ended; None while it runs. Too late is an end."""
        code, seconds = self.process.poll(), time.monotonic() - self.since
        limit = self.call.timeout
        if code is None and (limit is None or seconds < limit + MARGIN):
            return None
        self.answer.seek(0)
        said, tail = self.answer.read(), self._tail()
        self.kill()
        if code is None:
            return Outcome(None, f"{tail}timeout: it took more than {limit:g} s", seconds=seconds)
        if code != 0:
            return Outcome(None, f"{tail}the process {_ending(code)}", seconds=seconds)
        try:
            return Outcome(**json.loads(said) | {"seconds": seconds})
        except ValueError:
            return Outcome(None, f"{tail}the process ended without an answer", seconds=seconds)

    def interrupt(self) -> None:
        """Ctrl-C for the job alone: a run of ours writes its checkpoint."""
        with contextlib.suppress(OSError, ValueError):
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, and everything that it has started."""
        if self.answer.closed:
            return
        _kill_group(self.process.pid)
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]
        self.answer.close()
        self.log.close()

    def _tail(self) -> str:
        end = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(self.log_start, end - TAIL))
        text = self.log.read().decode(errors="replace").strip()
        return f"its last output:\n{text}\n\n" if text else ""


def end(workers: Sequence[Worker]) -> None:
    """End workers: first as Ctrl-C does, then for good; another Ctrl-C does not wait."""
    try:
        for worker in workers:
            worker.interrupt()
        limit = time.monotonic() + GRACE
        while any(worker.process.poll() is None for worker in workers) and time.monotonic() < limit:
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"number {-code}"
    why = " (from outside; often the system, out of memory)" if -code == 9 else ""
    return f"was ended by signal {name}{why}"
