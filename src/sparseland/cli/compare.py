"""``sparseland compare``: methods × seeds under one budget, one table, one report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..recipes import Recipe, Run

JOBS = 2  # runs at a time unless told otherwise


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("compare")(compare)


def compare(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A built-in recipe or a YAML file with a compare section.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for runs, run.json and report.html.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a value, as in compare.sparsity=0.95."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time, each on one thread.")] = JOBS,
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="PLACE", help="processes, inline, ray (a local one), or a Ray that runs: auto, host:port."
        ),
    ] = "processes",
    join: Annotated[
        list[Path] | None,
        typer.Option("--join", metavar="RUN.JSON", help="Take in the finished runs of another comparison."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="GUARD", help="Compare although this guard refuses; shown in red."),
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Also time a trained net of each method: torch, and the engine on CPUs.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train anew what the folder holds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs, and stop.")] = False,
) -> None:
    """Compare methods: the same epochs, batches and learning rates for all, several seeds each.

    What would be unfair is refused before anything is trained. Runs that are finished in the folder are not trained
    again, interrupted ones go on: the same command continues after Ctrl-C. A run whose process dies is tried once more.
    The table gives the mean and the standard deviation over seeds, the next one the differences seed by seed.

    [bold]Examples[/bold]

        sparseland compare demo --out runs/demo
        sparseland compare demo --out runs/hard --set compare.sparsity=0.98 --set "compare.seeds=[0,1,2,3,4]"
        sparseland compare mine.yaml --out runs/mine --jobs 8 --on ray
        sparseland compare mine.yaml --out runs/both --join runs/small-dense/run.json
    """
    from ..recipes import load
    from .guards import examine, known
    from .joined import join as take_in
    from .plan import check_names

    made = load(recipe, settings or ())
    runs, allowed = made.runs(), known(allow or ())
    check_names(made.config)
    others = take_in(join or (), runs, out)
    if dry_run:
        _list(made, runs, others, out)
    findings = [finding.to_dict() for finding in examine(_planned(made, runs, others), allowed)]
    line = _typed(recipe, settings, out, jobs, on, join, allowed, speed)
    plan = _Plan(made, runs, others, out, line, jobs, on, allowed, speed)
    if not _carry_out(plan, findings, overwrite, dry_run):
        raise typer.Exit(1)


def _typed(recipe: str, settings: Any, out: Path, jobs: int, on: str, join: Any, allowed: Any, speed: bool) -> str:
    """The line that was typed."""
    from .plan import command_line, option

    said = {
        "--set": settings, "--out": out, "--jobs": None if jobs == JOBS else jobs,
        "--on": None if on == "processes" else on, "--join": join, "--allow": allowed, "--speed": speed,
    }  # fmt: skip
    return command_line("compare", recipe, *(option(name, value) for name, value in said.items()))


@dataclass(frozen=True)
class _Plan:
    """What was asked for: own runs and joined entries, where, how, and the line that was typed."""

    recipe: Recipe
    runs: Sequence[Run]
    others: Sequence[dict[str, Any]]
    out: Path
    line: str
    jobs: int
    on: str
    allowed: Sequence[str]
    speed: bool = False


def _carry_out(plan: _Plan, findings: Sequence[dict[str, Any]], overwrite: bool, dry_run: bool) -> bool:
    """Train and show; whether every run ended, and nothing unfair came to light."""
    from ..kernels import native
    from .guards import say
    from .runs import prepare, train_runs
    from .screen import screen

    said: set[str] = set()
    if plan.speed:
        native()  # or its error, before anything is trained
    waiting = [] if dry_run else prepare(plan.runs, plan.out, on=plan.on, overwrite=overwrite)
    say(findings, plan.allowed, said)  # when nothing else can stop it: an error stands alone
    if dry_run:
        return True
    began = time.monotonic()
    failed = train_runs(plan.runs, waiting, plan.out, jobs=plan.jobs, on=plan.on)
    unfair = show(_finish(plan, failed, time.monotonic() - began), said)
    screen().print(f"{plan.out / 'run.json'}\n{plan.out / 'report.html'}")
    return not failed and not unfair


def _planned(recipe: Recipe, runs: Sequence[Run], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Own and joined runs as the guards take them before training: by their configurations."""
    tuned_on = recipe.compare.tuned_on if recipe.compare is not None else None
    own = [{"label": r.label, "seed": r.seed, "config": r.config.to_dict(), "tuned_on": tuned_on} for r in runs]
    return own + [
        {
            "label": entry["label"],
            "seed": entry["seed"],
            "config": entry["result"]["config"],
            "tuned_on": (entry["result"].get("selection") or {}).get("tuned_on"),
        }
        for entry in others
    ]


def _list(recipe: Recipe, runs: Sequence[Run], others: Sequence[dict[str, Any]], out: Path) -> None:
    from .screen import screen, table

    rows = [[run.label, run.seed, out / run.folder, run.config.method] for run in runs]
    rows += [[e["label"], e["seed"], out / e["folder"], "joined: finished"] for e in others]
    screen().print(table(f"{len(runs)} runs of {recipe.name}", ["method", "seed", "folder", "as"], rows, left=4))


def _finish(plan: _Plan, failed: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Write run.json and report.html; what stands in the former."""
    from ..core.errors import SparselandError
    from ..reports.record import read_json, read_record
    from .finish import entry, finish

    recipe, out = plan.recipe, plan.out
    broken = {(item["label"], item["seed"]) for item in failed}
    tuned_on = recipe.compare.tuned_on if recipe.compare is not None else None
    done = []
    for run in plan.runs:
        if (run.label, run.seed) not in broken:
            result = read_json(out / run.folder / "result.json")
            if tuned_on is not None:
                result["selection"] = {**(result.get("selection") or {}), "tuned_on": tuned_on}
            done.append(entry(run.label, run.seed, out / run.folder, out, result))
    if not done:
        raise SparselandError(f"every run failed; the first: {failed[0]['label']}: {failed[0]['error']}")
    every = [*done, *plan.others]
    finish(
        "compare", plan.line, recipe, every, out, seconds=seconds, failed=failed, jobs=plan.jobs, allowed=plan.allowed,
        speed=plan.speed,
    )  # fmt: skip
    return read_record(out / "run.json")


def show(record: dict[str, Any], said: set[str] | None = None) -> int:
    """Print a comparison's tables, its budget, its warnings and its failures; returns how many findings refuse.

    Parameters:
        record: a ``run.json``.
        said: warnings that need not be printed again.
    """
    from ..reports.tables import budget_line, headline
    from .guards import say
    from .screen import errors, screen, table

    columns, rows = headline(record["aggregate"])
    title = f"{record['recipe']['name']}: mean ± standard deviation over seeds, on the test split"
    screen().print(table(title, columns, rows, left=1))
    screen().print(budget_line(record))
    _judged(record)
    if record.get("speed"):
        from ..reports.ledger import speed_table

        made = speed_table(record["speed"])
        screen().print()
        screen().print(table(made["title"], made["columns"], made["rows"], left=1))
    refused = say(record["review"]["findings"], record["allowed"], said if said is not None else set())
    for item in record["failed"]:
        errors().print(f"failed: {item['label']} seed {item['seed']}: {item['error']}", style="red", soft_wrap=True)
    return refused


def _judged(record: dict[str, Any]) -> None:
    """Paired differences with their intervals, and who is on which Pareto front."""
    from ..reports.judgement import pareto, signed
    from .screen import screen, table

    rows = []
    for pair in record["review"]["paired"]:
        middle, low, high = (None if pair[key] is None else signed(pair[key]) for key in ("difference", "low", "high"))
        interval = "–" if low is None or high is None else f"{low} to {high}"
        chance = "–" if pair.get("p_holm") is None else f"{pair['p_holm']:.2g}"
        rows.append([f"{pair['a']} − {pair['b']}", pair["verdict"], middle or "–", interval, chance])
    if rows:
        screen().print()
        title = "paired differences of test accuracy, seed by seed, in points"
        screen().print(table(title, ["pair", "verdict", "difference", "95 % interval", "p (Holm)"], rows, left=2))
    found = pareto(record["aggregate"], record["review"])
    if found is not None:
        cells = [[f"{c['text']} *" if c["front"] else c["text"] for c in row] for row in found["rows"]]
        title = "accuracy and cost; * is on the Pareto front: no other is as accurate for less"
        screen().print(table(title, found["columns"], cells, left=1))
