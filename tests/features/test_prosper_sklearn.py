"""scikit-learn's manners: its own checks, clone, pipelines, searches, pickles, and answers in the caller's kind."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparseland.core.errors import SparselandError
from sparseland.features import prosper
from tests.features.prosper_cases import MODELS, draw, model


@pytest.mark.parametrize("name", MODELS)
def test_check_estimator(name: str) -> None:
    """Every check that scikit-learn has for such an estimator, none left out."""
    from sklearn.utils.estimator_checks import check_estimator

    small = getattr(prosper, name)(2, max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(small, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    passed = [r["check_name"] for r in results if r["status"] == "passed"]
    assert len(passed) > 30 and "check_fit_idempotent" in passed and "check_transformer_general" in passed


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_clones(name: str) -> None:
    from sklearn.base import clone

    made = model(name, max_iter=4)
    again = clone(made)
    assert again is not made and again.get_params() == made.get_params() and not hasattr(again, "components_")
    assert made.set_params(max_iter=2, gamma=3) is made and made.get_params()["max_iter"] == 2
    with pytest.raises(ValueError, match="max_iters"):
        made.set_params(max_iters=3)
    assert name in repr(made) and "gamma=3" in repr(made)
    y = draw(name)
    np.testing.assert_array_equal(clone(made).fit(y).components_, made.fit(y).components_)


def test_in_a_pipeline_and_a_search() -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y = draw("BSC", n=90)
    pipe = make_pipeline(StandardScaler(), model("BSC", max_iter=5)).fit(y)
    assert pipe.transform(y).shape == (90, 4) and np.isfinite(pipe.score(y))
    assert list(pipe.get_feature_names_out()) == ["bsc0", "bsc1", "bsc2", "bsc3"]
    search = GridSearchCV(model("BSC", max_iter=15), {"n_components": [1, 4], "candidates": [1], "gamma": [1]}, cv=2)
    assert search.fit(y).best_params_["n_components"] == 4


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_pickles(name: str) -> None:
    y = draw(name)
    made = model(name, max_iter=3).fit(y)
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        np.testing.assert_array_equal(again.transform(y), made.transform(y))


@pytest.mark.parametrize("name", MODELS)
def test_numpy_in_numpy_out_and_torch_too(name: str) -> None:
    y = draw(name)
    made = model(name, max_iter=3).fit(y)
    with_torch = model(name, max_iter=3).fit(torch.as_tensor(y))
    assert isinstance(made.transform(y), np.ndarray) and isinstance(made.components_, np.ndarray)
    codes = with_torch.transform(torch.as_tensor(y))
    assert isinstance(codes, torch.Tensor)
    np.testing.assert_allclose(codes.numpy(), made.transform(y), atol=1e-12)
    back = made.inverse_transform(made.transform(y))
    assert isinstance(back, np.ndarray) and back.shape == y.shape


@pytest.mark.parametrize("name", MODELS)
def test_equal_seeds_give_equal_bits(name: str) -> None:
    y = draw(name)
    one, two = (model(name, max_iter=5, n_restarts=2, random_state=7).fit(y) for _ in range(2))
    assert np.array_equal(one.components_, two.components_) and one.log_likelihood_ == two.log_likelihood_
    other = model(name, max_iter=5, n_restarts=2, random_state=8).fit(y)
    assert not np.array_equal(one.components_, other.components_)


@pytest.mark.parametrize("name", MODELS)
def test_restarts_keep_the_best(name: str) -> None:
    """More restarts from the same seed never end below fewer."""
    y = draw(name, n=80)
    scores = [model(name, max_iter=6, n_restarts=n, random_state=1).fit(y).score(y) for n in (1, 4)]
    assert scores[1] >= scores[0] - 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_samples_look_like_the_data(name: str) -> None:
    made = model(name, max_iter=10).fit(draw(name, n=300))
    x, s = made.sample(4000, random_state=0)
    assert x.shape == (4000, 6) and s.shape == (4000, 4)
    clean = made.inverse_transform(s)
    noise = np.sqrt(np.mean(np.diag(np.atleast_2d(made.noise_covariance_)))) if name == "GSC" else made.sigma_
    if name != "MCA":  # whose samples may be kept positive
        assert (x - clean).std() == pytest.approx(float(noise), rel=0.05)
    again, _ = made.sample(4000, random_state=0)
    np.testing.assert_array_equal(x, again)


# ------------------------------------------------------------------------------------------------------- going on
ANNEALED = {"T": [(0.0, 3.0), (0.6, 1.0)], "Ncut_factor": [(0.0, 0.0), (0.6, 1.0)], "W_noise": 0.1, "partial": 0.8}


@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_fit_is_bit_equal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second restart, after an odd step; what goes on ends with the bits of a run in one piece."""
    y = draw(name, n=60)

    def fresh(where: Any) -> Any:
        annealing = prosper.Annealing(**ANNEALED)
        return model(
            name,
            candidates=3,
            gamma=2,
            max_iter=8,
            n_restarts=2,
            annealing=annealing,
            checkpoint=where,
            checkpoint_every=3,
        )

    whole = fresh(None).fit(y)
    path = tmp_path / "em.safetensors"
    interrupted, count = fresh(path), 0
    kind = type(interrupted)
    maximise = kind._maximise

    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 12:
            raise KeyboardInterrupt
        return maximise(self, *args, **kwargs)

    monkeypatch.setattr(kind, "_maximise", stop)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(y)
    assert path.exists() and [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing half-written lies about
    before = count
    again = fresh(path).fit(y)
    assert count - before == 5  # three steps of the second restart were kept
    assert np.array_equal(again.components_, whole.components_)
    assert np.array_equal(again.log_likelihoods_, whole.log_likelihoods_)
    assert again.log_likelihood_ == whole.log_likelihood_


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "em"
    y = draw("BSC", n=60)
    model("BSC", max_iter=4, checkpoint=path).fit(y)
    with pytest.raises(SparselandError):
        model("BSC", candidates=3, gamma=2, max_iter=4, checkpoint=path).fit(y)
    with pytest.raises(SparselandError):
        model("BSC", max_iter=4, checkpoint=path).fit(y + 1)
    path.write_bytes(b"half of a fi")
    with pytest.raises(SparselandError):
        model("BSC", max_iter=4, checkpoint=path).fit(y)


def test_a_checkpoint_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((SparselandError, OSError)):
        model("BSC", max_iter=4, checkpoint=blocked / "inside" / "em").fit(draw("BSC"))


# --------------------------------------------------------------------------------------------------- adaptive answers
def test_adaptive_inference_finds_the_states_that_gamma_hides() -> None:
    """Points with four causes and gamma = 2: the answer grows until its best state is inside, as the widest model's."""
    rng = np.random.default_rng(0)
    w = 6 * np.eye(6)[:, :6] + rng.normal(0, 0.3, (6, 6))
    s = np.zeros((5, 6))
    s[np.arange(4)[:, None], [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [0, 2, 4, 5]]] = 1
    init = {
        "W": torch.as_tensor(w),
        "pi": torch.tensor(0.4, dtype=torch.float64),
        "sigma": torch.tensor(0.5, dtype=torch.float64),
    }
    x = s @ w + rng.normal(0, 0.1, (5, 6))
    narrow = prosper.BSC(6, candidates=3, gamma=2, max_iter=1, init=init).fit(x)
    narrow.params_ = init  # what made the points, rather than what they teach
    plain, wide = narrow.posterior(x, top=1), narrow.posterior(x, top=1, adaptive=True, gamma_max=6, candidates_max=6)
    assert np.asarray(plain.states)[:4, 0].sum(1).max() <= 2
    np.testing.assert_array_equal(np.asarray(wide.states)[:, 0], s)
