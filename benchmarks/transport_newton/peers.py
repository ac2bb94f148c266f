"""The environment of the peers: POT, OTT and regot, made once with pip outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PEERS = {
    "pot": ("pot==0.9.7.post1",),
    "ott": ("ott-jax==0.6.0",),
    "regot": ("regot==0.0.3",),
}
MODULE = {"pot": "ot", "ott": "ott", "regot": "regot"}


def folder() -> Path:
    """Where it is kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sparseland" / "peers" / "transport"


def environment(place: Path) -> tuple[str, dict[str, str]]:
    """Its Python, and by peer why it is not there ("" where it is)."""
    python = place / "bin" / "python"
    if not python.exists():
        print("making the environment of the peers")
        if (problem := _quiet([sys.executable, "-m", "venv", str(place)])) is not None:
            return str(python), dict.fromkeys(PEERS, problem)
    reasons = {}
    for peer, packages in PEERS.items():
        works = [str(python), "-c", f"import {MODULE[peer]}"]
        if _quiet(works) is not None:
            _quiet([str(python), "-m", "pip", "install", "--quiet", *packages])
        reasons[peer] = _quiet(works) or ""
    return str(python), reasons


def _quiet(command: list[str]) -> str | None:
    """Run a command; the last line it wrote if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return f"{Path(command[0]).name} failed: {said[-1][:200] if said else 'no reason given'}"
