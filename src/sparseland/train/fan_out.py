"""Many runs of one function (seeds, methods, soups, searches), each in a process of its own.

A process per attempt: a crash, a leak or the out-of-memory killer takes one job and no other. What a worker process is
stands in `fan_out_worker`; Ray, which runs the same workers on its nodes, in `on_ray`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import json
import math
import os
import re
import sys
import time
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparseland import files
from sparseland.core.errors import RecipeError, ResumeError, SparselandError, nearest
from sparseland.train import fan_out_worker
from sparseland.train.fan_out_worker import Call, NotPlain, Outcome, Worker, attempt, end, last_line, load, plain, room

SCHEMA = 1
GLANCE = 0.05  # seconds between two looks at the running jobs
PLACES = ("processes", "inline", "ray", "auto", "host:port", "ray://host:port")
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "absent"})()


@dataclass(frozen=True)
class Result:
    """How a job ended.

    Parameters:
        key: of the job.
        status: "done", "cached" (done by an earlier call, read from ``out``) or "failed".
        value: what the function returned, through JSON (tuples are lists).
        error: of a failed job: the last attempt's traceback, or its last output; the last line is the reason.
        attempts: how often it was started.
        seconds: how long the last attempt took, the start of its process included.
    """

    key: str
    status: str
    value: Any = None
    error: str | None = None
    attempts: int = 0
    seconds: float = 0.0


class Place:
    """Where attempts run. Here and now: an attempt is over when `start` returns."""

    workers = 1

    def start(self, call: Call) -> Any:
        """Start an attempt; the handle is for `poll` and `stop`."""
        return attempt(call, pin=False)

    def poll(self, handle: Outcome | Worker) -> Outcome | None:
        """How the attempt ended; None while it runs."""
        return handle if isinstance(handle, Outcome) else handle.poll()

    def stop(self, handles: Sequence[Any]) -> None:
        """End attempts that still run."""

    def close(self) -> None:
        """Give back what the place holds."""


class Processes(Place):
    """Processes of this machine, ``workers`` at a time."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def start(self, call: Call) -> Worker:
        """A new process."""
        return Worker(call)

    def stop(self, handles: Sequence[Worker]) -> None:
        """First as Ctrl-C does, then for good."""
        end(handles)


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
    process ends, its jobs end with it. A job may be started again after it was cut anywhere: let it resume what it
    left, or write anew.

    Parameters:
        function: importable (no lambda, not nested), or its name ``"module:qualname"``.
        jobs: arguments by job; plain data (None, bool, finite numbers, text, lists, dicts with text keys), as results.
        out: folder for ``<key>.json`` (value, arguments, fingerprint) and, on processes, ``<key>.log`` (its prints).
        on: "processes"; "inline" (here, one after the other, for debugging: no timeout, no pinned threads); "ray" (a
            local Ray for this call); or a Ray that runs: "auto", "host:port", "ray://host:port".
        workers: jobs at a time, ≥ 1; None: cores // threads.
        threads: of each job, ≥ 1: torch, OpenMP, MKL and OpenBLAS.
        retries: how often a failed job is started again, ≥ 0.
        progress: a bar on a terminal, lines on stderr elsewhere.
        resume: take what ``out`` holds of the same function and arguments (the code is not compared).
        timeout: seconds an attempt may take, > 0.
        overwrite: a job may replace the result of another function or other arguments under its key.

    Raises:
        RecipeError: an option, the function or a job is impossible; said before anything starts.
        ResumeError: ``out`` holds a result of other arguments under a job's key.
        OutputError: ``out`` cannot be written.
        SparselandError: Ray is asked for and not there.

    >>> results = fan_out("statistics:fmean", {"a": {"data": [1, 3]}, "b": {"data": []}}, on="inline", progress=False)
    >>> results["a"].status, results["a"].value, results["b"].status, results["b"].attempts
    ('done', 2.0, 'failed', 2)
    """
    _check(on, workers, threads, retries, timeout)
    name = _name(function)
    blank = Call("", name, {}, threads, timeout, path=tuple(sys.path), cwd=os.getcwd())
    calls = _calls(blank, jobs, None if isinstance(function, str) else function)
    store = _Store(Path(out), overwrite) if out is not None else None
    found = store.open(calls) if store else {}
    found = found if resume else {}
    todo = [call for call in calls if call.key not in found]
    if store and on == "processes":
        todo = [replace(call, log=str(store.place(call.key, "log").absolute())) for call in todo]
    if todo:
        with contextlib.closing(_place(on, workers, threads, len(todo))) as place:
            with contextlib.closing(_Screen(len(calls), len(found), progress)) as screen:
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
        lines = [f"  {r.key}: {last_line(r.error)} (attempts: {r.attempts})" for r in failed]
        raise SparselandError("\n".join([f"{len(failed)} of {len(results)} jobs failed:", *lines]))
    return {key: result.value for key, result in results.items()}


# ---------------------------------------------------------------------------------------------------- what is asked for
def _check(on: str, workers: int | None, threads: int, retries: int, timeout: float | None) -> None:
    if fan_out_worker.importing:
        raise SparselandError(
            f"fan_out was called while a worker imported {fan_out_worker.importing}: put the call below "
            f"if __name__ == '__main__':"
        )
    for name, value, least in (("workers", workers, 1), ("threads", threads, 1), ("retries", retries, 0)):
        if not (type(value) is int and value >= least) and not (name == "workers" and value is None):
            raise RecipeError(f"{name}={value!r} is not an integer ≥ {least}")
    if timeout is not None and not 0 < timeout < math.inf:
        raise RecipeError(f"timeout={timeout!r} is neither None nor a number of seconds > 0")
    if on not in PLACES[:4] and ":" not in on:
        raise RecipeError(f"unknown on={on!r}: {nearest(on, PLACES)}")


def _name(function: Callable[..., Any] | str) -> str:
    """``module:qualname``, by which a worker can import the function."""
    if isinstance(function, str):
        name = function
    else:
        module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", "(no name)")
        if module == "__main__" and qualname.isidentifier() and (module := _main_module()) != "__main__":
            return f"{module}:{qualname}"  # a script: workers import it by the name of its file
        name = f"{module}:{qualname}"
    try:
        found = load(name) if not name.startswith("__main__:") else None
        if callable(found) and (isinstance(function, str) or found is function):
            return name
        reason = "it names something else"
    except (ImportError, AttributeError, ValueError) as error:
        reason = str(error)
    raise RecipeError(
        f"a worker cannot import {name!r} ({reason}); give a function at the top level of a module (no lambda, no "
        f"partial, not nested), or its name 'module:qualname'"
    )


def _main_module() -> str:
    """The name by which ``__main__`` can be imported; "__main__" where it cannot."""
    main = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return str(spec.name)
    file = getattr(main, "__file__", None) or ""
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = importlib.util.find_spec(Path(file).stem)
        if spec is not None and spec.origin and os.path.samefile(spec.origin, file):
            return str(spec.name)
    return "__main__"


def _calls(blank: Call, jobs: Mapping[str, Mapping[str, Any]], function: Callable[..., Any] | None) -> list[Call]:
    """The jobs as `Call`s; every argument is looked at before anything starts."""
    signature = None
    with contextlib.suppress(ValueError, TypeError):  # some built-in functions have none
        signature = inspect.signature(function or load(blank.function))
    calls = []
    for key, kwargs in jobs.items():
        if not (isinstance(key, str) and key and isinstance(kwargs, Mapping)):
            raise RecipeError(f"job {key!r}: {kwargs!r}; a job is a text (not empty) and a dict of arguments")
        try:
            if signature is not None:
                signature.bind(**kwargs)
            given = {name: plain(value, name) for name, value in kwargs.items()}
        except NotPlain as error:
            raise RecipeError(f"job {key!r}: {error}") from None
        except TypeError as error:
            raise RecipeError(f"job {key!r}: {error}; {blank.function} takes {signature}") from None
        calls.append(replace(blank, key=key, kwargs=given))
    return calls


# ------------------------------------------------------------------------------------------------- what is kept of them
class _Store:
    """The folder of results; a file stands under its name when it is whole."""

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite

    def open(self, calls: list[Call]) -> dict[str, Result]:
        """Make the folder; what it holds of these calls already."""
        owner: dict[str, str] = {}
        for call in calls:
            name = self.place(call.key, "json").name
            other = owner.setdefault(name.casefold(), call.key)
            if other != call.key:
                raise RecipeError(f"jobs {other!r} and {call.key!r} would share the file {name}; rename one")
        files.probe(self.folder)
        results = {call.key: self._read(call) for call in calls}
        return {key: result for key, result in results.items() if result is not None}

    def place(self, key: str, ending: str) -> Path:
        """The file of a job. Letters, digits and ``. _ = + , @ -`` of its key stay, others become ``_``."""
        name = re.sub(r"^\.|[^\w.=+,@-]", "_", unicodedata.normalize("NFC", key))
        if len(name.encode()) > 180:
            name = f"{name.encode()[:160].decode(errors='ignore')}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        return self.folder / f"{name}.{ending}"

    def write(self, call: Call, result: Result) -> None:
        """Keep a result."""
        about = {"key": call.key, "function": call.function, "kwargs": call.kwargs, "fingerprint": call.fingerprint}
        kept = {"value": result.value, "attempts": result.attempts, "seconds": round(result.seconds, 3)}
        data = json.dumps({"schema": SCHEMA} | about | kept, indent=1, allow_nan=False).encode() + b"\n"
        files.write_file(self.place(call.key, "json"), lambda file: file.write(data))

    def _read(self, call: Call) -> Result | None:
        place = self.place(call.key, "json")
        try:
            saved = json.loads(place.read_bytes())
        except (FileNotFoundError, ValueError):  # half a file is no result
            return None
        try:
            if saved["schema"] != SCHEMA:
                raise KeyError("schema")
            before, now = ({"function": s["function"], **s["kwargs"]} for s in (saved, vars(call)))
            result = Result(call.key, "cached", saved["value"], None, saved["attempts"], saved["seconds"])
            same = (saved["key"], saved["fingerprint"]) == (call.key, call.fingerprint)
        except (KeyError, TypeError):
            raise ResumeError(f"{place} is no result of fan_out with schema {SCHEMA}; choose another folder") from None
        if same or self.overwrite:
            return result if same else None
        changes = "; ".join(_changes(before, now)) or f"it belongs to job {saved['key']!r}"
        raise ResumeError(
            f"{place} holds another result than job {call.key!r} asks for: {changes}; choose another key or folder, or "
            f"give overwrite=True"
        )


def _changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else key
            yield from _changes(before.get(key, ABSENT), now.get(key, ABSENT), inner)
    elif repr(before) != repr(now):
        yield f"{name} was {before!r}, now it is {now!r}"


# ---------------------------------------------------------------------------------------------------------- doing them
def _place(on: str, workers: int | None, threads: int, jobs: int) -> Place:
    if on == "inline":
        return Place()
    if on == "processes":
        return Processes(min(jobs, workers or room(threads)))
    from sparseland.train.on_ray import Cluster

    return Cluster(None if on == "ray" else on, workers, threads)


def _work(place: Place, todo: list[Call], retries: int, store: _Store | None, screen: _Screen) -> dict[str, Result]:
    """Keep ``place.workers`` attempts running until every job has a result."""
    waiting, attempts = deque(todo), Counter[str]()
    running: dict[str, tuple[Call, Any]] = {}
    results: dict[str, Result] = {}
    try:
        while waiting or running:
            while waiting and len(running) < place.workers:
                call = waiting.popleft()
                attempts[call.key] += 1
                screen.begin(call.key)
                running[call.key] = (call, place.start(call))
            for key, (call, handle) in list(running.items()):
                outcome = place.poll(handle)
                if outcome is None:
                    continue
                del running[key]
                again = bool(outcome.error) and not outcome.final and attempts[key] <= retries
                screen.end(key, outcome, again)
                if again:
                    waiting.append(call)
                    continue
                status = "failed" if outcome.error else "done"
                results[key] = Result(key, status, outcome.value, outcome.error, attempts[key], outcome.seconds)
                if store and not outcome.error:
                    store.write(call, results[key])
            if running:
                time.sleep(GLANCE)
    finally:
        place.stop([handle for _, handle in running.values()])
    return results


class _Screen:
    """On a terminal a bar over all jobs and a line per running one; elsewhere a line per finished one."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self.total, self.done, self.shown = total, done, shown
        self.bar: Any = None
        self.tasks: dict[str, Any] = {}
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            text = TextColumn("{task.description}", markup=False)
            console = Console(stderr=True)
            self.bar = Progress(text, BarColumn(), TimeElapsedColumn(), console=console, transient=True)
            self.all = self.bar.add_task(f"{done} of {total} jobs", total=total, completed=done)
            self.bar.start()
        if done:
            self._say(f"{done} of {total} jobs were done before")

    def begin(self, key: str) -> None:
        if self.bar:
            self.tasks[key] = self.bar.add_task(key, total=None)

    def end(self, key: str, outcome: Outcome, again: bool) -> None:
        self.done += not again
        how = "failed, is tried again" if again else "failed" if outcome.error else "done"
        why = f": {last_line(outcome.error)}" if outcome.error else ""
        self._say(f"{self.done} of {self.total}  {key}: {how} after {outcome.seconds:.1f} s{why}")
        if self.bar:
            self.bar.remove_task(self.tasks.pop(key))
            self.bar.update(self.all, completed=self.done, description=f"{self.done} of {self.total} jobs")

    def close(self) -> None:
        if self.bar:
            self.bar.stop()

    def _say(self, line: str) -> None:
        if self.bar:
            self.bar.console.print(line, markup=False, highlight=False)
        elif self.shown:
            print(line, file=sys.stderr, flush=True)
