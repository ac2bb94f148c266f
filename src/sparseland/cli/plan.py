"""From what was typed to a recipe, and to what would be done with it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..recipes import Recipe
    from ..train import TrainConfig


def make_recipe(name: str | None, options: Mapping[str, Any], settings: Sequence[str] | None) -> Recipe:
    """The recipe of that name with options and ``--set`` settings applied, in this order; without a name, the default.

    Parameters:
        name: built-in name or path, or None.
        options: values of options by path, "method" before what is below it; None where an option was not given.
        settings: ``path=value`` texts.
    """
    from ..recipes import build, load

    given = {key: {"name": value} if key == "method" else value for key, value in options.items() if value is not None}
    every = [*(f"{key}={json.dumps(value)}" for key, value in given.items()), *(settings or ())]  # JSON is YAML too
    if name is not None:
        return load(name, every)
    made = build({}, every)
    own = {} if made.name != type(made)().name else {"name": str(made.config.method.get("name", made.name))}
    return made.model_copy(update=own)


def command_line(*words: object) -> str:
    """The line that was typed, as it can be typed again; words that are None or empty are left out.

    >>> command_line("compare", "demo", ["--set", "lr=0.1"], None, "--out", "my runs")
    "sparseland compare demo --set lr=0.1 --out 'my runs'"
    """
    flat: list[str] = ["sparseland"]
    for word in words:
        if isinstance(word, list | tuple):
            flat += [str(item) for item in word]
        elif word is not None:
            flat.append(str(word))
    return shlex.join(flat)


def option(name: str, value: Any) -> list[str]:
    """``[name, value]`` where a value was given (once for each, of a list)."""
    if value is None or value is False:
        return []
    if value is True:
        return [name]
    return [word for item in (value if isinstance(value, list) else [value]) for word in (name, str(item))]


def check_names(config: TrainConfig) -> None:
    """Raise unless the model and the data exist by name; no data file is opened, no weight made.

    Raises:
        SparselandError: an unknown name; the message names the nearest.
    """
    import torch

    from .. import data, zoo
    from ..core.errors import SparselandError, nearest

    known = [name for name in data.NAMES if ":" not in name]
    if config.data not in known and not config.data.startswith(("hf:", "folder:")):
        raise SparselandError(f"unknown dataset {config.data!r}: {nearest(config.data, data.NAMES)}")
    if not config.model.startswith("hf:"):
        with torch.device("meta"):
            zoo.build(config.model, in_shape=(3, 32, 32), classes=10, **config.model_options)


def preview(recipe: Recipe, config: TrainConfig, out: Path | None) -> list[str]:
    """What a run of this configuration would be, in lines: words, model, targets, steps; data is read, nothing written.

    Raises:
        SparselandError: whatever would stop the run before its first step.
    """
    from ..core.selection import kept
    from ..recipes import write_yaml
    from ..train import compose
    from ..train.processes import Processes
    from ..train.supply import Supply, build_model
    from ..weights import eligible

    plan = compose(config.method)
    supply = Supply(config, Processes())
    model = build_model(config, supply.dataset)
    targets = eligible(model, config.targets, config.ignore)
    total = sum(target.param.numel() for target in targets.values())
    steps = supply.steps_per_epoch * config.epochs
    plan.method.resolve(steps)
    lines = [
        write_yaml(recipe.brief()).rstrip(),
        "",
        str(plan.method),
        "",
        supply.dataset.describe(),
        f"model      {config.model}: {sum(p.numel() for p in model.parameters()):,} parameters",
        f"targets    {len(targets)} tensors, {total:,} weights, "
        f"{kept(total, plan.method.target_sparsity):,} of them kept at the end",
        f"schedule   {config.epochs} epochs × {supply.steps_per_epoch} = {steps:,} optimizer steps",
    ]
    return [*lines, *([f"folder     {out}"] if out is not None else [])]
