"""What a person sees while an autoencoder trains: one bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Any


class Bar:
    """A progress bar with loss, L0 and dead share; silent unless ``shown``, on a terminal, and rich is there.

    >>> bar = Bar(10, shown=False)
    >>> bar.update(1, {"loss": 0.5, "l0": 8.0, "dead": 0.0})
    >>> bar.close()
    """

    def __init__(self, total: int, *, shown: bool = True) -> None:
        self.progress: Any = None
        if not (shown and sys.stderr.isatty()):
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            return
        numbers = TextColumn("{task.fields[numbers]}")
        columns = (BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(), numbers)
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task("", total=total, numbers="")
        self.progress.start()

    def update(self, step: int, record: dict[str, float]) -> None:
        """Move to ``step`` and show its record."""
        if self.progress is not None:
            self.progress.update(self.task, completed=step, numbers=describe(record))

    def close(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def describe(record: dict[str, float]) -> str:
    """A record in a few words.

    >>> describe({"loss": 0.25, "l0": 31.96, "dead": 0.02})
    'loss 0.2500  L0 32.0  dead 2.0 %'
    """
    return f"loss {record['loss']:.4f}  L0 {record['l0']:.1f}  dead {100 * record['dead']:.1f} %"
