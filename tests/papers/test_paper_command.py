"""``sparseland papers``: the list, and one system in full."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from sparseland import papers


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Any:
    from sparseland.cli.app import app

    monkeypatch.delenv("COLUMNS", raising=False)
    return lambda *words: CliRunner().invoke(app, ["papers", *words], prog_name="sparseland")


def test_one_system(say: Any) -> None:
    result = papers.result_of("11-granet")
    assert result is not None
    for name in ("11", "11-granet"):
        said = say(name)
        assert said.exit_code == 0
        flat = " ".join(said.stdout.split())
        assert f"verdict {result['verdict']}: {result['why']}" in flat and result["command"] in flat
        assert result["claim"]["value"] in flat and all(f"missing {text}" in flat for text in result["missing"])
        row = result["ours"][4]
        assert f"{row['arm']} test accuracy (%) {row['mean']:.2f} ± {row['std']:.2f} {row['seeds']}" in flat


def test_one_system_that_is_not_measured(say: Any) -> None:
    said = say("45-dsnot")
    assert said.exit_code == 0 and "not yet: nothing is measured, papers/45-dsnot/ has no result.json" in said.stdout


def test_json(say: Any) -> None:
    (one,) = json.loads(say("02", "--json").stdout)
    assert one["slug"] == "02-random-pruning" and one["result"]["verdict"] == one["verdict"]
    rows = json.loads(say("--json").stdout)
    assert len(rows) == 55 and all("result" not in row for row in rows)


def test_an_installed_package_says_that_it_has_no_table(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseland.papers.catalog._checkout", lambda: None)
    said = say("11-granet")
    assert said.exit_code == 0 and "verdicts only" in said.stdout and "GMP 5%" not in said.stdout


def test_done_and_search(say: Any) -> None:
    assert "of 55 systems" in say("optimal transport").stdout
    assert say("--done").exit_code == 0
