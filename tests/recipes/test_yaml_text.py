"""YAML as people mean it, words and methods through it and back, and nothing executed on the way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseland import core
from sparseland.core.errors import RecipeError
from sparseland.core.word import Word
from sparseland.recipes import from_yaml, read_yaml, to_yaml, write_yaml
from sparseland.weights import methods

MEANT = {
    "1e-3": 0.001, "5E4": 50000.0, "-1.5e+3": -1500.0, "1.": 1.0, ".5": 0.5, "3": 3, "+1": 1, "-0": 0, "30_000": 30000,
    "010": 10, "2:4": "2:4", "12:30:45": "12:30:45", "no": "no", "yes": "yes", "on": "on", "off": "off", "true": True,
    "False": False, "null": None, "~": None, "": None, "2024-01-01": "2024-01-01", ".inf": math.inf, "1e": "1e",
    "1_": "1_", "e3": "e3", "0x1F": "0x1F", "block 4x1": "block 4x1",
}  # fmt: skip
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WORDS: list[Word] = [
    *(core.pattern(text) for text in ("unstructured", "2:4", "1:8 axis 0", "block 4x1", "kernel", "kernel 4x1", "row")),
    core.Magnitude(), core.Reversed(core.SNIP()), core.Random(), core.ERK(power=0.5), core.Global(),
    core.Ratios(core.GraSP()), core.UniformPlus(last_density=0.3), core.Constant(0.3, every=7),
    core.Cosine(0.0, initial=0.3, end=0.75),
    core.Cubic(0.9, end=1000, stop="before"), core.OneShot(0.9, at=0.5, rounds=3), core.Steps((0.5, 0.75), at=(0, 10)),
    core.MultiCycle(core.Linear(0.5, end=3), cycles=2, length=5), core.GrowNone(), core.GrowGradient(), core.Hard(),
    core.SRSTE(),
]  # fmt: skip


@pytest.mark.parametrize("text", MEANT)
def test_values_are_read_as_people_mean_them(text: str) -> None:
    found = read_yaml(f"key: {text}")["key"]
    assert found == MEANT[text]
    assert type(found) is type(MEANT[text])


@pytest.mark.parametrize("text", MEANT)
def test_text_that_looks_like_a_value_stays_text(text: str) -> None:
    written = write_yaml({"key": text})
    assert read_yaml(written) == {"key": text}
    assert yaml.safe_load(written) == {"key": text}  # in PyYAML's dialect too


@given(PLAIN)
@settings(max_examples=150, deadline=None)
def test_plain_data_comes_back_equal(data: Any) -> None:
    back = read_yaml(write_yaml({"key": data}))
    assert back == {"key": data}
    assert repr(back) == repr({"key": data})  # 1 is not 1.0, -0.0 is not 0.0


@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_words_come_back_equal(word: Word) -> None:
    assert from_yaml(to_yaml(word)) == word
    assert type(word).family.from_dict(word.to_dict()) == word


@pytest.mark.parametrize("name", sorted(methods.registry))
def test_methods_come_back_equal(name: str) -> None:
    method = methods.build(name)
    assert from_yaml(to_yaml(method)) == method
    assert methods.Method.from_dict(method.to_dict()) == method


def test_words_that_share_a_name_are_told_apart_by_their_family() -> None:
    assert from_yaml("growth: random") == core.GrowRandom()
    assert from_yaml("criterion: random") == core.Random()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1"),
        ("a: 1\na: 2", r"line 2, column 1: 'a' is given twice"),
        ("a: {b: 1, b: 2}", "'b' is given twice"),
        ("1: 2", "a key is text, not 1"),
        ("? [a]\n: b", "a key is text"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &x [*x]", "aliases"),
        ("a: !!python/object/apply:os.system ['true']", "python/object"),
        ("a: \x00", "unacceptable character"),
        ("[" * 5000, "YAML"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_yaml(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grwoth: random", "did you mean 'growth'"),
        ("growth: radnom", "did you mean 'random'"),
        ("growth: random\npattern: row", "one of pattern"),
        ("3", "got 3"),
        ("schedule: {kind: cubic, valeu: 0.9}", "did you mean 'value'"),
    ],
)
def test_words_that_do_not_exist(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        from_yaml(text)
