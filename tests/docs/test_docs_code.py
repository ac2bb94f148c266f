"""Every code block of the documentation runs, page by page, in an empty folder, with warnings as errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.docs.reading import Block, blocks, commands, pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: path.read_text(encoding="utf-8") for name, path in pages().items()}
WITH_CODE = [name for name, text in PAGES.items() if any(b.language in ("python", "bash") for b in blocks(text))]
NEEDS = {
    "how-to/hf-trainer.md": "transformers",
    "how-to/lightning.md": "lightning",
    "how-to/features-of-a-language-model.md": "transformers",
}
# Third parties' own: a deprecation of torch's pytree, advice on workers. As in the tests of these callbacks.
QUIET = (r".*LeafSpec.*", r".*does not have many workers.*", r".*num_workers.*", r".*dirpath has changed.*")
MINUTES = ("compare",)  # verbs that take them: parsed in every run, run where slow tests are


def parse(words: list[str]) -> None:
    """Refuse a verb, an option or an argument that the command line does not have."""
    import typer

    from sparseland.cli.app import app

    group: Any = typer.main.get_command(app)
    _, verb, *rest = words
    assert verb in group.commands, f"no verb {verb!r}"
    command = group.commands[verb]
    if hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(verb, rest)


def call(words: list[str]) -> str:
    """Run the command line in this process; its standard output."""
    from typer.testing import CliRunner

    from sparseland.cli.app import app

    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{' '.join(words)}: {done.output}{done.exception or ''}"
    return done.output


class Reader:
    """Follows a page as a reader would: one Python session, one folder."""

    def __init__(self, slowly: bool) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}
        self.slowly = slowly
        self.skipped: list[str] = []  # folders that a command left out would have made

    def follow(self, page: str) -> None:
        """All blocks, in order."""
        for block in blocks(PAGES[page]):
            if not block.runs:
                continue
            if block.file is not None:
                Path(block.file).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                code = compile("\n" * block.line + block.text, str(ROOT / "docs" / page), "exec")
                exec(code, self.names)
            elif block.language == "bash":
                for words in commands(block):
                    self.command(words)

    def command(self, words: list[str]) -> None:
        """One line of a terminal."""
        target = None
        if ">" in words:
            words, target = words[: words.index(">")], words[-1]
        if words[0] == "sparseland":
            parse(words)
            if self.postponed(words):
                return
            said = call(words)
            if target is not None:
                Path(target).write_text(said, encoding="utf-8")
        elif words[0] in ("torchrun", "python"):
            compile(Path(words[-1]).read_text(encoding="utf-8"), words[-1], "exec")
            if words[0] == "torchrun" and not self.slowly:
                return
            start = ["-m", "torch.distributed.run"] if words[0] == "torchrun" else []
            env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
            done = subprocess.run(
                [sys.executable, *start, *words[1:]], env=env, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            look_at(words)

    def postponed(self, words: list[str]) -> bool:
        """Whether a line takes minutes, or needs what such a line would have made."""
        outs = [words[i + 1] for i, word in enumerate(words) if word == "--out"]
        long = words[1] in MINUTES and "--dry-run" not in words
        needs = any(word.startswith(tuple(self.skipped)) for word in words if self.skipped)
        if self.slowly or not (long or needs):
            return False
        self.skipped += outs
        return True


def look_at(words: list[str]) -> None:
    """A line that changes the machine: what it names exists."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    else:
        assert words == ["pip", "install", "-e", "."], f"the tests do not know the command {words}"


def follow(page: str, slowly: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with warnings.catch_warnings():
        for text in QUIET:
            warnings.filterwarnings("ignore", message=text)
        Reader(slowly).follow(page)


@pytest.mark.parametrize("page", WITH_CODE)
def test_its_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(page, False, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.distributed
def test_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow("how-to/distributed.md", True, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_tutorial_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow("tutorial.md", True, tmp_path, monkeypatch)
    assert (tmp_path / "runs" / "ten" / "report.html").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_what_does_not_run_is_said(page: str) -> None:
    for block in blocks(PAGES[page]):
        assert block.language in ("python", "bash", "yaml", "text"), f"{page}:{block.line}: {block.language}"
        if block.language == "yaml":
            assert block.file or not block.runs, f"{page}:{block.line}: a recipe that nobody reads"
        if not block.runs and block.language == "bash":
            for words in commands(block):
                parse(words)  # not run, but the options exist


def test_a_broken_block_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAGES, "broken.md", "```python\nassert False\n```\n")
    with pytest.raises(AssertionError):
        follow("broken.md", False, tmp_path, monkeypatch)
    monkeypatch.setitem(PAGES, "broken.md", "```bash\nsparseland train --epoch 3\n```\n")
    with pytest.raises(Exception, match="epoch"):
        follow("broken.md", False, tmp_path, monkeypatch)
    monkeypatch.setitem(PAGES, "broken.md", "```python\nimport warnings\nwarnings.warn('no')\n```\n")
    with pytest.raises(UserWarning):
        follow("broken.md", False, tmp_path, monkeypatch)
    assert shutil.which("false") is None or not (tmp_path / "runs").exists()


def test_blocks_are_found() -> None:
    found = blocks('a\n```python title="x.py"\n1\n```\n```bash title="not run here"\nls\n```\n')
    assert found == [Block("python", "x.py", "1\n", 2), Block("bash", "not run here", "ls\n", 5)]
    assert (found[0].file, found[0].runs, found[1].file, found[1].runs) == ("x.py", True, None, False)
