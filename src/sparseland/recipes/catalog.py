"""Recipes by name (those in this package) or by path (yours)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..core.errors import DataNotFound, RecipeError, nearest
from ..train.config import TrainConfig
from .overrides import override
from .schema import OWN_KEYS, Recipe
from .yaml_text import read_yaml

_BUILTIN = Path(__file__).with_name("builtin")


def names() -> list[str]:
    """The recipes in the package.

    >>> "demo" in names()
    True
    """
    return sorted(path.stem for path in _BUILTIN.glob("*.yaml"))


def find(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe: a built-in name, or a path.

    Raises:
        RecipeError: neither a built-in name nor a file; the message names the nearest.
        DataNotFound: it looks like a path, and there is no file.
    """
    text = os.fspath(name)
    if text in names():
        return _BUILTIN / f"{text}.yaml"
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or os.sep in text:
        raise DataNotFound(f"no recipe file {text!r}; built-in recipes: {', '.join(names())}")
    raise RecipeError(f"unknown recipe {text!r}, and no such file: {nearest(text, names())}")


def load(name: str | os.PathLike[str], settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply ``path=value`` settings to it.

    Parameters:
        name: a built-in name (`names`) or the path of a YAML file.
        settings: see `override`.

    Raises:
        RecipeError: not found, not YAML, or something in it is unknown; the message has the path of the key.

    >>> load("demo", ["epochs=2", "compare.seeds=[0]"]).config.epochs
    2
    """
    path = find(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {os.fspath(name)!r} cannot be read: {error}") from error
    data = read_yaml(text, path.name)
    if data is None or not isinstance(data, dict):
        raise RecipeError(f"{path.name}: a recipe is a mapping of keys to values, not {data!r}")
    data.setdefault("name", path.stem)
    return build(data, settings, path.name)


def build(data: dict[str, object], settings: Iterable[str] = (), source: str = "recipe") -> Recipe:
    """A recipe from plain data with settings applied.

    >>> build({}, ["lr=1e-2"]).config.lr
    0.01
    """
    defaults = {**dict.fromkeys(OWN_KEYS), **TrainConfig().to_dict()}
    return Recipe.from_dict(override(data, settings, defaults), source)
