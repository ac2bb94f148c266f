"""What a sparse coding model refuses, and that it says what was given and what was possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparseland.core.errors import SparselandError
from sparseland.features import prosper
from sparseland.features.prosper import on_off
from tests.features.prosper_cases import MODELS, draw, model, start, tensors


def data(name: str = "BSC") -> np.ndarray:
    return draw(name, n=30)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"candidates": 2, "gamma": 3}, r"3.*2|2.*3"),  # gamma > H'
        ({"candidates": 5, "gamma": 2}, r"5.*4|4.*5"),  # H' > H
        ({"gamma": 0}, "gamma"),
        ({"candidates": 0, "gamma": 0}, "candidates"),
        ({"max_iter": -1}, "max_iter"),
        ({"n_restarts": 0}, "n_restarts"),
        ({"batch_size": 0}, "batch_size"),
        ({"dtype": "int8"}, "float64"),
    ],
)
def test_settings_that_cannot_be(name: str, words: dict[str, Any], said: str) -> None:
    """Stored as they are by the constructor (scikit-learn's manners), refused by fit."""
    made = model(name, **words)
    with pytest.raises(SparselandError, match=said):
        made.fit(data(name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("h", [0, -2])
def test_a_dictionary_of_nothing(name: str, h: int) -> None:
    with pytest.raises(SparselandError, match="n_components"):
        getattr(prosper, name)(h).fit(data(name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_no_numbers(name: str, bad: float) -> None:
    x = data(name)
    x[3, 2] = bad
    with pytest.raises(ValueError, match=r"NaN|inf"):
        model(name, max_iter=2).fit(x)
    fitted = model(name, max_iter=2).fit(data(name))
    for use in (fitted.transform, fitted.score, fitted.posterior):
        with pytest.raises(ValueError, match=r"NaN|inf"):
            use(x)


@pytest.mark.parametrize("name", MODELS)
def test_points_of_another_width(name: str) -> None:
    fitted = model(name, max_iter=2).fit(data(name))
    with pytest.raises(ValueError, match=r"5.*6|6.*5"):
        fitted.transform(data(name)[:, :5])
    for bad in (data(name)[0], data(name)[None]):
        with pytest.raises(ValueError, match="(?i)2D|rows|two|dimension|shape"):
            fitted.transform(bad)
    with pytest.raises(ValueError, match="(?i)0 |empty|no "):
        model(name).fit(np.zeros((0, 6)))


@pytest.mark.parametrize("name", MODELS)
def test_before_fit(name: str) -> None:
    with pytest.raises((ValueError, AttributeError), match="(?i)fit"):
        model(name).transform(data(name))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1.0, 2.0), "0"),
        ((0.0, 1.0, 1.0), "(?i)once|twice|differ|duplicate|distinct"),
        ((0.0,), "0"),
        ((0.0, np.nan), "(?i)nan|finite"),
    ],
)
def test_values_of_dsc(values: tuple[float, ...], said: str) -> None:
    with pytest.raises(SparselandError, match=said):
        prosper.DSC(4, values=values, candidates=4, gamma=2).fit(data())


def test_negative_data_for_a_maximum() -> None:
    x = draw("BSC", n=30)
    assert x.min() < 0
    with pytest.raises(SparselandError, match="on_off"):
        model("MCA", max_iter=2).fit(x)
    made = model("MCA", max_iter=2).fit(on_off(x))
    with pytest.raises(SparselandError, match="on_off"):
        made.transform(-on_off(x))


@pytest.mark.parametrize("name", ["BSC", "TSC", "MCA", "MMCA", "GSC"])
@pytest.mark.parametrize("pi", [0.0, 1.0, -0.1, 1.5])
def test_a_prior_outside_of_zero_and_one(name: str, pi: float) -> None:
    params = start(name)
    params["pi"] = np.full(4, pi) if name == "GSC" else pi
    with pytest.raises(SparselandError, match="pi"):
        model(name, init=tensors(params), max_iter=1).fit(data(name))


@pytest.mark.parametrize("pi", [(0.5, 0.6, 0.1), (0.5, 0.5, 0.0), (0.5, 0.5)])
def test_a_prior_of_dsc_that_is_none(pi: tuple[float, ...]) -> None:
    params = start("DSC") | {"pi": np.array(pi)}
    with pytest.raises(SparselandError, match="pi"):
        model("DSC", init=tensors(params), max_iter=1).fit(data())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"W": np.ones((3, 6))}, r"\(3, 6\)"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": 0.0}, "sigma"),
        ({"W": np.full((4, 6), np.nan)}, "(?i)nan|finite"),
        ({"tau": 1.0}, "tau"),
    ],
)
def test_a_start_that_does_not_fit(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SparselandError, match=said):
        model("BSC", init=tensors(start("BSC") | change), max_iter=1).fit(data())
    lacking = {key: value for key, value in start("BSC").items() if key != "W"}
    with pytest.raises(SparselandError, match="W"):
        model("BSC").step(tensors(lacking), torch.as_tensor(data()))


def test_points_without_a_direction() -> None:
    """A zero point has no cosine: the model goes on, its other points keep their answers, and nothing is NaN."""
    x = data()
    x[5] = 0.0
    made = model("BSC", candidates=3, gamma=2, max_iter=3).fit(x)
    assert np.isfinite(made.components_).all() and np.isfinite(made.score_samples(x)).all()
    codes = made.transform(x)
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes[:5], made.transform(x[:5]), atol=1e-12)
    assert np.isfinite(model("BSC", candidates=3, gamma=2, max_iter=2).fit(np.zeros((9, 6)) + 1e-12).components_).all()


def test_a_cut_that_leaves_nobody() -> None:
    params = start("BSC", h=10, d=6) | {"pi": 0.97}
    made = model("BSC", 10, candidates=3, gamma=1)
    with pytest.raises(SparselandError, match=r"(?i)cut"):
        made.step(tensors(params), torch.as_tensor(data()), Ncut_factor=1.0)


def test_more_states_than_can_be() -> None:
    with pytest.raises(SparselandError, match=r"[\d,]{7,}"):
        prosper.BSC(30, candidates=30, gamma=15).fit(np.random.default_rng(0).normal(size=(40, 6)))
    with pytest.raises(SparselandError, match=r"[\d,]{7,}"):
        prosper.DSC(12, values=(0, 1, 2, 3, 4), candidates=12, gamma=10).fit(data())


@pytest.mark.parametrize("key", ["Ncut_facter", "temperature", "w_noise"])
def test_an_unknown_annealing_name(key: str) -> None:
    with pytest.raises(KeyError, match="Ncut_factor") as caught:
        prosper.Annealing(**{key: 1.0})
    assert key in str(caught.value) and isinstance(caught.value, SparselandError)


@pytest.mark.parametrize(
    "words", [{"T": 0.0}, {"T": -1.0}, {"T": [(0, 2.0), (0, 1.0, 3)]}, {"Ncut_factor": 1.5}, {"partial": -0.1}]
)
def test_annealing_out_of_range(words: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        model("BSC", annealing=prosper.Annealing(**words), max_iter=3).fit(data())


def test_answers_that_were_not_asked_for() -> None:
    made = model("BSC", max_iter=2).fit(data())
    with pytest.raises(ValueError, match=r"3.*4|4.*3"):
        made.inverse_transform(np.zeros((2, 3)))
    for top in (0, -1):
        with pytest.raises(ValueError, match="top"):
            made.posterior(data(), top=top)
    with pytest.raises(ValueError, match="n"):
        made.sample(0)


def test_words_of_gsc() -> None:
    for words in ({"noise": "isotropic"}, {"slab": "scalar"}, {"compat": "sklearn"}):
        with pytest.raises(SparselandError, match=next(iter(words.values()))):
            model("GSC", **words).fit(data("GSC"))
