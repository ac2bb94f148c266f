"""What people see: the page in headless Chromium at the widths of a desk and a phone, light and dark, in pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseland.reports.page import page
from tests.reports import browser as chromium
from tests.reports.browser import Browser
from tests.reports.records import NAMES, comparison, first_schema

WIDTHS = (1280, 390)
SCRIPTS = Path(__file__).with_name("screen_probes.js")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; without one the tests are skipped, except where one is required."""
    with Browser(chromium.needed(), tmp_path_factory.mktemp("profile")) as made:
        yield made


def _waved_through(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a refusal that was waved through, one that was not, and a failure."""
    refusals = [
        {"guard": guard, "level": "refuse", "says": f"{guard} has happened", "fix": "Do it again."}
        for guard in ("UnequalBudget", "TestSelection")
    ]
    review = {**record["review"], "findings": [*refusals, *record["review"]["findings"]]}
    failed = [{"label": "imp", "seed": 4, "error": "a very long error " + "without_a_space" * 30}]
    return {**record, "review": review, "allowed": ["UnequalBudget"], "failed": failed}


@pytest.fixture(scope="module")
def pages(record: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the pages that are looked at: a real comparison, many methods, one run, one seed, little, old."""
    from sparseland.reports import read_record

    place = tmp_path_factory.mktemp("pages")
    many = comparison([*NAMES[:-1], "rigl with a label that is far longer than any table has room for"], (0, 1))
    little: dict[str, Any] = {"test": None, "masks": [], "history": [], "checkpoints": None, "data": None}
    (place / "old.json").write_text(json.dumps(first_schema(comparison())))
    records = {
        "real": record, "many": _waved_through(many), "alone": comparison(("rigl",), (0,)),
        "one seed": comparison(seeds=(0,)), "little": comparison(**little), "old": read_record(place / "old.json"),
    }  # fmt: skip
    for name, one in records.items():
        (place / f"{name}.html").write_text(page(one), encoding="utf-8")
    return {name: place / f"{name}.html" for name in records}


def probe(window: Browser, name: str, *arguments: Any) -> Any:
    """The value of a function of screen_probes.js on the page."""
    words = ", ".join(json.dumps(argument) for argument in arguments)
    return window.run(f"(function () {{ {SCRIPTS.read_text()}; return {name}({words}); }})()")


def pixels(window: Browser) -> np.ndarray:
    """The whole page, (height, width, 3), uint8."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(window.picture())).convert("RGB"))


def cut(shot: np.ndarray, box: dict[str, float]) -> np.ndarray:
    """What lies in a box, in CSS pixels of the page."""
    x, y = round(box["x"]), round(box["y"])
    return shot[y : y + round(box["height"]), x : x + round(box["width"])]


def ink(part: np.ndarray) -> float:
    """Share of pixels that clearly differ from the most frequent colour."""
    flat = part.reshape(-1, 3).astype(np.int32)
    codes, counts = np.unique(flat @ (65536, 256, 1), return_counts=True)
    code = int(codes[counts.argmax()])
    return float((np.abs(flat - (code >> 16, code >> 8 & 255, code & 255)).sum(1) > 30).mean())


@pytest.mark.parametrize("name", ["real", "many", "alone", "one seed", "little", "old"])
def test_nothing_is_wider_than_the_screen(window: Browser, pages: dict[str, Path], name: str) -> None:
    for width in WIDTHS:
        window.show(pages[name], width)
        assert window.run("innerWidth") == width
        assert window.run("document.documentElement.scrollWidth") <= width
        assert probe(window, "outside", width) == [], f"at {width} px these stick out"
        assert probe(window, "spilled") == [], f"at {width} px these do not hold their text"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_as_pixels(window: Browser, pages: dict[str, Path], width: int, dark: bool) -> None:
    window.show(pages["real"], width, dark=dark)
    shot = pixels(window)
    assert shot.shape[1] == width and shot.shape[0] > 3000
    paper = (20, 23, 27) if dark else (255, 255, 255)
    corner, middle = shot[2, 2], np.median(shot.reshape(-1, 3), axis=0)
    assert tuple(corner) == paper
    assert (middle.mean() < 60) == dark and (middle.mean() > 200) == (not dark)
    assert (
        len(np.unique(shot[::3, ::3].reshape(-1, 3).astype(np.int32) @ (65536, 256, 1))) > 100
    )  # not a blank or a broken page
    screens = [shot[y : y + 900] for y in range(0, shot.shape[0] - 900, 900)]
    assert min(ink(screen) for screen in screens) > 0.01, "a screenful without anything on it"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_figure_has_ink_in_the_colours_of_its_methods(
    window: Browser, pages: dict[str, Path], dark: bool
) -> None:
    window.show(pages["real"], 1280, dark=dark)
    shot, figures = pixels(window), probe(window, "figures")
    titles = [figure["title"] for figure in figures]
    for title in ("sparsity", "training FLOPs", "inference FLOPs", "bytes", "Learning curves", "each layer", "Churn"):
        assert any(title in one for one in titles), f"no figure of {title}"
    assert sum(one.startswith("Reliability") for one in titles) == 3
    for figure in figures:
        part = cut(shot, figure["box"])
        assert ink(part) > 0.01, figure["title"]
        for colour in figure["colours"]:  # of points, lines and bars, as the browser resolved them
            near = np.abs(part.astype(int) - np.asarray(colour)).sum(2) < 24
            assert near.sum() >= 3, f"{figure['title']}: nothing of colour {colour}"
    assert max(len(figure["colours"]) for figure in figures) >= 3


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["real", "many"])
def test_text_can_be_read(window: Browser, pages: dict[str, Path], name: str, dark: bool) -> None:
    for width in WIDTHS:
        window.show(pages[name], width, dark=dark)
        probe(window, "unfold")
        seen = probe(window, "texts")
        assert len(seen) > 200
        faint = [text for text in seen if text["contrast"] < 4.5]
        assert faint == [], "WCAG AA asks for a contrast of 4.5"
        tiny = [text for text in seen if text["size"] < (10 if text["drawn"] else 12.5)]
        assert tiny == [], f"at {width} px"


def test_contrast_is_measured(window: Browser, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<body style="background:#fff"><p style="color:#000">black</p><p style="color:#767676">grey</p>'
        '<div style="background:rgba(0,0,0,.5)"><p style="color:#888">faint</p></div></body>'
    )
    window.show(tmp_path / "a.html", 390)
    found = {text["text"]: text["contrast"] for text in probe(window, "texts")}
    assert found["black"] == pytest.approx(21)
    assert found["grey"] == pytest.approx(4.54, abs=0.01)
    assert found["faint"] < 1.3


def test_overflow_is_measured(window: Browser, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<body><div class="card" style="width:900px">wide</div></body>')
    window.show(tmp_path / "a.html", 390)
    assert window.run("document.documentElement.scrollWidth") > 390
    assert probe(window, "outside", 390) != []


def test_nothing_is_loaded_from_elsewhere(window: Browser, pages: dict[str, Path]) -> None:
    for name in ("real", "many"):
        window.show(pages[name], 1280)
        assert window.requests() == [pages[name].as_uri()]


def test_a_click_sorts(window: Browser, pages: dict[str, Path]) -> None:
    window.show(pages["many"], 1280)
    before = probe(window, "column", 0, 0)
    for column in range(7):
        up, down = probe(window, "sort", 0, column), probe(window, "sort", 0, column)
        assert up["aria"] == ["ascending" if i == column else "none" for i in range(7)]
        assert down["aria"] == ["descending" if i == column else "none" for i in range(7)]
        key = str.lower if column == 0 else float
        assert up["values"] == sorted(up["values"], key=key)
        assert down["values"] == sorted(up["values"], key=key, reverse=True)
    assert probe(window, "sort", 0, 0)["values"] == sorted(before, key=str.lower) != before


def test_what_is_missing_stays_last(window: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["many"].read_text()
    rows = text[text.index("<tbody>") : text.index("</tbody>")]
    some = rows.index('data-sort="0.')
    end = rows.index('"', some + len('data-sort="'))
    gap = tmp_path / "gap.html"
    gap.write_text(text.replace(rows, rows[:some] + 'data-sort="' + rows[end:], 1))
    window.show(gap, 1280)
    for _ in ("up", "down"):
        values = probe(window, "sort", 0, 2)["values"]
        assert values.count("") == 1 and values[-1] == ""


def test_keys_sort_too(window: Browser, pages: dict[str, Path]) -> None:
    window.show(pages["many"], 1280)
    window.run("document.querySelector('table.sortable th:nth-child(3) button').focus()")
    window.press("Enter", "\r")
    first = probe(window, "state", 0, 2)
    assert first["aria"][2] == "ascending"
    assert [float(v) for v in first["values"]] == sorted(float(v) for v in first["values"])
    window.press(" ", " ")
    assert probe(window, "state", 0, 2)["aria"][2] == "descending"
    window.press("Tab")
    window.press("Enter", "\r")
    assert probe(window, "state", 0, 3)["aria"][2:4] == ["none", "ascending"]
    assert window.run("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_refusals_are_red_and_say_what_was_waved_through(window: Browser, pages: dict[str, Path]) -> None:
    window.show(pages["many"], 390)
    shot, boxes = pixels(window), probe(window, "boxes", ".box.bad")
    assert len(boxes) == 2  # the refusals, the failures
    said = boxes[0]["text"]
    assert "UnequalBudget waved through with --allow" in said and "TestSelection: " in said
    paper = np.median(cut(shot, boxes[0]["box"]).reshape(-1, 3), axis=0)
    assert paper[0] > paper[1] + 10 and paper[0] > paper[2] + 10
    window.show(pages["real"], 390)
    assert not any("--allow" in box["text"] for box in probe(window, "boxes", ".box.bad"))


def test_intervals_stand_where_their_numbers_say(window: Browser, pages: dict[str, Path]) -> None:
    window.show(pages["real"], 1280)
    lines = probe(window, "forest")
    assert len(lines) >= 3
    for line in lines:
        if line["difference"] > 0.5:
            assert line["dot"] > line["zero"] + 1
        elif line["difference"] < -0.5:
            assert line["dot"] < line["zero"] - 1
        if line["low"] is not None:
            assert line["left"] <= line["dot"] + 6 and line["dot"] - 6 <= line["right"]
            crosses = line["left"] - 1 <= line["zero"] <= line["right"] + 1
            assert crosses == (line["low"] <= 0 <= line["high"]) or min(abs(line["low"]), abs(line["high"])) < 0.5


def test_a_missing_browser_is_a_failure_where_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert chromium.find() is None
    for name, value, wanted in (("CI", "true", True), ("SPARSELAND_BROWSER", "required", True), ("CI", "", False)):
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.delenv("SPARSELAND_BROWSER", raising=False)
        monkeypatch.setenv(name, value)
        assert chromium.required() is wanted
