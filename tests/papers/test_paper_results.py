"""Every result.json follows the one schema, and a fault in one is named by its JSON path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparseland import papers
from sparseland.core.errors import DataNotFound, SparselandError
from tools import readme

ROOT = Path(__file__).resolve().parents[2]
MEASURED = sorted((ROOT / "papers").glob("*/result.json"))


def example() -> dict[str, Any]:
    row = {"part": "digits", "setting": "", "arm": "dense", "seeds": 2, "mean": 97.3, "std": 0.6}
    return {
        "schema": 1,
        "system": "11 GraNet",
        "claim": {"value": "as good", "source": "the abstract"},
        "setting": {"digits": "8x8, five seeds"},
        "seeds": [0, 1],
        "ours": [row, row | {"arm": "GMP 5%", "kept": 5, "total": 100, "note": "a further key"}],
        "command": "python papers/run.py 11-granet",
        "minutes": 3,
        "machine": {"cpu": "none", "cores": 2},
        "versions": {"torch": "2.13"},
        "verdict": "in part",
        "why": "It is 1.5 points below.",
        "missing": ["full scale"],
    }


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.parent.name)
def test_every_folder_follows_the_schema(path: Path) -> None:
    result = papers.read(path)
    assert result.verdict in papers.VERDICTS
    assert papers.check(result.to_dict()) == result
    assert sorted({seed for part in result.parts.values() for seed in part.seeds} or result.seeds) == result.seeds
    assert path.parent.name in {system.slug for system in papers.systems()}


def test_there_are_folders() -> None:
    assert {"02-random-pruning", "11-granet"} <= {path.parent.name for path in MEASURED}


def test_a_good_result_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(example()))
    result = papers.read(tmp_path)
    assert result == papers.read(tmp_path / "result.json")
    assert result.to_dict() == example() and next(iter(result.to_dict())) == "schema"
    assert result.ours[0].metric == "test accuracy (%)" and result.ours[1].kept == 5


PART = {"seeds": [0], "runs": 1, "minutes": 1, "machine": {}, "versions": {}}
FAULTS = [
    (("verdict",), "reproduced", r"\$\.verdict is 'reproduced'; did you mean 'reproduces'\?"),
    (("schema",), 2, r"\$\.schema is 2; possible: 1"),
    (("verdikt",), 1, r"\$\.verdikt is unknown; did you mean 'verdict'\?"),
    (("claim", "sources"), "x", r"\$\.claim\.sources is unknown; did you mean 'source'\?"),
    (("claim", "value"), " ", r"\$\.claim\.value is ' '"),
    (("ours", 1, "mean"), "97", r"\$\.ours\[1\]\.mean is '97'"),
    (("ours", 1, "mean"), float("nan"), r"\$\.ours\[1\]\.mean is nan"),
    (("ours", 0, "std"), None, r"\$\.ours\[0\]: std is None with seeds = 2"),
    (("ours", 0, "std"), -1.0, r"\$\.ours\[0\]\.std is -1\.0"),
    (("ours", 0, "part"), "digit", r"\$\.ours\[0\]\.part is 'digit'; did you mean 'digits'\?"),
    (("ours", 0, "note"), [1], r"\$\.ours\[0\]: note holds a list"),
    (("ours", 1, "arm"), "dense", r"\$\.ours\[1\] and ours\[0\] are the same row: digits, dense"),
    (("ours",), [], r"\$\.ours is 'list'.*at least 1"),
    (("seeds",), [1, 0], r"\$\.seeds: seeds rise"),
    (("seeds",), 2, r"\$\.seeds is 2"),
    (("why",), "It is. But it is not.", r"\$\.why: it is one sentence"),
    (("why",), "no full stop", r"\$\.why: it is one sentence"),
    (("minutes",), -1, r"\$\.minutes is -1"),
    (("missing",), None, r"\$\.missing is None"),
    (("parts",), {"digit": PART}, r"\$\.parts\.digit: did you mean 'digits'"),
    (("parts",), {"digits": PART | {"run": 1}}, r"\$\.parts\.digits\.run is unknown; did you mean 'runs'"),
]


@pytest.mark.parametrize(("keys", "value", "says"), FAULTS, ids=lambda v: str(v)[:40])
def test_faults_are_named_by_their_path(keys: tuple[Any, ...], value: Any, says: str) -> None:
    data = example()
    place: Any = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(SparselandError, match=rf"^mine\.json: {says}"):
        papers.check(data, "mine.json")


@pytest.mark.parametrize("key", [key for key in example() if key != "parts"])
def test_every_key_is_needed(key: str) -> None:
    data = example()
    del data[key]
    with pytest.raises(SparselandError, match=rf"\$\.{key} is missing"):
        papers.check(data)


def test_files_that_are_no_results(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="nothing is measured"):
        papers.read(tmp_path)
    (tmp_path / "result.json").write_text("[1, 2")
    with pytest.raises(SparselandError, match=r"result\.json cannot be read"):
        papers.read(tmp_path)
    (tmp_path / "result.json").write_text("[1, 2]")
    with pytest.raises(SparselandError, match="holds list, not an object"):
        papers.read(tmp_path)


def test_the_reference_page_is_fresh() -> None:
    assert readme.REFERENCE.read_text(encoding="utf-8") == papers.reference(), "run: python tools/readme.py"
    for model in (papers.PaperResult, papers.Claim, papers.Row, papers.Part):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} says nothing"
            assert f"| `{field.alias or name}` |" in papers.reference()


def status_of(root: Path) -> tuple[str, str | None]:
    found = next(system for system in papers.systems(root) if system.slug == "11-granet")
    return found.status, found.verdict


def test_systems_know_how_far_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "papers" / "11-granet"
    folder.mkdir(parents=True)
    assert status_of(tmp_path) == ("code, no proof yet", None)
    (folder / "result.json").write_text(json.dumps(example()))
    assert status_of(tmp_path) == ("partly measured", "in part")
    (folder / "result.json").write_text(json.dumps(example() | {"missing": [], "verdict": "reproduces"}))
    assert status_of(tmp_path) == ("done", "reproduces")
    (folder / "result.json").write_text(json.dumps(example() | {"verdict": "yes"}))
    with pytest.raises(SparselandError, match=r"11-granet/result\.json: \$\.verdict is 'yes'"):
        papers.systems(tmp_path)


def test_a_folder_nobody_knows(tmp_path: Path) -> None:
    folder = tmp_path / "papers" / "11-granett"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(example()))
    with pytest.raises(SparselandError, match="did you mean '11-granet'"):
        papers.results(tmp_path)


def test_an_installed_package_knows_the_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "papers" / "11-granet"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(example()))
    text = papers.packaged(tmp_path)
    assert json.loads(text)["systems"] == json.loads(readme.PACKAGED.read_text(encoding="utf-8"))["systems"]
    stored = tmp_path / "systems.json"
    stored.write_text(text)
    monkeypatch.setattr("sparseland.papers.catalog._PACKAGED", stored)
    monkeypatch.setattr("sparseland.papers.catalog._checkout", lambda: None)
    found = papers.result_of("11-granet")
    assert found is not None and found["why"] == "It is 1.5 points below." and "ours" not in found
    assert papers.result_of("54-bip") is None
    assert {s.slug: s.verdict for s in papers.systems()}["11-granet"] == "in part"
