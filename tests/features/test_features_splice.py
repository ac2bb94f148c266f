"""Splicing: an exact reconstruction loses nothing, zero loses everything; CE and KL by hand; three selections."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.core.errors import SparselandError, TargetError
from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.activations import ModelActivations, activation_gradients
from sparseland.features.metrics import reconstruct
from sparseland.features.splice import mean_activation, output_similarity, recovered, splice


class Reader(nn.Module):
    """Embedding, running mean, head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(13, 6), nn.Linear(6, 13)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        out: Tensor = self.head(3 * x.tanh().cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])
        return out


def perfect() -> SparseAutoencoder:
    """Codes ±x: reconstructs exactly."""
    sae = SparseAutoencoder(SAEConfig(6, 12, k=12))
    with torch.no_grad():
        eye = torch.eye(6)
        sae.W_dec.copy_(torch.cat([eye, -eye]))
        sae.W_enc.copy_(sae.W_dec.t())
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae.eval()


@pytest.fixture
def reader() -> Reader:
    return Reader().eval()


IDS = torch.randint(13, (10, 7), generator=torch.Generator().manual_seed(2))


def source(model: nn.Module, ids: object = IDS, **options: object) -> ModelActivations:
    return ModelActivations(model, "embed", ids, batch=4, shuffle=False, **options)  # type: ignore[arg-type]


def test_a_perfect_reconstruction_recovers_everything(reader: Reader) -> None:
    found = recovered(perfect(), source(reader), selects=("activation", "self", "gradient"))
    assert found.tokens == 60
    for select in ("activation", "self", "gradient"):
        arm = found.arms[select]
        assert arm.recovered == pytest.approx(1, abs=1e-5) and arm.delta == pytest.approx(0, abs=1e-6)
        assert arm.kl == pytest.approx(0, abs=1e-6) and arm.metrics["fvu"] < 1e-10
    assert found.arms["zero"].recovered == pytest.approx(0) and found.arms["mean"].recovered_mean == pytest.approx(0)
    assert found.to_dict()["arms"]["activation"]["metrics"]["tokens"] == 70


def test_numbers_by_hand(reader: Reader) -> None:
    sae = SparseAutoencoder(SAEConfig(6, 24, k=2)).eval()
    found = recovered(sae, source(reader))
    with torch.no_grad():
        x = reader.embed(IDS)

        def ce(y: Tensor) -> tuple[float, Tensor]:
            logits = reader.head(3 * y.tanh().cumsum(1) / torch.arange(1, 8)[:, None])[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
            return float(loss), F.log_softmax(logits, -1).flatten(0, 1)

        clean, p = ce(x)
        spliced, q = ce(sae(x).x_hat)
        zero, mean = ce(0 * x)[0], ce(x.mean((0, 1)).expand_as(x))[0]
    arm = found.arms["activation"]
    assert found.ce_clean == pytest.approx(clean, rel=1e-5) and arm.ce == pytest.approx(spliced, rel=1e-5)
    assert found.arms["zero"].ce == pytest.approx(zero, rel=1e-5)
    assert arm.delta == pytest.approx(spliced - clean, rel=1e-4)
    assert arm.recovered == pytest.approx((zero - spliced) / (zero - clean), rel=1e-4)
    assert arm.recovered_mean == pytest.approx((mean - spliced) / (mean - clean), rel=1e-4)
    assert arm.kl == pytest.approx(float(F.kl_div(q, p, log_target=True, reduction="batchmean")), rel=1e-4)


def test_places_that_are_not_read_stay(reader: Reader) -> None:
    mask = torch.ones_like(IDS)
    mask[:, 5:] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask}
    seen = []
    with splice(reader, "embed", lambda x: 0 * x, kept=source(reader, inputs, skip_first=1).kept(inputs, IDS.shape)):
        reader.head.register_forward_pre_hook(lambda *_: None)
        handle = reader.embed.register_forward_hook(lambda _, __, y: seen.append(y))
        reader(IDS)
        handle.remove()
    gone = (seen[0] == 0).all(-1)
    assert gone[:, 1:5].all() and not gone[:, 0].any() and not gone[:, 5:].any()
    assert recovered(perfect(), source(reader, inputs)).tokens == 40  # four labels a sequence


def test_gradient_selection_uses_the_labels_and_self_does_not(reader: Reader) -> None:
    sae = SparseAutoencoder(SAEConfig(6, 24, k=2, select="gradient", beta=50.0, grad_norm="token_l2")).eval()
    found = recovered(sae, source(reader, IDS[:4]), selects=("activation", "self", "gradient"))
    values = [found.arms[s].ce for s in ("activation", "self", "gradient")]
    assert len(set(values)) == 3
    for select, loss in (("self", "self"), ("gradient", "next_token")):
        x, g = activation_gradients(reader, "embed", IDS[:4], loss=loss)
        x_hat, _ = reconstruct(sae, x.reshape(-1, 6), g.reshape(-1, 6))
        with splice(reader, "embed", lambda _, y=x_hat: y), torch.no_grad():  # type: ignore[misc]
            logits = reader(IDS[:4])
        ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:4, 1:].flatten())
        assert found.arms[select].ce == pytest.approx(float(ce), rel=1e-5)
    # other answers change the first, not the second
    other = {"input_ids": IDS[:4], "labels": IDS[:4].flip(1)}
    swapped = recovered(sae, source(reader, other), selects=("self", "gradient"))
    for select, same in (("self", True), ("gradient", False)):
        assert (swapped.arms[select].metrics["fvu"] == found.arms[select].metrics["fvu"]) == same


def test_outputs_of_models_without_a_next_token(reader: Reader) -> None:
    found = output_similarity(perfect(), source(reader), lambda y, _: y.mean(1))
    assert found["cosine"] == pytest.approx(1, abs=1e-6) and found["nmse"] < 1e-8
    assert found["zero_nmse"] > 0.5 and found["mean_nmse"] > 0.1


def test_mean_activation_and_limits(reader: Reader) -> None:
    with torch.no_grad():
        assert torch.allclose(mean_activation(source(reader)), reader.embed(IDS).mean((0, 1)), atol=1e-6)
        assert torch.allclose(mean_activation(source(reader), 4), reader.embed(IDS[:4]).mean((0, 1)), atol=1e-6)
    assert recovered(perfect(), source(reader), sequences=4).tokens == 24


def test_what_cannot_be_spliced(reader: Reader) -> None:
    with pytest.raises(SparselandError, match="select='labels'"):
        recovered(perfect(), source(reader), selects=("labels",))
    with pytest.raises(SparselandError, match="reads d_in=5"):
        recovered(SparseAutoencoder(SAEConfig(5, 10, k=2)), source(reader))
    with pytest.raises(TargetError, match="no layer"), splice(reader, "emb", lambda x: x):
        pass
    with (
        pytest.raises(SparselandError, match="kept is"),
        splice(reader, "embed", lambda x: x, kept=torch.ones(2, 2) > 0),
    ):
        reader(IDS)
    with pytest.raises(SparselandError, match="has shape"), splice(reader, "embed", lambda x: x[:1]):
        reader(IDS)
    with pytest.raises(SparselandError, match="the text is read twice"):
        recovered(perfect(), source(reader, iter([IDS])))
    with pytest.raises(SparselandError, match="no activations are kept"):
        recovered(perfect(), source(reader, special=range(13)))
