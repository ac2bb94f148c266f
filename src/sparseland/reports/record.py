"""``run.json``: everything a comparison (or one run) came to, in one versioned file of plain data."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataNotFound, SparselandError
from .aggregate import aggregate, budget

SCHEMA = 2  # see schema.py, which says what stands in it
SHOWN = 5  # complaints about one file that are listed


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
    allowed: Sequence[str] = (),
    speed: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The content of ``run.json``; its fields are described in docs/reference/run-json.md.

    Parameters:
        kind: "compare" or "train".
        command: the line that was typed.
        recipe: `Recipe.to_dict`.
        runs: {"label", "seed", "folder", "packed", "nonzeros", "result"}, see `aggregate`.
        seconds: from start to end, of this session.
        failed: {"label", "seed", "error"} of runs that did not end.
        exhibits: pictures, see `exhibits`.
        jobs: processes at a time.
        allowed: guards that refused the comparison and were waved through.
        speed: milliseconds of trained nets, see `schema.Speed`; left out where there are none.
    """
    first = runs[0]["result"] if runs else {}
    judged = _review(kind, runs)
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
        "budget": budget(runs),
        "allowed": list(allowed),
        "review": judged,
        "warnings": flags(judged),
        "failed": [dict(item) for item in failed],
        "aggregate": aggregate(runs),
        "runs": [dict(run) for run in runs],
        "exhibits": dict(exhibits or {}),
        **({"speed": [dict(row) for row in speed]} if speed else {}),
    }


def _review(kind: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The advisor's judgement; a single run claims nothing that could be unfair."""
    if kind != "compare" or not runs:
        return {"findings": [], "paired": [], "verdicts": [], "pareto": []}
    from ..advisor import review

    return dict(review(list(runs)))


def flags(review: Mapping[str, Any]) -> list[str]:
    """What keeps a comparison from saying what it seems to say: the texts of the advisor's flags.

    >>> flags({"findings": [{"guard": "seeds", "level": "flag", "says": "one seed", "fix": "take three"}]})
    ['one seed']
    """
    return [str(finding["says"]) for finding in review["findings"] if finding["level"] == "flag"]


def read_record(path: Path) -> dict[str, Any]:
    """Read ``run.json``; a file of schema 1 comes back as one of schema 2, reviewed now.

    Raises:
        DataNotFound: no such file. SparselandError: damaged, of a later schema, or not what the schema says; the
            message has the JSON path of what is wrong.
    """
    record = read_json(path)
    schema = record.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise SparselandError(
            f"{path} has schema {schema!r}; it is no run.json of this library (schemas 1 to {SCHEMA})"
        )
    if schema > SCHEMA:
        raise SparselandError(
            f"{path} has schema {schema}, which a later sparseland wrote; this one reads 1 to {SCHEMA}: update it"
        )
    if schema == 1:
        record = _upgraded(record, path)
    check(record, str(path))
    return record


def _upgraded(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Schema 1 had no review and no guards; its rows are made anew from its runs."""
    empty: dict[str, Any] = {"findings": [], "paired": [], "verdicts": [], "pareto": []}
    new = {**record, "schema": SCHEMA, "allowed": [], "review": empty}
    check(new, f"{path} (schema 1)")  # before anything is computed from it
    judged = _review(new["kind"], new["runs"])
    return {**new, "review": judged, "warnings": flags(judged), "aggregate": aggregate(new["runs"])}


def check(record: Mapping[str, Any], name: str = "run.json") -> None:
    """Raise unless the record is what the schema says, and its rows are what its runs give.

    Raises:
        SparselandError: what is wrong, each with its JSON path.

    >>> try:
    ...     check({"schema": 2, "kind": "walk"})
    ... except SparselandError as error:
    ...     print(str(error)[:82])
    run.json is not of schema 2: kind: Input should be 'compare' or 'train'; it is 'wa
    """
    from .schema import complaints

    found = complaints(record) or _disagreements(record)
    if found:
        more = f" (and {len(found) - SHOWN} more)" if len(found) > SHOWN else ""
        raise SparselandError(f"{name} is not of schema {SCHEMA}: {'; '.join(found[:SHOWN])}{more}")


def _disagreements(record: Mapping[str, Any]) -> list[str]:
    """Means in the rows that the runs do not give: one of the two was edited."""
    said = []
    for i, (row, true) in enumerate(zip(record["aggregate"], aggregate(record["runs"]), strict=True)):
        for key, entry in true.items():
            if isinstance(entry, dict) and "mean" in entry and row.get(key) is not None:
                written = row[key]["mean"]
                if not math.isclose(written, entry["mean"], rel_tol=1e-9, abs_tol=1e-12):
                    said.append(f"aggregate[{i}].{key}.mean: it is {written:g}; the runs give {entry['mean']:g}")
    return said


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, with errors that name it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise DataNotFound(f"no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SparselandError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise SparselandError(f"{path} holds {type(data).__name__}, not an object")
    return data


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def write_record(record: Mapping[str, Any], path: Path) -> Path:
    """Write ``run.json``, whole or not at all; returns its path.

    Raises:
        SparselandError: it is not what the schema says. OutputError: it cannot be written.
    """
    from ..files import write_json

    check(json.loads(json.dumps(record)), str(path))  # as it will be read: tuples are lists there
    write_json(path, record)
    return path


def render(path: Path, out: Path | None = None) -> Path:
    """Make the page of a ``run.json`` anew, from that file alone; returns the page's path.

    Parameters:
        path: the file, or the folder that it is in. out: where the page goes; default: report.html beside the file.

    Raises:
        DataNotFound, SparselandError: as `read_record`. OutputError: it cannot be written.
    """
    from .page import write_page

    path = path / "run.json" if path.is_dir() else path
    return write_page(read_record(path), out or path.with_name("report.html"))
