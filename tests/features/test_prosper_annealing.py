"""Annealing curves against interpolation by NumPy, what they do to a fit, and what a person sees of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparseland.core.errors import SparselandError
from sparseland.features import prosper
from sparseland.features.prosper import Annealing
from tests.features.prosper_cases import MODELS, apart, draw, model, per_point, start, tensors


@pytest.mark.parametrize("steps", [7, 50, 333])
def test_curves_are_piecewise_linear(steps: int) -> None:
    curves: dict[str, Any] = {"T": [(0.0, 5.0), (0.3, 2.0), (0.8, 1.0)], "W_noise": [(2, 1.0), (-1, 0.0)]}
    made = Annealing(**curves)
    places = {"T": [0, int(0.3 * steps), int(0.8 * steps)], "W_noise": [2, steps - 1]}
    for step in range(steps):
        for name, points in curves.items():
            wanted = np.interp(step, places[name], [value for _, value in points])
            assert made.at(step, steps)[name] == pytest.approx(wanted)
    assert made.at(3, steps)["Ncut_factor"] == 0.0 and made.at(3, steps)["partial"] == 1.0


def test_positions_that_fall_are_said_before_any_work() -> None:
    late = Annealing(T=[(0.5, 2.0), (10, 1.0)])
    assert late.at(0, 12)["T"] == 2.0
    with pytest.raises(SparselandError, match="rise"):
        model("BSC", annealing=late, max_iter=100).fit(draw("BSC"))


@pytest.mark.parametrize("name", MODELS)
def test_a_fit_follows_its_curves(name: str) -> None:
    """Four annealed steps of `fit` are four steps of the truncated oracle at those temperatures and cuts."""
    y, params = draw(name, n=80), start(name)
    annealing = Annealing(T=[(0, 3.0), (3, 1.0)], Ncut_factor=[(0, 0.0), (3, 1.0)] if name != "GSC" else 0.0)
    words = {"candidates": 4, "gamma": 2}  # all of them: ties between candidates (MCA) cannot turn it
    made = model(name, max_iter=4, annealing=annealing, init=tensors(params), **words).fit(y)
    for step in range(4):
        now = annealing.at(step, 4)
        cut = {} if name == "GSC" else {"cut": now["Ncut_factor"]}
        params, _ = per_point(name, params, y, t=now["T"], **cut, **words)
        if name == "BSC" and step == 0:
            cold = per_point(name, start(name), y, t=1.0, cut=0.0, **words)[0]
            assert apart(params, cold) > 1e-4
    np.testing.assert_allclose(made.components_, params["W"], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_noise_and_subsets(name: str) -> None:
    """Noisy parameters stay where the model is defined, and the seed alone decides."""
    y = draw(name, n=80)
    loud = Annealing(W_noise=2.0, pi_noise=0.5, data_noise=0.5 if name != "MCA" else 0.0, partial=0.5)
    one, two, other = (
        model(name, max_iter=6, annealing=loud, random_state=seed, init=tensors(start(name))).fit(y)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one.components_, two.components_) and not np.array_equal(one.components_, other.components_)
    assert np.isfinite(one.components_).all() and np.isfinite(one.log_likelihoods_).all()
    pi = np.asarray(one.pi_)
    assert (pi > 0).all() and (pi < 1).all() and (name != "DSC" or pi.sum() == pytest.approx(1.0))
    if name == "MCA":
        assert one.components_.min() > 0


def test_the_policy_clips_what_noise_does() -> None:
    y = draw("BSC")
    held = {"W": (-0.5, 0.5, False)}
    loud = Annealing(W_noise=[(0, 50.0), (1, 0.0)])
    seen = []

    class Watched(prosper.BSC):
        def _prepare(self, parameters: Any, *args: Any) -> Any:
            seen.append(float(parameters["W"].abs().max()))
            return super()._prepare(parameters, *args)

    Watched(4, candidates=4, gamma=4, max_iter=1, annealing=loud, noise_policy=held, random_state=0).fit(y)
    assert seen[0] == 0.5
    for bad, said in (({"w": (0, 1, False)}, "W"), ({"W": (1, 0, False)}, "low"), ({"W": 3}, "low, high")):
        with pytest.raises(SparselandError, match=said):
            model("BSC", noise_policy=bad, annealing=loud, max_iter=2).fit(y)


def test_a_fit_can_stop_early() -> None:
    y = draw("BSC", n=120)
    made = model("BSC", max_iter=400, tol=1e-5, init=tensors(start("BSC"))).fit(y)
    gains = np.diff(made.log_likelihoods_)
    assert 3 < made.n_iter_ < 400 and gains[-1] < 1e-5 and (gains[:-1] >= 1e-5).all()
    annealed = model("BSC", max_iter=40, tol=1e3, annealing=Annealing(T=[(0.0, 2.0), (0.5, 1.0)])).fit(y)
    assert annealed.n_iter_ > 20  # not before the curves have come to their end


def test_progress_is_said_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    model("BSC", max_iter=20).fit(draw("BSC"))
    quiet = capsys.readouterr()
    assert quiet.out == quiet.err == ""
    model("BSC", max_iter=20, verbose=1).fit(draw("BSC"))
    said = capsys.readouterr()
    assert said.out == "" and "BSC" in said.err and "20/20" in said.err and "log-likelihood" in said.err
    assert len(said.err.splitlines()) == 10


def test_answers_are_tensors_where_the_data_are() -> None:
    """Parameters and answers are tensors where the data are (that a GPU agrees with the CPU is not tested here)."""
    y = torch.as_tensor(draw("BSC"))
    made = model("BSC", max_iter=2).fit(y)
    assert isinstance(made.components_, torch.Tensor) and made.components_.device == y.device
    assert all(value.device == y.device for value in made.params_.values())
