"""Steering adds what it says where it says; influence by hand on a linear model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparseland.core.errors import SparselandError
from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.activations import ModelActivations
from sparseland.features.steering import logit_influence, steer


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 20))


IDS = torch.randint(20, (12, 10), generator=torch.Generator().manual_seed(0))


def test_steering_adds_the_direction_at_its_places() -> None:
    net, d = linear(), torch.randn(6)
    clean = net(IDS)
    with steer(net, "0", d, 2.0):
        assert torch.allclose(net(IDS), clean + 2 * net[1].weight @ d, atol=1e-5)
    kept = torch.zeros(IDS.shape, dtype=torch.bool)
    kept[3, 4] = True
    with steer(net, "0", d, -1.0, kept=kept):
        change = net(IDS) - clean
    assert torch.allclose(change[3, 4], -(net[1].weight @ d), atol=1e-5) and (change[~kept] == 0).all()
    each = torch.randn(12, 6)
    with steer(net, "0", each, 1.0):
        assert torch.allclose(net(IDS) - clean, (each @ net[1].weight.t())[:, None].expand_as(clean), atol=1e-5)
    assert torch.equal(net(IDS), clean)


@pytest.mark.parametrize("direction", [torch.zeros(5), torch.tensor([float("nan")] * 6)])
def test_directions_that_are_none(direction: Tensor) -> None:
    net = linear()
    with pytest.raises(SparselandError), steer(net, "0", direction, 1.0):
        net(IDS)


def test_an_amount_that_is_no_number() -> None:
    with pytest.raises(SparselandError, match="finite"), steer(linear(), "0", torch.zeros(6), float("inf")):
        pass


@pytest.mark.parametrize("normalize", ["none", "expected_l2"])
def test_influence_of_a_linear_model_by_hand(normalize: str) -> None:
    net = linear()
    sae = SparseAutoencoder(SAEConfig(6, 12, k=2, normalize=normalize))
    rows = net[0](IDS).detach().reshape(-1, 6)
    sae.initialise_(rows)
    sae.eval()
    source = ModelActivations(net, "0", IDS, shuffle=False)
    small, large = logit_influence(sae, source, latents=range(12), scales=(1.0, 4.0), length=5, windows=40, contexts=3)
    codes = sae.encode(rows).detach()
    unit = float(sae.expected) if normalize == "expected_l2" else 1.0
    assert small.latents == [i for i in range(12) if (codes[:, i] > 0).any()] and small.dead == 12 - len(small.latents)
    for place, latent in enumerate(small.latents):
        column = codes[:, latent]
        alpha = float(column[column > 0].median())
        assert small.amount[place] == pytest.approx(alpha, rel=1e-5)
        change = (alpha * unit * net[1].weight @ sae.W_dec[latent]).detach().double()
        assert small.rms[place] == pytest.approx(float(change.square().mean().sqrt()), rel=1e-3)
        assert small.largest[place] == pytest.approx(float(change.abs().max()), rel=1e-3)
        share = change.abs() / change.abs().sum()
        assert small.entropy[place] == pytest.approx(float(-(share * share.log()).sum()), rel=1e-3)
        assert large.rms[place] == pytest.approx(4 * small.rms[place], rel=1e-3)
    assert large.random_95 == pytest.approx(4 * small.random_95, rel=1e-3)
    assert small.to_dict()["mean_rms"] == pytest.approx(sum(small.rms) / len(small.rms))


def test_a_feature_that_matters_stands_above_random_directions() -> None:
    net = linear()
    with torch.no_grad():  # only the first coordinate reaches the logits
        net[1].weight[:, 1:] *= 0.001
    sae = SparseAutoencoder(SAEConfig(6, 12, k=6)).eval()
    with torch.no_grad():
        sae.W_dec.zero_()
        sae.W_dec[:, 1] = 1.0
        sae.W_dec[0] = torch.eye(6)[0]
    found = logit_influence(
        sae, ModelActivations(net, "0", IDS), latents=range(12), scales=(1.0,), length=4, windows=64
    )[0]
    first = found.latents.index(0)
    assert found.rms[first] == max(found.rms) and found.share_above_random <= 1 / len(found.rms) + 1e-9


def test_the_same_seed_gives_the_same() -> None:
    net, sae = linear(), SparseAutoencoder(SAEConfig(6, 24, k=2)).eval()
    source = ModelActivations(net, "0", IDS, shuffle=False)
    one, two, other = (
        logit_influence(sae, source, latents=6, scales=(1.0,), length=5, windows=16, seed=s)[0] for s in (3, 3, 4)
    )
    assert one == two and one.latents != other.latents


def test_what_cannot_be_measured() -> None:
    net, sae = linear(), SparseAutoencoder(SAEConfig(6, 12, k=2)).eval()
    source = ModelActivations(net, "0", IDS)
    with pytest.raises(SparselandError, match="features are numbers from 0 to 11"):
        logit_influence(sae, source, latents=[3, 12])
    with pytest.raises(SparselandError, match="windows of 32 tokens"):
        logit_influence(sae, source)
    with pytest.raises(SparselandError, match="above zero"):
        logit_influence(sae, source, scales=(0.0,))
    with torch.no_grad():
        sae.b_enc.fill_(-1e3)
    with pytest.warns(UserWarning, match="no feature is active"), pytest.raises(SparselandError, match="none of the 3"):
        logit_influence(sae, source, latents=3, length=4)
