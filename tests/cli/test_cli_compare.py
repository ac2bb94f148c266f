"""``sparseland compare``: every run once, equal budgets, exact numbers, and it goes on after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sparseland.deploy import packed_bytes


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


def test_the_table_has_every_method_and_the_files_are_named(compared: Any) -> None:
    out, said = compared
    assert said.exit_code == 0, said.output
    for label in ("dense", "random", "rigl"):
        assert label in said.stdout
    assert "Equal training budget for all: 2 epochs in batches of 64 (8 steps), sgd, lr 0.1 cosine" in said.stdout
    assert str(out / "run.json") in said.stdout and str(out / "report.html") in said.stdout
    assert "no 'dense' baseline" not in said.stderr
    assert sorted(path.name for path in out.iterdir()) == ["dense", "random", "report.html", "rigl", "run.json"]


def test_the_record_is_complete_and_exact(compared: Any, tiny: Path) -> None:
    from safetensors.torch import load_file

    out, _ = compared
    data = record(out)
    assert data["kind"] == "compare" and data["allowed"] == []
    assert data["command"] == f"sparseland compare {tiny} --out {out}"
    assert data["budget"]["equal"] and data["budget"]["steps"] == [8]
    assert data["machine"]["threads"] == 1
    assert len(data["runs"]) == 9 and data["failed"] == []
    rows = {row["label"]: row for row in data["aggregate"]}
    assert rows["rigl"]["kept"]["values"] == [296, 296, 296]  # a quarter of 64 · 16 + 16 · 10
    assert rows["dense"]["kept"]["values"] == [1184] * 3
    for run in data["runs"]:
        weights = load_file(out / run["folder"] / "best.safetensors")
        assert run["packed"] == packed_bytes(weights)
        assert run["nonzeros"] == sum(int((weights[f"fc{i}.weight"] != 0).sum()) for i in (1, 2))
        assert run["nonzeros"] <= run["result"]["kept"]
    accuracy = [run["result"]["test"]["accuracy"] for run in data["runs"] if run["label"] == "rigl"]
    assert rows["rigl"]["accuracy"]["values"] == accuracy
    assert rows["rigl"]["accuracy"]["mean"] == pytest.approx(sum(accuracy) / 3)
    assert rows["random"]["inference_flops"]["mean"] == 2 * 296
    assert {run["seed"] for run in data["runs"]} == {0, 1, 2}


def test_finished_runs_are_not_trained_again(compared: Any, call: Any, tiny: Path) -> None:
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*") if path.is_file()}
    again = call("compare", tiny, "--out", out)
    assert again.exit_code == 0
    assert "9 of 9 runs are finished already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*/*") if path.is_file()} == before


def test_a_folder_of_another_comparison_is_refused(compared: Any, call: Any, tiny: Path) -> None:
    out, _ = compared
    other = call("compare", tiny, "--out", out, "--set", "lr=0.2")
    assert other.exit_code == 2
    assert "lr was 0.1, now it is 0.2; give another --out, or --overwrite" in other.stderr


def test_dry_run_lists_and_does_nothing(call: Any, tiny: Path, tmp_path: Path) -> None:
    said = call("compare", tiny, "--out", tmp_path / "out", "--dry-run", "--set", "compare.seeds=[7]")
    assert said.exit_code == 0
    assert "3 runs of tiny" in said.stdout and "rigl/seed-7" in said.stdout
    assert list(tmp_path.iterdir()) == []


def test_inspect_shows_the_table_again(compared: Any, call: Any) -> None:
    out, first = compared
    said = call("inspect", out)
    assert said.exit_code == 0
    table = [line for line in first.stdout.splitlines() if "±" in line and not line.startswith("tiny")]
    assert table and all(line in said.stdout for line in table)
    rows = json.loads(call("inspect", out, "--json").stdout)
    assert [row["label"] for row in rows] == ["dense", "random", "rigl"]


def test_a_run_that_fails_leaves_the_others(call: Any, tiny: Path, tmp_path: Path) -> None:
    """A pruning procedure of no round: the comparison says so and ends with 1."""
    said = call(
        "compare", tiny, "--out", tmp_path, "--jobs", "1", "--set", "compare.seeds=[0]", "--set", "epochs=1",
        "--set", "compare.methods=[dense,{name: imp, rounds: 0}]", "--allow", "UnequalBudget",
        "--allow", "ExtendedTraining",
    )  # fmt: skip
    assert said.exit_code == 1, said.output
    assert "failed: imp seed 0: rounds 0 (possible: 1 …)" in said.stderr
    assert "[2/2] imp seed 0: failed: rounds 0 (possible: 1 …)" in said.stdout, "not tried again: it would fail again"
    assert "Traceback" not in said.output and "ScheduleError" in (tmp_path / "failures.log").read_text()
    assert "no 'random' baseline" in said.stderr and "(OneSeed)" in said.stderr
    data = record(tmp_path)
    assert [run["label"] for run in data["runs"]] == ["dense"]
    assert data["failed"][0]["label"] == "imp"
    assert "imp seed 0 failed" in (tmp_path / "report.html").read_text()


LONG = ("--set", "epochs=150", "--set", "limit=64", "--set", "checkpoint_every=5", "--set", "compare.seeds=[0]",
        "--set", "compare.methods=[rigl]", "--set", "batch_size=16")  # fmt: skip


def test_it_goes_on_after_an_interruption(tiny: Path, tmp_path: Path, call: Any) -> None:
    from sparseland.recipes import load
    from sparseland.train import run

    command = [sys.executable, "-m", "sparseland.cli", "compare", str(tiny), "--out", str(tmp_path / "out"), *LONG]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "out" / "rigl" / "seed-0"
    deadline = time.monotonic() + 120
    while not (folder / "log.jsonl").is_file() and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 130, said
    assert "interrupted" in said and "Traceback" not in said
    assert (folder / "last").is_dir() and not (folder / "result.json").exists()
    done = call("compare", tiny, "--out", tmp_path / "out", *LONG)
    assert done.exit_code == 0, done.output
    result = json.loads((folder / "result.json").read_text())
    assert result["resumed"] == 1
    config = load(tiny, [word for word in LONG if word != "--set"]).runs()[0].config
    unbroken = run(config.replace(threads=1), tmp_path / "unbroken", progress=False)
    for key in ("history", "masks", "layers", "validation", "test", "flops"):
        assert result[key] == unbroken[key]
