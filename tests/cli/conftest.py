"""The command line in this process, and a tiny comparison that several tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

TINY = """\
name: tiny
description: three methods, in no time
model: mlp-16
data: digits
limit: 200
epochs: 2
checkpoint_every: 2
compare:
  sparsity: 0.75
  seeds: [0, 1, 2]
  methods:
    - {name: dense}
    - {name: random}
    - {name: rigl, every: 2}
"""
Call = Callable[..., Any]


@pytest.fixture(scope="session")
def call() -> Call:
    """``call("train", …)``: the result has exit_code, stdout and stderr."""
    from sparseland.cli.app import app

    def run(*words: object, **keywords: Any) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words], prog_name="sparseland", **keywords)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def compared(call: Call, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a finished comparison, and what the command said."""
    out = tmp_path_factory.mktemp("compared") / "tiny"
    return out, call("compare", tiny, "--out", out)
