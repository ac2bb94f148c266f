"""Every sparse coding model against EM over all states, and against truncated EM one point at a time; both in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.features import prosper_per_point
from tests.features.prosper_cases import (
    EXACT,
    LINEAR,
    MODELS,
    Array,
    apart,
    draw,
    exhaustive,
    model,
    per_point,
    start,
    tensors,
)

CLOSE = 1e-9


# ---------------------------------------- the oracles themselves
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("t", [1.0, 2.5])
def test_both_oracles_agree_where_nothing_is_cut(name: str, t: float) -> None:
    y, params = draw(name), start(name)
    assert apart(per_point(name, params, y, candidates=4, gamma=4, t=t)[0], exhaustive(name, params, y, t=t)[0]) < 1e-10


@pytest.mark.parametrize("name", EXACT)
def test_the_exhaustive_oracle_is_em(name: str) -> None:
    """Its likelihood never falls, and the parameters that made the data are more likely than a random start."""
    y, params = draw(name, n=120), start(name)
    seen = []
    for _ in range(15):
        params, likelihood = exhaustive(name, params, y)
        seen.append(likelihood)
    assert np.diff(seen).min() > -1e-10 and seen[-1] > seen[0] + 0.05
    assert exhaustive(name, start(name, seed=101), y)[1] > seen[0]


# ---------------------------------------- all states
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("t", [1.0, 2.5])
def test_a_step_with_all_states(name: str, t: float) -> None:
    y, params = draw(name), start(name)
    got, likelihood = model(name).step(tensors(params), torch.as_tensor(y), T=t)
    wanted, known = exhaustive(name, params, y, t=t)
    assert apart(got, wanted) < CLOSE
    if t == 1.0:
        assert abs(float(likelihood) - known) < CLOSE


@pytest.mark.parametrize("name", LINEAR)
def test_annealing_the_prior_too(name: str) -> None:
    y, params = draw(name), start(name)
    got, _ = model(name).step(tensors(params), torch.as_tensor(y), T=2.0, anneal_prior=True)
    assert apart(got, exhaustive(name, params, y, t=2.0, on_both=True)[0]) < CLOSE
    assert apart(got, exhaustive(name, params, y, t=2.0)[0]) > 1e-4


@pytest.mark.parametrize("noise", ["scalar", "diagonal", "full"])
@pytest.mark.parametrize("slab", ["diagonal", "full"])
def test_every_noise_and_slab_of_gsc(noise: str, slab: str) -> None:
    y = draw("GSC", n=400)
    params = start("GSC", seed=101) | {"mu": np.ones(4), "psi": np.ones(4), "noise": 1.0}  # what made the points
    d, h = y.shape[1], len(params["W"])
    rng = np.random.default_rng(5)
    if noise != "scalar":
        params["noise"] = rng.uniform(0.8, 2.0, d)
    if noise == "full":
        params["noise"] = np.diag(params["noise"]) + 0.2
    if slab == "full":
        params["psi"] = np.diag(params["psi"]) + 0.1 * (1 - np.eye(h))
    got, likelihood = model("GSC", noise=noise, slab=slab).step(tensors(params), torch.as_tensor(y))
    wanted, known = exhaustive("GSC", params, y, noise=noise, slab=slab)
    assert slab == "diagonal" or np.linalg.eigvalsh(wanted["psi"]).min() > 0.01
    assert apart(got, wanted) < CLOSE and abs(float(likelihood) - known) < CLOSE


def test_a_full_slab_stays_a_covariance() -> None:
    """Entry by entry the update can leave the positive matrices (few points): the model does not follow it there."""
    y, params = draw("GSC", n=80), start("GSC")
    params["psi"] = np.diag(params["psi"]) + 0.1 * (1 - np.eye(4))
    assert np.linalg.eigvalsh(exhaustive("GSC", params, y, slab="full")[0]["psi"]).min() < 0
    got, _ = model("GSC", slab="full").step(tensors(params), torch.as_tensor(y))
    assert torch.linalg.eigvalsh(got["psi"]).min() > 0 and torch.allclose(got["psi"], got["psi"].mT)


def test_a_learned_mean() -> None:
    y = draw("BSC") + 3.0
    params = start("BSC") | {"mu": np.linspace(2, 4, y.shape[1])}
    got, likelihood = model("BSC", learn_mean=True).step(tensors(params), torch.as_tensor(y))
    wanted, known = exhaustive("BSC", params, y)
    assert apart(got, wanted) < CLOSE and abs(float(likelihood) - known) < CLOSE


@pytest.mark.parametrize("name", MODELS)
def test_fit_is_a_row_of_steps(name: str) -> None:
    """Three steps of `fit` without annealing are three of the oracle, and so are the likelihoods on the way."""
    y, params = draw(name), start(name)
    made = model(name, max_iter=3, init=tensors(params)).fit(y)
    known = []
    for _ in range(3):
        params, likelihood = exhaustive(name, params, y)
        known.append(likelihood)
    np.testing.assert_allclose(made.components_, params["W"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(made.log_likelihoods_, known, rtol=0, atol=1e-8)
    assert made.n_iter_ == 3
    last = exhaustive(name, params, y)[1]
    assert made.log_likelihood_ == pytest.approx(last, abs=1e-8) or made.log_likelihood_ == pytest.approx(
        known[-1], abs=1e-8
    )
    assert made.score(y) == pytest.approx(last, abs=1e-8)
    assert np.mean(made.score_samples(y)) == pytest.approx(last, abs=1e-8)


@pytest.mark.parametrize("name", EXACT)
def test_the_likelihood_never_falls(name: str) -> None:
    """With annealing off and every state inside, over 40 steps from three starts."""
    for seed in range(3):
        y = draw(name, n=100, seed=seed)
        made = model(name, max_iter=40, init=tensors(start(name, seed=seed))).fit(y)
        seen = np.asarray(made.log_likelihoods_)
        assert np.diff(seen).min() > -1e-9 and seen[-1] > seen[0] + 1e-3


@pytest.mark.parametrize("name", ["BSC", "TSC", "DSC"])
def test_sigma_from_the_new_dictionary(name: str) -> None:
    """The closed form is |y - W s|² with the new W, so that a step climbs at least as high."""
    y, params = draw(name), start(name)
    old, _ = model(name).step(tensors(params), torch.as_tensor(y))
    new, _ = model(name, sigma_from_new_W=True).step(tensors(params), torch.as_tensor(y))
    assert torch.equal(old["W"], new["W"]) and float(new["sigma"]) < float(old["sigma"])
    after = [exhaustive(name, {k: np.asarray(v) for k, v in p.items()}, y)[1] for p in (old, new)]
    assert after[1] > exhaustive(name, params, y)[1]


# ---------------------------------------- posteriors
@pytest.mark.parametrize("name", LINEAR)
def test_posterior_means_and_best_states(name: str) -> None:
    from tests.features.prosper_cases import VALUES
    from tests.features.prosper_exhaustive import every_state, log_prior, normal, responsibilities

    y, params = draw(name), start(name)
    made = model(name, max_iter=1, init=tensors(params)).fit(y)
    fitted = exhaustive(name, params, y)[0]
    states = every_state(VALUES[name], 4)
    prior = log_prior(states, fitted, VALUES[name], name.lower())[None]
    q = responsibilities(prior, normal(y, states @ fitted["W"], fitted["sigma"]), 1.0, False)
    np.testing.assert_allclose(made.transform(y), q @ states, atol=1e-9)
    found = made.posterior(y, top=3)
    best = np.argsort(-q, axis=1)[:, :3]
    np.testing.assert_array_equal(np.asarray(found.states), states[best])
    np.testing.assert_allclose(np.exp(np.asarray(found.log_probabilities)), np.take_along_axis(q, best, 1), atol=1e-9)
    np.testing.assert_allclose(np.asarray(found.marginals), q @ (states != 0), atol=1e-9)
    np.testing.assert_allclose(np.asarray(found.means), q @ states, atol=1e-9)


# ---------------------------------------- truncation
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gamma", [2, 3])
@pytest.mark.parametrize("t", [1.0, 2.0])
def test_a_truncated_step(name: str, gamma: int, t: float) -> None:
    y, params = draw(name, n=60, h=7, d=9), start(name, h=7, d=9)
    got, _ = model(name, 7, candidates=4, gamma=gamma).step(tensors(params), torch.as_tensor(y), T=t)
    wanted, _ = per_point(name, params, y, candidates=4, gamma=gamma, t=t)
    assert apart(got, wanted) < CLOSE
    if gamma == 2 and t == 1.0:
        assert apart(got, exhaustive(name, params, y)[0]) > 1e-6  # the truncation is felt


def untied(y: Array, params: dict[str, Any]) -> Array:
    """The points whose four candidates are certain: where two latents of MCA never stand out, either may be fourth."""
    over = np.sort(np.maximum(params["W"] - y[:, None], 0).sum(2), axis=1)
    return y[over[:, 3] < over[:, 4]]


@pytest.mark.parametrize("name", ["MCA", "MMCA", "GSC"])
@pytest.mark.parametrize("n", [20, 300])
def test_without_the_extension(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step, and what a trained model answers: of few points, and of many that share candidates."""
    params = start(name, h=9, d=11)
    y = untied(draw(name, n=n, h=9, d=11), params)
    wanted, _ = per_point(name, params, y, candidates=4, gamma=3)
    made = model(name, 9, candidates=4, gamma=3, max_iter=1, init=tensors(params)).fit(y)
    answers = made.transform(y), made.posterior(y, top=3).means, made.reconstruct(y), made.score_samples(y)
    monkeypatch.setattr("sparseland.kernels.choice.available", lambda: False)
    assert apart(made.step(tensors(params), torch.as_tensor(y))[0], wanted) < CLOSE
    alone = made.transform(y), made.posterior(y, top=3).means, made.reconstruct(y), made.score_samples(y)
    for one, other in zip(answers, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["BSC", "TSC", "DSC", "MCA", "MMCA"])
@pytest.mark.parametrize("cut", [0.5, 1.0])
def test_the_data_cut(name: str, cut: float) -> None:
    y, params = draw(name, n=60, h=7, d=9), start(name, h=7, d=9)
    got, _ = model(name, 7, candidates=4, gamma=2).step(tensors(params), torch.as_tensor(y), Ncut_factor=cut)
    wanted, _ = per_point(name, params, y, candidates=4, gamma=2, cut=cut)
    assert apart(got, wanted) < CLOSE
    assert apart(got, per_point(name, params, y, candidates=4, gamma=2)[0]) > 1e-4


@pytest.mark.parametrize("name", ["BSC", "MCA"])
def test_the_data_cut_of_many_points(name: str) -> None:
    """Where a threshold guessed from a sample of the points would be wrong for some."""
    y, params = draw(name, n=1500, h=7, d=9), start(name, h=7, d=9)
    y = untied(y, params)
    got, _ = model(name, 7, candidates=4, gamma=2).step(tensors(params), torch.as_tensor(y), Ncut_factor=0.7)
    assert apart(got, per_point(name, params, y, candidates=4, gamma=2, cut=0.7)[0]) < CLOSE


def test_gsc_obeys_the_cut_too() -> None:
    """Points with more causes than gamma would otherwise be called noise; the reference ignores it."""
    y, params = draw("GSC", n=200, h=7, d=9), start("GSC", h=7, d=9)
    whole, cut = (
        model("GSC", 7, candidates=4, gamma=2).step(tensors(params), torch.as_tensor(y), Ncut_factor=c)[0]["noise"]
        for c in (0.0, 1.0)
    )
    quirky = model("GSC", 7, candidates=4, gamma=2, compat="prosper")
    same = [quirky.step(tensors(params), torch.as_tensor(y), Ncut_factor=c)[0]["noise"] for c in (0.0, 1.0)]
    assert float(cut) < float(whole) and torch.equal(same[0], same[1])
    assert float(same[0]) > float(whole)  # its noise is too large: products of means in place of means of products


def test_the_truncated_likelihood_of_bsc() -> None:
    """L = H log(1 - pi) - D/2 log(2 pi sigma²) - log A + mean log sum exp F."""
    y, params = draw("BSC", n=60, h=7, d=9), start("BSC", h=7, d=9)
    _, got = model("BSC", 7, candidates=4, gamma=2).step(tensors(params), torch.as_tensor(y))
    _, evidence = per_point("BSC", params, y, candidates=4, gamma=2)
    inside = prosper_per_point.mass(0.3, 7, 2)[0]
    wanted = 7 * np.log(0.7) - 4.5 * np.log(2 * np.pi * 1.2**2) - np.log(inside) + evidence.mean()
    assert float(got) == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_batches_change_nothing(name: str) -> None:
    y, params = draw(name, n=60, h=7, d=9), start(name, h=7, d=9)
    whole = model(name, 7, candidates=4, gamma=2).step(tensors(params), torch.as_tensor(y), Ncut_factor=0.5)
    parts = model(name, 7, candidates=4, gamma=2, batch_size=7).step(
        tensors(params), torch.as_tensor(y), Ncut_factor=0.5
    )
    assert apart(parts[0], whole[0]) < 1e-10 and float(parts[1]) == pytest.approx(float(whole[1]), abs=1e-10)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned, whatever library code asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, tuple | list) else (out,):
            if isinstance(item, Tensor):
                stored = item.untyped_storage().nbytes() // max(item.element_size(), 1)  # views of one number are small
                self.numel = max(self.numel, min(item.numel(), stored))
        return out


@pytest.mark.parametrize("name", MODELS)
def test_no_tensor_grows_with_points_times_states(name: str) -> None:
    """Twelve times the points, the same batch: the largest tensor is a batch's or the data, not (N, states)."""
    params, seen = start(name, h=10, d=36), []
    for n in (100, 1200):
        y = torch.as_tensor(draw(name, n=n, h=10, d=36))
        made = model(name, 10, candidates=6, gamma=3, batch_size=20)
        with Largest() as largest:
            made.step(tensors(params), y)
        seen.append(largest.numel)
    states = 1 + 10 + 15 + 20  # binary; (n, states, D) would be as many times D
    assert seen[1] < 1200 * states and seen[1] <= max(1.5 * seen[0], 1200 * 36)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_models_never_hold_points_times_states_times_pixels(name: str) -> None:
    y, params = torch.as_tensor(draw(name, n=200, h=10, d=144)), start(name, h=10, d=144)
    with Largest() as largest:
        model(name, 10, candidates=6, gamma=3).step(tensors(params), y)
    signed = 1 if name == "BSC" else 8
    assert largest.numel < 200 * (46 * signed) * 12  # (N, n_s, H') or less; with D it would be 144 in place of 12


def test_single_precision_follows() -> None:
    y, params = draw("BSC", n=60), start("BSC")
    made = model("BSC", dtype="float32")
    got, _ = made.step({k: v.float() for k, v in tensors(params).items()}, torch.as_tensor(y, dtype=torch.float32))
    assert got["W"].dtype == torch.float32
    assert apart({k: v.double() for k, v in got.items()}, exhaustive("BSC", params, y)[0]) < 1e-4
