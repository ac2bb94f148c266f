"""Gradients of the frozen model's loss against finite differences and by hand; attribution; what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError
from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.activations import ActivationStream, ModelActivations, activation_gradients
from sparseland.features.activations.gradients import random_layers
from sparseland.features.activations.hook import replaced
from sparseland.features.activations.objectives import objective, token_losses
from sparseland.features.attribution import attribute, faithfulness, spearman


class Causal(nn.Module):
    """Embedding, a running mean over earlier places (so that places act on later ones), a head."""

    def __init__(self, words: int = 11, d: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.drop = nn.Embedding(words, d), nn.Linear(d, words), nn.Dropout(0.0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None]
        out: Tensor = self.head(self.drop(x.tanh().cumsum(1) / count))
        return out


IDS = torch.tensor([[1, 4, 2, 9, 10], [3, 3, 0, 7, 8]])


@pytest.fixture
def causal() -> Causal:
    return Causal().double().eval()


def loss_at(model: nn.Module, ids: Tensor, change: Tensor) -> float:
    """The summed next-token loss with ``change`` added to the embedding's output."""
    with torch.no_grad(), replaced(model, "embed", lambda x: x + change):
        return float(F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))


def test_gradients_against_finite_differences(causal: Causal) -> None:
    x, g = activation_gradients(causal, "embed", IDS)
    assert torch.equal(x, causal.embed(IDS).detach()) and not x.requires_grad and not g.requires_grad
    step = 1e-6
    for place in [(0, 0, 1), (0, 3, 4), (1, 2, 0), (1, 4, 3)]:
        change = torch.zeros_like(x)
        change[place] = step
        slope = (loss_at(causal, IDS, change) - loss_at(causal, IDS, -change)) / (2 * step)
        assert abs(slope - float(g[place])) < 1e-7
    assert (g[:, -1] == 0).all()  # nothing comes after the last token


def test_a_row_does_not_depend_on_its_batch(causal: Causal) -> None:
    _, together = activation_gradients(causal, "embed", IDS)
    _, alone = activation_gradients(causal, "embed", IDS[:1])
    assert torch.allclose(together[:1], alone, atol=1e-12)


def test_padding_does_not_count(causal: Causal) -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    _, g = activation_gradients(causal, "embed", {"input_ids": IDS, "attention_mask": mask})
    _, short = activation_gradients(causal, "embed", IDS[:1, :3])
    assert torch.allclose(g[:1, :3], short, atol=1e-12) and (g[0, 3:] == 0).all()


def test_weights_get_no_gradient_and_may_be_frozen(causal: Causal) -> None:
    _, g = activation_gradients(causal, "embed", IDS)
    assert all(p.grad is None for p in causal.parameters())
    _, frozen = activation_gradients(causal.requires_grad_(False), "embed", IDS)
    assert torch.equal(g, frozen)


def test_scaling_the_loss_changes_nothing_but_saves_small_gradients(causal: Causal) -> None:
    _, plain = activation_gradients(causal, "embed", IDS)
    _, scaled = activation_gradients(causal, "embed", IDS, scale=64.0)
    assert torch.allclose(plain, scaled, rtol=1e-12)
    half = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False)).half()
    tiny = torch.full((1, 2), 2.0**-26)
    with torch.no_grad():
        half[1].weight.copy_(torch.ones(1, 2))
    x = torch.ones(1, 2, dtype=torch.float16)

    def loss(y: Any, _: Any) -> Tensor:
        return (y.float() * 2.0**-26).sum()

    _, lost = activation_gradients(half, "0", x, loss=loss, scale=1.0)
    _, kept = activation_gradients(half, "0", x, loss=loss)
    assert (lost == 0).all() and torch.equal(kept, tiny) and kept.dtype == torch.float32


def test_objectives_by_hand(causal: Causal) -> None:
    with torch.no_grad():
        logits = causal(IDS)
    log_p = F.log_softmax(logits, -1)
    own = -(log_p.max(-1).values.sum())
    assert float(objective("self", logits, IDS)) == pytest.approx(float(own), rel=1e-5)
    sharp = F.softmax(2 * logits, -1)
    kl = (sharp * (sharp.log() - log_p)).sum()
    assert float(objective("self_kl", logits, IDS)) == pytest.approx(float(kl), rel=1e-4)
    labels = torch.tensor([2, 5])
    first = objective("labels", logits[:, 0], {"input_ids": IDS, "labels": labels})
    assert float(first) == pytest.approx(float(-log_p[[0, 1], 0, labels].sum()), rel=1e-5)
    some = IDS.clone()
    some[0, 2:] = -100
    losses, counts = token_losses(logits, {"input_ids": IDS, "labels": some})
    assert counts.tolist() == [[True, False, False, False], [True] * 4] and (losses[0, 1:] == 0).all()


def test_without_labels(causal: Causal) -> None:
    floats = torch.randn(2, 3)
    with pytest.raises(ValueError, match="needs labels"):
        objective("next_token", torch.zeros(2, 3, 4), floats)
    with pytest.raises(ValueError, match="needs labels"):
        activation_gradients(causal, "embed", IDS, loss="labels")
    with pytest.raises(SparselandError, match="unknown loss 'ce'"):
        activation_gradients(causal, "embed", IDS, loss="ce")
    with pytest.raises(SparselandError, match="one number"):
        activation_gradients(causal, "embed", IDS, loss=lambda y, _: y)
    with pytest.raises(SparselandError, match="no logits"):
        objective("self", object(), IDS)
    with pytest.raises(SparselandError, match="needs logits"):
        token_losses(torch.zeros(2, 4), IDS)


def test_no_graph(causal: Causal) -> None:
    with torch.no_grad(), pytest.raises(SparselandError, match="call with grads enabled"):
        activation_gradients(causal, "embed", IDS)
    with torch.inference_mode(), pytest.raises(SparselandError, match="call with grads enabled"):
        activation_gradients(causal, "embed", IDS)

    class Own(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                out: Tensor = super().forward(x)
                return out

    with pytest.raises(SparselandError, match="call with grads enabled"):
        activation_gradients(Own(nn.Linear(2, 3), nn.Linear(3, 3)), "0", torch.ones(1, 2), loss="self")
    with pytest.raises(SparselandError, match="does not depend"):
        activation_gradients(
            causal, "embed", IDS, loss=lambda y, _: y.detach().sum() + sum(p.sum() for p in causal.head.parameters())
        )


def test_a_layer_that_runs_twice_or_never(causal: Causal) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.a(self.a(x))
            return out

    with pytest.raises(SparselandError, match="runs 2 times"):
        activation_gradients(Twice(), "a", torch.ones(1, 2), loss="self")
    with pytest.raises(SparselandError, match="did not run"):
        activation_gradients(Twice(), "b", torch.ones(1, 2), loss="self")


def test_dropout_in_training_mode_warns() -> None:
    model = Causal()
    model.drop.p = 0.1
    model.train()
    assert random_layers(model) == ["drop"]
    with pytest.warns(UserWarning, match=r"training mode and has 1 dropout layers \(first: 'drop'\)"):
        activation_gradients(model, "embed", IDS)
    with pytest.warns(UserWarning, match="training mode"):
        list(ModelActivations(model, "embed", IDS).blocks(0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        activation_gradients(model.eval(), "embed", IDS)


def test_streams_of_pairs_are_the_models(causal: Causal) -> None:
    model = causal.float()
    for loss in ("next_token", "self", "self_kl"):
        source = ModelActivations(model, "embed", IDS, gradient=loss, shuffle=False)
        x, g = (torch.cat(p) for p in zip(*source.blocks(0, 0), strict=True))
        wx, wg = activation_gradients(model, "embed", IDS, loss=loss)
        last = -1 if loss == "next_token" else None  # without labels the last place has a gradient too
        assert torch.equal(x, wx[:, :last].reshape(-1, 5)) and torch.equal(g, wg[:, :last].reshape(-1, 5))
        assert ActivationStream(source, batch=2, buffer=4).pairs


# ---------------------------------------------------------------------------------------------------------- attribution
@pytest.mark.parametrize("normalize", ["none", "token_rms", "layer_norm"])
def test_attribution_is_the_slope_of_taking_a_feature_out(causal: Causal, normalize: str) -> None:
    model = causal.float()
    sae = SparseAutoencoder(SAEConfig(5, 12, k=3, normalize=normalize)).eval()
    x, g = activation_gradients(model, "embed", IDS)
    rows = x[0]
    with torch.no_grad():
        codes = sae.encode(rows)
        a, out = attribute(sae, rows, g[0]), sae(rows).x_hat
        assert ((codes != 0) | (a == 0)).all()
        for token, feature in codes.nonzero()[:6].tolist():
            without = codes.clone()
            without[token, feature] = 0
            y, x_hat = (t[token] - t[token].mean() for t in (sae.decode(codes), out))
            scale = (y @ x_hat) / (y @ y)  # x_hat = scale y + centre
            moved = (sae.decode(codes) - sae.decode(without))[token] * scale
            assert float(moved @ g[0, token]) == pytest.approx(float(a[token, feature]), rel=1e-4, abs=1e-6)
    with pytest.raises(SparselandError, match="gradients "):
        attribute(sae, rows, g)


def test_spearman_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        a = torch.randint(0, 6, (40,), generator=draw).double()  # many ties
        b = a + torch.randn(40, generator=draw)
        assert spearman(a, b) == pytest.approx(float(stats.spearmanr(a.numpy(), b.numpy())[0]), abs=1e-12)
    assert spearman(torch.ones(4), torch.arange(4.0)) == 0.0


def test_faithfulness_is_high_where_the_loss_is_nearly_linear(causal: Causal) -> None:
    model = causal.float()
    with torch.no_grad():  # small activations: the first order is all there is
        model.embed.weight.mul_(0.02)
        model.head.weight.mul_(3)
    sae = SparseAutoencoder(SAEConfig(5, 12, k=3)).eval()
    ids = torch.randint(11, (16, 9), generator=torch.Generator().manual_seed(0))
    found = faithfulness(sae, ModelActivations(model, "embed", ids), pairs=60)
    assert found["pairs"] == 60 and found["spearman"] > 0.99
    assert found["mean_attribution"] == pytest.approx(found["mean_effect"], rel=0.05)
    with pytest.raises(SparselandError, match="at least 3 pairs"):
        faithfulness(sae, ModelActivations(model, "embed", ids), pairs=2)
