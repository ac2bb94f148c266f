"""``sparseland compare --speed``: milliseconds of trained nets in run.json, on the screen and on the page."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparseland.kernels import available


@pytest.mark.skipif(not available(), reason="the engine is not built")
def test_compare_with_speed(compared: tuple[Path, Any], tiny: Path, call: Any, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(compared[0], out)
    result = call("compare", tiny, "--out", out, "--speed", "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert "engine, sparse" in result.stdout and "dense / sparse" in result.stdout
    record = json.loads((out / "run.json").read_text())
    assert [row["label"] for row in record["speed"]] == ["dense", "random", "rigl"]
    assert all(row[key] > 0 for row in record["speed"] for key in ("torch_ms", "dense_ms", "sparse_ms"))
    assert all(row["threads"] == 1 and row["seed"] == 0 for row in record["speed"])
    assert record["command"].endswith("--speed")
    assert '<section id="speed">' in (out / "report.html").read_text()
    again = call("report", out)  # made anew from run.json alone
    assert again.exit_code == 0 and '<section id="speed">' in (out / "report.html").read_text()


def test_a_record_without_speed_has_no_section(compared: tuple[Path, Any]) -> None:
    out, _ = compared
    assert "speed" not in json.loads((out / "run.json").read_text())
    assert 'id="speed"' not in (out / "report.html").read_text()


def test_speed_needs_the_engine(tiny: Path, call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseland import kernels
    from sparseland.core.errors import SparselandError

    def missing() -> Any:
        raise SparselandError("the native extension of sparseland is not built")

    monkeypatch.setattr(kernels, "native", missing)
    result = call("compare", tiny, "--out", tmp_path / "none", "--speed")
    assert result.exit_code != 0
    assert "not built" in result.output + str(result.exception)
    assert not (tmp_path / "none").exists(), "refused before anything was trained"


def test_what_a_row_may_say() -> None:
    from sparseland.reports.record import check
    from tests.reports.records import comparison

    record = comparison(("dense", "rigl"))
    row = {"label": "rigl", "seed": 0, "torch_ms": 3.0, "dense_ms": 2.0, "sparse_ms": 1.0, "threads": 1, "isa": "avx2"}
    check({**record, "speed": [row]})
    for wrong in ({"sparse_ms": -1.0}, {"threads": 0}, {"label": 3}):
        with pytest.raises(Exception, match="speed"):
            check({**copy.deepcopy(record), "speed": [{**row, **wrong}]})
