"""``sparseland report``: the page of a finished run or comparison, made anew from its run.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("report")(report)


def report(
    record: Annotated[Path, typer.Argument(metavar="RUN", help="A run.json, or the folder that it is in.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page; default: report.html beside run.json.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether run.json is sound; write nothing.")] = False,
) -> None:
    """Make report.html anew from a run.json, old ones included; nothing is trained and no other file is needed.

    [bold]Examples[/bold]

        sparseland report runs/demo
        sparseland report runs/demo/run.json --out demo.html
        sparseland report runs/demo --check
    """
    from ..reports import read_record, render
    from .screen import screen

    if check:
        path = record / "run.json" if record.is_dir() else record
        read = read_record(path)
        screen().print(f"{path}: sound, {len(read['runs'])} runs of {len(read['aggregate'])} methods")
        return
    screen().print(str(render(record, out)))
