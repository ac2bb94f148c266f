"""Nothing loaded from disk is executed, and the rule that says so can fail."""

from __future__ import annotations

import pytest

from tests.architecture.rules import package_sources
from tests.architecture.safety import unsafe_calls

BAD = [
    "import pickle\npickle.load(f)",
    "from pickle import loads\nloads(b)",
    "import pickle as p\np.Unpickler(f).load()",
    "import joblib\njoblib.load(f)",
    "import torch\ntorch.load(f)",
    "import torch\ntorch.load(f, weights_only=False)",
    "import torch as t\nt.load(f)",
    "from torch import load as tload\ntload(f)",
    "import yaml\nyaml.load(f)",
    "import yaml\nyaml.load(f, Loader=yaml.Loader)",
    "import yaml\nyaml.load(f, yaml.UnsafeLoader)",
    "import yaml\nyaml.unsafe_load(f)",
    "import numpy as np\nnp.load(f, allow_pickle=True)",
    "eval('1')",
    "exec('x = 1')",
    "import builtins\nbuiltins.eval('1')",
]
GOOD = [
    "import torch\ntorch.load(f, weights_only=True, map_location='cpu')",
    "import yaml\nyaml.safe_load(f)",
    "import yaml\nyaml.load(f, Loader=yaml.SafeLoader)",
    "import yaml\nclass Strict(yaml.SafeLoader): ...\nyaml.load(f, Strict)",
    "import numpy as np\nnp.load(f, allow_pickle=False)",
    "import numpy as np\nnp.load(f)",
    "import json\njson.load(f)",
    "model.eval()",
    "method.load(state)",
]


def test_the_library_executes_nothing_it_loads() -> None:
    assert unsafe_calls(package_sources()) == []


@pytest.mark.parametrize("source", BAD)
def test_can_fail(source: str) -> None:
    assert len(unsafe_calls({"m": source})) == 1


@pytest.mark.parametrize("source", GOOD)
def test_lets_through(source: str) -> None:
    assert unsafe_calls({"m": source}) == []
