"""The runner of paper folders, and a small folder of its own to run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

COUNTING = '''
"""A paper folder whose jobs count how often they run."""

SYSTEM = "11 A fake (arXiv 2106.10404)"
CLAIM = {"value": "sparse is as good", "source": "nowhere"}
DEFAULT = ("one",)
LIMITS = ("full scale",)

def one():
    """Two seeds of two arms."""
    return {f"one/{arm}/{seed}": {"arm": arm, "value": value + seed} for arm, value in (("a", 1.0), ("b", 4.0))
            for seed in (0, 1)}

def two():
    """The same once
    more."""
    return {f"two/W=4/{seed}": {"arm": "a", "value": 2.0 * seed} for seed in (0, 1, 2)}

def bad():
    """One job that fails."""
    return {f"bad/{seed}": {"arm": "a", "value": -1.0 if seed else 1.0} for seed in (0, 1)}

PARTS = {"one": one, "two": two, "bad": bad}
FUNCTIONS = {part: "MODULE:measure" for part in PARTS}
NEEDS = {"two": ("one",)}

def judge(rows):
    if not any(row["part"] == "one" for row in rows):
        raise ValueError("part one decides")
    return "in part", f"there are {len(rows)} rows."

def headline(rows):
    return f"{len(rows)} rows"

def figures(rows):
    line = {"label": "a", "x": [1, 2], "y": [r["mean"] for r in rows][:2], "error": [0, 0]}
    return {"a.svg": {"title": "t", "x": "x", "y": "y", "lines": [line]}}
'''
MEASURE = """
from pathlib import Path

def measure(arm, value, place):
    if value < 0:
        raise RuntimeError("this value is below zero")
    with open(Path(place) / "count", "a") as file:
        file.write("x")
    return {"measured": [{"arm": arm, "metric": "points", "value": value}], "seconds": 30.0,
            "machine": {"cpu": "none", "cores": 1}, "versions": {"torch": "0"}}
"""


@pytest.fixture(scope="session")
def runner() -> ModuleType:
    """papers/run.py as a module."""
    spec = importlib.util.spec_from_file_location("papers_runner", ROOT / "papers" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["papers_runner"] = module  # fan_out imports its `train` by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with one paper folder, ``11-granet``, whose jobs take no time."""
    name = "measure_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    folder = tmp_path / "papers" / "11-granet"
    folder.mkdir(parents=True)
    (folder / "jobs.py").write_text(COUNTING.replace("MODULE", name))
    (folder / f"{name}.py").write_text(MEASURE)
    (folder / "README.md").write_text("# Fake\n\n<!-- result:begin -->\n<!-- result:end -->\n\nBy hand.\n")
    (tmp_path / "runs" / "papers" / "11-granet").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def go(runner: ModuleType, fake: Path) -> Callable[..., int]:
    """``go("--parts", "one")`` runs the fake folder in this process."""

    def run(*words: str) -> int:
        code: int = runner.main(["11-granet", "--on", "inline", "--root", str(fake), *words])
        return code

    return run


def load(slug: str, name: str) -> Any:
    """A module of a real folder."""
    path = ROOT / "papers" / slug / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_{slug[:2]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def jobs_02() -> Any:
    """papers/02-random-pruning/jobs.py."""
    return load("02-random-pruning", "jobs")


@pytest.fixture(scope="session")
def jobs_11() -> Any:
    """papers/11-granet/jobs.py."""
    return load("11-granet", "jobs")


@pytest.fixture(scope="session")
def plasticity() -> Any:
    """papers/11-granet/plasticity.py."""
    return load("11-granet", "plasticity")


@pytest.fixture(scope="session")
def robustness() -> Any:
    """papers/02-random-pruning/robustness.py."""
    return load("02-random-pruning", "robustness")
