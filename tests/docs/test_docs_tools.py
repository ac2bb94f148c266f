"""The tools behind the site: pictures are fresh, checks can fail, docstrings are rewritten as they should be."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.docs.reading import DOCS
from tools import docs_pictures, docs_reference

if not os.environ.get("CI"):  # there, a missing package is an error
    for needed in ("mkdocs", "griffe"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install -e '.[docs]'")
from tools import docs_docstrings, docs_hooks


# ------------------------------------------------------------------------------------------------------------- pictures
def test_pictures_are_fresh() -> None:
    for name, text in docs_pictures.drawn().items():
        assert (DOCS / "pictures" / name).read_text(encoding="utf-8") == text, "run: python tools/docs_pictures.py"


def test_a_stale_picture_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert docs_pictures.main([], tmp_path) == 0
    assert docs_pictures.main(["--check"], tmp_path) == 0
    (tmp_path / "mask.svg").write_text("<svg/>", encoding="utf-8")
    assert docs_pictures.main(["--check"], tmp_path) == 1
    assert "mask.svg is stale" in capsys.readouterr().out


def test_each_word_has_a_picture() -> None:
    text = (DOCS / "concepts" / "words.md").read_text(encoding="utf-8")
    for word in ("pattern", "criterion", "allocation", "schedule", "growth", "flow", "mask"):
        assert f"](../pictures/{word}.svg)" in text


# ------------------------------------------------------------------------------------------------------------ reference
def module(name: str, source: str) -> ModuleType:
    made = ModuleType(name)
    sys.modules[name] = made
    exec(source, made.__dict__)
    return made


def page(source: str, monkeypatch: pytest.MonkeyPatch) -> docs_reference.Page:
    name = "sparseland_docs_example"
    made = module(name, source)
    monkeypatch.delitem(sys.modules, name)
    found = docs_reference.Page(name, made)
    found.symbols = [docs_reference._symbol(f"{name}.{n}", getattr(made, n)) for n in made.__all__]
    return found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("__all__ = ['f']\ndef f(): ...", ".f"),
        ("__all__ = ['C']\nclass C: ...", ".C"),
        ("__all__ = ['C']\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    x: int = 0", ".C"),
        ("__all__ = ['C']\nclass C:\n    'C.'\n    def f(self): ...", ".C.f"),
        ("__all__ = ['C']\nclass C:\n    'C.'\n    @property\n    def f(self): ...", ".C.f"),
        ("__all__ = ['C']\nclass C:\n    'C.'\n    @classmethod\n    def f(cls): ...", ".C.f"),
        ("__all__ = ['X']\nX = 3", "VALUES"),
    ],
)
def test_a_name_without_docstring_fails_the_build(source: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = docs_reference.undocumented([page(source, monkeypatch)])
    assert len(missing) == 1 and said in missing[0]


def test_a_name_that_is_on_no_page_fails_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    found = page("__all__ = ['f']\ndef f():\n    'F.'", monkeypatch)
    path = found.symbols[0].path
    assert docs_reference.complaints([found], {"sparseland_docs_example": f'<h2 id="{path}">'}) == []
    (said,) = docs_reference.complaints([found], {})
    assert "is public and not on the page" in said


def test_each_object_is_documented_once() -> None:
    paths = [s.path for page in docs_reference.pages() for s in page.symbols if s.path is not None]
    assert len(paths) == len(set(paths))


# ----------------------------------------------------------------------------------------------------------- docstrings
def test_entries_that_share_a_line_are_parted() -> None:
    text = (
        "F.\n\nParameters:\n    config: the run. out: its folder; made if need be.\n    lr, wd: two.\n\nMore. out: no."
    )
    assert docs_docstrings.rewritten(text, ["config", "out", "lr", "wd"]).splitlines() == [
        "F.", "", "Parameters:", "    config: the run.", "    out: its folder; made if need be.", "    lr, wd: two.",
        "",
        "More. out: no.",
    ]  # fmt: skip


def test_errors_go_on_without_being_set_in() -> None:
    text = "F.\n\nRaises:\n    OneError, Other: before\n    anything. Third: later."
    assert docs_docstrings.rewritten(text, []).splitlines()[3:] == [
        "    OneError, Other: before", "        anything.", "    Third: later.",
    ]  # fmt: skip


def test_examples_become_fences() -> None:
    assert docs_docstrings.rewritten("F.\n>>> 1\n1\n>>> 2\n2", []).splitlines() == [
        "F.", "", "```pycon", ">>> 1", "1", ">>> 2", "2", "```",
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- links
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[here](../../Makefile)", "here (`Makefile` in the repository)"),
        ("[`Makefile`](../../Makefile)", "`Makefile`"),
        ("[there](../index.md#x)", "[there](../index.md#x)"),
        ("[out](https://example.org)", "[out](https://example.org)"),
        ("[lost](../../no-such-file)", "[lost](../../no-such-file)"),
        ("![a](../../papers/99-none/figures/a.svg)", "*a: not measured yet*"),
        ("```text\n[here](../../Makefile)\n```", "```text\n[here](../../Makefile)\n```"),
    ],
)
def test_links_out_of_the_site_become_names(text: str, shown: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to/x.md"))
    files = SimpleNamespace(get_file_from_path=lambda name: None)
    assert docs_hooks.on_page_markdown(text, page, None, files) == shown


# ----------------------------------------------------------------------------------------------------------- navigation
def test_pages_that_come_and_go_find_their_place() -> None:
    there = [
        "index.md",
        "handbook/02-b.md",
        "handbook/01-a.md",
        "reference/x.md",
        "reference/a.md",
        "reference/run-json.md",
    ]
    nav = docs_hooks.navigation(there, ["reference/x.md"])
    assert nav == [
        {"Home": ["index.md"]},
        {"Handbook": ["handbook/01-a.md", "handbook/02-b.md"]},
        {"Reference": ["reference/x.md", "reference/a.md", {"run.json": "reference/run-json.md"}]},
    ]


def test_code_in_lists_is_indented_for_markdown() -> None:
    text = docs_hooks.add_a_method()
    assert "\n    ```python\n    import sparseland as sl" in text  # four spaces, inside the list
    assert "\n    return Method(\n" in text  # and code at the margin is as it was
