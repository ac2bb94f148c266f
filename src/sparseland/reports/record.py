"""``run.json``: everything a comparison (or one run) came to, in one versioned file of plain data."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataNotFound, SparselandError
from .aggregate import aggregate, budget, warnings

SCHEMA = 1


def make_record(
    kind: str,
    command: str,
    recipe: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    *,
    seconds: float,
    failed: Sequence[Mapping[str, Any]] = (),
    exhibits: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """The content of ``run.json``.

    Parameters:
        kind: "compare" or "train".
        command: the line that was typed.
        recipe: `Recipe.to_dict`.
        runs: {"label", "seed", "folder", "packed", "result"}, see `aggregate`.
        seconds: from start to end, of this session.
        failed: {"label", "seed", "error"} of runs that did not end.
        exhibits: pictures, see `exhibits`.
        jobs: processes at a time.
    """
    rows = aggregate(runs)
    spent = budget(runs)
    first = runs[0]["result"] if runs else {}
    return {
        "schema": SCHEMA,
        "kind": kind,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "seconds": round(seconds, 1),
        "jobs": jobs,
        "machine": first.get("machine"),
        "versions": first.get("versions"),
        "recipe": dict(recipe),
        "budget": spent,
        "warnings": warnings(rows, spent) if kind == "compare" else [],
        "failed": [dict(item) for item in failed],
        "aggregate": rows,
        "runs": [dict(run) for run in runs],
        "exhibits": dict(exhibits or {}),
    }


def read_record(path: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises:
        DataNotFound: no such file. SparselandError: damaged, or of a schema that this library does not read.
    """
    record = read_json(path)
    if record.get("schema") != SCHEMA:
        raise SparselandError(f"{path} has schema {record.get('schema')!r}; this library reads {SCHEMA}")
    return record


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, with errors that name it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataNotFound(f"no file {path}") from None
    except (OSError, ValueError) as error:
        raise SparselandError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise SparselandError(f"{path} holds {type(data).__name__}, not an object")
    return data


def write_record(record: Mapping[str, Any], path: Path) -> Path:
    """Write ``run.json``, whole or not at all; returns its path."""
    from ..files import write_json

    write_json(path, record)
    return path
