"""The project's own files agree: requirements without pins, a constraint for each, one version, one CI entry."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest

from tests.architecture.rules import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml with Python >= 3.11")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[str]:
    """Every requirement, extras included; ``sparseland[test]`` only repeats others."""
    listed = project()
    every = [*listed["dependencies"], *(line for extra in listed["optional-dependencies"].values() for line in extra)]
    return [line for line in every if not line.startswith("sparseland[")]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def same(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def not_constrained(required: list[str], pinned: dict[str, str]) -> list[str]:
    """Requirements that are themselves pins, or that no constraint pins."""
    known = {same(name) for name in pinned}
    return [line for line in required if "==" in line or same(re.split(r"[<>=!~;\[ ]", line)[0]) not in known]


def test_every_requirement_has_a_lower_bound_and_a_constraint() -> None:
    assert all(">=" in line for line in requirements())
    assert not_constrained(requirements(), constraints()) == []


def test_can_fail() -> None:
    assert not_constrained(["a==1", "b>=1", "C_d>=1"], {"a": "1", "c-d": "2"}) == ["a==1", "b>=1"]


def test_constraints_are_plain_versions() -> None:
    for name, version in constraints().items():
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*", name), name
        assert re.fullmatch(r"[0-9][0-9A-Za-z.]*", version), f"{name}=={version}: no local versions, no addresses"


def test_no_registry_is_named() -> None:
    for name in ("Makefile", "constraints.txt", "pyproject.toml", ".ci/run", ".pre-commit-config.yaml"):
        assert not re.search(r"https?://|index-url=|find-links", (ROOT / name).read_text(encoding="utf-8")), name


def test_one_version() -> None:
    version = project()["version"]
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)


def test_continuous_integration_calls_lint_and_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines.index("set -euo pipefail") < lines.index("make lint") < lines.index("make test")
