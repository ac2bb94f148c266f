"""Recipes: a training run, and what to compare it with, as YAML, as a dict and as Python."""

from .catalog import build, find, load, names
from .overrides import override
from .schema import Compare, Recipe, Run
from .yaml_text import from_yaml, read_yaml, to_yaml, write_yaml

__all__ = [
    "Compare",
    "Recipe",
    "Run",
    "build",
    "find",
    "from_yaml",
    "load",
    "names",
    "override",
    "read_yaml",
    "to_yaml",
    "write_yaml",
]
