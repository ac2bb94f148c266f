"""A recipe as the Python program it equals."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .schema import Recipe

ONE = '''"""{title}"""

from sparseland.train import TrainConfig, run

config = TrainConfig({fields})

if __name__ == "__main__":
    result = run(config, {folder!r})
    accuracy, kept, total = result["test"]["accuracy"], result["kept"], result["total"]
    print(f"test accuracy {{accuracy:.2%}} with {{kept:,}} of {{total:,}} weights")
'''

MANY = '''"""{title}"""

from statistics import mean, stdev

from sparseland.train import TrainConfig, run

config = TrainConfig({fields})
methods = {methods}
seeds = {seeds}

if __name__ == "__main__":
    for label, method in methods.items():
        results = [
            run(config.replace(method=method, seed=seed), f"{folder}/{{label}}/seed-{{seed}}") for seed in seeds
        ]
        accuracy = [result["test"]["accuracy"] for result in results]
        spread = f" ± {{stdev(accuracy):.2%}}" if len(accuracy) > 1 else ""
        kept, total = results[0]["kept"], results[0]["total"]
        print(f"{{label:<12}} {{mean(accuracy):.2%}}{{spread}}  {{kept:,}} of {{total:,}} weights")
'''


def python_program(recipe: Recipe) -> str:
    """The text of a program that trains what the recipe says; it needs nothing but this library.

    >>> from sparseland.recipes import Recipe
    >>> print(Recipe.from_dict({"lr": 0.2}).to_python().splitlines()[4])
    config = TrainConfig(lr=0.2)
    """
    default = type(recipe.config)()
    changed = {
        field.name: getattr(recipe.config, field.name)
        for field in dataclasses.fields(recipe.config)
        if getattr(recipe.config, field.name) != getattr(default, field.name)
    }
    title = " ".join(f"{recipe.name}: {recipe.description}".split()).removesuffix(":").replace("\\", "/")
    known = {"title": title.replace('"', "'"), "fields": _arguments(changed), "folder": f"runs/{recipe.name}"}
    if recipe.compare is None:
        return ONE.format(**known)
    methods: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for run in recipe.runs():
        methods.setdefault(run.label, run.config.method)
        other = _changes(run.config, recipe.config)
        own.update({run.label: other} if other else {})
    program = MANY.format(methods=_mapping(methods), seeds=recipe.compare.seeds, **known)
    if own:  # training fields of single methods
        program = program.replace("seeds = (", f"own = {_mapping(own)}\nseeds = (", 1)
        program = program.replace("seed=seed)", "seed=seed, **own.get(label, {}))", 1)
    return program


def _changes(config: Any, base: Any) -> dict[str, Any]:
    """The fields in which a run differs from the recipe, its method and seed aside."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in ("method", "seed")]
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(base, name)}


def _mapping(values: dict[str, Any]) -> str:
    """A dict literal, one entry a line."""
    return "{\n" + "".join(f"    {_literal(key)}: {_literal(value)},\n" for key, value in values.items()) + "}"


def _arguments(values: dict[str, Any]) -> str:
    """``a=1, b=2`` on one line if it fits, else one a line."""
    parts = [f"{key}={_literal(value)}" for key, value in values.items()]
    line = ", ".join(parts)
    return line if len(line) < 90 else "\n" + "".join(f"    {part},\n" for part in parts)


def _literal(value: Any) -> str:
    return repr(value).replace("'", '"') if _plain_text(value) else repr(value)


def _plain_text(value: Any) -> bool:
    """Whether swapping quotes changes nothing but the looks."""
    return '"' not in repr(value) and "\\" not in repr(value)
