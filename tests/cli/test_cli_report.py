"""``sparseland report``: from run.json to report.html, in one line of output or one line of error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sparseland.cli import report
from sparseland.core.errors import DataNotFound, OutputError, SparselandError
from sparseland.reports import write_record
from tests.reports.records import comparison, first_schema

PROGRAM = typer.Typer()
report.add(PROGRAM)


def said(*words: object) -> str:
    """What it prints; its errors are raised."""
    done = CliRunner().invoke(PROGRAM, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return "".join(done.output.split("\n"))


@pytest.fixture()
def place(tmp_path: Path) -> Path:
    """A folder with a run.json."""
    write_record(comparison(("dense", "rigl"), (0, 1)), tmp_path / "run.json")
    return tmp_path


def test_the_page_is_made_beside_the_record(place: Path) -> None:
    assert said(place).endswith("report.html")
    first = (place / "report.html").read_text()
    assert "rigl" in first and "made-up" in first
    assert said(place / "run.json", "--out", place / "other.html").endswith("other.html")
    assert (place / "other.html").read_text() == first


def test_an_old_record_has_a_page_too(place: Path) -> None:
    old = first_schema(comparison(("dense", "rigl"), (0, 1)))
    (place / "run.json").write_text(json.dumps(old))
    said(place)
    page = (place / "report.html").read_text()
    assert "Differences, seed by seed" in page and "an old warning" not in page


def test_check_writes_nothing(place: Path) -> None:
    assert said(place, "--check").endswith("sound, 4 runs of 2 methods")
    assert [path.name for path in place.iterdir()] == ["run.json"]


def test_errors_name_the_file_and_the_field(place: Path) -> None:
    with pytest.raises(DataNotFound, match=r"no file .*nothing\.json"):
        said(place / "nothing.json")
    record = json.loads((place / "run.json").read_text())
    record["runs"][1]["result"]["kept"] = "many"
    (place / "run.json").write_text(json.dumps(record))
    with pytest.raises(SparselandError, match=r"runs\[1\]\.result\.kept: .*'many'"):
        said(place)
    assert not (place / "report.html").exists()


def test_a_page_that_cannot_be_written(place: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        said(place, "--out", place / "run.json" / "page.html")
