"""The page: ``run.json`` as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_page(record: Mapping[str, Any], path: Path) -> Path:
    """Write the report; returns its path."""
    from ..train.checkpoint import write_file

    write_file(path, lambda file: file.write(b"todo"))
    return path
