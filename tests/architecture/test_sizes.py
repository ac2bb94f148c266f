"""Files of at most 400 lines, functions of at most 60, core of at most 1,800 lines of code (docstrings apart)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.rules import ROOT
from tools import sizes

FILES = sizes.python_files([ROOT / "src", ROOT / "tools"])
CORE_LINES = 1800


def test_no_file_is_too_long() -> None:
    counted = {path: sizes.count_lines(path.read_text(encoding="utf-8")) for path in FILES}
    assert counted, "nothing was counted"
    assert {str(path): lines for path, lines in counted.items() if lines > sizes.FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    found = [(str(path), *what) for path in FILES for what in sizes.long_functions(path.read_text(encoding="utf-8"))]
    assert found == []


def code_lines(text: str) -> int:
    """Lines that hold code: docstrings, comments and blank lines do not count."""
    tree = ast.parse(text)
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and i not in prose for i, line in lines)


def test_the_words_stay_small() -> None:
    files = sizes.python_files([ROOT / "src" / "sparseland" / "core"])
    assert 0 < sum(code_lines(path.read_text(encoding="utf-8")) for path in files) <= CORE_LINES


def test_code_lines_count_code() -> None:
    text = '"""Prose\nin two lines."""\n\n# a remark\nx = 1\n\n\ndef f():\n    """Prose."""\n    return x\n'
    assert code_lines(text) == 3


def test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    body = "    x = 1\n" * sizes.FUNCTION_LINES
    assert [name for name, *_ in sizes.long_functions(f"def f():\n{body}")] == ["f"]
    assert list(sizes.long_functions(f"def f():\n{body}", limit=sizes.FUNCTION_LINES + 1)) == []
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "long.py").write_text("x = 1\n" * (sizes.FILE_LINES + 1))
    monkeypatch.chdir(tmp_path)
    assert sizes.main([]) == 1
    assert "401 lines: src/long.py" in capsys.readouterr().out
