"""What a paper folder with results has to keep, whichever paper it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparseland import papers
from sparseland.papers import record


def check_folder(folder: Path, jobs: Any) -> None:
    """Its verdict is the rule's, its pages are those of its numbers, its figures are those that the pages show.

    Figures are compared by name: their bytes differ between versions of the fonts.
    """
    result = papers.read(folder)
    rows = [r.model_dump(exclude_unset=True) for r in result.ours]
    assert jobs.judge(rows) == (result.verdict, result.why) and jobs.headline(rows) == result.headline
    texts = record.pages(folder, jobs, result.to_dict())
    stale = [path for path in record.stale(texts) if path.suffix != ".svg"]
    assert stale == [], f"run: python papers/run.py {folder.name} --redraw"
    assert {path.name for path in folder.glob("*.svg")} == {path.name for path in texts if path.suffix == ".svg"}
    assert "## How the verdict came about" in (folder / "README.md").read_text(encoding="utf-8")
