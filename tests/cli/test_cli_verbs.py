"""train, prune, inspect, papers and recipe, on tiny runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sparseland as sl

VERBS = ["train", "prune", "compare", "inspect", "papers", "recipe"]


@pytest.fixture(scope="module")
def trained(call: Any, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, call("train", tiny, "--method", "rigl", "--sparsity", "0.5", "--set", "method.every=2", "--out", out)


def test_help_names_every_verb_and_every_verb_has_examples(call: Any) -> None:
    said = call("--help")
    assert said.exit_code == 0
    for verb in VERBS:
        assert verb in said.stdout
    for verb in [*VERBS[:-1], *(("recipe", v) for v in ("list", "show", "python", "validate"))]:
        words = (verb,) if isinstance(verb, str) else verb
        helped = call(*words, "--help")
        assert helped.exit_code == 0
        assert "Example" in helped.stdout and f"sparseland {' '.join(words)}" in helped.stdout


def test_version(call: Any) -> None:
    assert call("--version").stdout.strip() == f"sparseland {sl.__version__}"


def test_the_program_starts_without_torch() -> None:
    """--help is quick because nothing heavy is loaded for it."""
    heavy = ("torch", "pydantic", "matplotlib")
    code = f"import sys\nimport sparseland.cli.app\nprint([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_train_writes_a_run(trained: Any) -> None:
    out, said = trained
    assert said.exit_code == 0, said.output
    assert "kept 592 of 1,184 weights (50.00% zeros)" in said.stdout
    for name in ("best.safetensors", "result.json", "run.json", "report.html", "log.jsonl"):
        assert (out / name).is_file()
    result = json.loads((out / "result.json").read_text())
    assert result["config"]["method"] == {"name": "rigl", "sparsity": 0.5, "every": 2}
    assert result["config"]["model"] == "mlp-16"
    data = json.loads((out / "run.json").read_text())
    assert data["kind"] == "train" and len(data["runs"]) == 1 and data["warnings"] == []
    assert "--method rigl --sparsity 0.5" in data["command"]


def test_train_does_not_overwrite_by_itself(trained: Any, call: Any, tiny: Path) -> None:
    out, _ = trained
    words = ("train", tiny, "--method", "rigl", "--sparsity", "0.5", "--set", "method.every=2", "--out", out)
    refused = call(*words)
    assert refused.exit_code == 2 and "--resume goes on with it, --overwrite throws it away" in refused.stderr
    resumed = call(*words, "--resume")
    assert resumed.exit_code == 0 and "kept 592" in resumed.stdout
    assert call(*words, "--overwrite").exit_code == 0


def test_dry_run_says_everything_and_does_nothing(call: Any, tiny: Path, tmp_path: Path) -> None:
    said = call(
        "train",
        tiny,
        "--method",
        "gmp",
        "--sparsity",
        "0.9",
        "--set",
        "method.every=2",
        "--out",
        tmp_path / "x",
        "--dry-run",
    )
    assert said.exit_code == 0, said.output
    assert "118 of them kept at the end" in said.stdout
    assert "2 epochs × 4 = 8 optimizer steps" in said.stdout
    assert "Cubic" in said.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_finds_what_would_stop_the_run(call: Any, tiny: Path) -> None:
    said = call("train", tiny, "--method", "rigl", "--set", "method.end=5000", "--dry-run")
    assert said.exit_code == 2 and "beyond the end of the run (8 steps)" in said.stderr


def test_inspect_a_file_a_run_and_a_model(trained: Any, call: Any, tmp_path: Path) -> None:
    out, _ = trained
    said = call("inspect", out)
    assert said.exit_code == 0, said.output
    assert "mlp-16 on digits, method rigl, seed 0" in said.stdout
    assert "fc1.weight" in said.stdout and "16 × 64" in said.stdout
    rows = {row["name"]: row for row in json.loads(call("inspect", out / "best.safetensors", "--json").stdout)}
    weights = load_file(out / "best.safetensors")
    assert rows["fc1.weight"]["kept"] == int((weights["fc1.weight"] != 0).sum())
    assert rows["fc1.weight"]["dense"] == 4 * 16 * 64
    model = call("inspect", "resnet-20", "--shape", "3x32x32")
    assert model.exit_code == 0 and "layer3.2.conv2.weight" in model.stdout
    assert "all tensors" in call("inspect", "lenet-300-100", "--shape", "1x28x28").stdout
    patterned = torch.ones(8, 8)
    patterned[:, 2::4] = patterned[:, 3::4] = 0
    save_file({"w": patterned}, tmp_path / "w.safetensors")
    assert "2:4, column" in call("inspect", tmp_path / "w.safetensors").stdout


def test_prune_measures_before_and_after(trained: Any, call: Any, tmp_path: Path) -> None:
    out, _ = trained
    target = tmp_path / "new" / "pruned.safetensors"
    said = call(
        "prune", out / "best.safetensors", "--model", "mlp-16", "--data", "digits", "--sparsity", "0.75",
        "--set", "method.pattern=1:4", "--out", target,
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert re.search(r"test +\d+\.\d\d % +\d+\.\d\d %", said.stdout)
    pruned = load_file(target)
    assert int((pruned["fc1.weight"].view(16, -1, 4) != 0).sum(-1).max()) <= 1
    kept = sum(int((pruned[f"fc{i}.weight"] != 0).sum()) for i in (1, 2))
    assert kept <= 296 and "kept 296 of 1,184 weights" in said.stdout
    model = sl.zoo.build("mlp-16", in_shape=(1, 8, 8), classes=10)
    sl.zoo.load_weights(model, target)


def test_prune_packed_and_again_from_packed(trained: Any, call: Any, tmp_path: Path) -> None:
    out, _ = trained
    words = ("--model", "mlp-16", "--shape", "1x8x8", "--classes", "10")
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    assert (
        call("prune", out / "best.safetensors", *words, "--sparsity", "0.75", "--packed", "--out", one).exit_code == 0
    )
    assert sl.deploy.is_packed(one)
    said = call("prune", one, *words, "--sparsity", "0.9", "--ignore", "fc2.weight", "--out", two)
    assert said.exit_code == 0, said.output
    first, second = sl.deploy.load(one), load_file(two)
    assert int((second["fc1.weight"] != 0).sum()) == 102
    assert torch.equal(first["fc2.weight"], second["fc2.weight"])


def test_prune_with_a_criterion_that_measures(trained: Any, call: Any, tmp_path: Path) -> None:
    out, _ = trained
    words = (
        "prune",
        out / "best.safetensors",
        "--model",
        "mlp-16",
        "--method",
        "snip",
        "--sparsity",
        "0.8",
        "--out",
        tmp_path / "x.safetensors",
    )
    assert call(*words, "--data", "digits").exit_code == 0
    said = call(*words, "--shape", "1x8x8", "--classes", "10")
    assert said.exit_code == 2 and "data" in said.stderr


def test_papers(call: Any) -> None:
    said = call("papers")
    assert said.exit_code == 0
    assert "11-granet" in said.stdout and "54-bip" in said.stdout and "55 systems" in said.stdout
    rows = json.loads(call("papers", "--json").stdout)
    assert len(rows) == 55 and len({row["slug"] for row in rows}) == 55
    assert all(re.fullmatch(r"\d\d-[a-z0-9-]+", row["slug"]) for row in rows)
    found = json.loads(call("papers", "optimal transport", "--json").stdout)
    assert [row["number"] for row in found] == ["19"]


def test_recipe_verbs(call: Any, tiny: Path, tmp_path: Path) -> None:
    assert "fashion-mnist" in call("recipe", "list").stdout
    shown = call("recipe", "show", "demo", "--set", "compare.sparsity=0.95").stdout
    assert "sparsity: 0.95" in shown
    (tmp_path / "again.yaml").write_text(shown)
    assert call("recipe", "show", tmp_path / "again.yaml").stdout == shown
    assert "weight_decay" in call("recipe", "show", "demo", "--full").stdout
    program = call("recipe", "python", tiny).stdout
    compile(program, "program", "exec")
    assert "tiny is fine: mlp-16 on digits; compares dense, random, rigl" in call("recipe", "validate", tiny).stdout


def test_all_built_in_recipes_are_valid(call: Any) -> None:
    for name in sl.recipes.names():
        assert call("recipe", "validate", name).exit_code == 0
