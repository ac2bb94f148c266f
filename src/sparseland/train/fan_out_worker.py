"""The worker process of `fan_out`: one attempt at one job. What its parent sees of it stands in `fan_out_process`.

A worker is a plain child process. It reads one line (a `Call` as JSON) from its standard input and writes one answer
(a line of JSON) to its standard output; what the job prints goes to standard error, its log. Nothing is pickled. Where
calls allow it (``reuse``), a worker that ended a job well waits for the next one on a pipe of its own: standard input
stays silent, because its end is how a worker learns that its parent is gone.

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
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

GRACE = 5.0  # seconds a job gets to write its checkpoint after Ctrl-C
REUSE = hasattr(os, "pread") and hasattr(os, "waitid")  # elsewhere every attempt has a new process
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
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
        grace: seconds it gets after Ctrl-C.
        reuse: its process may serve another call after it.
    """

    key: str
    function: str
    kwargs: dict[str, Any]
    threads: int = 1
    timeout: float | None = None
    log: str | None = None
    path: tuple[str, ...] = ()
    cwd: str = ""
    grace: float = GRACE
    reuse: bool = False

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

    Errors that the library raises on purpose are final: they would be raised again.

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
        error, final = traceback.format_exc(), isinstance(raised, NotPlain) or _ours(raised)
        if "\n" in str(raised).strip():  # the last line is the reason, whole
            error += f"{type(raised).__name__}: {' '.join(str(raised).split())}\n"
    return Outcome(value, error, final, time.monotonic() - since)


def _ours(error: BaseException) -> bool:
    """Whether it is a SparselandError (whose module this file does not load)."""
    errors = sys.modules.get("sparseland.core.errors")
    return errors is not None and isinstance(error, errors.SparselandError)


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


# ----------------------------------------------------------------------------------------------- the life of a worker
def serve(call: dict[str, Any], since: float, more: int | None = None) -> None:
    """The whole life of a worker process, started by `fan_out_process` at ``since`` (of the monotonic clock).

    ``more``: a pipe with further calls; it ends when there are none.
    """
    parent, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the last words of a killed job
    _end_with(parent)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faulthandler.enable()
    if more is not None:
        os.set_inheritable(more, False)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(os.fdopen(answers, "wb"))
        calls = stack.enter_context(os.fdopen(more, "rb")) if more is not None else None
        while _serve_one(call, since, file) and calls and (line := calls.readline()):
            asked = json.loads(line)
            call, since = asked["call"], asked["since"]
            _log_to(call["log"])


def _serve_one(call: dict[str, Any], since: float, file: IO[bytes]) -> bool:
    """Answer one call; whether this process is fit for another."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, Ray has it blocked
    if call["timeout"] is not None:
        faulthandler.dump_traceback_later(max(0.01, since + call["timeout"] - time.monotonic()))
    outcome = attempt(Call(**call))
    stays = call["reuse"] and outcome.error is None and not _has_children()
    if stays:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # while idle
        faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    file.write(json.dumps(asdict(outcome) | {"stays": stays}).encode() + b"\n")
    file.flush()
    return bool(stays)


def _has_children() -> bool:
    """Whether the job has left processes behind; they end with this one."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _log_to(log: str | None) -> None:
    """What is printed goes to this file from now on."""
    if log is not None:
        sys.stderr.flush()
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)


def _end_with(parent: int) -> None:
    """When the parent is gone its end of the pipe is closed: then kill this process and all that it started.

    A thread waits for that. A job that never releases the interpreter would hold it up, so on Linux the kernel is asked
    too: it sends a signal to the process group when something happens to the pipe, and nothing but the end will.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(parent, 1)
        kill_group(0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(parent, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(parent, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(parent, fcntl.F_SETFL, fcntl.fcntl(parent, fcntl.F_GETFL) | os.O_ASYNC)


def kill_group(group: int) -> None:
    """End every process of a group, where the system has groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
