"""``sparseland recipe list | show | python | validate``."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in name (see [b]list[/b]) or a YAML file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a value, as in compare.seeds=[0,1].")
]
recipes = typer.Typer(
    no_args_is_help=True, help="List, show and check recipes: YAML files that say what to train and to compare."
)


def add(app: typer.Typer) -> None:
    """Put the verb into the program."""
    app.add_typer(recipes, name="recipe")


@recipes.command("list")
def listed() -> None:
    """The recipes that come with the package.

    [bold]Example[/bold]

        sparseland recipe list
    """
    from ..recipes import load, names
    from .screen import screen, table

    rows = []
    for name in names():
        recipe = load(name)
        methods = ", ".join(recipe.labels()) or str(recipe.config.method.get("name", ""))
        rows.append([name, recipe.config.model, recipe.config.data, methods, recipe.description])
    screen().print(table("Built-in recipes", ["name", "model", "data", "methods", "what it is"], rows, left=5))


@recipes.command("show")
def show(name: Name, settings: Settings = None, full: Annotated[
    bool, typer.Option("--full", help="Every field, those at their default too.")
] = False) -> None:  # fmt: skip
    """Print a recipe as YAML, a starting point for one of your own.

    [bold]Examples[/bold]

        sparseland recipe show demo > mine.yaml
        sparseland recipe show demo --full --set compare.sparsity=0.95
    """
    from ..recipes import load, write_yaml

    recipe = load(name, settings or ())
    typer.echo(write_yaml(recipe.to_dict()) if full else recipe.to_yaml(), nl=False)


@recipes.command("python")
def python(name: Name, settings: Settings = None) -> None:
    """Print the Python program that does what a recipe does.

    [bold]Example[/bold]

        sparseland recipe python demo > demo.py
    """
    from ..recipes import load

    typer.echo(load(name, settings or ()).to_python(), nl=False)


@recipes.command("validate")
def validate(name: Name, settings: Settings = None) -> None:
    """Check a recipe without running it: keys, types, methods, model and data.

    [bold]Example[/bold]

        sparseland recipe validate mine.yaml
    """
    from ..recipes import load
    from .plan import check_names
    from .screen import screen

    recipe = load(name, settings or ())
    check_names(recipe.config)
    compared = f"; compares {', '.join(recipe.labels())}" if recipe.compare is not None else ""
    screen().print(f"{recipe.name} is fine: {recipe.config.model} on {recipe.config.data}{compared}")
