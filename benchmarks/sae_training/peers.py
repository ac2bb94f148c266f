"""The environment of the peer: SAELens needs many packages, so it gets a Python of its own, outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SAELENS = ("sae-lens>=6.54,<6.55",)


def folder() -> Path:
    """Where it is kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sparseland" / "peers"


def saelens() -> tuple[str | None, str]:
    """A Python that imports SAELens with this process's version of torch (None if there cannot be one), and why not."""
    import torch

    python = folder() / "saelens" / "bin" / "python"
    version = torch.__version__.partition("+")[0]
    works = [str(python), "-c", f"import sae_lens, torch; assert torch.__version__.partition('+')[0] == {version!r}"]
    if python.exists() and _quiet(works) is None:
        return str(python), ""
    print("making the environment of SAELens", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder() / "saelens")],
        [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", f"torch=={version}", *SAELENS],
        works,
    ):
        if (problem := _quiet(command)) is not None:
            return None, problem
    return str(python), ""


def _quiet(command: list[str]) -> str | None:
    """Run a command; the last line it wrote if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return f"{Path(command[0]).name} failed: {said[-1][:200] if said else 'no reason given'}"


QUIET = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
