"""``sparseland advise``: a method and a pattern for a goal, each reason with the measured table it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..advisor.advice import Advice, Goal


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("advise")(advise)


def advise(
    goal: Annotated[str | None, typer.Option("--goal", help="accuracy, speed, memory or training (cheap).")] = None,
    hardware: Annotated[str | None, typer.Option("--hardware", help="Where it shall run: cpu or gpu.")] = None,
    sparsity: Annotated[float | None, typer.Option("--sparsity", help="Fraction of zeros, in (0, 1).")] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Most training FLOPs, as a multiple of one dense training.")
    ] = None,
    loss: Annotated[float | None, typer.Option("--loss", help="Most points of accuracy below dense.")] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="scratch, trained (may be trained on) or frozen (may not).")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The data set; none: there is none when weights are chosen.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", metavar="OUTxIN", help="The layers that matter, as in 1024x1024.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Inputs at a time.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="A YAML or JSON file with these as keys.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time dense, masked, CSR and compacted here.")] = False,
    device: Annotated[str, typer.Option("--device", help="What to time on, as torch names it.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Advise a method, a pattern and a sparsity, from tables that we measured.

    What is not given is asked for on a terminal, and takes its default elsewhere. Where nothing was measured, the
    answer says "not measured here" instead of guessing; --measure times one layer on this machine.

    [bold]Examples[/bold]

        sparseland advise
        sparseland advise --goal accuracy --sparsity 0.95 --data fashion-mnist --budget 0.2
        sparseland advise --goal speed --shape 1024x1024 --batch 64 --measure
        sparseland advise --from goal.yaml --json
    """
    import json

    from ..advisor.advice import advise as ask

    given = {
        "goal": goal, "hardware": hardware, "sparsity": sparsity, "budget": budget, "loss": loss, "start": start,
        "data": data, "shape": _shape(shape), "batch": batch,
    }  # fmt: skip
    if hardware is None and measure and device.startswith(("cuda", "mps", "xpu")):
        given["hardware"] = "gpu"
    wish = _goal({key: value for key, value in given.items() if value is not None}, source)
    rows = _measure(wish, device) if measure else []
    advice = ask(wish, measured=rows)
    if as_json:
        typer.echo(json.dumps({**advice.to_dict(), "measured": rows}, ensure_ascii=False, indent=2))
        return
    _show(advice, rows)


def _shape(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    from ..core.errors import SparselandError

    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) >= 1 for side in sides):
        raise SparselandError(f"--shape is {text!r}; possible: outputs x inputs, as in 1024x1024")
    return int(sides[0]), int(sides[1])


def _goal(given: dict[str, Any], source: Path | None) -> Goal:
    """The goal from options over the file; on a terminal what is missing is asked for."""
    from ..advisor.advice import GOALS, Goal
    from ..core.errors import SparselandError

    name = "advise" if source is None else str(source)
    read = {} if source is None else _read(source)
    wishes = {**read, **given}
    if source is None and _asks():
        wishes = {**wishes, **_asked(wishes)}
    if "goal" not in wishes:
        raise SparselandError(
            f"no goal: give --goal, or --from a file with the key 'goal'; possible: {', '.join(GOALS)}"
        )
    return Goal.from_dict(wishes, name)


def _asks() -> bool:
    """Whether somebody sits there to be asked."""
    import sys

    return sys.stdin.isatty()


def _read(path: Path) -> dict[str, Any]:
    from ..core.errors import DataNotFound, SparselandError
    from ..recipes.yaml_text import read_yaml

    try:
        found = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise DataNotFound(f"no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SparselandError(f"{path} cannot be read: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SparselandError(f"{path}: a goal is a mapping of keys to values, not {found!r}")
    return found


def _asked(wishes: dict[str, Any]) -> dict[str, Any]:
    """Answers to what is missing; an empty answer takes the default."""
    from ..advisor.advice import GOALS, HARDWARE, STARTS

    out: dict[str, Any] = {}
    for key, question, possible in (
        ("goal", "What matters most", GOALS),
        ("hardware", "Where shall it run", HARDWARE),
        ("start", "What do you start from", STARTS),
    ):
        if key not in wishes:
            out[key] = _choice(question, possible)
    if "sparsity" not in wishes:
        out["sparsity"] = typer.prompt("Fraction of zeros", default=0.9, type=float, err=True)
    if "budget" not in wishes:
        said = typer.prompt(
            "Most training FLOPs, in dense trainings (empty: no limit)", default="", show_default=False, err=True
        )
        out |= {"budget": _float(said)} if said else {}
    if "data" not in wishes:
        said = _text("Data set (empty: any; none: no data)")
        out |= {"data": said} if said else {}
    return out


def _choice(question: str, possible: tuple[str, ...]) -> str:
    """One of the possible words; asked again until it is one."""
    while True:
        said = str(typer.prompt(f"{question} ({', '.join(possible)})", default=possible[0], err=True)).strip()
        if said in possible:
            return said
        typer.echo(f"{said!r} is none of them", err=True)


def _text(question: str) -> str:
    return str(typer.prompt(question, default="", show_default=False, err=True)).strip()


def _float(text: str) -> float:
    from ..core.errors import SparselandError

    try:
        return float(text)
    except ValueError:
        raise SparselandError(f"budget is {text!r}; possible: a number > 0, or nothing") from None


def _measure(wish: Goal, device: str) -> list[dict[str, Any]]:
    """Times of one layer, on one thread."""
    import torch

    from ..advisor.latency import measure
    from ..core.errors import SparselandError

    if (device == "cpu") != (wish.hardware == "cpu"):
        possible = "cpu" if wish.hardware == "cpu" else "cuda or another GPU"
        raise SparselandError(f"--device {device} says nothing about hardware {wish.hardware!r}; possible: {possible}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        levels = sorted({0.5, 0.8, 0.9, 0.95, 0.99, wish.sparsity})
        return measure(wish.shape, wish.batch, levels, device=device)
    finally:
        torch.set_num_threads(threads)


def _show(advice: Advice, rows: list[dict[str, Any]]) -> None:
    from ..advisor.latency import crossover
    from .screen import screen, table

    to = screen()
    if rows:
        forms = list(dict.fromkeys(form for row in rows for form in row["speedup"]))
        cells = [
            [f"{row['sparsity']:g}", *(f"{row['speedup'][f]:.2f}x" if f in row["speedup"] else "" for f in forms),
             "" if row["stable"] else "unstable"]
            for row in rows
        ]  # fmt: skip
        shape = " x ".join(map(str, rows[0]["shape"]))
        to.print(table(f"Speed over dense, {shape}, batch {rows[0]['batch']}, {rows[0]['device']}",
                       ["zeros", *forms, ""], cells))  # fmt: skip
        busy = not all(row["stable"] for row in rows)
        if busy:
            to.print("unstable: the machine was too busy in some rows; they count for nothing", style="yellow")
        for form in forms:
            found = crossover(rows, form)
            never = "not shown to be faster" if busy else "never faster here"
            if form != "masked":
                to.print(f"{form}: " + (never if found is None else f"faster from {found:g} zeros on"))
    options = "".join(f", {key}={value}" for key, value in advice.options.items())
    to.print(f"method    {advice.method or 'none that we measured'}{options}")
    to.print(f"pattern   {advice.pattern}")
    to.print(f"sparsity  {advice.sparsity:g}")
    for reason in advice.reasons:
        link = f" [{reason.link}]" if reason.link else f" [{reason.table}]" if reason.table else ""
        to.print(f"- {reason.text}{link}", soft_wrap=True)
