"""``--set a.b=c``: change one value of a recipe, by its path."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.errors import RecipeError, nearest
from .yaml_text import read_yaml


def override(
    data: Mapping[str, Any], settings: Iterable[str], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A copy of ``data`` with each ``path=value`` applied, in order.

    Parameters:
        data: a recipe as plain data.
        settings: ``"lr=0.05"``, ``"method.sparsity=0.8"``, ``"compare.seeds=[0,1]"``, ``"compare.methods.1.drop=0.5"``;
            values are read as YAML, so that numbers, booleans, lists and null have their types.
        defaults: keys that may be set although ``data`` does not have them, with what they are then.

    Raises:
        RecipeError: no ``=``, an empty path, an unknown key at the top, an item that a list does not have, or a path
            that goes into a plain value. Keys below the top are checked when the recipe is built.

    >>> override({"lr": 0.1, "compare": {"seeds": [0, 1, 2]}}, ["lr=1e-3", "compare.seeds=[7]"])
    {'lr': 0.001, 'compare': {'seeds': [7]}}
    """
    out = copy.deepcopy(dict(data))
    for setting in settings:
        path, equals, text = str(setting).partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"--set {setting!r}: write path=value, for example lr=0.05 or method.sparsity=0.8")
        top = {**(defaults or {}), **out}
        if keys[0] not in top:
            raise RecipeError(f"--set {setting!r}: unknown key {keys[0]!r}; {nearest(keys[0], top)}")
        if len(keys) > 1:
            out.setdefault(keys[0], copy.deepcopy(top[keys[0]]))
        _put(out, keys, read_yaml(text, f"--set {setting!r}"), setting, top)
    return out


def _put(data: dict[str, Any], keys: list[str], value: Any, setting: str, top: Iterable[str]) -> None:
    at: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        where = ".".join(keys[:depth]) or "the recipe"
        if isinstance(at, list):
            if not key.isdigit() or int(key) >= len(at):
                items = ", ".join(map(str, range(len(at))))
                raise RecipeError(f"--set {setting!r}: {where} is a list of {len(at)}; items are {items}")
            index: Any = int(key)
        elif isinstance(at, dict):
            index = key
        else:
            raise RecipeError(
                f"--set {setting!r}: {where} is {at!r}, which has nothing below it; of the keys at the top: "
                f"{nearest(key, top)}"
            )
        if last:
            at[index] = value
        else:
            if isinstance(at, dict) and at.get(index) is None:
                at[index] = {}
            at = at[index]
