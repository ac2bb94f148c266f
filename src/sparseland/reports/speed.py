"""A benchmark's ``result.json``: what was measured, on what, and by which command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..account import UNSTABLE, summary, take_turns

__all__ = ["SCHEMA", "UNSTABLE", "summary", "take_turns", "write_result"]

SCHEMA = 1


def write_result(path: Path, claim: str, command: str, **content: Any) -> Path:
    """Write a benchmark's ``result.json``: the claim, the command, the machine, the versions and what was measured."""
    import torch

    from ..files import write_json
    from ..train.result import machine, versions

    fixed = {"schema": SCHEMA, "claim": claim, "command": command, "created": time.strftime("%Y-%m-%d")}
    write_json(path, {**fixed, "machine": machine(torch.device("cpu")), "versions": versions(), **content})
    return path
