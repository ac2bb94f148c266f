"""``sparseland papers``: every published system the library sets out to reproduce, and how far it is."""

from __future__ import annotations

from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("papers")(papers)


def papers(
    search: Annotated[str, typer.Argument(help="Only rows with this text in them, for example [b]weights[/b].")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    done: Annotated[bool, typer.Option("--done", help="Only those that are done.")] = False,
) -> None:
    """List the published systems and which of them are reproduced.

    A system is [b]done[/b] when its folder papers/NN-slug/ holds a result: claim, command and our number.

    [bold]Examples[/bold]

        sparseland papers
        sparseland papers weights
        sparseland papers --json | python -m json.tool
    """
    import json
    from dataclasses import asdict

    from ..papers import systems
    from .screen import screen, table

    everything = systems()
    rows = [s for s in everything if search.lower() in " ".join(map(str, asdict(s).values())).lower()]
    rows = [s for s in rows if s.status == "done"] if done else rows
    if as_json:
        typer.echo(json.dumps([asdict(s) for s in rows], ensure_ascii=False, indent=2))
        return
    cells = [[s.slug, s.name, s.sparse, s.room, s.arxiv or "", s.verdict or s.status] for s in rows]
    shown = table("Published systems", ["folder", "system", "what is sparse", "room", "arXiv", "status"], cells, left=6)
    screen().print(shown)
    counted = {
        status: sum(s.status == status for s in everything) for status in dict.fromkeys(s.status for s in everything)
    }
    shown_of = "" if len(rows) == len(everything) else f"{len(rows)} of "
    screen().print(
        f"{shown_of}{len(everything)} systems; {', '.join(f'{n} {status}' for status, n in counted.items())}"
    )
