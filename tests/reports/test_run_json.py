"""run.json: the schema holds on writing and on reading, names what is wrong, reads what is old, and is documented."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.reports import read_record, render, write_record
from sparseland.reports.record import SCHEMA, flags
from sparseland.reports.schema import MODELS, complaints
from sparseland.reports.schema_result import MODELS as RESULT_MODELS
from tests.reports.records import comparison, first_schema
from tools import run_json


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """A record of four methods; tests copy it."""
    return comparison(("dense", "random", "rigl", "gmp"))


@pytest.fixture()
def path(tmp_path: Path) -> Path:
    """Where a record may be written."""
    return tmp_path / "run.json"


def put(path: Path, record: Any) -> Path:
    """Write without checking, as an editor would."""
    path.write_text(json.dumps(record))
    return path


def test_what_is_written_is_read_back(made: dict[str, Any], path: Path) -> None:
    assert read_record(write_record(made, path)) == json.loads(json.dumps(made))
    assert made["schema"] == SCHEMA == 2
    assert complaints(json.loads(path.read_text())) == []


def test_it_has_the_review_and_its_flags(made: dict[str, Any]) -> None:
    review = made["review"]
    assert {(pair["a"], pair["b"]) for pair in review["paired"]} >= {("rigl", "dense"), ("gmp", "random")}
    assert len(review["pareto"]) == 4 and len(review["verdicts"]) == len(review["paired"])
    assert made["warnings"] == flags(review) != []
    assert made["allowed"] == []


def test_a_single_run_is_not_reviewed(made: dict[str, Any]) -> None:
    from sparseland.reports import make_record

    alone = make_record("train", "sparseland train", made["recipe"], made["runs"][-1:], seconds=1)
    assert alone["review"] == {"findings": [], "paired": [], "verdicts": [], "pareto": []} and not alone["warnings"]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("runs.1.result.test.accuracy", "0.9", r"runs\[1\]\.result\.test\.accuracy: .*'0\.9'"),
        ("runs.1.result.test.accuracy", 1.5, r"runs\[1\]\.result\.test\.accuracy: .*to 1; it is 1\.5"),
        ("runs.0.result.kept", 101, r"runs\[0\]\.result: keeps 101 of 100 weights"),
        ("runs.0.result.kept", -1, r"runs\[0\]\.result\.kept: .*greater than or equal to 0"),
        ("runs.2.result.layers.1.kept", 51, r"runs\[2\]\.result\.layers\[1\]: 'fc2\.weight' keeps 51 of 50"),
        ("runs.2.result.test.bins.14", [5, 6, 1.0], r"runs\[2\]\.result\.test: bins\[14\] is \[5"),
        ("runs.2.result.test.confusion.1", [0, 1], r"confusion\[1\] has 2 columns; there are 4 rows"),
        ("aggregate.2.accuracy.mean", 0.99, r"aggregate\[2\]\.accuracy\.mean: it is 0\.99; the runs give 0\."),
        ("aggregate.1.seeds", [0, 1, 7], r"aggregate\[1\]\.seeds is \[0, 1, 7\]; the runs of 'random'"),
        ("aggregate.1.label", "luck", r"aggregate has \['dense', 'luck'"),
        ("review.paired.0.verdict", "great", r"review\.paired\[0\]\.verdict: .*'great'"),
        ("review.findings.0.level", "shout", r"review\.findings\[0\]\.level: .*'refuse' or 'flag'"),
        ("notes", "mine", r"notes: a field that this schema does not have"),
        ("budget.luck", 1, r"budget\.luck: a field that this schema does not have"),
        ("created", "yesterday", r"created: .*'yesterday'"),
        ("kind", "walk", r"kind: .*'compare' or 'train'; it is 'walk'"),
        ("jobs", True, r"jobs: .*True"),
        ("runs", [], r"runs: .*at least 1 item"),
    ],
)  # fmt: skip
def test_a_hand_edited_file_is_refused_with_the_path(
    made: dict[str, Any], path: Path, where: str, value: Any, said: str
) -> None:
    edited: Any = copy.deepcopy(made)
    *steps, last = [int(step) if step.isdigit() else step for step in where.split(".")]
    place = edited
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises(SparselandError, match=said):
        read_record(put(path, edited))
    path.unlink()
    with pytest.raises(SparselandError, match=said):
        write_record(edited, path)
    assert not path.exists()


@pytest.mark.parametrize(
    "where", ["command", "recipe", "review", "runs.0.seed", "runs.0.result.layers", "budget.equal"]
)
def test_a_missing_field_is_named(made: dict[str, Any], path: Path, where: str) -> None:
    cut: Any = copy.deepcopy(made)
    *steps, last = [int(step) if step.isdigit() else step for step in where.split(".")]
    place = cut
    for step in steps:
        place = place[step]
    del place[last]
    with pytest.raises(SparselandError, match=rf"{last}: missing"):
        read_record(put(path, cut))


def test_a_result_may_say_more_and_keeps_it(made: dict[str, Any], path: Path) -> None:
    more = copy.deepcopy(made)
    more["runs"][0]["result"]["invented"] = {"later": [1]}
    more["runs"][0]["result"]["test"]["brier"] = 0.1
    assert read_record(write_record(more, path))["runs"][0]["result"]["invented"] == {"later": [1]}


def test_many_errors_are_counted(made: dict[str, Any], path: Path) -> None:
    bad = copy.deepcopy(made)
    for item in bad["runs"]:
        item["seed"] = "0"
    with pytest.raises(SparselandError, match=r"runs\[4\]\.seed: .* \(and \d+ more\)$") as found:
        read_record(put(path, bad))
    assert "runs[5]" not in str(found.value)


def test_schema_1_is_upgraded(made: dict[str, Any], path: Path) -> None:
    old = first_schema(made)
    assert "review" not in old and "bins" not in old["runs"][0]["result"]["test"]
    new = read_record(put(path, old))
    assert new["schema"] == SCHEMA and new["allowed"] == []
    assert new["review"]["paired"] == made["review"]["paired"]
    assert new["warnings"] == flags(new["review"]) and "an old warning" not in new["warnings"]
    assert json.loads(path.read_text()) == old  # the file itself is left alone
    assert read_record(write_record(new, path.with_name("new.json"))) == json.loads(json.dumps(new))


def test_a_damaged_file_of_schema_1_is_refused_before_it_is_reviewed(made: dict[str, Any], path: Path) -> None:
    old = first_schema(made)
    old["runs"][1]["result"]["steps"] = None
    with pytest.raises(SparselandError, match=r"\(schema 1\) .*runs\[1\]\.result\.steps: .*None"):
        read_record(put(path, old))


@pytest.mark.parametrize("schema", [3, 99, "2", None, True, 0, 2.0])
def test_other_schemas_are_refused(made: dict[str, Any], path: Path, schema: Any) -> None:
    later = isinstance(schema, int) and schema > 2
    said = rf"schema {schema}, which a later sparseland wrote; this one reads 1 to 2" if later else "it is no run.json"
    with pytest.raises(SparselandError, match=said):
        read_record(put(path, {**made, "schema": schema}))


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "cannot be read"), ("[]", "holds list, not an object"), ('{"schema": NaN}', "NaN is not JSON"),
     ("\x00", "cannot be read"), ("[" * 100_000, "cannot be read")],
)  # fmt: skip
def test_what_is_no_json_is_refused(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(SparselandError, match=said):
        read_record(path)


def test_what_is_cut_off_is_refused(made: dict[str, Any], path: Path) -> None:
    whole = write_record(made, path).read_bytes()
    for part in range(1, 20):
        path.write_bytes(whole[: len(whole) * part // 20])
        with pytest.raises(SparselandError, match="cannot be read"):
            read_record(path)


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"no file .*run\.json"):
        read_record(path)


def test_render_needs_nothing_but_the_file(made: dict[str, Any], path: Path) -> None:
    write_record(made, path)
    assert render(path.parent) == path.with_name("report.html") == render(path)
    assert "gmp" in path.with_name("report.html").read_text()
    with pytest.raises(DataNotFound):
        render(path.parent / "elsewhere")


def test_every_field_says_what_it_means() -> None:
    for model in (*MODELS, *RESULT_MODELS):
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_the_reference_page_is_not_stale(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_json, "ROOT", tmp_path)
    monkeypatch.setattr(run_json, "PAGE", tmp_path / "docs" / "page.md")
    assert run_json.main(["--check"]) == 1 and "stale" in capsys.readouterr().err
    assert run_json.main([]) == 0 == run_json.main(["--check"])
    page = run_json.PAGE.read_text()
    assert "| `bins` | list of list of number, *optional* | images |" in page
    for model in (*MODELS, *RESULT_MODELS):
        for name, field in model.model_fields.items():
            assert f"| `{field.alias or name}` |" in page
    links = {part.split(")")[0] for part in page.split("(#")[1:]}
    headings = {line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")}
    assert links <= headings
    run_json.PAGE.write_text(page.replace("images", "pictures"))
    assert run_json.main(["--check"]) == 1
