"""What ``sparseland compare`` refuses, what it lets through when told, and runs taken in from other comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparseland.recipes import load

UNEQUAL = (
    "--set", "compare.methods=[dense, {name: random, train: {epochs: 3}}]", "--set", "compare.seeds=[0]",
    "--set", "epochs=1",
)  # fmt: skip


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


def test_unequal_budgets_are_refused_before_training(call: Any, tiny: Path, tmp_path: Path) -> None:
    said = call("compare", tiny, "--out", tmp_path / "out", *UNEQUAL)
    assert said.exit_code == 2
    lines = said.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: this comparison would be unfair: (1) ")
    assert "UnequalBudget: the training budgets differ (epochs: dense 1 of batch 64, random 3 of batch 64)" in lines[0]
    assert "Give every method the same epochs" in lines[0], "the fix"
    assert "--allow UnequalBudget --allow ExtendedTraining" in lines[0]
    assert not (tmp_path / "out").exists()


def test_what_is_allowed_is_trained_and_marked(call: Any, tiny: Path, tmp_path: Path) -> None:
    allow = ("--allow", "UnequalBudget", "--allow", "ExtendedTraining")
    said = call("compare", tiny, "--out", tmp_path, *UNEQUAL, *allow)
    assert said.exit_code == 0, said.output
    assert "unfair: the training budgets differ (epochs: " in said.stderr and "(UnequalBudget, allowed)" in said.stderr
    data = record(tmp_path)
    assert data["allowed"] == ["UnequalBudget", "ExtendedTraining"]
    assert data["command"].endswith("--allow UnequalBudget --allow ExtendedTraining")
    assert not data["budget"]["equal"]
    steps = {run["label"]: run["result"]["steps"] for run in data["runs"]}
    assert steps["random"] == 3 * steps["dense"]
    assert data["runs"][1]["result"]["config"]["epochs"] == 3


def test_tuning_on_test_is_refused_and_on_validation_is_kept(call: Any, tiny: Path, tmp_path: Path) -> None:
    few = ("--set", "compare.methods=[dense, random]", "--set", "compare.seeds=[0]", "--set", "epochs=1")
    said = call("compare", tiny, "--out", tmp_path, *few, "--set", "compare.tuned_on=test")
    assert said.exit_code == 2 and "TestSelection: tuned on test: dense, random" in said.stderr
    said = call("compare", tiny, "--out", tmp_path, *few, "--set", "compare.tuned_on=validation")
    assert said.exit_code == 0, said.output
    assert {run["result"]["selection"]["tuned_on"] for run in record(tmp_path)["runs"]} == {"validation"}


def test_an_unknown_guard_names_the_nearest(call: Any, tiny: Path, tmp_path: Path) -> None:
    said = call("compare", tiny, "--out", tmp_path / "out", "--allow", "UnequalBudgets")
    assert said.exit_code == 2
    assert "--allow 'UnequalBudgets': no guard of that name; did you mean 'UnequalBudget'?" in said.stderr


def test_an_unknown_place_names_the_nearest(call: Any, tiny: Path, tmp_path: Path) -> None:
    said = call("compare", tiny, "--out", tmp_path / "out", "--on", "rays")
    assert said.exit_code == 2 and "unknown on='rays': did you mean 'ray'?" in said.stderr


def test_dry_run_says_what_the_guards_say(call: Any, tiny: Path, tmp_path: Path) -> None:
    said = call("compare", tiny, "--out", tmp_path / "out", "--dry-run", *UNEQUAL)
    assert said.exit_code == 2
    assert "2 runs of tiny" in said.stdout and "UnequalBudget" in said.stderr
    said = call("compare", tiny, "--out", tmp_path / "out", "--dry-run")
    assert said.exit_code == 0 and "warning: only easy data: digits (ToyOnly)" in said.stderr
    assert not (tmp_path / "out").exists()


def test_the_differences_and_the_front_are_printed(compared: Any) -> None:
    out, said = compared
    data = record(out)["review"]
    assert "paired differences of test accuracy, seed by seed, in points" in said.stdout
    for pair in data["paired"]:
        line = next(line for line in said.stdout.splitlines() if f"{pair['a']} − {pair['b']} " in line)
        assert pair["verdict"] in line
        assert f"{100 * abs(pair['difference']):.2f}" in line
        assert pair["low"] is None or f"{100 * abs(pair['low']):.2f} to" in line
    rows = said.stdout[said.stdout.index("Pareto front") :].splitlines()
    for point in data["pareto"]:
        cells = next(row for row in rows if row.strip().startswith(f"{point['label']} "))
        assert cells.count("*") == len(point["front"])


def test_a_warning_is_said_once(compared: Any) -> None:
    assert compared[1].stderr.count("(ToyOnly)") == 1


# ------------------------------------------------------------------------------------------------------------- joining
@pytest.fixture(scope="module")
def other(call: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another comparison: a small dense net, and one more seed of one of tiny's methods."""
    folder = tmp_path_factory.mktemp("other")
    recipe = (
        "name: small\nmodel: mlp-4\ndata: digits\nlimit: 200\nepochs: 2\ncheckpoint_every: 2\n"
        "compare: {seeds: [0, 1, 2], methods: [{name: dense}]}\n"
    )
    (folder / "small.yaml").write_text(recipe)
    assert call("compare", folder / "small.yaml", "--out", folder / "runs", "--on", "inline").exit_code == 0
    return folder / "runs" / "run.json"


def test_joined_runs_stand_in_the_table_and_before_the_guards(
    call: Any, compared: Any, tiny: Path, other: Path, tmp_path: Path
) -> None:
    out, first = compared
    assert "(NoSmallDenseBaseline)" in first.stderr
    said = call("compare", tiny, "--out", out, "--join", other)
    try:
        assert said.exit_code == 0, said.output
        assert "9 of 9 runs are finished already" in said.stdout
        data = record(out)
        assert [row["label"] for row in data["aggregate"]] == ["dense", "random", "rigl", "dense (small)"]
        assert data["command"].endswith(f"--join {other}")
        joined = [run for run in data["runs"] if run["label"] == "dense (small)"]
        assert [run["seed"] for run in joined] == [0, 1, 2]
        for run, original in zip(joined, record(other.parent)["runs"], strict=True):
            assert run["result"] == original["result"]
            assert (out / run["folder"] / "best.safetensors").is_file()
        assert "dense (small)" in (out / "report.html").read_text()
    finally:
        call("compare", tiny, "--out", out)  # as the other tests want it


def test_more_seeds_of_the_same_method_keep_the_label(call: Any, tiny: Path, compared: Any, tmp_path: Path) -> None:
    out, _ = compared
    said = call("compare", tiny, "--out", tmp_path, "--on", "inline", "--join", out, "--set", "compare.seeds=[7]")
    assert said.exit_code == 0, said.output
    rows = {row["label"]: row["seeds"] for row in record(tmp_path)["aggregate"]}
    assert rows == {"dense": [7, 0, 1, 2], "random": [7, 0, 1, 2], "rigl": [7, 0, 1, 2]}


def test_the_same_seed_twice_is_another_label(call: Any, tiny: Path, compared: Any, tmp_path: Path) -> None:
    out, _ = compared
    few = ("--set", "compare.seeds=[0]", "--set", "compare.methods=[dense]", "--on", "inline")
    assert call("compare", tiny, "--out", tmp_path, *few, "--join", out).exit_code == 0
    labels = [row["label"] for row in record(tmp_path)["aggregate"]]
    assert labels == ["dense", "dense (tiny)", "random", "rigl"]


def test_guards_see_what_is_joined(call: Any, tiny: Path, compared: Any, tmp_path: Path) -> None:
    out, _ = compared
    said = call("compare", tiny, "--out", tmp_path / "out", "--join", out, "--set", "limit=100")
    assert said.exit_code == 2
    assert "DataMismatch: the runs differ in their data: limit: 100" in said.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "words"), [("nowhere/run.json", "no file nowhere/run.json"), ("{out}", "this is the comparison itself")]
)
def test_what_cannot_be_joined(path: str, words: str, call: Any, tiny: Path, compared: Any) -> None:
    out, _ = compared
    said = call("compare", tiny, "--out", out, "--join", path.format(out=out))
    assert said.exit_code == 2 and words in said.stderr


def test_inline_equals_processes(call: Any, tiny: Path, compared: Any, tmp_path: Path) -> None:
    out, _ = compared
    few = ("--set", "compare.seeds=[1]", "--set", "compare.methods=[{name: rigl, every: 2}]")
    assert call("compare", tiny, "--out", tmp_path, *few, "--on", "inline").exit_code == 0
    for name in ("best.safetensors", "log.jsonl"):
        assert (tmp_path / "rigl/seed-1" / name).read_bytes() == (out / "rigl/seed-1" / name).read_bytes()
    assert load(tiny).runs()[7].folder == "rigl/seed-1"
