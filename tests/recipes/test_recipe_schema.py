"""A recipe is lossless, checked when it is made, and printable as the Python it equals."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparseland.core.errors import DataNotFound, InfeasibleBudget, RecipeError, SparselandError
from sparseland.recipes import Recipe, build, load, names, override
from sparseland.train import TrainConfig

TINY = {
    "name": "tiny", "description": 'A "quoted" one: 2:4', "model": "mlp-16", "data": "digits", "epochs": 1,
    "limit": 128,
    "method": {"name": "rigl", "sparsity": 0.5, "every": 1, "pattern": "2:4"}, "lr": 1e-2, "ignore": ["fc2.weight"],
    "compare": {"methods": [{"name": "dense"}, {"name": "set", "every": 1}], "seeds": [0, 1], "sparsity": 0.75},
}  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_built_in_recipes_are_lossless(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.description
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    compile(recipe.to_python(), name, "exec")


def test_the_built_in_ones_are_those_of_the_manual() -> None:
    assert names() == ["cifar10-resnet20", "demo", "digits", "fashion-mnist"]
    demo = load("demo")
    assert demo.labels() == ["dense", "random", "set", "rigl", "gmp", "granet"]
    assert demo.compare is not None and demo.compare.seeds == (0, 1, 2)
    assert {run.config.method.get("sparsity") for run in demo.runs()} == {None, 0.9}


def test_a_recipe_of_ones_own_is_lossless() -> None:
    recipe = Recipe.from_dict(TINY)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.config.lr == 0.01
    assert recipe != Recipe.from_dict({**TINY, "lr": 0.02})


def test_what_is_at_its_default_is_not_written() -> None:
    assert Recipe().brief() == {}
    assert list(Recipe.from_dict({"lr": 0.3}).brief()) == ["lr"]
    assert set(Recipe().to_dict()) == {"name", "description", *TrainConfig().to_dict()}


def test_runs_are_methods_times_seeds() -> None:
    runs = Recipe.from_dict(TINY).runs()
    assert [(run.label, run.seed) for run in runs] == [("dense", 0), ("dense", 1), ("set", 0), ("set", 1)]
    assert runs[0].config.method == {"name": "dense"}
    assert runs[3].config.method == {"name": "set", "every": 1, "sparsity": 0.75}
    assert runs[3].config.seed == 1 and runs[3].config.lr == 0.01
    assert runs[3].folder == "set/seed-1"
    with pytest.raises(RecipeError, match="no 'compare' section"):
        Recipe().runs()


def test_labels_tell_methods_of_one_name_apart() -> None:
    methods = [
        {"name": "rigl", "sparsity": 0.9},
        {"name": "rigl", "sparsity": 0.95},
        {"name": "set", "label": "SET / own"},
    ]
    recipe = Recipe.from_dict({"compare": {"methods": methods}})
    assert recipe.labels() == ["rigl sparsity=0.9", "rigl sparsity=0.95", "SET / own"]
    assert {run.folder for run in recipe.runs() if run.seed == 0} == {
        "rigl-sparsity=0.9/seed-0", "rigl-sparsity=0.95/seed-0", "SET---own/seed-0",
    }  # fmt: skip


OWN = {
    **TINY,
    "compare": {
        "methods": [
            "dense", {"name": "dense", "train": {"epochs": 2, "milestones": [0.5]}}, {"name": "set", "every": 1},
        ],
        "seeds": [0, 1], "sparsity": 0.75, "tuned_on": "validation",
    },
}  # fmt: skip


def test_a_method_may_train_in_its_own_way() -> None:
    recipe = Recipe.from_dict(OWN)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.compare is not None and recipe.compare.tuned_on == "validation"
    assert recipe.labels() == ["dense", "dense epochs=2 milestones=[0.5]", "set"]
    runs = [run.config for run in recipe.runs() if run.seed == 0]
    assert [(config.epochs, config.milestones) for config in runs] == [(1, (0.5, 0.75)), (2, (0.5,)), (1, (0.5, 0.75))]
    assert runs[1].method == {"name": "dense"}, "training fields are no hyperparameters"
    assert runs[1] == runs[0].replace(epochs=2, milestones=(0.5,)), "the rest is the recipe's"


def test_the_printed_program_of_a_method_that_trains_in_its_own_way(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(Recipe.from_dict(OWN).to_python())
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for run in Recipe.from_dict(OWN).runs():
        result = json.loads((tmp_path / "runs/tiny" / run.label / f"seed-{run.seed}" / "result.json").read_text())
        assert result["config"] == run.config.to_dict()


def test_what_is_shared_and_what_is_ones_own_are_all_fields() -> None:
    from sparseland.recipes.schema import OWN_TRAINING, SHARED

    assert {*OWN_TRAINING, *SHARED} == set(TrainConfig().to_dict())
    for field in SHARED:
        with pytest.raises(RecipeError, match=f"train.{field} is the same for all runs of a comparison"):
            Recipe.from_dict({"compare": {"methods": [{"name": "rigl", "train": {field: 1}}]}})


def test_a_bare_name_is_a_method() -> None:
    recipe = Recipe.from_dict({"method": "rigl", "compare": {"methods": ["dense", "random"]}})
    assert recipe.config.method == {"name": "rigl"}
    assert recipe.labels() == ["dense", "random"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"lrr": 0.1}, r"unknown key 'lrr'; did you mean 'lr'\?"),
    ({"compare": {"methods": ["dense"], "seedz": [1]}}, r"compare: unknown key 'seedz'; did you mean 'seeds'\?"),
    ({"compare": {"seeds": [1]}}, "compare.methods is missing"),
    ({"compare": {"methods": []}}, "compare.methods is .*empty"),
    ({"compare": {"methods": ["dense"], "seeds": ["a"]}}, "compare.seeds.0 is 'a', which is no integer"),
    ({"compare": {"methods": ["dense"], "seeds": [0, 0]}}, "given twice"),
    ({"compare": {"methods": ["dense"], "seeds": 3}}, "compare.seeds is 3, which is no list"),
    ({"compare": {"methods": ["dense", {"name": "set", "label": "dense"}]}}, "two are labelled 'dense'"),
    (
        {"compare": {"methods": ["dense", {"name": "rgil"}]}},
        r"compare.methods.1: unknown method 'rgil': did you mean 'rigl'\?",
    ),
    ({"compare": {"methods": [{"name": "rigl", "sparsty": 1}]}}, r"compare.methods.0: .*did you mean 'sparsity'\?"),
    ({"compare": 3}, "compare is 3, which is no mapping"),
    (
        {"compare": {"methods": [{"name": "set", "train": {"epohcs": 3}}]}},
        r"compare.methods.0: train: unknown key 'epohcs'; did you mean 'epochs'\?",
    ),
    ({"compare": {"methods": [{"name": "set", "train": 3}]}}, "compare.methods.0: train is 3, which is no mapping"),
    ({"compare": {"methods": [{"name": "set", "train": {"lr": "x"}}]}}, "compare.methods.0: lr is 'x', which is no"),
    ({"compare": {"methods": ["set"], "tuned_on": "tests"}}, "tuned_on is 'tests'; possible: 'validation' or 'test'"),
    (
        {"compare": {"methods": [{"name": "set", "label": "a b"}, {"name": "set", "label": "A-b"}]}},
        "'a b' and another label would share the folder 'a-b'",
    ),
    ({"method": {"name": "rigl", "drpo": 0.1}}, r"method: .*no hyperparameter 'drpo': did you mean 'drop'\?"),
    ({"method": {"kind": "method", "growht": "none"}}, r"did you mean 'growth'\?"),
    ({"epochs": 2.5}, "epochs is 2.5, which is no integer"),
    ({"lr": "fast"}, "lr is 'fast', which is no number"),
    ({"optimizer": "sgdd"}, r"did you mean 'sgd'\?"),
    ({"name": 3}, "name is 3, which is no text"),
]


@pytest.mark.parametrize(("data", "said"), BAD)
def test_what_is_wrong_is_named_with_its_path(data: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe.from_dict(data)


def test_a_percentage_is_no_sparsity() -> None:
    with pytest.raises(InfeasibleBudget, match=r"method: .*90 looks like a percentage: did you mean 0.9\?"):
        Recipe.from_dict({"method": {"name": "rigl", "sparsity": 90}})
    with pytest.raises(InfeasibleBudget, match=r"compare.methods.0: .*did you mean 0.9\?"):
        Recipe.from_dict({"compare": {"methods": ["rigl"], "sparsity": 90.0}})


def test_settings_are_typed_and_reach_into_lists() -> None:
    recipe = load(
        "demo", ["lr=1e-3", "compare.seeds=[0,1]", "compare.methods.3.drop=0.5", "method.name=gmp", "clip=null"]
    )
    assert recipe.config.lr == 0.001
    assert recipe.compare is not None and recipe.compare.seeds == (0, 1)
    assert recipe.compare.methods[3]["drop"] == 0.5
    assert recipe.config.method == {"name": "gmp"}
    assert build({}, ["model_options.width=8"]).config.model_options == {"width": 8}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lr", "write path=value"),
        ("=3", "write path=value"),
        ("a..b=3", "write path=value"),
        ("lrr=1", r"unknown key 'lrr'; did you mean 'lr'\?"),
        (
            "optimizer.lrr=0.1",
            r"'optimizer.lrr=0.1': optimizer is 'sgd', which has nothing below it.*did you mean 'lr'\?",
        ),
        ("compare.methods.9.name=set", "compare.methods is a list of 6; items are 0, 1, 2, 3, 4, 5"),
        ("compare.methods.x.name=set", "compare.methods is a list of 6"),
        ("compare.seeds=[0", "--set 'compare.seeds=\\[0'"),
        ("compare.seedz=[0]", r"did you mean 'seeds'\?"),
    ],
)
def test_settings_that_go_nowhere(setting: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load("demo", [setting])


def test_override_leaves_what_it_was_given() -> None:
    data = {"compare": {"seeds": [0]}}
    assert override(data, ["compare.seeds=[1]"]) == {"compare": {"seeds": [1]}}
    assert data == {"compare": {"seeds": [0]}}


def test_recipes_are_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("lr: 1e-2\n")
    assert load("mine.yaml").name == "mine"
    assert load(tmp_path / "mine.yaml").config.lr == 0.01
    with pytest.raises(RecipeError, match=r"unknown recipe 'dmeo'.*did you mean 'demo'\?"):
        load("dmeo")
    with pytest.raises(DataNotFound, match=r"no recipe file 'other.yaml'; built-in"):
        load("other.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(RecipeError, match=r"list.yaml: a recipe is a mapping"):
        load("list.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SparselandError, match=r"bytes.yaml"):
        load("bytes.yaml")


def test_the_printed_program_does_what_the_recipe_does(tmp_path: Path) -> None:
    """In a process of its own, warnings being errors."""
    from sparseland.train import run

    recipe = Recipe.from_dict(TINY)
    (tmp_path / "program.py").write_text(recipe.to_python())
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dense" in done.stdout and "set" in done.stdout
    last = recipe.runs()[-1]
    result = json.loads((tmp_path / "runs" / "tiny" / "set" / "seed-1" / "result.json").read_text())
    assert result["config"] == last.config.to_dict()
    again = run(last.config, tmp_path / "again", progress=False)
    assert again["kept"] == result["kept"] and again["steps"] == result["steps"]


def test_the_printed_program_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.from_dict({key: value for key, value in TINY.items() if key != "compare"})
    (tmp_path / "program.py").write_text(recipe.to_python())
    monkeypatch.chdir(tmp_path)
    runpy.run_path("program.py", run_name="__main__")
    result = json.loads((tmp_path / "runs" / "tiny" / "result.json").read_text())
    assert result["config"] == recipe.config.to_dict()
    assert f"{result['test']['accuracy']:.2%} with {result['kept']:,} of {result['total']:,}" in capsys.readouterr().out
