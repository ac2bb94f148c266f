"""README.md is true: its code runs, its commands exist, its tables are what the library says today."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from tools import readme

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python of the page, in order, as one program."""
    (tmp_path / "program.py").write_text("\n".join(blocks("python")))
    monkeypatch.chdir(tmp_path)
    left = runpy.run_path("program.py")
    assert (tmp_path / "digits.safetensors").stat().st_size == left["size"]
    assert str(left["method"].pattern) == "2:4"


def test_its_commands_exist() -> None:
    import typer

    from sparseland.cli.app import app

    lines = [line.partition(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    mine = [shlex.split(line.partition(" > ")[0]) for line in lines if line.startswith("sparseland ")]
    group: Any = typer.main.get_command(app)
    assert {words[1] for words in mine} == set(group.commands)  # every verb has its line
    for _, verb, *words in mine:
        command = group.commands[verb]
        if hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(verb, words)  # refuses unknown options and missing values
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {line.split()[1] for line in lines if line.startswith("make ")} <= set(targets)


def test_its_generated_parts_are_fresh() -> None:
    assert readme.generated(TEXT) == TEXT, "run: python tools/readme.py"
    assert readme.packaged_papers() == readme.PACKAGED.read_text(encoding="utf-8"), "run: python tools/readme.py"
    assert readme.reference_page() == readme.REFERENCE.read_text(encoding="utf-8"), "run: python tools/readme.py"


def test_a_stale_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text(TEXT.replace("| `rigl` |", "| `rigle` |"))
    monkeypatch.setattr(readme, "README", page)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    packaged = tmp_path / "systems.json"
    monkeypatch.setattr(readme, "PACKAGED", packaged)
    monkeypatch.setattr(readme, "REFERENCE", tmp_path / "docs" / "paper-result.md")
    packaged.write_text("{}")
    assert readme.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert all(f"{name} is stale" in said for name in ("README.md", "systems.json", "docs/paper-result.md"))
    assert packaged.read_text() == "{}"
    assert readme.main([]) == 0 and readme.main(["--check"]) == 0
    assert "| `rigl` |" in page.read_text() and readme.REFERENCE.is_file()
    with pytest.raises(ValueError, match="no place for 'methods'"):
        readme.generated("nothing here")


def test_every_method_is_in_the_table() -> None:
    from sparseland.weights.methods import registry

    table = readme.methods_table()
    for name in registry:
        assert f"| `{name}` |" in table
    assert "https://arxiv.org/abs/1911.11134" in table


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_every_measured_paper_is_in_the_table() -> None:
    from sparseland.papers import results

    table, found = readme.results_table(), results(ROOT)
    for slug, result in found.items():
        (row,) = [line for line in table.splitlines() if f"](papers/{slug})" in line]
        assert f"**{result.verdict}**" in row and result.claim.value in row and (result.headline or result.why) in row
        counts = {len(part.seeds) for part in result.parts.values()} or {len(result.seeds)}
        assert f"| {' to '.join(map(str, sorted({min(counts), max(counts)})))} | {result.minutes:g} |" in row
    assert len(table.splitlines()) == 2 + len(found)
