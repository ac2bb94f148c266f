"""Second chances: who gets one, what it costs, where its gradient goes; and what counts as explained."""

from __future__ import annotations

import pytest
import torch

from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.sae.density import gini
from sparseland.features.sae.inputs import geometric_median
from sparseland.features.sae.losses import second_chance, unexplained

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(aux: str = "aux_k", **more: object) -> SparseAutoencoder:
    """A small autoencoder of which some features are dead."""
    config = SAEConfig(6, 20, **({"k": 3, "aux": aux, "dtype": "float64", "dead_window": 1000, "k_aux": 4} | more))  # type: ignore[arg-type]
    sae = SparseAutoencoder(config).train()
    sae.since_fired[[2, 5, 7]] = 1000
    return sae


def test_unexplained_is_one_for_the_mean_and_zero_for_the_truth() -> None:
    assert float(unexplained(X, X)) == 0.0
    assert float(unexplained(X, X.mean(0).expand_as(X))) == pytest.approx(1.0)
    both = unexplained(X, X + 0.1)
    assert float(both) == pytest.approx(float(0.01 * X.numel() / (X - X.mean(0)).square().sum()))


def test_the_loss_is_the_residual_s_reconstruction_by_dead_features_alone() -> None:
    sae = made()
    output = sae(X)
    dead = [2, 5, 7]
    e = X - output.x_hat.detach()
    codes = (X - sae.b_dec) @ sae.W_enc[:, dead] + sae.b_enc[dead]
    e_hat = codes @ sae.W_dec[dead]  # no bias on either side; k_aux = 4 > 3: all take part
    wanted = (e - e_hat).square().sum() / (e - e.mean(0)).square().sum() * (1 / 32) * (3 / 4)
    assert output.losses["aux"].item() == pytest.approx(wanted.item(), rel=1e-10)


def test_gradients_reach_encoder_and_decoder_of_the_dead_and_nothing_else() -> None:
    sae = made()
    sae(X).losses["aux"].backward()
    for grad in (sae.W_enc.grad.t(), sae.W_dec.grad, sae.b_enc.grad[:, None]):  # type: ignore[union-attr,index]
        assert (grad.abs().sum(1) > 0).nonzero().squeeze(1).tolist() == [2, 5, 7]
    assert sae.b_dec.grad is None or not sae.b_dec.grad.any()


def test_no_dead_feature_no_loss() -> None:
    sae = made()
    sae.since_fired.zero_()
    output = sae(X)
    assert output.losses["aux"].item() == 0.0
    assert "aux" not in sae.eval()(X).losses


def test_only_the_best_k_of_each_token_try() -> None:
    e = torch.randn(8, 6, dtype=torch.float64)
    weight = torch.randn(5, 6, dtype=torch.float64)
    features, rank = torch.tensor([0, 3, 4]), torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    codes = e @ weight[features].t()
    mask = codes == codes.max(1, keepdim=True).values
    wanted = unexplained(e, (codes * mask) @ weight[features])
    bias = torch.zeros(5, dtype=torch.float64)
    assert float(second_chance(e, e, weight, bias, weight, features, 1, rank)) == pytest.approx(float(wanted))
    # a feature with more weight in the choice is preferred, but its code is not changed
    rank = torch.tensor([1.0, 1e9, 1.0], dtype=torch.float64)
    chosen = torch.where(codes[:, 1] > 0, 1, torch.stack([codes[:, 0], codes[:, 2]], 1).argmax(1) * 2)
    mask = torch.nn.functional.one_hot(chosen, 3).bool()
    wanted = unexplained(e, (codes * mask) @ weight[features])
    assert float(second_chance(e, e, weight, bias, weight, features, 1, rank)) == pytest.approx(float(wanted))


def test_a_constant_residual_costs_nothing_that_is_not_finite() -> None:
    e = torch.ones(4, 6)
    found = second_chance(e, e, torch.zeros(3, 6), torch.zeros(3), torch.eye(6)[:3], torch.arange(3), 1, torch.ones(3))
    assert bool(torch.isfinite(found))


def test_aux_zipf_with_only_dead_features_is_aux_k() -> None:
    first, second = made("aux_k"), made("aux_zipf")
    assert first(X).losses["aux"].item() == second(X).losses["aux"].item()  # not fitted yet: only the dead


def test_aux_zipf_counts_underused_features_by_their_shortfall() -> None:
    sae = made("aux_zipf", underused=0.5, dead_window=10**9)
    density = 0.3 / torch.arange(1.0, 21.0)
    density[15] = 1e-4  # far below the law at any rank
    sae.observed.fill_(10**6)  # the running mean has forgotten its start
    sae.density.copy_(density)
    curve = sae.refit_()
    expected = float(curve.density(20)[-1])
    wanted = 1 - 1e-4 / (0.5 * expected)
    short = sae.shortfall()
    assert float(short[15]) == pytest.approx(wanted, rel=1e-4) and (short > 0).nonzero().tolist() == [[15]]


def test_gini_knows_the_ends_and_the_middle() -> None:
    assert gini(torch.full((100,), 0.2)) == pytest.approx(0.0, abs=1e-12)
    assert gini(torch.tensor([0.0] * 99 + [1.0])) == pytest.approx(0.99)
    assert gini(torch.tensor([1.0, 3.0])) == pytest.approx(0.25)
    assert gini(torch.zeros(3)) == 0.0


def test_the_geometric_median_is_where_distances_balance() -> None:
    x = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 2
    found = geometric_median(x, steps=1000, tolerance=1e-12)
    pull = (x - found) / (x - found).norm(dim=1, keepdim=True)
    assert float(pull.sum(0).norm()) < 1e-6
    x[:20] = 1e6  # a tenth far away hardly moves it
    assert float((geometric_median(x, steps=1000) - found).norm()) < 1.0
