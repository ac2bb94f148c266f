"""Which systems there are, and how far each one is.

A system is *done* when its folder ``papers/NN-slug/`` holds a ``result.json`` with nothing ``missing`` from its proof.
In a checkout the folders are read; an installed package knows what they said when it was built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import SparselandError, nearest
from .result import PaperResult, read

STATUS = ("done", "partly measured", "code, no proof yet", "not yet")
_PACKAGED = Path(__file__).with_name("systems.json")
_BRIEF = (
    "claim",
    "seeds",
    "command",
    "minutes",
    "verdict",
    "why",
    "missing",
    "limits",
)  # what an installed package knows


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
        status: one of `STATUS`: proved in full, measured with something missing, code only, or nothing.
        verdict: "reproduces", "in part" or "does not" where it is measured.
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
        SparselandError: a ``result.json`` cannot be read, or does not follow the schema.

    >>> found = systems()
    >>> len(found), found[10].slug, found[10].arxiv
    (55, '11-granet', '2106.10404')
    """
    stored, known = _stored(), _known(checkout)
    return [
        System(
            row["number"], row["slug"], row["system"], row["sparse"], row["room"], row["arxiv"],
            _status(row, known), known.get(row["slug"], {}).get("verdict"),
        )
        for row in stored["systems"]
    ]  # fmt: skip


def results(checkout: str | os.PathLike[str]) -> dict[str, PaperResult]:
    """The result of every paper folder that has one, by slug, in order.

    Raises:
        SparselandError: one cannot be read or does not follow the schema, or its folder is not in the list of systems.
    """
    slugs = [row["slug"] for row in _stored()["systems"]]
    found = {}
    for path in sorted(Path(checkout, "papers").glob("*/result.json")):
        slug = path.parent.name
        if slug not in slugs:
            raise SparselandError(f"{path}: no system has the folder {slug!r}; {nearest(slug, slugs)}")
        found[slug] = read(path)
    return found


def result_of(slug: str, checkout: str | os.PathLike[str] | None = None) -> dict[str, Any] | None:
    """What is known of one system's result, as plain data; None if it is not measured.

    In a checkout all of it; in an installed package its claim, command, verdict and what is missing, without the table.
    """
    place = Path(checkout) if checkout is not None else _checkout()
    if place is not None:
        path = place / "papers" / slug / "result.json"
        return read(path).to_dict() if path.is_file() else None
    found: dict[str, Any] | None = _stored()["results"].get(slug)
    return found


def packaged(checkout: str | os.PathLike[str]) -> str:
    """The text of ``systems.json`` with the results of this checkout."""
    stored = _stored()
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in stored["systems"])
    known = _known(checkout)
    done = ",\n".join(f"    {json.dumps(slug)}: {json.dumps(known[slug], ensure_ascii=False)}" for slug in known)
    held = f"{{\n{done}\n  }}" if done else "{}"
    return f'{{\n  "schema": 1,\n  "results": {held},\n  "systems": [\n{rows}\n  ]\n}}\n'


def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(_PACKAGED.read_text(encoding="utf-8"))
    return stored


def _known(checkout: str | os.PathLike[str] | None) -> dict[str, dict[str, Any]]:
    """In brief what each result says, by slug."""
    place = Path(checkout) if checkout is not None else _checkout()
    if place is None:
        known: dict[str, dict[str, Any]] = _stored()["results"]
        return known
    full = {slug: result.to_dict() for slug, result in results(place).items()}
    return {slug: {key: result[key] for key in _BRIEF if key in result} for slug, result in full.items()}


def _status(row: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> str:
    if row["slug"] in known:
        return STATUS[1] if known[row["slug"]]["missing"] else STATUS[0]
    room = _PACKAGED.parents[1] / row["room"]
    return STATUS[2] if room.suffix == ".py" and room.is_file() else STATUS[3]


def _checkout() -> Path | None:
    """The repository, when this file lies in its ``src`` folder."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and Path(__file__).parents[2].name == "src" else None
