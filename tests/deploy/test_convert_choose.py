"""Which kernel a layer gets, why, and what is remembered of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sparseland.deploy import choose_cache
from sparseland.deploy.choose import Measured, made_up, restored, stored, time_turns
from sparseland.deploy.choose_cache import Cache, folder
from sparseland.deploy.choose_model import Modelled, allowed, candidates, crossover, decided, solved
from sparseland.deploy.lower_layers import Choice, Layer
from tests.deploy.converting import needs_engine


def layer(density: float = 0.1, kind: str = "pointwise", groups: int = 1, o: int = 32, c: int = 32) -> Layer:
    """A layer on 16 x 16 pixels, with blocks of two rows that share their zeros."""
    rng = np.random.default_rng(0)
    k = 9 if kind == "conv" else 1
    mask = np.repeat(rng.random((o // 2, c // groups * k)) < density, 2, axis=0)
    weight = (rng.standard_normal((o, c // groups * k)) * mask).astype(np.float32)
    size = (1, 1, 1) if kind == "fc" else (16, 16, 7)
    window = (3, 3, 1, 1, 1, 1, 1, 1, 1, 1, groups) if kind == "conv" else ()
    return Layer(kind, "l", weight, np.zeros(o, np.float32), 1, c, *size, (o, *size), window)


def test_candidates() -> None:
    assert [one.name for one in candidates(layer())] == ["gemm", "gemm by outputs", "spmm G=1", "spmm G=2", "spmm G=4"]
    assert [one.name for one in candidates(layer(1.0))] == ["gemm", "gemm by outputs"]
    assert [one.name for one in candidates(layer(0.1, "fc"))] == ["fc", "sparse fc"]
    grouped = candidates(layer(1.0, "conv", 4))
    assert [one.name for one in grouped] == ["sparse conv G=1", "sparse conv G=2", "sparse conv G=4"]
    assert (
        all(not one.sparse for one in allowed(layer(), "dense")) and allowed(layer(1.0, "conv", 4), "dense") == grouped
    )


def test_the_model_prefers_shared_indices_and_few_numbers() -> None:
    choose = Modelled()
    assert choose(layer(0.1)).name == "spmm G=2"
    assert choose(layer(1.0)).name == "gemm" and "nothing to skip" in choose(layer(1.0)).reason
    assert choose(layer(0.1, "conv")).name == "sparse conv G=2"
    assert "by lists of inputs" in choose(layer(1.0, "conv", 4)).reason
    assert "as fast as dense (cost model)" in choose(layer(0.1)).reason
    low, high = crossover(layer(0.1)), crossover(layer(0.9))
    assert low is not None and low == high and 0 < low < 0.6


def test_why_dense_was_kept() -> None:
    times = {Choice("gemm", False): 1.0, Choice("spmm", True, G=1): 1.5}
    found = decided(layer(0.6), times, 0.7, "measured")
    assert not found.sparse and found.rivals == {"spmm G=1": 1.5} and found.crossover == 0.7
    assert "the best sparse kernel is 50% slower (measured); from 70% on it would win" in found.reason


@pytest.mark.parametrize(
    ("dense", "low", "high", "wanted"),
    [
        (1.0, (0.5, 0.1), (1.5, 0.5), 0.7),
        (3.0, (0.5, 0.1), (1.5, 0.5), 0.0),
        (0.1, (0.5, 0.1), (1.5, 0.5), 0.98),
        (1.0, (2.0, 0.1), (1.5, 0.5), None),
        (2.0, (2.0, 0.1), (1.5, 0.5), 0.0),
    ],
)
def test_crossover(dense: float, low: tuple[float, float], high: tuple[float, float], wanted: float | None) -> None:
    assert solved(dense, low, high) == (None if wanted is None else pytest.approx(wanted))


@needs_engine
def test_all_take_turns() -> None:
    one = layer()
    turns = [(one, choice) for choice in candidates(one)] + [(layer(0.1, "conv"), Choice("conv", False))]
    seconds = time_turns(turns, 1, budget=0.01)
    assert len(seconds) == len(turns) and all(0 < t < 1 for t in seconds)
    assert made_up(one, 0.3).nonzeros == pytest.approx(0.3 * one.weight.size, rel=0.2)


@needs_engine
@pytest.mark.parametrize("kind", ["pointwise", "conv", "fc"])
def test_measured_once(kind: str, tmp_path: Path) -> None:
    said: list[str] = []
    cache = Cache(tmp_path / "kernels.json")
    choose = Measured(1, cache=cache, budget=0.0, progress=said.append)
    first = choose(layer(0.1, kind))
    assert choose(layer(0.1, kind)) == first and said == ["l"]
    assert "measured" in first.reason and first.seconds and first.rivals
    assert choose(layer(0.5, kind)) and said == ["l", "l"]  # another density is another question
    cache.flush()
    later = Measured(1, cache=Cache(tmp_path / "kernels.json"), progress=said.append)
    assert later(layer(0.1, kind)) == first and len(said) == 2
    Measured(2, cache=Cache(tmp_path / "kernels.json"), budget=0.0, progress=said.append)(layer(0.1, kind))
    assert len(said) == 3  # another number of threads too


def test_choices_as_json() -> None:
    one = Choice("spmm", True, G=2, chunk=96, reason="r", seconds=0.5, rivals={"gemm": 1.0}, crossover=0.4)
    again = restored(json.loads(json.dumps(stored(one))))
    assert again == one and again.rivals == one.rivals and again.name == "spmm G=2 96 lanes"


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARSELAND_CACHE", str(tmp_path / "a"))
    assert folder() == tmp_path / "a"
    monkeypatch.delenv("SPARSELAND_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert folder() == tmp_path / "b" / "sparseland" and choose_cache.cpu()


V = f'{{"version": {choose_cache.VERSION}'


@pytest.mark.parametrize("text", ["", "{", "[]", V + "}", V + ', "entries": {"a": 3}}', "[" * 10_000])
def test_a_damaged_cache_is_ignored_in_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "kernels.json"
    place.write_text(text)
    cache = Cache(place)
    assert cache.get("x") is None
    said = capsys.readouterr().err
    assert said.startswith("ignoring the timings in") and said.count("\n") == 1
    cache["x"] = {"kernel": "gemm"}
    cache.flush()
    assert Cache(place)["x"] == {"kernel": "gemm"}


def test_two_writers_and_another_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "deep" / "kernels.json"
    one, two = Cache(place), Cache(place)
    one["a"], two["b"] = {"n": 1}, {"n": 2}
    one.flush()
    two.flush()
    assert Cache(place).known == {"a": {"n": 1}, "b": {"n": 2}}
    assert [path.name for path in place.parent.iterdir()] == ["kernels.json"]
    place.write_text('{"version": 0, "entries": {"a": {"n": 1}}}')
    assert Cache(place).known == {} and capsys.readouterr().err == ""


def test_a_folder_that_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "kernels.json")
    cache["a"] = {"n": 1}
    cache.flush()
    assert "timings are not kept" in capsys.readouterr().err and cache["a"] == {"n": 1}
