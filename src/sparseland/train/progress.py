"""What a person sees while a run trains: one bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Any


class Bar:
    """A progress bar with loss, accuracy, sparsity and learning rate; silent unless ``shown`` and on a terminal.

    >>> bar = Bar(10, shown=False)
    >>> bar.update(1, loss=0.5)
    >>> bar.close()
    """

    def __init__(self, total: int, *, label: str = "", shown: bool = True) -> None:
        self.progress: Any = None
        if not (shown and sys.stderr.isatty()):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        numbers = TextColumn("{task.fields[numbers]}")
        name = TextColumn("{task.description}")
        columns = (name, BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn(), numbers)
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.progress.add_task(label, total=total, numbers="")
        self.progress.start()

    def update(self, step: int, **numbers: Any) -> None:
        """Move to ``step``; show the numbers that are not None."""
        if self.progress is not None:
            self.progress.update(self.task, completed=step, numbers=describe(numbers))

    def say(self, text: str) -> None:
        """One line above the bar."""
        if self.progress is not None:
            self.progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def describe(numbers: dict[str, Any]) -> str:
    """The numbers of a step in a few words.

    >>> describe({"loss": 0.25, "accuracy": 0.9, "validation": None, "sparsity": 0.9, "lr": 0.1})
    'loss 0.250  accuracy 90.0%  sparsity 90.0%  lr 0.1'
    """
    words = []
    for name, value in numbers.items():
        if value is None:
            continue
        if name in ("accuracy", "validation", "sparsity"):
            words.append(f"{name} {value:.1%}")
        else:
            words.append(f"{name} {value:.3f}" if name == "loss" else f"{name} {value:.3g}")
    return "  ".join(words)
