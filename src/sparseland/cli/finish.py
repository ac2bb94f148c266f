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
    failed: Sequence[Mapping[str, Any]] = (), jobs: int = 1, allowed: Sequence[str] = (), speed: bool = False,
) -> tuple[Path, Path]:  # fmt: skip
    """Write run.json and report.html into ``place``; returns their paths.

    Joined runs may be of another model, or their weights may be gone: then the report has no pictures of them.
    """
    from ..reports import exhibits, make_record, write_page, write_record
    from .speed import speeds

    shown = exhibits([run for run in runs if _alike(run, runs[0], place)], place)
    record = make_record(
        kind, command, recipe.to_dict(), runs, seconds=seconds, failed=failed, exhibits=shown, jobs=jobs,
        allowed=allowed, speed=speeds(runs, place) if speed else (),
    )  # fmt: skip
    return write_record(record, place / "run.json"), write_page(record, place / "report.html")


def _alike(run: Mapping[str, Any], first: Mapping[str, Any], place: Path) -> bool:
    """Whether its weights are there and fit the first run's model and data."""
    keys = ("model", "model_options", "data", "data_options")
    same = all(run["result"]["config"].get(key) == first["result"]["config"].get(key) for key in keys)
    return same and (place / run["folder"] / "best.safetensors").is_file()
