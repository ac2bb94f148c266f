"""Everything public says what it is, and what its examples say is true."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from tests.architecture.docstrings import without_docstring
from tests.architecture.rules import OPTIONAL, package_sources

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = sorted(
    name for name, source in package_sources().items() if re.search(r"^\s*>>> ", source, re.MULTILINE)
)

BAD = {
    "module": "x = 1",
    "function": '"""M."""\ndef f(): ...',
    "class": '"""M."""\nclass C: ...',
    "method": '"""M."""\nclass C:\n    """C."""\n    def f(self): ...',
    "property": '"""M."""\nclass C:\n    """C."""\n    @property\n    def f(self): ...',
    "listed in __all__": '"""M."""\n__all__ = ["_f"]\ndef _f(): ...\ndef g(): ...',
    "undocumented base": '"""M."""\nclass _B:\n    def f(self): ...\nclass C(_B):\n    """C."""\n    def f(self): ...',
}
GOOD = {
    "private": '"""M."""\ndef _f(): ...\nclass _C:\n    def f(self): ...',
    "not exported": '"""M."""\n__all__ = ["f"]\ndef f():\n    """F."""\ndef g(): ...',
    "dunder": '"""M."""\nclass C:\n    """C."""\n    def __len__(self): ...',
    "forward": '"""M."""\nclass C:\n    """C."""\n    def forward(self): ...',
    "inherited": '"""M."""\nclass _B:\n    def f(self):\n        """F."""\n'
    'class C(_B):\n    """C."""\n    def f(self): ...',
    "setter": '"""M."""\nclass C:\n    """C."""\n    @property\n    def f(self):\n        """F."""\n'
    "    @f.setter\n    def f(self, x): ...",
    "empty": "",
}


def test_everything_public_has_a_docstring() -> None:
    assert without_docstring(package_sources()) == []


@pytest.mark.parametrize("case", BAD)
def test_can_fail(case: str) -> None:
    assert len(without_docstring({"sparseland.m": BAD[case]})) == 1


@pytest.mark.parametrize("case", GOOD)
def test_lets_through(case: str) -> None:
    assert without_docstring({"sparseland.m": GOOD[case]}) == []


def test_a_class_of_the_same_name_elsewhere_changes_nothing() -> None:
    assert (
        without_docstring({"sparseland.a": GOOD["inherited"], "sparseland.b": '"""M."""\nclass C:\n    """C."""'}) == []
    )


def test_a_private_module_is_not_asked() -> None:
    assert without_docstring({"sparseland._m": "def f(): ..."}) == []


def run_examples(name: str) -> doctest.TestResults:
    """Run the doctests of a module, imported by its own name (so that there is one copy of every class)."""
    return doctest.testmod(importlib.import_module(name), optionflags=FLAGS, raise_on_error=False)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_are_true(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # what an example writes does not land in the repository
    try:
        result = run_examples(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert result.attempted > 0, f"{name} has lines with >>> that doctest does not find"
    assert result.failed == 0, capsys.readouterr().out


def test_a_wrong_example_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_example.py").write_text('"""M.\n\n>>> 1 + 1\n3\n"""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run_examples("wrong_example").failed == 1
