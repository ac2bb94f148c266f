"""``--join``: finished runs of other comparisons, taken into this one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..recipes import Run


def join(paths: Iterable[Path], runs: Sequence[Run], out: Path) -> list[dict[str, Any]]:
    """The runs of other ``run.json`` files, as entries of the one in ``out``.

    Runs of a label that is taken get the other recipe's name behind it: ``rigl (longer)``. Where they are the same
    configuration with other seeds, they are more seeds of the same method and keep the label.

    Parameters:
        paths: of run.json files, or of their folders.
        runs: those of this comparison.
        out: its folder.

    Raises:
        DataNotFound, SparselandError: no such file, no run.json, or the one of this comparison itself.
    """
    from ..core.errors import SparselandError
    from ..reports import read_record

    taken: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        taken.setdefault(run.label, {})[run.seed] = run.config.to_dict()
    entries: list[dict[str, Any]] = []
    for given in paths:
        path = given / "run.json" if given.is_dir() else given
        if path.resolve() == (out / "run.json").resolve():
            raise SparselandError(f"--join {given}: this is the comparison itself; give the run.json of another one")
        record = read_record(path)
        others: dict[str, list[dict[str, Any]]] = {}
        for entry in record["runs"]:
            others.setdefault(entry["label"], []).append(entry)
        for label, mine in others.items():
            named = _label(label, str(record["recipe"].get("name", path.parent.name)), mine, taken)
            for entry in mine:
                taken.setdefault(named, {})[entry["seed"]] = entry["result"]["config"]
                folder = os.path.relpath(path.parent / entry["folder"], out)
                entries.append({**entry, "label": named, "folder": folder})
    return entries


def _label(
    label: str, name: str, mine: Sequence[Mapping[str, Any]], taken: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> str:
    """A label that is free, or whose runs are these with other seeds."""
    candidates = [label, f"{label} ({name})"]
    number = 2
    while True:
        for candidate in candidates:
            if candidate not in taken or _more_seeds(mine, taken[candidate]):
                return candidate
        candidates = [f"{label} ({name} {number})"]
        number += 1


def _more_seeds(mine: Sequence[Mapping[str, Any]], there: Mapping[int, Mapping[str, Any]]) -> bool:
    from ..train.config import first_change

    if any(entry["seed"] in there for entry in mine):
        return False
    same = {"seed": 0}
    return not any(
        first_change({**entry["result"]["config"], **same}, {**config, **same})
        for entry in mine
        for config in there.values()
    )
