"""What was measured on this machine, kept in one JSON file so that the next conversion need not measure again."""

from __future__ import annotations

import json
import os
import platform
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.errors import OutputError
from ..files import write_json

VERSION = 4  # of the kernels' timings: raised when a kernel changes its speed
FILE = "kernels.json"


def folder() -> Path:
    """``$SPARSELAND_CACHE``, or ``~/.cache/sparseland`` (``$XDG_CACHE_HOME/sparseland`` where that is set)."""
    if place := os.environ.get("SPARSELAND_CACHE"):
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "sparseland"


@lru_cache(maxsize=1)
def cpu() -> str:
    """The processor's model, as the system calls it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith(("model name", "Model", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.machine()


class Cache:
    """A table that outlives the process.

    Parameters:
        place: the file; None: ``kernels.json`` in `folder`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     one = Cache(Path(place) / "kernels.json")
    ...     one["a layer"] = {"kernel": "gemm"}
    ...     one.flush()
    ...     Cache(Path(place) / "kernels.json")["a layer"]
    {'kernel': 'gemm'}
    """

    def __init__(self, place: Path | None = None) -> None:
        self.place = place or folder() / FILE
        self.new: dict[str, Any] = {}
        self.known = self._read()
        self.hits = 0

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.place.read_text(encoding="utf-8"))
            if found["version"] != VERSION:
                return {}
            entries = found["entries"]
            if not isinstance(entries, dict) or not all(isinstance(one, dict) for one in entries.values()):
                raise TypeError("no table of tables")
            return entries
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            print(f"ignoring the timings in {self.place}, which cannot be read: {error!r}", file=sys.stderr)
            return {}

    def get(self, key: str) -> dict[str, Any] | None:
        """What is known, or None."""
        found: dict[str, Any] | None = self.new.get(key) or self.known.get(key)
        self.hits += found is not None
        return found

    def __getitem__(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = {**self.known, **self.new}[key]
        return found

    def __setitem__(self, key: str, value: dict[str, Any]) -> None:
        self.new[key] = value

    def flush(self) -> None:
        """Write what is new beside what others wrote meanwhile; a disk that refuses costs only the memory."""
        if not self.new:
            return
        self.known = {**self._read(), **self.new}
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.place, {"version": VERSION, "entries": self.known})
        except (OutputError, OSError) as error:
            print(f"timings are not kept: {error}", file=sys.stderr)
            return
        self.new = {}
