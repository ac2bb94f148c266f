"""``sparseland advise``: options, files, questions on a terminal, and errors of one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def call() -> Call:
    """The program with the verb in it, as `sparseland.cli.app` makes it."""
    import typer

    from sparseland.cli import advise, inspect
    from sparseland.cli.app import Verbs, root

    app = typer.Typer(cls=Verbs, pretty_exceptions_enable=False)
    app.callback()(root)
    for module in (advise, inspect):
        module.add(app)
    return lambda *words, **more: CliRunner().invoke(app, ["advise", *map(str, words)], **more)


def test_an_answer_and_its_links(call: Call) -> None:
    said = call("--goal", "accuracy", "--sparsity", 0.95, "--data", "fashion-mnist")
    assert said.exit_code == 0
    assert "method " in said.stdout and "pattern   unstructured" in said.stdout
    assert "[papers/11-granet/result.json]" in said.stdout or "[papers/14-sparseland-handbook/" in said.stdout


def test_json_is_the_advice(call: Call) -> None:
    from sparseland.advisor import advise

    said = call("--goal", "memory", "--sparsity", 0.9, "--json")
    found = json.loads(said.stdout)
    assert found.pop("measured") == []
    assert found == advise("memory", sparsity=0.9).to_dict()


@pytest.mark.parametrize("text", ["goal: training\nsparsity: 0.98\n", '{"goal": "training", "sparsity": 0.98}'])
def test_a_file_and_options_over_it(call: Call, text: str, tmp_path: Path) -> None:
    path = tmp_path / "goal.yaml"
    path.write_text(text)
    assert json.loads(call("--from", path, "--json").stdout)["sparsity"] == 0.98
    assert json.loads(call("--from", path, "--sparsity", 0.95, "--json").stdout)["sparsity"] == 0.95


def test_measuring_puts_this_device_first(call: Call) -> None:
    said = call("--goal", "speed", "--shape", "64x32", "--measure", "--json")
    assert said.exit_code == 0
    found = json.loads(said.stdout)
    assert {row["sparsity"] for row in found["measured"]} == {0.5, 0.8, 0.9, 0.95, 0.99}
    assert all(row["shape"] == [64, 32] for row in found["measured"])
    assert any(reason["table"] == "this device" for reason in found["reasons"])
    lines = call("--goal", "speed", "--shape", "64x32", "--measure").stdout
    assert "Speed over dense, 64 x 32, batch 1" in lines and "csr: " in lines


@pytest.mark.parametrize(("words", "said"), [
    ((), "no goal: give --goal"),
    (("--goal", "sped"), "did you mean 'speed'"),
    (("--goal", "speed", "--shape", "big"), "--shape is 'big'"),
    (("--goal", "speed", "--sparsity", "2"), "possible: a number in (0, 1)"),
    (("--goal", "speed", "--measure", "--device", "nope"), "--device nope says nothing about hardware 'cpu'"),
    (("--goal", "speed", "--measure", "--hardware", "gpu", "--device", "nope"), "cannot be used here; possible: cpu"),
    (("--goal", "speed", "--measure", "--hardware", "gpu"), "--device cpu says nothing about hardware 'gpu'"),
    (("--from", "nowhere.yaml"), "no file nowhere.yaml"),
])  # fmt: skip
def test_wrong_input_is_one_line(call: Call, words: tuple[str, ...], said: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.stderr and result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")


@pytest.mark.parametrize(("text", "said"), [
    ("[1, 2]", "a goal is a mapping"), ("goal: speed\nhardwear: cpu", "did you mean 'hardware'"), ("", "no goal"),
    ("goal: speed\nshape: 3", "two integers"),
])  # fmt: skip
def test_wrong_files_are_named(call: Call, text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "goal.yaml"
    path.write_text(text)
    result = call("--from", path)
    assert result.exit_code == 2 and said in result.stderr


def test_a_terminal_is_asked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import sparseland.cli.advise as verb

    monkeypatch.setattr(verb, "_asks", lambda: True)
    said = call("--json", input="trainingg\ntraining\n\nscratch\n0.98\n\ndigits\n")
    assert said.exit_code == 0, said.output
    assert said.stderr.count("What matters most") == 2 and "'trainingg' is none of them" in said.stderr
    assert "Fraction of zeros" in said.stderr
    found = json.loads(said.stdout[said.stdout.index("{") :])  # the runner shows there what was typed
    assert found["sparsity"] == 0.98 and "digits" in found["reasons"][0]["text"]
    again = call("--goal", "speed", "--hardware", "cpu", input="\n0.9\n0.5\n\n")
    assert "What matters most" not in again.output and again.exit_code == 0
