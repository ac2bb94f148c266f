"""Training the runs of a comparison: through `fan_out`, with a bar on a terminal and a line per run elsewhere."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..recipes import Run
    from ..train.fan_out import Result
    from ..train.fan_out_worker import Outcome

JOB = "sparseland.train.job:train_job"
GRACE = 60.0  # seconds a run gets after Ctrl-C to end its step and write its checkpoint
FAILURES = "failures.log"  # tracebacks and last words of the runs that failed; absent when none did


def prepare(runs: Sequence[Run], out: Path, *, on: str, overwrite: bool) -> list[Run]:
    """Find out whatever would stop the runs before the first; returns those that the folder does not hold finished.

    Parameters:
        runs: of the comparison.
        out: its folder.
        on: where they are to be trained, see `fan_out`.
        overwrite: throw away what the folder holds of them.

    Raises:
        OutputError: the folder cannot be written, or holds other runs. RecipeError: ``on`` is impossible.
        SparselandError: the data or the model is not there.
    """
    from ..files import probe, sweep
    from ..train.fan_out import fan_out

    fan_out(JOB, {}, on=on)  # of no job: only looks at ``on``
    probe(out)
    sweep(out)
    waiting = _waiting(runs, out, overwrite)
    _supply(runs)
    return waiting


def train_runs(runs: Sequence[Run], waiting: Sequence[Run], out: Path, *, jobs: int, on: str) -> list[dict[str, Any]]:
    """Train what is waiting; returns the failures as ``run.json`` lists them.

    Parameters:
        runs: of the comparison; waiting: those of them that are not finished.
        out: its folder.
        jobs: runs at a time, each on one thread.
        on: where, see `fan_out`.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the runs at work have written their checkpoints.
        SparselandError: Ray is asked for and not there.
    """
    from ..train.fan_out import fan_out

    todo = {
        name(run): {"config": run.config.replace(threads=1).to_dict(), "folder": str((out / run.folder).absolute())}
        for run in waiting
    }
    with Progress(len(runs), len(runs) - len(waiting)) as progress:
        results = fan_out(JOB, todo, on=on, workers=jobs, progress=progress, grace=GRACE, reuse=True)
    _keep_errors(out / FAILURES, results)
    failed = {key: reason(result.error) for key, result in results.items() if result.status == "failed"}
    return [{"label": r.label, "seed": r.seed, "error": failed[name(r)]} for r in runs if name(r) in failed]


def name(run: Run) -> str:
    """What a run is called on the screen."""
    return f"{run.label} seed {run.seed}"


def reason(error: str | None) -> str:
    """Why a run failed, in one line; the class of an error that is ours says nothing to a user.

    >>> reason("Traceback:\\nsparseland.core.errors.ScheduleError: rounds 0 (possible: 1 …)\\n")
    'rounds 0 (possible: 1 …)'
    """
    from ..train.fan_out_worker import last_line

    return re.sub(r"^(sparseland\.[\w.]+|[A-Z]\w*Error): ", "", last_line(error)) if _ours(error) else last_line(error)


def _ours(error: str | None) -> bool:
    return any(line.startswith("sparseland.") for line in (error or "").splitlines())


def _waiting(runs: Sequence[Run], out: Path, overwrite: bool) -> list[Run]:
    """The runs that are not finished; OutputError if the folder holds others under their names."""
    import shutil

    from ..core.errors import OutputError, SparselandError
    from ..train.journal import Journal
    from ..train.processes import Processes

    waiting = []
    for run in runs:
        folder = out / run.folder
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        try:
            if Journal(run.config, Processes(), folder).finished() is None:
                waiting.append(run)
        except SparselandError as error:
            raise OutputError(f"{error}; give another --out, or --overwrite to train anew") from None
    return waiting


def _supply(runs: Sequence[Run]) -> None:
    """Fail before the first run, once, if the data or the model is not there."""
    from ..train.supply import build_model, load_data

    build_model(runs[0].config, load_data(runs[0].config))


def _keep_errors(path: Path, results: dict[str, Result]) -> None:
    from ..core.errors import OutputError
    from ..files import write_file

    texts = [f"== {key}\n{result.error}\n" for key, result in results.items() if result.status == "failed"]
    if texts:
        with contextlib.suppress(OutputError):  # a full disk may be why they failed; the reasons are told anyway
            write_file(path, lambda file: file.write("\n".join(texts).encode()))
    else:
        path.unlink(missing_ok=True)


class Progress:
    """What one sees; told by `fan_out`.

    Parameters:
        total: runs of the comparison. done: those that were finished before.
    """

    def __init__(self, total: int, done: int) -> None:
        from .screen import errors, screen

        self.total, self.done = total, done
        self.to, self.bar = screen(), None
        self.began = time.monotonic()
        if done:
            self.to.print(f"{done} of {total} runs are finished already")
        if errors().is_terminal and done < total:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("runs"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.description}"), console=errors(), transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task("", total=total, completed=done)
            self.running: list[str] = []

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, key: str) -> None:
        """A run begins, or goes on."""
        if self.bar is not None:
            self.running.append(key)
            self.bar.update(self.task, description=", ".join(self.running))

    def end(self, key: str, outcome: Outcome, again: bool) -> None:
        """A run is over, or will be tried again."""
        self.done += not again
        if outcome.error is None:
            accuracy = outcome.value["accuracy"]
            said = "" if accuracy is None else f"test {accuracy:.2%}, "
            said += f"{outcome.value['seconds']:.1f} s"
        else:
            said = f"failed{', is tried again' if again else ''}: {reason(outcome.error)}"
        line = f"[{self.done}/{self.total}] {key}: {said}"
        if self.bar is None:
            self.to.print(line)
            return
        self.running.remove(key)
        self.bar.update(self.task, completed=self.done, description=", ".join(self.running))
        self.bar.console.print(line)
