"""The handbook's pages hold the numbers of its result.json, and name only what exists."""

from __future__ import annotations

import copy
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from tools import handbook

QUESTIONS = [f"L{i}" for i in range(1, 11)]
PAGES = [handbook.PAGES / "index.md", *handbook.pages().values()]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return handbook.load()


def by_hand(text: str) -> str:
    """A page without its generated blocks."""
    return handbook.BLOCK.sub("", text)


def test_each_question_has_one_page_with_every_block() -> None:
    assert list(handbook.pages()) == QUESTIONS
    for question, page in handbook.pages().items():
        blocks = [(kind, name) for _, kind, name, _ in handbook.BLOCK.findall(page.read_text(encoding="utf-8"))]
        assert blocks == [("setting", question), ("table", question), ("answers", question)]


def test_nothing_is_stale(result: dict[str, Any]) -> None:
    for path, text in handbook.wanted(result).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run python tools/handbook.py"
    assert handbook.outdated(result) == []


def test_a_changed_number_is_noticed(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result)
    row = next(r for r in changed["ours"] if r["part"] == "L5")
    row["mean"] += 0.01
    stale = [p.name for p, text in handbook.wanted(changed).items() if p.read_text(encoding="utf-8") != text]
    assert sorted(stale) == ["05-static-vs-dynamic.md", "L5.svg"]


def test_an_answer_written_for_another_verdict_is_noticed(result: dict[str, Any]) -> None:
    changed = copy.deepcopy(result)
    swap = {"does not hold": ("90, 90.1, 89.9", "50, 50.1, 49.9"), "holds": ("50, 50.1, 49.9", "90, 90.1, 89.9")}
    first = handbook.told_of(result, "L8")[0]["verdict"]
    for row in changed["ours"]:
        if row["part"] == "L8":
            row["by_seed"] = swap[first][row["arm"] == "dense"]
    assert handbook.told_of(changed, "L8")[0]["verdict"] != first
    (noticed,) = handbook.outdated(changed)
    assert noticed.startswith("08-training-length.md")


def test_the_result_follows_the_schema_and_its_own_rules(result: dict[str, Any]) -> None:
    from sparseland.papers import read

    assert read(handbook.PAPER).seeds == [0, 1, 2]
    verdict, why = handbook.RULES.judge(handbook.RULES.answers(result["ours"]))
    assert (result["verdict"], result["why"]) == (verdict, why)
    parts = {row["part"] for row in result["ours"]}
    assert parts == set(QUESTIONS)
    for row in result["ours"]:
        seeds = [float(v) for v in row["by_seed"].split(",")]
        assert len(seeds) == row["seeds"] >= (1 if row["part"] == "L2" else 3)
        assert sum(seeds) / len(seeds) == pytest.approx(row["mean"], abs=0.006)


def test_every_question_has_its_baselines(result: dict[str, Any]) -> None:
    for question in QUESTIONS:
        arms = {row["arm"] for row in result["ours"] if row["part"] == question}
        assert ("dense" in arms and any(arm.startswith("static") for arm in arms)) or question == "L2"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_no_measured_number_is_typed_by_hand(page: Any) -> None:
    text = by_hand(page.read_text(encoding="utf-8"))
    assert not re.search(r"±|\d+\.\d+ ?(%|points|×)", text)
    assert "ANSWER" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands_and_links_lead_somewhere(page: Any) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for line in "".join(blocks).splitlines():
        words = [word for word in shlex.split(line) if "=" not in word]
        assert words[0] == "python" and (handbook.ROOT / words[1]).is_file()
        script = (handbook.ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in script for word in words[2:] if word.startswith("--"))
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_pages_name_guards_and_counters_that_exist() -> None:
    import sparseland.account
    from sparseland.advisor import GUARDS

    named = set()
    for question, page in handbook.pages().items():
        text = by_hand(page.read_text(encoding="utf-8"))
        section = text.partition("## What the library does about it")[2].partition("## ")[0]
        guards = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", section)) - {"SparsityCard"}
        assert guards, question
        assert guards <= set(GUARDS), question
        counters = set(re.findall(r"`sparseland\.account\.(\w+)", section))
        assert counters <= set(sparseland.account.__all__), question
        named |= guards
    assert len(named) >= 12


def test_figures_are_whole_pictures_and_the_same_each_time(result: dict[str, Any]) -> None:
    drawn = handbook.figures(result)
    assert sorted(drawn) == sorted(f"{question}.svg" for question in QUESTIONS)
    assert drawn == handbook.figures(json.loads(json.dumps(result)))
    for text in drawn.values():
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg") and root.find("{http://www.w3.org/2000/svg}title") is not None


def test_the_abstract_is_said_to_be_all_we_read() -> None:
    text = (handbook.PAGES / "index.md").read_text(encoding="utf-8")
    assert "abstract only" in text and "inferred" in text and "do not cite" in text
