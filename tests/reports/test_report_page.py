"""The page: self-contained, escaped, accessible, complete, and usable on a phone."""

from __future__ import annotations

import base64
import copy
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseland.core.errors import OutputError
from sparseland.reports import write_page
from sparseland.reports.page import page
from sparseland.reports.pictures import heat_map, picture, signed_map
from sparseland.reports.tables import headline

VOID = {"meta", "img", "br", "link", "use", "path", "rect", "line"}


class Reader(HTMLParser):
    """Tags with their attributes, text, and whether everything that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def html(record: dict[str, Any]) -> str:
    return page(record)


def test_the_page_is_self_contained_and_well_formed(html: str) -> None:
    read = Reader(html)
    assert read.open == []
    for tag, attributes in read.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed")
    assert "@import" not in html and "url(http" not in html
    outside = re.findall(r"https?://[^\s\"'<>]+", html)
    assert {url for url in outside if "w3.org" not in url} == set()


def test_everything_that_is_seen_can_be_read_out(html: str) -> None:
    read = Reader(html)
    images = [attributes for tag, attributes in read.tags if tag == "img"]
    assert len(images) == 24 + 3 * 9 and all(attributes.get("alt") for attributes in images)
    drawn = [attributes for tag, attributes in read.tags if tag == "svg"]
    figures = [attributes for attributes in drawn if attributes.get("role") == "img"]
    assert all(a["aria-label"] for a in figures)
    assert all(a.get("aria-hidden") == "true" for a in drawn if a not in figures)  # marks beside a name
    # sparsity, three costs, curves, layers, three of the masks, and a reliability diagram for each method
    assert len([a for a in figures if a["aria-label"].startswith("Reliability of")]) == 3
    assert len(figures) == 9 + 3 + ("Dead units at the end" in {a["aria-label"] for a in figures})
    assert ("html", {"lang": "en"}) in read.tags
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert used <= set(ids)


def test_text_from_outside_is_escaped(html: str) -> None:
    assert "<script>alert(1)" not in html and "<i>" not in html and "<b>&" not in html
    assert "tiny &lt;b&gt;&amp;&lt;/b&gt;" in html
    assert "random &lt;i&gt;" in html


def test_the_table_says_what_the_record_says(html: str, record: dict[str, Any]) -> None:
    texts = Reader(html).texts
    for line in headline(record["aggregate"])[1]:
        for cell in line:
            assert cell in texts
    assert "Equal training budget for all: 2 epochs in batches of 64 (6 steps)" in "".join(texts)
    assert "imp seed 3 failed" in "".join(texts)
    sort = [
        float(a["data-sort"])
        for tag, a in Reader(html).tags
        if tag == "td" and "data-sort" in a and "." in a["data-sort"]
    ]
    assert any(value == record["aggregate"][2]["accuracy"]["mean"] for value in sort)


def test_it_has_the_recipe_the_command_and_the_machine(html: str) -> None:
    text = "".join(Reader(html).texts)
    assert "sparseland compare <tiny>" in text
    assert "limit: 150" in text and "TrainConfig(" in text
    assert "growth             gradient" in text
    assert "torch 2." in text


def test_it_is_the_same_page_every_time(html: str, record: dict[str, Any]) -> None:
    assert page(record) == html


def test_colours_follow_the_page(html: str) -> None:
    assert "#a0b0" not in html and "#010203" not in html and "#040506" not in html
    assert "var(--m2)" in html and "prefers-color-scheme: dark" in html
    css = html[html.index("<style>") : html.index("</style>")]
    light, dark = css.split("@media (prefers-color-scheme: dark)")[:2]
    for name in ("--paper", "--ink", "--m0", "--m9", "--line", "--bad"):
        assert f"{name}:" in light and f"{name}:" in dark


def test_a_single_run_has_a_page_too(record: dict[str, Any]) -> None:
    one = copy.deepcopy(record)
    one.update(kind="train", runs=one["runs"][-1:], failed=[], warnings=[])
    one["aggregate"] = [row for row in one["aggregate"] if row["label"] == "rigl"]
    one["recipe"].pop("compare")
    for key in ("connections", "units"):
        one["exhibits"]["first_layer"][key] = {"rigl": one["exhibits"]["first_layer"][key]["rigl"]}
    one["exhibits"]["pictures"]["predictions"] = {"rigl": one["exhibits"]["pictures"]["predictions"]["rigl"]}
    read = Reader(page(one))
    assert read.open == [] and "Learning curves" in "".join(read.texts)
    assert "Accuracy and training cost" not in "".join(read.texts)


def test_parts_that_are_missing_are_left_out(record: dict[str, Any]) -> None:
    bare = copy.deepcopy(record)
    bare["exhibits"] = {}
    for run in bare["runs"]:
        run["result"]["test"] = None
        run["result"]["masks"] = []
        for entry in run["result"]["history"]:
            entry["validation_accuracy"] = None
    for row in bare["aggregate"]:
        row.pop("accuracy")
    text = "".join(Reader(page(bare)).texts)
    for title in (
        "What the nets see",
        "How the masks moved",
        "Class by class",
        "Learning curves",
        "Where the first layer",
    ):
        assert title not in text
    assert "Sparsity of each layer" in text


def test_many_methods_and_many_layers(record: dict[str, Any]) -> None:
    many = copy.deepcopy(record)
    many["runs"], many["aggregate"] = [], []
    for i in range(13):
        run, row = copy.deepcopy(record["runs"][-1]), copy.deepcopy(record["aggregate"][-1])
        run["label"] = row["label"] = f"method {i}"
        run["result"]["layers"] = [
            {"name": f"layer{n}.$weight$", "shape": [4, 4], "kept": n, "total": 16} for n in range(1, 15)
        ]
        many["runs"].append(run)
        many["aggregate"].append(row)
    many["exhibits"] = {}
    html = page(many)
    assert Reader(html).open == []
    assert "--m12: hsl(" in html and "layer14.$weight$" in html


def test_pictures_are_exact() -> None:
    from PIL import Image

    def pixels(uri: str) -> Any:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))

    grey = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert (pixels(picture(base64.b64encode(grey.tobytes()).decode(), (1, 2, 3))) == grey[0]).all()
    colour = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    assert (pixels(picture(base64.b64encode(colour.tobytes()).decode(), (3, 2, 2))) == colour.transpose(1, 2, 0)).all()
    assert pixels(heat_map([0, 4], 1, 2, 4)).tolist() == [[[68, 1, 84], [253, 231, 37]]]
    signs = pixels(signed_map([-127, 0, 127, 1], 1, 4))
    assert signs[0, :, 3].tolist() == [255, 0, 255, 255]  # exact zeros alone are transparent
    assert signs[0, 0, 2] > signs[0, 0, 0] and signs[0, 2, 0] > signs[0, 2, 2]


def test_heat_maps_count_living_connections(record: dict[str, Any], place: Path) -> None:
    from safetensors.torch import load_file

    shown = record["exhibits"]["first_layer"]
    assert shown["shape"] == [1, 8, 8]
    both = [load_file(place / "rigl" / f"seed-{seed}" / "best.safetensors")["fc1.weight"] for seed in (0, 1)]
    expected = sum((weight != 0).sum(0) for weight in both) / 2
    assert shown["connections"]["rigl"] == expected.tolist()


def test_predictions_are_those_of_the_saved_weights(record: dict[str, Any], place: Path) -> None:
    from safetensors.torch import load_file

    import sparseland as sl

    shown = record["exhibits"]["pictures"]
    data = sl.data.load("digits", limit=150, validation=0.1)
    model = sl.zoo.build("mlp-16", in_shape=(1, 8, 8), classes=10)
    model.load_state_dict(load_file(place / "rigl" / "seed-0" / "best.safetensors"))
    said = model.eval()((data.test.images - data.mean[0]) / data.std[0]).argmax(1)
    for image, label, guess in zip(shown["images"], shown["labels"], shown["predictions"]["rigl"], strict=True):
        pixels = np.frombuffer(base64.b64decode(image), dtype=np.uint8).reshape(8, 8)
        match = [
            i for i, one in enumerate(data.test.images) if np.array_equal((one[0] * 255).round().byte().numpy(), pixels)
        ]
        assert any(int(said[i]) == guess and int(data.test.labels[i]) == label for i in match)


def test_a_page_that_cannot_be_written(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        write_page(record, tmp_path / "file" / "report.html")
