"""``sparseland papers``: every published system the library sets out to reproduce, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..papers import System


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("papers")(papers)


def papers(
    search: Annotated[
        str,
        typer.Argument(
            help="A folder or its number ([b]11-granet[/b], [b]11[/b]) shows its result; other text, the rows with it."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    done: Annotated[bool, typer.Option("--done", help="Only those that are done.")] = False,
) -> None:
    """List the published systems and which of them are reproduced, or show one: claim, verdict, numbers, command.

    A system is [b]done[/b] when its folder papers/NN-slug/ holds a result and nothing is missing from its proof.

    [bold]Examples[/bold]

        sparseland papers
        sparseland papers 11-granet
        sparseland papers weights
        sparseland papers --json | python -m json.tool
    """
    import json
    from dataclasses import asdict

    from ..papers import result_of, systems
    from .screen import screen, table

    everything = systems()
    one = next((s for s in everything if search in (s.slug, s.number)), None)
    if one is not None:
        result = result_of(one.slug)
        if as_json:
            typer.echo(json.dumps([asdict(one) | {"result": result}], ensure_ascii=False, indent=2))
        else:
            _show(one, result)
        return
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


def _show(system: System, result: Mapping[str, Any] | None) -> None:
    """One system: what was claimed, what came out, the numbers, how to make them again."""
    from ..papers.record import spread
    from ..papers.result import ACCURACY
    from .screen import screen, table

    say = screen().print
    arxiv = f", arXiv {system.arxiv}" if system.arxiv else ""
    say(f"{system.slug}: {system.name}{arxiv} ({system.sparse}; {system.room})")
    if result is None:
        say(f"{system.status}: nothing is measured, papers/{system.slug}/ has no result.json")
        return
    seeds = ", ".join(map(str, result["seeds"]))
    say(f"\nclaim    {result['claim']['value']} ({result['claim']['source']})")
    say(f"verdict  {result['verdict']}: {result['why']}")
    say(f"command  {result['command']} ({result['minutes']:g} minutes, seeds {seeds})")
    for text in result["missing"]:
        say(f"missing  {text}")
    for text in result.get("limits", ()):
        say(f"limit    {text}")
    if "ours" not in result:
        say("The table is in the repository; an installed package has the verdicts only.")
        return
    heads = ["setting", "method", "measure", "mean ± std", "seeds", "training FLOPs"]
    for part, about in result["setting"].items():
        rows = [row for row in result["ours"] if row["part"] == part]
        cells = [
            [row["setting"], row["arm"], row.get("metric", ACCURACY), spread(row), row["seeds"], _share(row)]
            for row in rows
        ]
        say()
        say(table(f"{part}: {about}", heads, cells, left=3))


def _share(row: Mapping[str, Any]) -> str:
    share = row.get("training_flops")
    return "" if share is None else f"{share:.3f} × dense"
