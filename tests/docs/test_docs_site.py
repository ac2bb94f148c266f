"""The site builds without a warning, every public name is in it, and it needs nothing from the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Loaded(HTMLParser):
    """What a page makes a browser load, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect sources, links and anchors."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag in ("script", "img", "iframe", "source", "video", "audio") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and "canonical" not in given.get("rel", "") and given.get("href"):
            self.loads.append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


def read(page: Path) -> Loaded:
    found = Loaded()
    found.feed(page.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once with --strict."""
    if not os.environ.get("CI"):
        pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
        pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, Loaded]:
    return {page: read(page) for page in sorted(site.rglob("*.html"))}


def test_nothing_is_loaded_from_elsewhere(site: Path, parsed: dict[Path, Loaded]) -> None:
    for page, found in parsed.items():
        for target in found.loads:
            assert not re.match(r"(https?:)?//", target), f"{page.relative_to(site)} loads {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_links_lead_somewhere(site: Path, parsed: dict[Path, Loaded]) -> None:
    broken = []
    for page, found in parsed.items():
        if page.name == "404.html":
            continue
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                broken.append(f"{page.relative_to(site)}: {link}")
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].anchors:
                broken.append(f"{page.relative_to(site)}: {link} (no such anchor)")
    assert broken == []


def test_every_public_name_has_its_place(site: Path) -> None:
    from tools import docs_reference

    html = {page.stem: page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html")}
    found = docs_reference.pages()
    assert docs_reference.complaints(found, html) == []
    names = [symbol.public for page in found for symbol in (*page.symbols, *page.elsewhere)]
    assert len(names) > 200 and "sparseland.core.NM" in names and "sparseland.prune_" in names


def test_docstrings_are_rendered(site: Path) -> None:
    train = (site / "reference" / "train.html").read_text(encoding="utf-8")
    assert "<code>label_smoothing</code>" in train  # a parameter of TrainConfig, from its "Parameters:" section
    for page in (site / "reference").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<p>Parameters:" not in text and "<p>Raises:" not in text, page.name
        assert "<blockquote>" not in text, f"{page.name}: an example became a quotation"


def test_every_verb_is_on_the_page(site: Path) -> None:
    from tools import docs_cli

    page = read(site / "reference" / "cli.html")
    assert {verb.replace(" ", "-") for verb in docs_cli.verbs()} <= page.anchors
    assert "train" in docs_cli.verbs() and "recipe show" in docs_cli.verbs()


def test_every_page_is_in_the_navigation(site: Path, parsed: dict[Path, Loaded]) -> None:
    linked = {(site / unquote(urlsplit(link).path)).resolve() for link in parsed[site / "index.html"].links}
    sections = {page.parent for page in linked}
    pages = {page for page in parsed if page.name != "404.html" and "outside" not in page.parts}
    for page in pages:  # the home page links to each section, each section to its pages
        assert page in linked or page.parent.resolve() in sections, page.relative_to(site)


def test_guards_and_changelog_are_there(site: Path) -> None:
    from sparseland.advisor import GUARDS

    evaluation = (site / "evaluation.html").read_text(encoding="utf-8")
    assert GUARDS and all(f"<code>{name}</code>" in evaluation for name in GUARDS)
    assert "Unreleased" in (site / "changelog.html").read_text(encoding="utf-8")
