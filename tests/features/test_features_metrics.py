"""Metrics against NumPy written out by hand; streaming in pieces changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseland.core.errors import SparselandError
from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.metrics import Metrics, density_histogram, evaluate, reconstruct, token_scale


def made(n: int = 50, d: int = 6, features: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=draw) * 2 + 30  # a mean far from zero: sums of squares would cancel
    codes = torch.randn(n, features, generator=draw).clamp_min(0) * (torch.rand(n, features, generator=draw) < 0.4)
    codes[:, 3] = 0
    return x, x + 0.5 * torch.randn(n, d, generator=draw), codes


def test_against_numpy() -> None:
    x, x_hat, codes = made()
    losses = torch.rand(50)
    metrics = Metrics(9)
    for part in range(0, 50, 13):
        s = slice(part, part + 13)
        metrics.update(x[s], x_hat[s], codes[s], losses=losses[s])
    found = metrics.result()
    a, b, f = x.double().numpy(), x_hat.double().numpy(), codes.double().numpy()
    error = ((a - b) ** 2).sum(1)
    l0 = (f != 0).sum(1)
    assert found["tokens"] == 50
    assert found["fvu"] == pytest.approx(error.sum() / ((a - a.mean(0)) ** 2).sum(), rel=1e-9)
    assert found["mse"] == pytest.approx(((a - b) ** 2).mean(), rel=1e-9)
    assert found["nmse_per_token"] == pytest.approx((error / (a**2).sum(1)).mean(), rel=1e-9)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found["cosine"] == pytest.approx(cosine.mean(), rel=1e-9)
    assert found["l0"] == pytest.approx(l0.mean()) and found["l0_std"] == pytest.approx(l0.std())
    assert found["mean_active"] == pytest.approx(f[f != 0].mean())
    assert found["dead"] == pytest.approx(((f != 0).sum(0) == 0).mean()) and found["dead"] >= 1 / 9
    assert np.allclose(metrics.density.numpy(), (f != 0).mean(0))
    assert found["l0_loss_correlation"] == pytest.approx(np.corrcoef(l0, losses.numpy())[0, 1], abs=1e-6)
    assert found["density"]["dead"] == ((f != 0).sum(0) == 0).sum()


def test_one_piece_or_many() -> None:
    x, x_hat, codes = made()
    whole, pieces = Metrics(9), Metrics(9)
    whole.update(x, x_hat, codes)
    for i in range(50):
        pieces.update(x[i : i + 1], x_hat[i : i + 1], codes[i : i + 1])
    for name, value in whole.result().items():
        assert value == (pytest.approx(pieces.result()[name], rel=1e-9) if name != "density" else value)


def test_underused_features_are_those_below_a_tenth_of_their_budget() -> None:
    codes = torch.zeros(100, 3)
    codes[:50, 0], codes[:4, 1], codes[:6, 2] = 1, 1, 1
    metrics = Metrics(3, expected=torch.tensor([0.5, 0.5, 0.5]))
    metrics.update(torch.randn(100, 2), torch.zeros(100, 2), codes)
    assert metrics.result()["underused"] == pytest.approx(1 / 3)
    with pytest.raises(SparselandError, match="one a feature"):
        Metrics(3, expected=torch.zeros(2))


def test_densities_fall_into_their_bins() -> None:
    density = torch.tensor([0.0, 1e-9, 1e-7, 0.9e-3, 1.1e-3, 1.0])
    found = density_histogram(density)
    assert found["dead"] == 1 and sum(found["counts"]) == 5
    at = dict(zip(np.round(found["edges"][:-1], 2), found["counts"], strict=True))
    assert at[-7.0] == 2 and at[-3.25] == 1 and at[-3.0] == 1 and at[-0.25] == 1


def test_shapes_that_do_not_fit() -> None:
    metrics = Metrics(4)
    for x, x_hat, codes in [
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 4)),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 4)),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 5)),
    ]:
        with pytest.raises(SparselandError, match="a batch is"):
            metrics.update(x, x_hat, codes)
    with pytest.raises(SparselandError, match="no activations were measured"):
        metrics.result()


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "token_rms"])
def test_reconstructions_are_in_the_units_of_the_input(normalize: str) -> None:
    sae = SparseAutoencoder(SAEConfig(6, 24, k=24, normalize=normalize)).eval()
    x = made()[0]
    x_hat, codes = reconstruct(sae, x)
    assert torch.equal(x_hat, sae(x).x_hat) and torch.equal(codes, sae.encode(x))
    assert token_scale(sae, x).shape == (50, 1)
    assert not x_hat.requires_grad


def test_reconstructing_leaves_the_mode_alone() -> None:
    sae = SparseAutoencoder(SAEConfig(6, 24, k=2, select="gradient", beta=1.0))
    assert sae.training
    reconstruct(sae, made()[0])  # without a gradient, which training would refuse
    assert sae.training


def test_evaluate_is_the_metrics_of_what_comes_out() -> None:
    sae = SparseAutoencoder(SAEConfig(6, 24, k=3)).eval()
    x = made(100)[0]
    x_hat, codes = reconstruct(sae, x)
    by_hand = Metrics(24)
    by_hand.update(x, x_hat, codes)
    found = evaluate(sae, x, batch=7)
    for name, value in by_hand.result().items():
        assert found[name] == (pytest.approx(value, rel=1e-6) if name != "density" else value)
    assert evaluate(sae, x, batch=32, tokens=40)["tokens"] == 40
    assert evaluate(sae, iter([x[:30], x[30:]]))["tokens"] == 100


def test_selecting_by_gradient_needs_one_and_changes_the_codes() -> None:
    sae = SparseAutoencoder(SAEConfig(6, 24, k=3, select="gradient", beta=5.0)).eval()
    x = made(100)[0] - 30
    g = torch.randn(100, 6)
    plain, by_gradient = evaluate(sae, (x, g)), evaluate(sae, (x, g), gradient=True)
    assert by_gradient["l0"] == plain["l0"] and by_gradient["fvu"] != plain["fvu"]
    with pytest.raises(SparselandError, match="needs pairs"):
        evaluate(sae, x, gradient=True)


@pytest.mark.parametrize(
    ("source", "says"), [(torch.zeros(3, 5), "5 wide; the autoencoder reads d_in=6"), ([], "no activations")]
)
def test_what_cannot_be_evaluated(source: Any, says: str) -> None:
    with pytest.raises(SparselandError, match=says):
        evaluate(SparseAutoencoder(SAEConfig(6, 24, k=3)), source)
