"""The packaged tables are what tools/advice.py makes of the result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import advice


def test_the_packaged_tables_are_not_stale() -> None:
    found = json.loads(advice.TABLES.read_text(encoding="utf-8"))
    assert found == advice.tables(), "run python tools/advice.py"
    assert advice.main(["--check"]) == 0


def test_check_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "tables.json"
    stale.write_text('{"schema": 1, "tables": []}\n')
    monkeypatch.setattr(advice, "TABLES", stale)
    monkeypatch.setattr(advice, "ROOT", tmp_path)
    (tmp_path / "papers" / "1-x").mkdir(parents=True)
    (tmp_path / "papers" / "1-x" / "result.json").write_text(json.dumps(RESULT))
    monkeypatch.setattr(advice, "tables", lambda root=tmp_path, make=advice.tables: make(root))
    assert advice.main(["--check"]) == 1 and "stale" in capsys.readouterr().err
    assert advice.main([]) == 0 and advice.main(["--check"]) == 0


ROW = {"part": "fashion", "setting": "H=32", "arm": "er 5%", "seeds": 3, "mean": 78.77, "std": 0.03, "kept": 50,
       "total": 1000, "training_flops": 0.05, "inference_flops": 0.05}  # fmt: skip
DENSE = {**ROW, "arm": "dense", "mean": 85.55, "kept": 1000, "training_flops": 1.0}
RESULT: dict[str, Any] = {
    "schema": 1,
    "system": "1 X",
    "setting": {"fashion": "Fashion-MNIST, an MLP"},
    "ours": [
        {**DENSE, "metric": "test accuracy (%)"},
        {**DENSE, "setting": "H=64", "mean": 90.0},
        ROW,
        {**ROW, "arm": "our own trick 5%"},
        {**ROW, "metric": "calibration error", "mean": 3.0},
    ],
    "verdict": "in part",
}


def test_rows_stand_beside_the_dense_net_of_their_setting() -> None:
    rows = advice.accuracy_rows(RESULT)
    assert len(rows) == 1  # neither dense, nor an arm that is none of ours, nor another metric
    assert rows[0] == {"data": "fashion-mnist", "setting": "H=32", "method": "random", "options": {"ratios": "er"},
                       "arm": "er 5%", "sparsity": 0.95, "accuracy": 0.7877, "std": 0.0003, "seeds": 3,
                       "dense": 0.8555, "training_flops": 0.05}  # fmt: skip


def test_a_file_gives_one_table_of_each_kind() -> None:
    (accuracy,) = advice._tables_of(Path("papers/1-x/result.json"), RESULT)
    assert (accuracy["kind"], accuracy["table"], accuracy["link"]) == (
        "accuracy", "papers/1-x", "papers/1-x/result.json",
    )  # fmt: skip
    timed = {"rows": [{"n": 8, "batch": 1, "sparsity": 0.5, "speedup": {"csr": 0.5}, "stable": True}]}
    (latency,) = advice._tables_of(Path("papers/1-x/latency.json"), timed)
    assert latency["kind"] == "latency"
    assert latency["rows"] == [{"shape": [8, 8], "batch": 1, "sparsity": 0.5, "speedup": {"csr": 0.5}, "stable": True}]


def test_sizes_of_files() -> None:
    rows = [{"zeros": "0.9", "dtype": "float32", "bytes_ratio": 0.13125}, {"zeros": "2:4", "dtype": "float32",
            "bytes_ratio": 0.53}, {"zeros": "0.9", "dtype": "bfloat16", "bytes_ratio": 0.16}]  # fmt: skip
    assert advice.byte_rows({"rows": rows}) == [
        {"sparsity": 0.9, "pattern": "unstructured", "share": 0.1313},
        {"sparsity": 0.5, "pattern": "2:4", "share": 0.53},
    ]


@pytest.mark.parametrize(("row", "data"), [
    ({"part": "digits", "setting": ""}, "digits"),
    ({"part": "L9", "setting": "digits 10%"}, "digits"),
    ({"part": "L9", "setting": "fashion 10%"}, "fashion-mnist"),
    ({"part": "L1", "setting": "10%"}, "fashion-mnist"),
])  # fmt: skip
def test_the_data_of_a_row(row: dict[str, str], data: str) -> None:
    said = {"L1": "Fashion-MNIST, 10,000 images", "L9": "Fashion-MNIST; and digits"}
    assert advice.data_of(row, said) == data
