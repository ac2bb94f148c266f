"""``sparseland compare``: methods × seeds under one budget, one table, one report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..recipes import Recipe, Run
    from .fleet import Outcome, Task


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
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time, each on one thread.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train anew what the folder holds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs, and stop.")] = False,
) -> None:
    """Compare methods: the same epochs, batches and learning rates for all, several seeds each.

    Runs that are finished in the folder are not trained again, interrupted ones go on: the same command continues
    after Ctrl-C. The table gives the mean and the standard deviation over seeds.

    [bold]Examples[/bold]

        sparseland compare demo --out runs/demo
        sparseland compare demo --out runs/hard --set compare.sparsity=0.98 --set "compare.seeds=[0,1,2,3,4]"
        sparseland compare mine.yaml --out runs/mine --jobs 8
    """
    from ..recipes import load
    from .plan import check_names, command_line, option
    from .screen import screen

    made = load(recipe, settings or ())
    runs = made.runs()
    check_names(made.config)
    if dry_run:
        _list(made, runs, out)
        return
    line = command_line(
        "compare", recipe, option("--set", settings), "--out", out, option("--jobs", None if jobs == 2 else jobs)
    )
    began = time.monotonic()
    failed = _train(runs, out, jobs, overwrite)
    record = _finish(made, runs, out, line, failed, time.monotonic() - began, jobs)
    show(record)
    screen().print(f"{out / 'run.json'}\n{out / 'report.html'}")
    if failed:
        raise typer.Exit(1)


def _list(recipe: Recipe, runs: list[Run], out: Path) -> None:
    from .screen import screen, table

    rows = [[run.label, run.seed, out / run.folder, run.config.method] for run in runs]
    screen().print(table(f"{len(runs)} runs of {recipe.name}", ["method", "seed", "folder", "as"], rows, left=4))


def _train(runs: list[Run], out: Path, jobs: int, overwrite: bool) -> list[dict[str, Any]]:
    """Train what is not finished; returns the failures."""
    import shutil

    from ..core.errors import OutputError, SparselandError
    from ..files import probe
    from ..train.journal import Journal
    from ..train.processes import Processes
    from .fleet import Fleet, Task

    probe(out)
    waiting: list[Task] = []
    for run in runs:
        folder = out / run.folder
        config = run.config.replace(threads=1)
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        try:
            if Journal(config, Processes(), folder).finished() is None:
                waiting.append(Task(f"{run.label} seed {run.seed}", config.to_dict(), folder))
        except SparselandError as error:
            raise OutputError(f"{error}; give another --out, or --overwrite to train anew") from None
    _supply(runs)
    with _Progress(len(runs), len(runs) - len(waiting)) as progress:
        if not waiting:
            return []
        log = out / "processes.log"
        outcomes = Fleet(waiting, jobs, log, progress.started, progress.ended).train()
    if not any(outcome.error for outcome in outcomes):
        log.unlink(missing_ok=True)
    errors = {outcome.task.name: outcome.error for outcome in outcomes if outcome.error}
    return [
        {"label": run.label, "seed": run.seed, "error": errors[name]}
        for run in runs
        if (name := f"{run.label} seed {run.seed}") in errors
    ]


def _supply(runs: list[Run]) -> None:
    """Fail before the first run, once, if the data or the model is not there."""
    from ..train.supply import build_model, load_data

    build_model(runs[0].config, load_data(runs[0].config))


class _Progress:
    """A bar on a terminal; one line per run everywhere else."""

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

    def __enter__(self) -> _Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def started(self, task: Task) -> None:
        """A run begins."""
        if self.bar is not None:
            self.running.append(task.name)
            self.bar.update(self.task, description=", ".join(self.running))

    def ended(self, outcome: Outcome) -> None:
        """A run is over."""
        from ..reports.record import read_json
        from .worker import INTERRUPTED

        self.done += 1
        if outcome.error is None:
            result = read_json(outcome.task.folder / "result.json")
            test = result["test"]["accuracy"] if result["test"] else float("nan")
            said = f"test {test:.2%}, {result['seconds']:.1f} s"
        else:
            said = " ".join(outcome.error.split())
            said = said if said == INTERRUPTED else f"failed: {said}"
        line = f"[{self.done}/{self.total}] {outcome.task.name}: {said}"
        if self.bar is None:
            self.to.print(line)
            return
        self.running.remove(outcome.task.name)
        self.bar.update(self.task, completed=self.done, description=", ".join(self.running))
        self.bar.console.print(line)


def _finish(
    recipe: Recipe, runs: list[Run], out: Path, line: str, failed: list[dict[str, Any]], seconds: float, jobs: int
) -> dict[str, Any]:
    from ..core.errors import SparselandError
    from ..reports.record import read_json, read_record
    from .finish import entry, finish

    broken = {(item["label"], item["seed"]) for item in failed}
    done = [
        entry(run.label, run.seed, out / run.folder, out, read_json(out / run.folder / "result.json"))
        for run in runs
        if (run.label, run.seed) not in broken
    ]
    if not done:
        raise SparselandError(f"every run failed; the first: {failed[0]['label']}: {failed[0]['error']}")
    finish("compare", line, recipe, done, out, seconds=seconds, failed=failed, jobs=jobs)
    return read_record(out / "run.json")


def show(record: dict[str, Any]) -> None:
    """Print a comparison's table, its budget, its warnings and its failures."""
    from ..reports.tables import budget_line, headline
    from .screen import errors, screen, table

    columns, rows = headline(record["aggregate"])
    title = f"{record['recipe']['name']}: mean ± standard deviation over seeds, on the test split"
    screen().print(table(title, columns, rows, left=1))
    screen().print(budget_line(record))
    for said in record["warnings"]:
        errors().print(f"warning: {said}", style="yellow", soft_wrap=True)
    for item in record["failed"]:
        errors().print(f"failed: {item['label']} seed {item['seed']}: {item['error']}", style="red", soft_wrap=True)
