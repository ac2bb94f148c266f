"""What a person sees while EM runs: a bar on a terminal, ten lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Steps done, the log-likelihood and the temperature; silent for ``verbose`` 0.

    >>> progress = Progress("BSC", 10, 0)
    >>> progress.update(1, -3.5, 1.0)
    >>> progress.close()
    """

    def __init__(self, label: str, total: int, verbose: int) -> None:
        self.label, self.total, self.verbose = label, total, verbose
        self.bar: Any = None
        if verbose and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            numbers = TextColumn("{task.fields[numbers]}")
            columns = (
                TextColumn("{task.description}"),
                BarColumn(None),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                numbers,
            )
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(label, total=total, numbers="")
            self.bar.start()

    def update(self, step: int, likelihood: float, temperature: float) -> None:
        """Move to ``step``."""
        numbers = f"log-likelihood {likelihood:.4f}  T {temperature:.3g}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, numbers=numbers)
        elif self.verbose and (step * 10 // self.total != (step - 1) * 10 // self.total):
            print(f"{self.label} {step}/{self.total}  {numbers}", file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
