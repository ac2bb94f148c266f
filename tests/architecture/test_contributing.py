"""The worked example of CONTRIBUTING.md is real code: it is run as the file that it says it is."""

from __future__ import annotations

import doctest
import importlib.util
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from sparseland.core import Criterion
from sparseland.weights import methods
from tests.architecture import docstrings, rules

NAME = "sparseland.weights.methods.mest"
TEXT = (rules.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
METHOD, CHECK = (textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```$", TEXT, re.S | re.M))


@pytest.fixture
def mest(tmp_path: Path) -> Iterator[ModuleType]:
    """The example as a module beside the other methods; its names are taken back afterwards."""
    before = dict(methods.registry), dict(Criterion.registry)
    path = tmp_path / "mest.py"
    path.write_text(METHOD, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[NAME]
    for registry, old in zip((methods.registry, Criterion.registry), before, strict=True):
        registry.clear()
        registry.update(old)


def test_the_method_trains(mest: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    sparsifier = methods.build("mest", sparsity=0.8, every=2, end=8).attach(model, optimizer, steps=10)
    first = sparsifier.masks
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.randn(16, 20)).square().mean().backward()
        optimizer.step()
    assert sparsifier.masks.kept() == first.kept() == round(0.2 * (20 * 30 + 30 * 5))
    assert sparsifier.masks.digest() != first.digest()


def test_the_method_keeps_its_promises(mest: ModuleType) -> None:
    exec(compile(CHECK, "CONTRIBUTING.md", "exec"), {"MEST": mest.MEST})


def test_the_examples_in_it_are_true(mest: ModuleType) -> None:
    result = doctest.testmod(mest)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_method_follows_the_house_rules() -> None:
    sources = {**rules.package_sources(), NAME: METHOD}
    for rule in (rules.closed_doors, rules.methods_that_know_each_other, rules.strangers, docstrings.without_docstring):
        assert [line for line in rule(sources) if NAME in line] == []
    assert len(METHOD.splitlines()) <= 150
