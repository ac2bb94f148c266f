"""``sparseland train``: one sparse network from start to end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.command("train")(train)


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A built-in recipe or a YAML file; none: the defaults.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The architecture, as in resnet-20.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="The data set, as in digits or folder:/path.")] = None,
    folder: Annotated[str | None, typer.Option("--folder", help="The data folder (else SPARSELAND_DATA).")] = None,
    method: Annotated[str | None, typer.Option("--method", help="How it becomes sparse, as in rigl.")] = None,
    sparsity: Annotated[float | None, typer.Option("--sparsity", help="Fraction of zeros, in [0, 1).")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over train.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images per batch.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything random.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Any other field, as in method.drop=0.5.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; default: runs/ and the name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run that is in the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
) -> None:
    """Train one network, sparse at the end.

    Options go over the recipe's values, --set over both. The folder gets best.safetensors (chosen on validation), a
    checkpoint to resume from, result.json, run.json and report.html. Ctrl-C saves first; --resume goes on.

    [bold]Examples[/bold]

        sparseland train digits --out runs/digits
        sparseland train --model lenet-5 --method gmp --sparsity 0.95 --epochs 20
        sparseland train digits --sparsity 0.5 --set method.pattern=2:4 --dry-run
        sparseland train digits --out runs/digits --resume
    """
    from .plan import command_line, make_recipe, option, preview
    from .screen import screen

    options: dict[str, Any] = {
        "model": model, "data": data, "folder": folder, "method": method, "method.sparsity": sparsity,
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
    }  # fmt: skip
    made = make_recipe(recipe, options, settings)
    place = out or Path("runs") / made.name
    if dry_run:
        for line in preview(made, made.config, place):
            screen().print(line)
        return
    given = [option("--" + key.split(".")[-1].replace("_", "-"), value) for key, value in options.items()]
    line = command_line("train", recipe, *given, option("--set", settings), option("--out", out))
    _run(made, place, line, resume, overwrite)


def _name(method: dict[str, Any]) -> str:
    return str(method.get("name", "run"))


def _run(recipe: Any, place: Path, line: str, resume: bool, overwrite: bool) -> None:
    from ..core.errors import OutputError
    from ..reports.numbers import duration, scaled
    from ..train import run
    from .finish import entry, finish
    from .screen import errors, screen

    if not (resume or overwrite) and any((place / name).exists() for name in ("result.json", "last")):
        raise OutputError(
            f"{place} holds a run already: --resume goes on with it, --overwrite throws it away, or give another --out"
        )
    screen().print(f"{recipe.config.model} on {recipe.config.data}, {_name(recipe.config.method)} -> {place}")
    if not errors().is_terminal:
        callback = _line
    else:
        callback = None
    began = time.monotonic()
    result = run(recipe.config, place, resume="auto" if resume else False, overwrite=overwrite, callback=callback)
    label = _name(recipe.config.method)
    runs = [entry(label, recipe.config.seed, place, place, result)]
    record, page = finish("train", line, recipe, runs, place, seconds=time.monotonic() - began)
    test = result["test"] or {}
    to = screen()
    to.print(
        f"kept {result['kept']:,} of {result['total']:,} weights ({result['sparsity']:.2%} zeros); "
        f"validation {result['validation']['accuracy'] or 0:.2%}, test {test.get('accuracy', 0):.2%}"
    )
    flops = result["flops"]
    training, inference = (flops[key] / flops[f"{key}_dense"] for key in ("training", "inference"))
    to.print(
        f"training {scaled(flops['training'], 'FLOP')} ({training:.2f} of dense), "
        f"inference {scaled(flops['inference'], 'FLOP')} ({inference:.2f} of dense), "
        f"packed {scaled(runs[0]['packed'], 'B')}, {duration(result['seconds'])}"
    )
    for path in (place / "best.safetensors", record, page):
        to.print(str(path))


def _line(happened: dict[str, Any]) -> None:
    """One line an evaluation, for logs."""
    from .screen import screen

    accuracy = happened["validation_accuracy"]
    shown = "" if accuracy is None else f"  validation {accuracy:.2%}"
    screen().print(
        f"epoch {happened['epoch']:>4}  step {happened['step']:>7}  loss {happened['loss']:.4f}{shown}  "
        f"sparsity {happened['sparsity']:.2%}"
    )
