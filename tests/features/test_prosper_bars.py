"""Bars data and their metrics, and the models on them: what is recovered, and what the maximum needs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from sparseland.core.errors import SparselandError
from sparseland.features import prosper
from sparseland.features.prosper import Annealing, bar_components, match, sample_bars


# --------------------------------------------------------------------------------------------------------- the data
def test_a_picture_is_the_sum_of_its_bars() -> None:
    data = sample_bars(400, size=4, noise=0.0, seed=3)
    assert data.X.shape == (400, 16) and data.components.shape == (8, 16) and set(np.unique(data.states)) == {0.0, 1.0}
    pictures = data.X.reshape(-1, 4, 4)
    rows, columns = data.states[:, :4], data.states[:, 4:]
    np.testing.assert_array_equal(pictures, 10 * (rows[:, :, None] + columns[:, None, :]))


@pytest.mark.parametrize("mixing", ["max", "magnitude"])
def test_overlaps_do_not_add_up(mixing: str) -> None:
    signed = mixing == "magnitude"
    data = sample_bars(300, size=3, mixing=mixing, noise=0.0, signed=signed, seed=0)
    assert np.abs(data.X).max() == 10.0
    for x, s in zip(data.X, data.states, strict=True):
        parts = s[:, None] * data.components
        assert (np.abs(x) == np.abs(parts).max(0)).all() and all(x[d] in parts[:, d] for d in range(9))


def test_the_noise_and_the_slab_have_the_asked_spread() -> None:
    data = sample_bars(4000, size=3, mixing="slab", slab_mean=2.0, slab_std=0.5, noise=1.5, seed=0)
    assert (data.X - data.states @ data.components).std() == pytest.approx(1.5, rel=0.02)
    on = data.states[data.states != 0]
    assert on.mean() == pytest.approx(2.0, abs=0.03) and on.std() == pytest.approx(0.5, abs=0.03)
    null = data.X[(data.states == 0).all(1)]
    assert len(null) and null.std() == pytest.approx(1.5, rel=0.1)  # the reference's generator leaves noise out there


def test_values_and_their_probabilities() -> None:
    data = sample_bars(5000, size=5, values=(0, 1, 2), probabilities=(0.8, 0.15, 0.05), seed=1)
    shares = [(data.states == v).mean() for v in (0, 1, 2)]
    assert shares == pytest.approx([0.8, 0.15, 0.05], abs=0.01)
    assert np.array_equal(sample_bars(9, seed=1).X, sample_bars(9, seed=1).X)
    assert not np.array_equal(sample_bars(9, seed=1).X, sample_bars(9, seed=2).X)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"size": 0}, "size of 1"),
        ({"size": True}, "size of 1"),
        ({"height": -1.0}, "positive"),
        ({"mixing": "maximum"}, "linear, magnitude, max, slab"),
        ({"values": (1, 2)}, "0 and at least one other"),
        ({"values": (0, 1, 1)}, "each once"),
        ({"probabilities": (0.5, 0.6)}, "add up to 1"),
        ({"noise": -1.0}, "noise >= 0"),
    ],
)
def test_bars_that_cannot_be(words: dict[str, Any], said: str) -> None:
    with pytest.raises(SparselandError, match=said):
        sample_bars(5, **words)


# ------------------------------------------------------------------------------------------------------- the matching
@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_a_shuffled_dictionary_is_found_again(signs: bool, scale: bool) -> None:
    rng = np.random.default_rng(0)
    truth = bar_components(4)
    order = rng.permutation(8)
    factors = rng.choice([-1, 1], 8) if signs else np.ones(8)
    factors = factors * (rng.uniform(0.5, 3, 8) if scale else 1)
    learned = np.concatenate([(factors[:, None] * truth)[order], rng.normal(size=(2, 16))])
    found = match(learned, truth, signs=signs, scale=scale)
    np.testing.assert_array_equal(found.order, np.argsort(order))
    assert found.errors.max() < 1e-12 and found.recovered() == 8
    np.testing.assert_allclose(found.components, truth, atol=1e-12)


def test_matching_is_as_good_as_the_assignment_of_scipy() -> None:
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(1)
    truth = bar_components(5)
    learned = truth[rng.permutation(10)] + rng.normal(0, 0.7, truth.shape)
    costs = np.abs(truth[:, None] - learned[None]).mean(2)
    assert match(learned, truth).errors.sum() == pytest.approx(costs[linear_sum_assignment(costs)].sum())


def test_fewer_components_than_bars() -> None:
    found = match(bar_components(3)[:4], bar_components(3))
    assert found.recovered() == 4 and np.isinf(found.errors[4:]).all() and (found.order[4:] == -1).all()
    for bad in (bar_components(3)[:, :5], bar_components(3)[0], np.full((6, 9), np.nan)):
        with pytest.raises(SparselandError, match=r"tables of one D|NaN"):
            match(bad, bar_components(3))


# --------------------------------------------------------------------------------------------------------- the models
SHORT: dict[str, tuple[dict[str, Any], int, float, dict[str, Any], dict[str, bool]]] = {
    "BSC": ({}, 40, 4.0, {}, {}),
    "TSC": ({"values": (-1, 0, 1), "seed": 1}, 60, 2.0, {}, {"signs": True}),
    "DSC": ({"values": (0, 1, 2), "probabilities": (0.75, 0.15, 0.1)}, 50, 2.0, {"values": (0, 1, 2)}, {}),
    "MCA": ({"mixing": "max"}, 50, 4.0, {"negative": "allow"}, {}),
    "MMCA": ({"mixing": "magnitude"}, 60, 4.0, {}, {}),
    "GSC": ({"mixing": "slab"}, 50, 4.0, {}, {"signs": True, "scale": True}),
}


@cache
def learned(name: str, mixing: str | None = None) -> tuple[Any, Any]:
    """Bars of 4 x 4, 500 pictures, noise 1, two starts: T falls to 1 at 80 % of the steps, the cut rises until 2/3."""
    words, steps, t, more, _ = SHORT[name]
    data = sample_bars(500, size=4, noise=1.0, **(words | ({"mixing": mixing} if mixing else {})))
    annealing = Annealing(T=[(0.0, t), (0.8, 1.0)], Ncut_factor=[(0.0, 0.0), (2 / 3, 1.0)])
    given = {"candidates": 6, "gamma": 4, "max_iter": steps, "annealing": annealing, "random_state": 0} | more
    return data, getattr(prosper, name)(8, n_restarts=2, **given).fit(data.X)


@pytest.mark.parametrize("name", SHORT)
def test_small_bars_are_recovered(name: str) -> None:
    """All eight, with the prior and the noise of the data."""
    data, made = learned(name)
    found = match(made.components_, data.components, **SHORT[name][4])
    assert found.recovered() == 8
    noise = float(np.sqrt(made.noise_covariance_)) if name == "GSC" else made.sigma_
    assert noise == pytest.approx(1.0, abs=0.25)
    on, pi = (data.states != 0).sum(1).mean(), np.asarray(made.pi_)
    causes = 8 * (1 - pi[0]) if name == "DSC" else pi.sum() if name == "GSC" else 8 * pi
    assert float(causes) == pytest.approx(on, abs=0.3)


def test_the_maximum_needs_mca() -> None:
    """Bars mixed by their maximum: what the linear model cannot explain it has to call noise."""
    data, mca = learned("MCA")
    same, linear = learned("BSC", "max")
    assert np.array_equal(data.X, same.X)
    assert mca.sigma_ < 1.25 and linear.sigma_ > 1.2 * mca.sigma_
    assert mca.score(data.X) > linear.score(data.X) + 0.5


def test_the_likelihood_tells_a_lost_bar() -> None:
    """Why restarts may be chosen by it: with one bar forgotten it is far lower than with all."""
    data, made = learned("BSC")
    lost = prosper.BSC(8, candidates=6, gamma=4, max_iter=1, random_state=0).fit(data.X)
    lost.params_ = {k: v.clone() for k, v in made.params_.items()}
    lost.params_["W"][0] = lost.params_["W"][1] + lost.params_["W"][2]
    assert lost.score(data.X) < made.score(data.X) - 0.5
