"""Which way the doors open: the rules hold for the library, and each rule can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.architecture import rules

Rule = Callable[[Mapping[str, str]], list[str]]
RULES: list[Rule] = [
    rules.closed_doors,
    rules.closed_front_door,
    rules.methods_that_know_each_other,
    rules.strangers,
    rules.early_optionals,
    rules.cycles,
]

# rule, the bad sources, and a word of the complaint
BAD: list[tuple[Rule, dict[str, str], str]] = [
    (rules.closed_doors, {"sparseland.core.mask": "import sparseland.weights"}, "core may import"),
    (rules.closed_doors, {"sparseland.core.mask": "from sparseland import __version__"}, "core may import"),
    (rules.closed_doors, {"sparseland.core.a": "from ..weights import b", "sparseland.weights": ""}, "core may import"),
    (rules.closed_doors, {"sparseland.core.a": "def f():\n    from ..cli import main"}, "core may import"),
    (
        rules.closed_doors,
        {"sparseland.core.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..train import loop"},
        "core may import",
    ),
    (rules.closed_doors, {"sparseland.weights.sparsifier": "from sparseland.train import loop"}, "weights may import"),
    (rules.closed_doors, {"sparseland.kernels.csr": "from sparseland.core.mask import MaskSet"}, "core.pattern"),
    (rules.closed_doors, {"sparseland.features.choice": "import sparseland.transport.plan"}, "core, kernels"),
    (rules.closed_doors, {"sparseland.data.images": "import sparseland.weights"}, "data may import"),
    (rules.closed_doors, {"sparseland.train.loop": "from ..cli import main"}, "train may import"),
    (rules.closed_doors, {"sparseland.cellar.a": ""}, "no entry"),
    (rules.closed_front_door, {"sparseland": "from .weights import sparsifier"}, "at import"),
    (rules.closed_front_door, {"sparseland": "import torch"}, "at import"),
    (
        rules.methods_that_know_each_other,
        {"sparseland.weights.methods.rigl": "from .set import SET", "sparseland.weights.methods.set": ""},
        "imports sparseland.weights.methods.set",
    ),
    (rules.strangers, {"sparseland.core.mask": "import numpy as np"}, "imports numpy"),
    (rules.strangers, {"sparseland.weights.calibrate": "def f():\n    import accelerate"}, "imports accelerate"),
    (rules.early_optionals, {"sparseland.train.loop": "import transformers"}, "imports transformers"),
    (
        rules.early_optionals,
        {"sparseland.data.images": "try:\n    import sklearn\nexcept ImportError:\n    pass"},
        "sklearn",
    ),
    (rules.early_optionals, {"sparseland.train.loop": "class A:\n    from lightning import Callback"}, "lightning"),
    (
        rules.not_required_anywhere,
        {"sparseland.zoo.nets": "def f():\n    from torchvision.models import vgg"},
        "vision",
    ),
    (
        rules.cycles,
        {
            "sparseland.train.a": "from ..recipes import b",
            "sparseland.recipes.b": "def f():\n    import sparseland.train.a",
        },
        "recipes -> train -> recipes",
    ),
]

# what the rules must let through
GOOD: list[tuple[Rule, dict[str, str]]] = [
    (rules.closed_doors, {"sparseland.weights.sparsifier": "from ..core.mask import MaskSet\nfrom . import target"}),
    (rules.closed_doors, {"sparseland.kernels.csr": "from sparseland.core.pattern import Pattern"}),
    (rules.closed_doors, {"sparseland.train.result": "from .. import __version__"}),
    (rules.closed_doors, {"sparseland.cli": "import sparseland\nimport sparseland.train.loop"}),
    (rules.closed_front_door, {"sparseland": "import importlib\ndef __getattr__(n):\n    from .weights import x"}),
    (rules.methods_that_know_each_other, {"sparseland.weights.methods": "from .set import SET"}),
    (rules.methods_that_know_each_other, {"sparseland.weights.methods.rigl": "from ..method import Method"}),
    (rules.early_optionals, {"sparseland.train.loop": "def f():\n    import transformers"}),
    (rules.early_optionals, {"sparseland.train.lightning": "from lightning import Callback"}),
    (
        rules.early_optionals,
        {"sparseland.train.loop": "import typing\nif typing.TYPE_CHECKING:\n    import transformers"},
    ),
    (rules.cycles, {"sparseland.train.a": "from ..core import b", "sparseland.core.b": "from . import c"}),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_library_keeps(rule: Rule) -> None:
    sources = rules.package_sources()
    assert "sparseland" in sources, "src/sparseland was not found"
    assert rule(sources) == []


@pytest.mark.parametrize(("rule", "sources", "word"), BAD)
def test_can_fail(rule: Rule, sources: dict[str, str], word: str) -> None:
    complaints = rule(sources)
    assert len(complaints) == 1
    assert word in complaints[0]


@pytest.mark.parametrize(("rule", "sources"), GOOD)
def test_lets_through(rule: Rule, sources: dict[str, str]) -> None:
    assert rule(sources) == []


def test_the_table_of_doors_has_no_unknown_room() -> None:
    named = {door.partition(".")[0] for doors in rules.DOORS.values() for door in doors} - {"*", ""}
    assert named <= set(rules.DOORS)


def test_not_required_anywhere() -> None:
    folders = [rules.ROOT / name for name in ("src", "tests", "benchmarks", "examples", "tools", "docs", "papers")]
    for folder in filter(Path.is_dir, folders):
        assert rules.not_required_anywhere(rules.read_package(folder, folder.name)) == []


def test_no_room_without_a_name() -> None:
    files = [path.relative_to(rules.ROOT) for folder in ("src", "tests", "tools", "benchmarks", "examples")
             for path in (rules.ROOT / folder).rglob("*.py")]  # fmt: skip
    assert rules.rooms_without_a_name(files) == []
    bad = [Path("src/sparseland/utils.py"), Path("src/sparseland/misc/a.py"), Path("tests/_helpers.py")]
    assert len(rules.rooms_without_a_name(bad)) == len(bad)
