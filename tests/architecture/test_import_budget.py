"""``import sparseland`` costs little over ``import torch``: counted in modules, since a clock would not be fair."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.rules import OPTIONAL, THIRD_PARTY

MEASURE = """
import json, sys, {first}
before = set(sys.modules)
import {then}
print(json.dumps([len(before), sorted(set(sys.modules) - before)]))
"""


def extra_modules(first: str, then: str) -> tuple[int, list[str]]:
    """How many modules ``import first`` loads, and which ones ``import then`` adds, in a fresh process."""
    command = [sys.executable, "-c", MEASURE.format(first=first, then=then)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, extra = json.loads(done.stdout.splitlines()[-1])
    return count, extra


def over_budget(count: int, extra: list[str]) -> list[str]:
    """Third parties that are loaded, and all the extra modules where they are more than a fifth."""
    heavy = [name for name in extra if name in THIRD_PARTY]
    return heavy + (extra if len(extra) > 0.2 * count else [])


def test_importing_the_library_is_cheap() -> None:
    count, extra = extra_modules("torch", "sparseland")
    assert "sparseland" in extra
    assert over_budget(count, extra) == []


def test_can_fail() -> None:
    assert "yaml" in over_budget(*extra_modules("json", "yaml"))
    assert over_budget(10, ["a", "b", "c"]) == ["a", "b", "c"]
    assert over_budget(10, ["a", "b"]) == []


@pytest.mark.parametrize("module", ["sparseland", "sparseland.cli"])
def test_works_without_the_extras(module: str) -> None:
    """A plain installation has none of the optional packages; the command line starts all the same."""
    block = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
