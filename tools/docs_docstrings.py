"""A griffe extension: the project's plain-text docstrings as Markdown that mkdocstrings shows well.

Two things are different from what griffe's Google style expects. Examples stand anywhere in the text as ``>>>`` lines:
they become fenced blocks (in Markdown ``>>>`` is a quotation). And short entries share a line (``config: the run.
out: its folder.``): each gets its own. Under ``Raises`` a sentence may go on without being set in.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(\s*)(Parameters|Args|Arguments|Attributes|Raises):\s*$")
ERRORS = re.compile(r"(?<=[.;]) ([A-Z]\w+): ")  # inside "Raises"
ENTRY = re.compile(r"^\s*[A-Z]\w+(?:, [A-Z]\w+)*: ")
DOCTEST = re.compile(r"^\s*>>> ")


class PlainDocstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute when its members are known."""
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value, parameters(obj))


def parameters(obj: griffe.Object) -> list[str]:
    """Names that a docstring of this object may describe."""
    if obj.is_function:
        return [p.name for p in obj.parameters]  # type: ignore[attr-defined]
    if obj.is_class:
        return [name for name, member in obj.members.items() if member.is_attribute]
    return []


def rewritten(text: str, names: list[str]) -> str:
    """The docstring with one parameter a line and fenced examples.

    >>> print(rewritten("F.\\n\\n>>> 1\\n1\\n\\nMore.", []))
    F.
    <BLANKLINE>
    ```pycon
    >>> 1
    1
    ```
    <BLANKLINE>
    More.
    """
    return "\n".join(_fenced(_split(text.splitlines(), names)))


def _split(lines: list[str], names: list[str]) -> list[str]:
    """``a: one. b: two`` inside a list of parameters as two entries."""
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    mark = re.compile(rf"(?<=[.;]) ((?:{known})(?:, (?:{known}))*): ") if known else None
    out: list[str] = []
    margin: str | None = None  # of the entries, inside such a section
    raises = False
    for line in lines:
        if found := SECTION.match(line):
            margin, raises = found[1] + "    ", found[2] == "Raises"
        elif line.strip() and margin is not None and not line.startswith(margin):
            margin = None
        elif margin is not None and line.strip():
            if raises and not ENTRY.match(line):
                line = "    " + line
            split = ERRORS if raises else mark
            line = split.sub(rf"\n{margin}\1: ", line) if split is not None else line
        out += line.split("\n")
    return out


def _fenced(lines: list[str]) -> list[str]:
    out: list[str] = []
    margin: str | None = None
    for line in lines:
        if margin is None and DOCTEST.match(line):
            margin = line[: len(line) - len(line.lstrip())]
            out += ["", margin + "```pycon"] if out and out[-1].strip() else [margin + "```pycon"]
        elif margin is not None and not line.strip():
            out.append(margin + "```")
            margin = None
        out.append(line)
    return [*out, margin + "```"] if margin is not None else out
