"""What a paper folder shows is made from its result.json, today; figures are the same bytes each time."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from sparseland import papers
from sparseland.papers import charts, record
from tests.papers.conftest import load

ROOT = Path(__file__).resolve().parents[2]
# Finished folders that papers/run.py writes; the others have a run.py of their own.
SLUGS = sorted(
    path.parent.name
    for path in ROOT.glob("papers/*/jobs.py")
    if (path.parent / "result.json").is_file() and not (path.parent / "run.py").is_file()
)


@pytest.mark.parametrize("slug", SLUGS)
def test_nothing_in_the_folder_is_stale(slug: str) -> None:
    folder, jobs = ROOT / "papers" / slug, load(slug, "jobs")
    texts = record.pages(folder, jobs, papers.read(folder).to_dict())
    same = f"matplotlib=={matplotlib.__version__}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    bytes_count = {path: text for path, text in texts.items() if same or path.suffix != ".svg"}  # others draw otherwise
    assert record.stale(bytes_count) == [], f"run: python papers/run.py {slug} --redraw"
    made = {path.name for path in texts}
    assert {"table.md", "README.md"} < made
    assert {path.name for path in folder.glob("*.svg")} == {name for name in made if name.endswith(".svg")}


@pytest.mark.parametrize("slug", SLUGS)
def test_the_page_shows_figures_verdict_and_what_is_missing(slug: str) -> None:
    text = (ROOT / "papers" / slug / "README.md").read_text(encoding="utf-8")
    result = papers.read(ROOT / "papers" / slug)
    assert f"**Verdict: {result.verdict}.** {result.why}" in text
    assert all(f"- {missing}" in text for missing in (*result.missing, *result.limits))
    for picture in (ROOT / "papers" / slug).glob("*.svg"):
        assert f"]({picture.name})" in text


def test_a_stale_folder_is_noticed(tmp_path: Path, jobs_11: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "draw", repr)
    result = papers.read(ROOT / "papers" / "11-granet").to_dict()
    (tmp_path / "README.md").write_text("<!-- result:begin -->\nold\n<!-- result:end -->\n")
    texts = record.pages(tmp_path, jobs_11, result)
    assert set(record.stale(texts)) == set(texts)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    assert record.stale(texts) == []
    result["ours"][1]["mean"] += 1
    names = {path.name for path in record.stale(record.pages(tmp_path, jobs_11, result))}
    assert names == {"accuracy-digits.svg", "table.md"}
    result["minutes"] += 1
    assert "README.md" in {path.name for path in record.stale(record.pages(tmp_path, jobs_11, result))}


CHART = {
    "title": "t <&>",
    "x": "density (%)",
    "y": "accuracy (%)",
    "lines": [{"label": "static", "x": [5, 1], "y": [91.2, 25.2], "error": [1.7, 2.3]}],
    "levels": [{"label": "dense", "y": 97.0, "error": 0.5}],
}


def test_figures_are_whole_and_the_same_each_time() -> None:
    svg = charts.draw(CHART)
    assert svg == charts.draw(CHART) and "Date" not in svg and str(ROOT) not in svg
    tree = ElementTree.fromstring(svg)
    words = {"".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"t <&>", "density (%)", "accuracy (%)", "static", "dense", "1", "5"} <= words
    assert "the same, enlarged" in charts.draw(CHART | {"zoom": [90, 98]})


def test_figures_show_their_numbers() -> None:
    moved: dict[str, Any] = CHART | {"lines": [CHART["lines"][0] | {"error": [1.7, 9.9]}]}  # type: ignore[index, operator]
    assert charts.draw(moved) != charts.draw(CHART)
    level = CHART | {"levels": [{"label": "dense", "y": 96.0, "error": 0.5}]}
    assert charts.draw(level) != charts.draw(CHART)


def test_rows_are_mean_and_sample_deviation() -> None:
    run = {"kept": 5, "total": 10, "training_flops": 0.5, "inference_flops": 0.25}
    values = {f"p/H=8/a 5%/{seed}": run | {"accuracy": acc} for seed, acc in ((0, 0.5), (1, 0.52), (4, 0.54))}
    (row,) = record.rows_of(values)
    assert (row["part"], row["setting"], row["arm"], row["seeds"]) == ("p", "H=8", "a 5%", 3)
    assert (row["mean"], row["std"]) == (52.0, 2.0)  # sqrt((2² + 0 + 2²) / 2)
    (one,) = record.rows_of({"p/a/0": run | {"accuracy": 0.5}})
    assert one["std"] is None and one["setting"] == "" and record.spread(one) == "50.00"
    (low,) = record.rows_of({f"p/{s}": {"measured": [{"arm": "a", "metric": "m", "value": -0.001}]} for s in (0, 1)})
    assert str(low["mean"]) == "0.0"
