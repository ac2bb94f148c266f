"""The published systems this library sets out to reproduce, and how far each one is.

A system is *done* when its folder ``papers/NN-slug/`` holds a ``result.json``: a claim, the command, our number, and
nothing listed as ``missing`` from its proof. In a checkout the folders are read; an installed package knows what they
were when it was built.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .core.errors import SparselandError

STATUS = ("done", "code, no proof yet", "not yet")
_PACKAGED = Path(__file__).with_name("papers.json")


@dataclass(frozen=True)
class System:
    """One published system.

    Parameters:
        number: two digits, as in the folder's name.
        slug: ``NN-name``: the folder below ``papers/``.
        name: what it is called.
        sparse: what is sparse in it.
        room: where its code lives, or will live, below ``sparseland/``.
        arxiv: the paper's id; None where there is none, or none is known for certain.
        status: "done" (proved: its folder has a result), "code, no proof yet" or "not yet".
        verdict: what its result says, where there is one.
    """

    number: str
    slug: str
    name: str
    sparse: str
    room: str
    arxiv: str | None
    status: str
    verdict: str | None = None


def systems(checkout: str | os.PathLike[str] | None = None) -> list[System]:
    """All systems, in order.

    Parameters:
        checkout: the folder that holds ``papers/``; None: the checkout this package runs from, if it does.

    Raises:
        SparselandError: a ``result.json`` cannot be read.

    >>> found = systems()
    >>> len(found), found[10].slug, found[10].arxiv
    (55, '11-granet', '2106.10404')
    """
    stored = json.loads(_PACKAGED.read_text(encoding="utf-8"))
    place = Path(checkout) if checkout is not None else _checkout()
    done = stored["done"] if place is None else results(place)
    return [
        System(
            row["number"], row["slug"], row["system"], row["sparse"], row["room"], row["arxiv"],
            _status(row, done), done.get(row["slug"]),
        )
        for row in stored["systems"]
    ]  # fmt: skip


def results(checkout: str | os.PathLike[str]) -> dict[str, str | None]:
    """The verdict (None: it states none) of every system whose folder has a result with nothing missing, by slug.

    Raises:
        SparselandError: a ``result.json`` is not a JSON object.
    """
    found: dict[str, str | None] = {}
    for path in sorted(Path(checkout, "papers").glob("*/result.json")):
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SparselandError(f"{path} cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise SparselandError(f"{path} holds {type(data).__name__}, not an object")
        if data.get("missing"):
            continue
        verdict = data.get("verdict")
        found[path.parent.name] = str(verdict) if verdict is not None else None
    return found


def _status(row: dict[str, Any], done: dict[str, str | None]) -> str:
    if row["slug"] in done:
        return STATUS[0]
    room = _PACKAGED.parent / row["room"]
    return STATUS[1] if room.suffix == ".py" and room.is_file() else STATUS[2]


def _checkout() -> Path | None:
    """The repository, when this file lies in its ``src`` folder."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and Path(__file__).parents[1].name == "src" else None
