"""The worked example of CONTRIBUTING.md is real code: its steps are followed in a copy of the library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.architecture import docstrings, rules

NAME = "sparseland.weights.methods.mest"
TEXT = (rules.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
METHOD, CHECK = (textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```$", TEXT, re.S | re.M))
EXAMPLES = f"import doctest, {NAME} as mest; print(doctest.testmod(mest, raise_on_error=True))"
TRAINING = """
import sparseland as sl, torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
sparsifier = sl.methods.build("mest", sparsity=0.8, every=2, end=8).attach(model, optimizer, steps=10)
first = sparsifier.masks.clone()
for _ in range(10):
    optimizer.zero_grad()
    model(torch.randn(16, 20)).square().mean().backward()
    optimizer.step()
assert sparsifier.masks.kept() == first.kept() == 150, sparsifier.masks
assert sparsifier.masks.digest() != first.digest()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library in it, and the example in the library."""
    folder = tmp_path_factory.mktemp("library")
    package = folder / rules.PACKAGE
    shutil.copytree(rules.ROOT / "src" / rules.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    methods = package / "weights" / "methods"
    assert not (methods / "mest.py").exists(), "the example became a method of the library: write about another one"
    (methods / "mest.py").write_text(METHOD, encoding="utf-8")
    with open(methods / "__init__.py", "a", encoding="utf-8") as file:
        file.write("\nfrom .mest import MEST\n")
    return folder


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(TRAINING, id="it trains"),
        pytest.param(EXAMPLES, id="its examples are true"),
        pytest.param(CHECK, id="it keeps its promises", marks=pytest.mark.distributed),
    ],
)
def test_the_worked_example(library: Path, script: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(library)}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_worked_example_follows_the_house_rules() -> None:
    sources = {**rules.package_sources(), NAME: METHOD}
    for rule in (rules.closed_doors, rules.methods_that_know_each_other, rules.strangers, docstrings.without_docstring):
        assert [line for line in rule(sources) if NAME in line] == []
    assert len(METHOD.splitlines()) <= 150
