"""Many runs of one function (seeds, methods, soups, searches), each in a process of its own.

A process per attempt: a crash, a leak or the out-of-memory killer takes one job and no other. What a worker process is
stands in `fan_out_worker` and `fan_out_process`; Ray, which runs the same workers on its nodes, in `on_ray`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparseland.core.errors import RecipeError, SparselandError, nearest
from sparseland.train import fan_out_worker
from sparseland.train.fan_out_process import Worker, end
from sparseland.train.fan_out_screen import Progress, Screen
from sparseland.train.fan_out_store import Result, Store
from sparseland.train.fan_out_worker import GRACE, Call, NotPlain, Outcome, attempt, last_line, load, plain, room

__all__ = ["PLACES", "Place", "Processes", "Progress", "Result", "fan_out", "require"]

GLANCE = 0.05  # seconds between two looks at the running jobs
PLACES = ("processes", "inline", "ray", "auto", "host:port", "ray://host:port")


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
        self.idle: list[Worker] = []

    def start(self, call: Call) -> Worker:
        """A process that waits for a call, else a new one."""
        while self.idle:
            worker = self.idle.pop()
            if worker.take(call):
                return worker
            worker.kill()
        return Worker(call)

    def poll(self, handle: Any) -> Outcome | None:
        """How the attempt ended; None while it runs."""
        outcome: Outcome | None = handle.poll()
        if handle.idle:
            self.idle.append(handle)
        return outcome

    def stop(self, handles: Sequence[Worker]) -> None:
        """First as Ctrl-C does, then for good."""
        end(handles)

    def close(self) -> None:
        """End the processes that wait."""
        for worker in self.idle:
            worker.kill()


def fan_out(
    function: Callable[..., Any] | str,
    jobs: Mapping[str, Mapping[str, Any]],
    *,
    out: str | os.PathLike[str] | None = None,
    on: str = "processes",
    workers: int | None = None,
    threads: int = 1,
    retries: int = 1,
    progress: bool | Progress = True,
    resume: bool = True,
    timeout: float | None = None,
    overwrite: bool = False,
    grace: float = GRACE,
    reuse: bool = False,
) -> dict[str, Result]:
    """``{key: Result of function(**jobs[key])}``; a job that fails is reported in its Result, the others go on.

    Ctrl-C: jobs get SIGINT and ``grace`` seconds, finished results are kept, KeyboardInterrupt goes on. However this
    process ends, its jobs end with it. A job may be started again after any cut: let it resume, or write anew.

    Parameters:
        function: importable (no lambda, not nested), or its name ``"module:qualname"``.
        jobs: arguments by job; plain data (None, bool, finite numbers, text, lists, dicts with text keys), as results.
        out: folder for ``<key>.json`` (value, arguments, fingerprint) and, on processes, ``<key>.log`` (its prints).
        on: "processes"; "inline" (here, one after the other, for debugging: no timeout, no pinned threads); "ray" (a
            local Ray for this call); or a Ray that runs: "auto", "host:port", "ray://host:port".
        workers: jobs at a time, ≥ 1; None: cores // threads.
        threads: of each job, ≥ 1: torch, OpenMP, MKL and OpenBLAS.
        retries: how often a failed job is started again, ≥ 0; not after a SparselandError, which would come again.
        progress: a bar on a terminal, lines on stderr elsewhere; or an object that is told (`Progress`).
        resume: take what ``out`` holds of the same function and arguments (the code is not compared).
        timeout: seconds an attempt may take, > 0.
        overwrite: a job may replace the result of another function or other arguments under its key.
        grace: seconds, ≥ 0; a second Ctrl-C does not wait.
        reuse: on processes, one that ended a job well may take the next, without its imports: for functions that leave
            nothing behind (random numbers drawn unseeded go on, for example).

    Raises:
        RecipeError: an option, the function or a job is impossible; said before anything starts.
        ResumeError: ``out`` holds a result of other arguments under a key. OutputError: it cannot be written.
        SparselandError: Ray is asked for and not there.

    >>> results = fan_out("statistics:fmean", {"a": {"data": [1, 3]}, "b": {"data": []}}, on="inline", progress=False)
    >>> results["a"].status, results["a"].value, results["b"].status, results["b"].attempts
    ('done', 2.0, 'failed', 2)
    """
    _check(on, workers, threads, retries, timeout, grace)
    blank = Call("", _name(function), {}, threads, timeout, None, tuple(sys.path), os.getcwd(), grace, reuse)
    calls = _calls(blank, jobs, None if isinstance(function, str) else function)
    store = Store(Path(out), overwrite) if out is not None else None
    found = {key: result for key, result in (store.open(calls) if store else {}).items() if resume}
    todo = [call for call in calls if call.key not in found]
    if store and on == "processes":
        todo = [replace(call, log=str(store.place(call.key, "log").absolute())) for call in todo]
    if todo:
        with contextlib.closing(_place(on, workers, threads, len(todo))) as place:
            with _screen(len(calls), len(found), progress) as screen:
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
def _check(on: str, workers: int | None, threads: int, retries: int, timeout: float | None, grace: float) -> None:
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
    if not 0 <= grace < math.inf:
        raise RecipeError(f"grace={grace!r} is not a number of seconds ≥ 0")
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


# ---------------------------------------------------------------------------------------------------------- doing them
def _place(on: str, workers: int | None, threads: int, jobs: int) -> Place:
    if on == "inline":
        return Place()
    if on == "processes":
        return Processes(min(jobs, workers or room(threads)))
    from sparseland.train.on_ray import Cluster

    return Cluster(None if on == "ray" else on, workers, threads)


def _screen(total: int, done: int, progress: bool | Progress) -> contextlib.AbstractContextManager[Progress]:
    """Who is told; a screen of ours is closed in the end."""
    if isinstance(progress, bool):
        return contextlib.closing(Screen(total, done, progress))
    return contextlib.nullcontext(progress)


def _work(place: Place, todo: list[Call], retries: int, store: Store | None, screen: Progress) -> dict[str, Result]:
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
