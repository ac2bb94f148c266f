"""The program: its verbs, `--version`, `--debug`, and what becomes of errors."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import advise, bench, compare, export, features, inspect, papers, prune, recipe, report, train, transport
from .screen import errors


class Verbs(TyperGroup):
    """Turns expected errors into one line and a status; ``--debug`` may stand anywhere."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move ``--debug`` to the front, where the program's own options are read."""
        end = args.index("--") if "--" in args else len(args)
        rest = [a for a in args[:end] if a != "--debug"] + args[end:]
        return super().parse_args(ctx, ["--debug", *rest] if "--debug" in args[:end] else rest)

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; 2 after a SparselandError, 130 after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            errors().print("interrupted; what was finished is kept (the same command goes on from there)", style="red")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of a pipe has gone: nothing is left to say
            sys.stdout = None
            raise typer.Exit(0) from None
        except ValueError as error:
            from ..core.errors import SparselandError

            if ctx.params.get("debug") or not isinstance(error, SparselandError):
                raise
            errors().print("error: " + " ".join(str(error).split()), style="red", soft_wrap=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"sparseland {__version__}")
        raise typer.Exit


@app.callback(epilog="[dim]sparseland VERB --help shows a verb's options and examples.[/dim]")
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Sparsity for machine learning: train or compress with it, prove it, compare it.

    [bold]Start here[/bold]

        sparseland compare demo --out runs/demo
        sparseland train digits --out runs/digits
        sparseland recipe show demo
    """


for _module in (train, prune, compare, advise, bench, report, inspect, export, features, transport, papers, recipe):
    _module.add(app)
