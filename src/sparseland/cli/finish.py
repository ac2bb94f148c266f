"""What stands at the end of every run and comparison: run.json and report.html beside the results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..recipes import Recipe


def entry(label: str, seed: int, folder: Path, top: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """A run as `reports.make_record` wants it; the non-zeros and the
    bytes of the packed file are counted, not taken from the masks."""
    from ..deploy import packed_bytes
    from .weights_file import read

    state = read(folder / "best.safetensors")
    return {
        "label": label,
        "seed": seed,
        "folder": os.path.relpath(folder, top),
        "packed": packed_bytes(state),
        "nonzeros": sum(int(state[layer["name"]].count_nonzero()) for layer in result["layers"]),
        "result": dict(result),
    }


def finish(
    kind: str, command: str, recipe: Recipe, runs: Sequence[Mapping[str, Any]], place: Path, *, seconds: float,
    failed: Sequence[Mapping[str, Any]] = (), jobs: int = 1,
) -> tuple[Path, Path]:  # fmt: skip
    """Write run.json and report.html into ``place``; returns their paths."""
    from ..reports import exhibits, make_record, write_page, write_record

    shown = exhibits(runs, place)
    record = make_record(
        kind, command, recipe.to_dict(), runs, seconds=seconds, failed=failed, exhibits=shown, jobs=jobs
    )
    return write_record(record, place / "run.json"), write_page(record, place / "report.html")
