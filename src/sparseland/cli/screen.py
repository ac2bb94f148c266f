"""Where the verbs write: tables and lines that read the same in a terminal, a pipe and a log file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 160  # columns when nobody says how many there are: nothing is cut off in a pipe


def screen() -> Console:
    """The console of standard output."""
    return _console(stderr=False)


def errors() -> Console:
    """The console of standard error."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


def table(title: str, columns: list[str], rows: list[list[Any]], left: int = 1, caption: str | None = None) -> Table:
    """A table; the first ``left`` columns are text, the others numbers.

    Parameters:
        title: the line above it.
        columns: headers.
        rows: cells, turned into text.
        left: how many columns are aligned to the left.
        caption: the line below it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", caption=caption, caption_justify="left",
                 box=SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made
