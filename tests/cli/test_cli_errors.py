"""Wrong input: one red line that quotes what was given and what was possible, status 2, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

WRONG: list[tuple[tuple[str, ...], str]] = [
    (("train", "dmeo"), "unknown recipe 'dmeo', and no such file: did you mean 'demo'? Possible: cifar10-resnet20"),
    (("train", "nowhere.yaml"), "no recipe file 'nowhere.yaml'; built-in recipes: cifar10-resnet20, demo"),
    (("train", "{bad}"), "bad.yaml: unknown key 'lrr'; did you mean 'lr'? Possible: "),
    (("train", "digits", "--set", "lrr=1"), "--set 'lrr=1': unknown key 'lrr'; did you mean 'lr'? Possible: "),
    (
        ("train", "digits", "--set", "optimizer.lrr=1"),
        "'optimizer.lrr=1': optimizer is 'sgd', which has nothing below it",
    ),
    (("train", "digits", "--set", "lr"), "--set 'lr': write path=value"),
    (("train", "digits", "--set", "method.sparsty=0.9"), "no hyperparameter 'sparsty': did you mean 'sparsity'?"),
    (("train", "--method", "rigl", "--sparsity", "90"), "90.0 looks like a percentage: did you mean 0.9?"),
    (("train", "--method", "rgil"), "unknown method 'rgil': did you mean 'rigl'? Possible: bip, dense, gmp"),
    (("train", "--model", "lenet-6", "--out", "{out}"), "unknown model 'lenet-6': did you mean 'lenet-5'? Possible: "),
    (("train", "--data", "digit", "--out", "{out}"), "unknown dataset 'digit': did you mean 'digits'? Possible: "),
    (
        ("train", "--data", "fashion-mnist", "--folder", "{empty}", "--out", "{out}"),
        "looked for fashion-mnist/train.npz",
    ),
    (
        ("train", "--data", "fashion-mnist", "--out", "{out}"),
        "no folder was given: set the environment variable SPARSELAND_DATA",
    ),
    (("train", "digits", "--out", "{file}/run"), "cannot write {file}/run: Not a directory"),
    (
        ("train", "digits", "--set", "method.pattern=3:7", "--out", "{out}"),
        "3:7 needs an input size divisible by 7; 'fc1.weight'",
    ),
    (("compare", "digits", "--out", "{file}/run"), "cannot write {file}/run: Not a directory"),
    (
        ("compare", "digits", "--out", "{out}", "--set", "compare.sparsity=90"),
        "compare.methods.1: sparsity is the fraction",
    ),
    (("compare", "{plain}", "--out", "{out}"), "recipe 'plain' has no 'compare' section"),
    (("compare", "fashion-mnist", "--out", "{out}"), "SPARSELAND_DATA"),
    (("compare", "digits", "--out", "{out}", "--set", "model=lenet-6"), "unknown model 'lenet-6'"),
    (
        ("prune", "{file}", "--model", "mlp-4", "--data", "digits", "--sparsity", "0.5", "--out", "{out}"),
        "no safetensors file",
    ),
    (("prune", "nowhere.safetensors", "--model", "mlp-4", "--out", "{out}"), "no weights at nowhere.safetensors"),
    (("prune", "{weights}", "--model", "mlp-4", "--sparsity", "0.5", "--out", "{out}"), "--shape CxHxW --classes N"),
    (
        ("prune", "{weights}", "--model", "mlp-4", "--data", "digits", "--sparsity", "50", "--out", "{out}"),
        "did you mean 0.5?",
    ),
    (
        ("prune", "{weights}", "--model", "mlp-4", "--data", "digits", "--method", "dense", "--out", "{out}"),
        "keeps everything",
    ),
    (
        ("prune", "{weights}", "--model", "mlp-8", "--data", "digits", "--sparsity", "0.5", "--out", "{out}"),
        "does not fit MLP",
    ),
    (
        (
            "prune",
            "{weights}",
            "--model",
            "mlp-4",
            "--data",
            "digits",
            "--sparsity",
            "0.5",
            "--out",
            "{file}/x.safetensors",
        ),
        "cannot make the folder {file}",
    ),
    (("inspect", "nowhere"), "unknown model 'nowhere': possible: "),
    (("inspect", "no/where"), "no file or folder 'no/where'"),
    (("inspect", "{empty}"), "holds no best.safetensors, run.json or packed weights"),
    (("inspect", "{file}"), "no safetensors file"),
    (("recipe", "show", "dmeo"), "did you mean 'demo'?"),
    (("recipe", "validate", "digits", "--set", "model=lenet-6"), "did you mean 'lenet-5'?"),
    (("recipe", "validate", "digits", "--set", "data=digitz"), "unknown dataset 'digitz': did you mean 'digits'?"),
]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bad.yaml").write_text("lrr: 0.1\n")
    (tmp_path / "plain.yaml").write_text("lr: 0.1\n")
    (tmp_path / "file").write_text("not a folder, not a model")
    (tmp_path / "empty").mkdir()
    state = {"fc1.weight": (4, 64), "fc1.bias": (4,), "fc2.weight": (10, 4), "fc2.bias": (10,)}
    save_file({name: torch.randn(shape) for name, shape in state.items()}, tmp_path / "weights.safetensors")
    names = {"bad": "bad.yaml", "plain": "plain.yaml", "weights": "weights.safetensors"}
    return {name: str(tmp_path / names.get(name, name)) for name in ("bad", "plain", "file", "empty", "out", "weights")}


@pytest.mark.parametrize(
    ("words", "said"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_wrong_input(
    words: tuple[str, ...], said: str, call: Any, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARSELAND_DATA", raising=False)
    result = call(*(word.format(**places) for word in words))
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert said.format(**places) in lines[0]
    assert "Traceback" not in result.output
    assert not list(Path(places["out"]).glob("*.tmp"))


def test_debug_shows_where_it_came_from(call: Any) -> None:
    from sparseland.core.errors import RecipeError

    for words in (("--debug", "train", "dmeo"), ("train", "dmeo", "--debug")):
        result = call(*words)
        assert isinstance(result.exception, RecipeError)


def test_ctrl_c_is_130(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sparseland.papers

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sparseland.papers, "systems", interrupted)
    result = call("papers")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr and "Traceback" not in result.output


def test_a_bug_is_not_dressed_up(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sparseland.papers

    def broken() -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(sparseland.papers, "systems", broken)
    assert isinstance(call("papers").exception, ValueError)


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("train", "--epochs", "many"),
        ("compare", "demo"),
        ("compare", "demo", "--out", "x", "--jobs", "0"),
    ],
)
def test_what_the_options_themselves_refuse(words: tuple[str, ...], call: Any) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert "Usage: sparseland" in result.stderr
