"""What one sees of `fan_out` while it works."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from sparseland.train.fan_out_worker import Outcome, last_line


class Progress(Protocol):
    """Who is told how the jobs go, in the thread that called `fan_out`."""

    def begin(self, key: str) -> object:
        """A job is started."""

    def end(self, key: str, outcome: Outcome, again: bool) -> object:
        """It is over; ``again``: it failed, and will be started once more."""


class Screen:
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
        """A job is started."""
        if self.bar:
            self.tasks[key] = self.bar.add_task(key, total=None)

    def end(self, key: str, outcome: Outcome, again: bool) -> None:
        """It is over, or to be tried again."""
        self.done += not again
        how = "failed, is tried again" if again else "failed" if outcome.error else "done"
        why = f": {last_line(outcome.error)}" if outcome.error else ""
        self._say(f"{self.done} of {self.total}  {key}: {how} after {outcome.seconds:.1f} s{why}")
        if self.bar:
            self.bar.remove_task(self.tasks.pop(key))
            self.bar.update(self.all, completed=self.done, description=f"{self.done} of {self.total} jobs")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar:
            self.bar.stop()

    def _say(self, line: str) -> None:
        if self.bar:
            self.bar.console.print(line, markup=False, highlight=False)
        elif self.shown:
            print(line, file=sys.stderr, flush=True)
