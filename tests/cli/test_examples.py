"""Every example runs and does what it says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()


def test_each_has_a_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"own_loop", "compose_a_method", "one_shot"}


def test_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_of("own_loop") > 0.8
    assert "sparsity 0.9000" in capsys.readouterr().out


def test_compose_a_method() -> None:
    assert main_of("compose_a_method").target_sparsity == 0.9


def test_one_shot() -> None:
    found = main_of("one_shot")
    assert found["unstructured"][0] > 0.85 and found["2:4"][0] > 0.85
    assert all(size < 75_000 for _, size in found.values())  # a quarter off the weights, bitmask included
