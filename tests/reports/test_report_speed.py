"""Turns, medians and ratios with a clock of our own; the benchmarks write what their READMEs promise."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from sparseland.reports.speed import summary, take_turns, write_result

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_rivals_take_turns() -> None:
    calls: list[str] = []
    now = [0.0]

    def rival(name: str, seconds: float) -> Any:
        def call() -> None:
            calls.append(name)
            now[0] += seconds

        return call

    times = take_turns({"a": rival("a", 1.0), "b": rival("b", 2.0)}, rounds=4, warm_up=1, clock=lambda: now[0])
    assert times == {"a": [1.0] * 4, "b": [2.0] * 4}
    assert len(calls) == 10 and "".join(calls[2:]) in ("abbaabba", "baabbaab")


def test_ratios_are_within_rounds() -> None:
    """A machine that halves its speed in the middle changes the medians, not the ratio."""
    found = summary({"ours": [1.0, 1.0, 2.0, 2.0], "theirs": [3.0, 3.0, 6.0, 6.0]}, "ours")
    assert found["theirs"]["ratio"] == 3.0 and found["ours"]["ratio"] == 1.0
    assert not found["ours"]["stable"]
    assert summary({"one": [1.0]}, "one")["one"] == {
        "median": 1.0,
        "p10": 1.0,
        "p90": 1.0,
        "ratio": 1.0,
        "stable": True,
    }


def test_a_result_says_where_it_comes_from(tmp_path: Path) -> None:
    data = json.loads(write_result(tmp_path / "result.json", "a claim", "a command", rows=[1]).read_text())
    assert data["claim"] == "a claim" and data["command"] == "a command" and data["rows"] == [1]
    assert data["machine"]["cores"] and data["versions"]["torch"]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def run(name: str, out: Path, *words: str) -> dict[str, Any]:
    program = BENCHMARKS / name / "run.py"
    before = sys.argv
    sys.argv = [str(program), "--out", str(out), *words]
    try:
        runpy.run_path(str(program), run_name="__main__")
    finally:
        sys.argv = before
    return json.loads(out.read_text())


def test_each_benchmark_has_a_claim_and_its_command() -> None:
    folders = [path for path in BENCHMARKS.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert {"selection", "training_overhead", "demo"} <= {path.name for path in folders}
    for folder in folders:
        text = (folder / "README.md").read_text()
        assert "**Claim.**" in text and f"python benchmarks/{folder.name}/run.py" in text


def test_selection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run("selection", tmp_path / "r.json", "--size", "20000", "--rounds", "2", "--threads", "1")
    assert len(data["rows"]) == 6
    for row in data["rows"]:
        assert row["ones"]["select"] == row["ones"]["topk"] == row["k"]
        assert row["rivals"]["select"]["ratio"] == 1.0
    assert {"topk", "kthvalue"} <= set(data["least_ratio"])
    assert data["command"] == "python benchmarks/selection/run.py --size 20000 --rounds 2"
    assert "kthvalue" in capsys.readouterr().out


def test_training_overhead(tmp_path: Path) -> None:
    data = run("training_overhead", tmp_path / "r.json", "--methods", "rigl", "--batch", "2", "--rounds", "11")
    row = data["rows"][0]
    assert row["method"] == "rigl" and row["ratio"] > 0
    assert row["update"]["updates"] == 2 and 0 <= row["update"]["share_of_run"] < 1
