"""Reading the pages: their code blocks in order, and which of them are run.

- ```` ```python ```` runs, all blocks of a page as one program; with ``title="name.py"`` it is written to that file.
- ```` ```bash ```` runs: ``sparseland``, ``torchrun`` and ``python``; ``make`` and ``pip`` lines are only looked at;
  what takes minutes (``compare``, ``torchrun``) is parsed, and run where slow tests are.
- ```` ```yaml title="name.yaml" ```` is written to that file.
- A block whose title says "not run" is left alone, and a reader sees that.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
# Written by others, with tests of their own.
ELSEWHERE = ("handbook/", "reference/")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, title, text, and line in the page."""

    language: str
    title: str
    text: str
    line: int

    @property
    def runs(self) -> bool:
        """Whether the tests run it."""
        return "not run" not in self.title

    @property
    def file(self) -> str | None:
        """The file it is written to."""
        return self.title if re.fullmatch(r"[\w-]+\.\w+", self.title) else None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in FENCE.finditer(text):
        title = re.search(r'title="([^"]*)"', match[2])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], title[1] if title else "", match[3], line))
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each line of a bash block; comments are left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> dict[str, Path]:
    """The pages with code, by name."""
    found = sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.in")])
    return {name: path for path in found if not (name := path.relative_to(DOCS).as_posix()).startswith(ELSEWHERE)}
