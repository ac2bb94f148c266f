"""Many runs of one function (seeds, methods, soups, searches), each in a process of its own.

A process per attempt: a crash, a leak or the out-of-memory killer takes one job and no other. The workers are plain
``subprocess`` children that read one line (what to do) and write one answer, both JSON; nothing is pickled.

At its top this file imports the standard library only: a worker imports it, and so starts in milliseconds and has
threads and signals in order before the job loads torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

SCHEMA = 1
GLANCE = 0.05  # seconds between two looks at the running jobs
GRACE = 5.0  # seconds a job gets to write its checkpoint after Ctrl-C
TAIL = 4000  # bytes of a dead job's output that go into its error
_ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "absent"})()
_loading = ""  # the function a worker is importing right now


@dataclass(frozen=True)
class Result:
    """How a job ended.

    Parameters:
        key: of the job.
        status: "done", "cached" (done by an earlier call, read from ``out``) or "failed".
        value: what the function returned, through JSON (tuples are lists).
        error: of a failed job: the last attempt's traceback, or its last output; the last line is the reason.
        attempts: how often it was started; seconds: how long the last attempt took, start of the process included.
    """

    key: str
    status: str
    value: Any = None
    error: str | None = None
    attempts: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Call:
    """A job as plain data; ``log`` is the file of its output, ``path`` and ``cwd`` are where it finds modules."""

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
        """sha256 of the function's name and the arguments (not of its code)."""
        return hashlib.sha256(_canonical([self.function, self.kwargs]).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended; ``final``: trying again would not help."""

    value: Any = None
    error: str | None = None
    final: bool = False
    seconds: float = 0.0


class Place(Protocol):
    """Where attempts run: `start` one, `poll` it until there is an outcome, `stop` those that still run."""

    workers: int

    def start(self, call: Call) -> Any:
        """Start an attempt; the handle is for `poll` and `stop`."""

    def poll(self, handle: Any) -> Outcome | None:
        """How the attempt ended; None while it runs."""

    def stop(self, handles: Iterable[Any]) -> None:
        """End attempts that still run."""

    def close(self) -> None:
        """Give back what the place holds."""


def fan_out(
    function: Callable[..., Any] | str,
    jobs: Mapping[str, Mapping[str, Any]],
    *,
    out: str | os.PathLike[str] | None = None,
    on: str = "processes",
    workers: int | None = None,
    threads: int = 1,
    retries: int = 1,
    progress: bool = True,
    resume: bool = True,
    timeout: float | None = None,
    overwrite: bool = False,
) -> dict[str, Result]:
    """``{key: Result of function(**jobs[key])}``; a job that fails is reported in its Result, the others go on.

    Ctrl-C: the jobs get SIGINT and five seconds, finished results are kept, KeyboardInterrupt goes on. However this
    process ends, its jobs end with it. An attempt may follow one that was cut anywhere: let a job resume, or write anew.

    Parameters:
        function: importable (not a lambda, not nested), or its name ``"module:qualname"``.
        jobs: arguments by job; plain data (None, bool, finite numbers, text, lists, dicts with text keys), as results.
        out: folder for ``<key>.json`` (value, arguments, fingerprint) and, on processes, ``<key>.log`` (its prints).
        on: "processes", "inline" (here, one after the other; for debugging: no timeout, no pinned threads), "ray" (a
            local Ray for this call), or the address of a Ray that runs ("auto", "host:port", "ray://host:port").
        workers: jobs at a time, ≥ 1; None: cores // threads.
        threads: of each job, ≥ 1, for torch, OpenMP, MKL and OpenBLAS.
        retries: how often a failed job is started again, ≥ 0.
        progress: a bar on a terminal, lines on stderr elsewhere.
        resume: take what ``out`` holds already of the same function and arguments; the code is not compared.
        timeout: seconds an attempt may take, > 0.
        overwrite: let a job replace another function's or other arguments' result under its key.

    Raises:
        RecipeError: an option, the function or a job cannot be; said before anything starts.
        ResumeError: ``out`` holds a result of other arguments under a job's key.
        OutputError: ``out`` cannot be written.
        SparselandError: Ray is asked for and not there.

    >>> results = fan_out("statistics:fmean", {"a": {"data": [1, 3]}, "b": {"data": []}}, on="inline", progress=False)
    >>> results["a"].status, results["a"].value, results["b"].status, results["b"].attempts
    ('done', 2.0, 'failed', 2)
    """
    if _loading:
        raise _error("SparselandError", f"fan_out was called while a worker imported {_loading}: move the call below "
                     "if __name__ == '__main__':")  # fmt: skip
    for name, value, least in (("workers", workers, 1), ("threads", threads, 1), ("retries", retries, 0)):
        if not (type(value) is int and value >= least) and (name, value) != ("workers", None):
            raise _error("RecipeError", f"{name}={value!r} is not an integer ≥ {least}")
    if timeout is not None and not 0 < timeout < math.inf:
        raise _error("RecipeError", f"timeout={timeout!r} is not a number of seconds > 0, nor None")
    if on not in ("processes", "inline", "ray", "auto") and ":" not in on:
        from ..core.errors import nearest

        options = ("processes", "inline", "ray", "auto", "host:port", "ray://host:port")
        raise _error("RecipeError", f"unknown on={on!r}: {nearest(on, options)}")
    calls = _calls(_name(function), jobs, threads, timeout)
    store = _Store(Path(out), overwrite) if out is not None else None
    found = store.open(calls) if store is not None else {}
    found = found if resume else {}
    todo = [store.logged(call) if store and on == "processes" else call for call in calls if call.key not in found]
    if todo:
        screen = _Screen(len(calls), len(found), progress)
        with contextlib.closing(screen), contextlib.closing(_place(on, workers, threads, len(todo))) as place:
            found |= _work(place, todo, retries, store, screen)
    return {call.key: found[call.key] for call in calls}


def require(results: Mapping[str, Result]) -> dict[str, Any]:
    """The values by key, where all jobs succeeded.

    Raises:
        SparselandError: jobs failed; each is listed with the last line of its error.

    >>> require({"a": Result("a", "done", 1.5)})
    {'a': 1.5}
    """
    failed = [result for result in results.values() if result.status == "failed"]
    if failed:
        lines = [f"  {result.key}: {_last_line(result)} ({result.attempts} attempts)" for result in failed]
        raise _error("SparselandError", "\n".join([f"{len(failed)} of {len(results)} jobs failed:", *lines]))
    return {key: result.value for key, result in results.items()}


def _error(kind: str, text: str) -> Exception:
    from ..core import errors  # here, because it loads torch

    error: Exception = getattr(errors, kind)(text)
    return error


def _last_line(result: Result | Outcome) -> str:
    return (result.error or "").rstrip().rpartition("\n")[2].strip()


# ---------------------------------------------------------------------------------------------------- what is asked for
def _name(function: Callable[..., Any] | str) -> str:
    """``module:qualname`` by which a worker can import it."""
    if isinstance(function, str):
        name = function
    else:
        module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", "<unnamed>")
        name = f"{_main_module() if module == '__main__' else module}:{qualname}"
        if module == "__main__" and "<" not in qualname and not name.startswith("__main__:"):
            return name  # a script: the workers import it by its file's name
    try:
        found = _load(name)
        if callable(found) and (found is function or isinstance(function, str)):
            return name
        reason = "that is something else" if callable(found) else f"that is a {type(found).__name__}"
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise _error("RecipeError", f"a worker cannot import {name!r} ({reason}); give a function at the top level of a "
                 "module (no lambda, partial or nested function), or its name 'module:qualname'")  # fmt: skip


def _main_module() -> str:
    """The name by which ``__main__`` can be imported; "__main__" if it cannot."""
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return str(spec.name)
    file = getattr(main, "__file__", None) or ""
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec(Path(file).stem)
        if spec is not None and spec.origin and os.path.samefile(spec.origin, file):
            return str(spec.name)
    return "__main__"


def _load(name: str) -> Any:
    module, colon, qualname = name.partition(":")
    if not colon or not module or not qualname:
        raise ValueError("it has no form 'module:qualname'")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _calls(
    name: str, jobs: Mapping[str, Mapping[str, Any]], threads: int, timeout: float | None
) -> list[Call]:  # fmt: skip
    signature = None
    module = "__main__" if name.partition(":")[0] == _main_module() else name.partition(":")[0]
    with contextlib.suppress(ValueError, TypeError):  # some built-in functions have none
        signature = inspect.signature(_load(f"{module}:{name.partition(':')[2]}"))
    calls = []
    for key, kwargs in jobs.items():
        if not (isinstance(key, str) and key and isinstance(kwargs, Mapping)):
            raise _error("RecipeError", f"job {key!r}: {kwargs!r}: a job is a text (not empty) and a dict of arguments")
        try:
            text = _canonical(_plain(dict(kwargs), ""))
            if signature is not None:
                signature.bind(**kwargs)
        except TypeError as error:
            takes = f"; {name} takes {signature}" if signature is not None else ""
            raise _error("RecipeError", f"job {key!r}: {error}{takes}") from error
        path, cwd = tuple(sys.path), os.getcwd()
        calls.append(Call(key, name, json.loads(text), threads, timeout, path=path, cwd=cwd))
    return calls


def _plain(value: Any, where: str) -> Any:
    """The value, if JSON can say it; TypeError naming the place that it cannot."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where or 'the dict'} has the key {key!r}, which is no text")
            _plain(inner, f"{where}.{key}" if where else key)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _plain(inner, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{where or 'the value'} is {value!r}, which JSON cannot say: give None, or a text")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(f"{where or 'the value'} is a {type(value).__name__}, not plain data: {value!r:.80}")
    return value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict)


# ------------------------------------------------------------------------------------------------- what is kept of them
class _Store:
    """The folder of results; a file stands under its name when it is whole."""

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite

    def open(self, calls: list[Call]) -> dict[str, Result]:
        """Make the folder; what it holds of these calls already."""
        from .checkpoint import probe

        owner: dict[str, str] = {}
        for call in calls:
            other = owner.setdefault(_file_name(call.key).casefold(), call.key)
            if other != call.key:
                raise _error("RecipeError", f"jobs {other!r} and {call.key!r} would share {_file_name(call.key)}.json")
        probe(self.folder)
        results = {call.key: self._read(call) for call in calls}
        return {key: result for key, result in results.items() if result is not None}

    def logged(self, call: Call) -> Call:
        """The call, with its prints going into the folder."""
        return Call(**vars(call) | {"log": str(self.folder.absolute() / f"{_file_name(call.key)}.log")})

    def write(self, call: Call, result: Result) -> None:
        """Keep a result."""
        from .checkpoint import write_file

        about = {"key": call.key, "function": call.function, "kwargs": call.kwargs, "fingerprint": call.fingerprint}
        kept = {"value": result.value, "attempts": result.attempts, "seconds": round(result.seconds, 3)}
        data = json.dumps({"schema": SCHEMA} | about | kept, indent=1, allow_nan=False).encode() + b"\n"
        write_file(self.folder / f"{_file_name(call.key)}.json", lambda file: file.write(data))

    def _read(self, call: Call) -> Result | None:
        place = self.folder / f"{_file_name(call.key)}.json"
        try:
            saved = json.loads(place.read_bytes())
        except (FileNotFoundError, ValueError):  # half a file is no result
            return None
        if not isinstance(saved, dict) or saved.get("schema") != SCHEMA or "fingerprint" not in saved:
            raise _error("ResumeError", f"{place} is no result of fan_out (schema {SCHEMA}); choose another folder")
        if saved["key"] == call.key and saved["fingerprint"] == call.fingerprint:
            return Result(call.key, "cached", saved["value"], None, saved["attempts"], saved["seconds"])
        if self.overwrite:
            return None
        before, now = ({"function": x["function"], **x["kwargs"]} for x in (saved, vars(call)))
        changes = "; ".join(_changes(before, now)) or f"it belongs to job {saved['key']!r}, which shares the file name"
        raise _error("ResumeError", f"{place} holds another result than job {call.key!r} asks for: {changes}; choose "
                     "another key or folder, or give overwrite=True")  # fmt: skip


def _file_name(key: str) -> str:
    """A key as a file name without ending: letters, digits and ``. _ = + , @ -`` stay, at most 180 bytes."""
    name = re.sub(r"^\.|[^\w.=+,@-]", "_", unicodedata.normalize("NFC", key))
    if len(name.encode()) > 180:
        name = name.encode()[:160].decode(errors="ignore") + "-" + hashlib.sha256(key.encode()).hexdigest()[:12]
    return name


def _changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else key
            yield from _changes(before.get(key, _ABSENT), now.get(key, _ABSENT), inner)
    elif repr(before) != repr(now):
        yield f"{name} was {before!r}, now it is {now!r}"
