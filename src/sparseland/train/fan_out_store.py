"""What `fan_out` keeps of its jobs: how each ended, and the folder of those that ended well."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparseland import files
from sparseland.core.errors import RecipeError, ResumeError
from sparseland.train.fan_out_worker import Call

SCHEMA = 1
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "absent"})()


@dataclass(frozen=True)
class Result:
    """How a job ended.

    Parameters:
        key: of the job.
        status: "done", "cached" (done by an earlier call, read from ``out``) or "failed".
        value: what the function returned, through JSON (tuples are lists).
        error: of a failed job: the last attempt's traceback, or its last output; the last line is the reason.
        attempts: how often it was started.
        seconds: how long the last attempt took, the start of its process included.
    """

    key: str
    status: str
    value: Any = None
    error: str | None = None
    attempts: int = 0
    seconds: float = 0.0


class Store:
    """The folder of results; a file stands under its name when it is whole."""

    def __init__(self, folder: Path, overwrite: bool) -> None:
        self.folder, self.overwrite = folder, overwrite

    def open(self, calls: list[Call]) -> dict[str, Result]:
        """Make the folder; what it holds of these calls already."""
        owner: dict[str, str] = {}
        for call in calls:
            name = self.place(call.key, "json").name
            other = owner.setdefault(name.casefold(), call.key)
            if other != call.key:
                raise RecipeError(f"jobs {other!r} and {call.key!r} would share the file {name}; rename one")
        files.probe(self.folder)
        results = {call.key: self._read(call) for call in calls}
        return {key: result for key, result in results.items() if result is not None}

    def place(self, key: str, ending: str) -> Path:
        """The file of a job. Letters, digits and ``. _ = + , @ -`` of its key stay, others become ``_``."""
        name = re.sub(r"^\.|[^\w.=+,@-]", "_", unicodedata.normalize("NFC", key))
        if len(name.encode()) > 180:
            name = f"{name.encode()[:160].decode(errors='ignore')}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        return self.folder / f"{name}.{ending}"

    def write(self, call: Call, result: Result) -> None:
        """Keep a result."""
        about = {"key": call.key, "function": call.function, "kwargs": call.kwargs, "fingerprint": call.fingerprint}
        kept = {"value": result.value, "attempts": result.attempts, "seconds": round(result.seconds, 3)}
        data = json.dumps({"schema": SCHEMA} | about | kept, indent=1, allow_nan=False).encode() + b"\n"
        files.write_file(self.place(call.key, "json"), lambda file: file.write(data))

    def _read(self, call: Call) -> Result | None:
        place = self.place(call.key, "json")
        try:
            saved = json.loads(place.read_bytes())
        except (FileNotFoundError, ValueError):  # half a file is no result
            return None
        try:
            if saved["schema"] != SCHEMA:
                raise KeyError("schema")
            before, now = ({"function": s["function"], **s["kwargs"]} for s in (saved, vars(call)))
            result = Result(call.key, "cached", saved["value"], None, saved["attempts"], saved["seconds"])
            same = (saved["key"], saved["fingerprint"]) == (call.key, call.fingerprint)
        except (KeyError, TypeError):
            raise ResumeError(f"{place} is no result of fan_out with schema {SCHEMA}; choose another folder") from None
        if same or self.overwrite:
            return result if same else None
        changes = "; ".join(_changes(before, now)) or f"it belongs to job {saved['key']!r}"
        raise ResumeError(
            f"{place} holds another result than job {call.key!r} asks for: {changes}; choose another key or folder, or "
            f"give overwrite=True"
        )


def _changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else key
            yield from _changes(before.get(key, ABSENT), now.get(key, ABSENT), inner)
    elif repr(before) != repr(now):
        yield f"{name} was {before!r}, now it is {now!r}"
