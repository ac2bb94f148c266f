"""Penalties on attention maps: their arithmetic and direction, catching maps, and the gradient that joins the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.core.errors import RecipeError, ScoreError, SparselandError, TargetError
from sparseland.weights import attention
from sparseland.weights.attention import attention_maps, penalised, penalty
from sparseland.zoo import build

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 4, "intermediate_size": 16}


def vit(kind: str = "vit", **changes: Any) -> nn.Module:
    pytest.importorskip("transformers")
    options: dict[str, Any] = SIZES | changes
    if kind == "swin":
        options = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 2}
    elif kind == "dinov2":
        options.pop("intermediate_size")
    return build(f"hf:config:{kind}", in_shape=(1, 8, 8), classes=10, seed=0, **options)


class Own(nn.Module):
    """A net of one's own with two blocks that hand out their maps; logits instead of maps if asked."""

    def __init__(self, logits: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([OwnAttention(6, logits) for _ in range(2)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)[0]
        out: Tensor = self.head(x[:, 0])
        return out


class OwnAttention(nn.Module):
    def __init__(self, width: int, logits: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.logits = (
            nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width), logits,
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = (self.q(x) @ self.k(x).transpose(1, 2))[:, None]
        a = scores.softmax(-1)
        return a[:, 0] @ self.v(x), scores if self.logits else a


# ----------------------------------------------------------------------------------------------------------- arithmetic
@pytest.mark.parametrize("n", [2, 5, 17])
def test_closed_forms_of_uniform_and_one_hot_rows(n: int) -> None:
    uniform, one = torch.full((2, 3, n, n), 1 / n), torch.eye(n).expand(2, 3, n, n)
    assert float(penalty([uniform])) == pytest.approx(math.log1p(1 / n**2), rel=1e-5)
    assert float(penalty([one])) == pytest.approx(math.log(2) / n, rel=1e-5)
    assert float(penalty([uniform], reduction="row_sum")) == pytest.approx(n * math.log1p(1 / n**2), rel=1e-5)
    assert float(penalty([uniform], "entropy", "row_sum")) == pytest.approx(math.log(n), rel=1e-5)
    assert float(penalty([one], "entropy", "row_sum")) == pytest.approx(0, abs=1e-6)
    assert float(penalty([one], "square", "row_sum")) == pytest.approx(-1)
    assert float(attention.hoyer(one)) == pytest.approx(1) and float(attention.hoyer(uniform)) == pytest.approx(
        0, abs=1e-5
    )
    assert float(attention.gini(one)) == pytest.approx(1 - 1 / n) and float(attention.gini(uniform)) == pytest.approx(
        0, abs=1e-6
    )


def test_gini_is_the_mean_difference_of_pairs() -> None:
    a = torch.rand(4, 9).softmax(-1)
    pairs = (a[:, :, None] - a[:, None, :]).abs().sum((1, 2)) / (2 * 9 * a.sum(1))
    assert float(attention.gini(a)) == pytest.approx(float(pairs.mean()), abs=1e-6)


def test_uniform_rows_are_the_minimum_whatever_the_row() -> None:
    """Jensen: the paper's penalty is never below that of uniform rows, nor above that of one-hot rows."""
    a = (5 * torch.randn(200, 1, 9, 9)).softmax(-1)
    values = torch.stack([penalty([m[None]]) for m in a])
    assert bool((values >= math.log1p(1 / 81) - 1e-7).all()) and bool((values <= math.log(2) / 9 + 1e-7).all())


@pytest.mark.parametrize(("kind", "sign"), [("log", 1), ("entropy", -1), ("square", -1)])
def test_descent_evens_rows_out_or_sharpens_them(kind: str, sign: int) -> None:
    logits = (2 * torch.randn(1, 1, 65, 65)).requires_grad_()
    before = float(attention.row_entropy(logits.detach().softmax(-1)))
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        penalty([logits.softmax(-1)], kind, "row_sum").backward()
        optimizer.step()
    after = float(attention.row_entropy(logits.detach().softmax(-1)))
    assert sign * (after - before) > 0.5 and after < math.log(65)


def test_only_the_chosen_maps_receive_a_gradient() -> None:
    logits = [torch.randn(2, 2, 5, 5, requires_grad=True) for _ in range(3)]
    maps = [x.softmax(-1) for x in logits]
    got = torch.autograd.grad(penalty(maps), logits, allow_unused=True, retain_graph=True)
    assert [g is not None for g in got] == [False, False, True]
    got = torch.autograd.grad(penalty(maps, layers=(0, -2)), logits, allow_unused=True)
    assert [g is not None for g in got] == [True, True, False]


# ------------------------------------------------------------------------------------------------------------- catching
@pytest.mark.parametrize(("kind", "layers"), [("vit", 3), ("beit", 3), ("dinov2", 3), ("vit_msn", 3), ("swin", 2)])
def test_maps_of_any_vision_transformer(kind: str, layers: int) -> None:
    model = vit(kind)
    before, training = model.config._attn_implementation, model.training
    maps = attention_maps(model, torch.randn(2, 1, 8, 8))
    assert len(maps) == layers and all(torch.allclose(a.sum(-1), torch.ones(()), atol=1e-5) for a in maps.values())
    assert (model.config._attn_implementation, model.training) == (before, training)  # as it was
    assert not any(m._forward_hooks for m in model.modules())


def test_maps_are_those_that_the_library_returns() -> None:
    model = vit().eval()
    model.set_attn_implementation("eager")
    x = torch.randn(2, 1, 8, 8)
    theirs = model(x, output_attentions=True).attentions
    assert all(torch.equal(a, b) for a, b in zip(attention_maps(model, x).values(), theirs, strict=True))


# ------------------------------------------------------------------------------------------------------------- training
def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("words", [{}, {"kind": "entropy", "reduction": "row_sum", "layers": "all"}])
def test_the_gradient_is_that_of_the_sum(words: dict[str, Any]) -> None:
    """Joined in the backward pass or added to the loss by hand: the same gradient; outside nothing is left."""
    model = vit().train()
    model.set_attn_implementation("eager")
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    out = model(x, output_attentions=True)
    by_hand = penalty(out.attentions, **words)
    (F.cross_entropy(out.logits, y) + 3.0 * by_hand).backward()
    wanted = gradients(model)
    model.zero_grad()
    hooks = [len(m._forward_hooks) for m in model.modules()]  # the library has some of its own by now
    with penalised(model, 3.0, **words) as seen:
        F.cross_entropy(model(x).logits, y).backward()
    for name, grad in gradients(model).items():
        assert torch.allclose(grad, wanted[name], atol=1e-6), name
    assert seen["penalty"] == pytest.approx(float(by_hand.detach()))
    model.zero_grad()
    with penalised(model, 3.0, **words):  # the library's own loss
        model(x, labels=y).loss.backward()
    assert all(torch.allclose(grad, wanted[name], atol=1e-6) for name, grad in gradients(model).items())
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_faithful_mode_leaves_what_follows_the_last_map_alone() -> None:
    model = vit().train()
    with pytest.warns(UserWarning, match="computed by 'eager' instead of 'sdpa'"), penalised(model, 1.0):
        (0 * model(torch.randn(2, 1, 8, 8)).logits.sum()).backward()
    moved = {n for n, g in gradients(model).items() if float(g.abs().max()) > 0}
    assert "vit.layers.2.attention.q_proj.weight" in moved
    last = ("vit.layers.2.attention.v_proj", "vit.layers.2.attention.o_proj", "vit.layers.2.mlp", "classifier")
    assert not any(name.startswith(last) for name in moved)
    assert model.config._attn_implementation == "sdpa"


def test_evaluation_is_left_alone_and_own_nets_work() -> None:
    model = Own()
    x = torch.randn(2, 5, 6)
    plain = model(x)
    with penalised(model, 2.0, layers="all") as seen:
        assert torch.equal(model.eval()(x), plain) and not seen
        model.train()(x).sum().backward()
    assert seen["penalty"] > 0 and set(attention_maps(model, x)) == {"blocks.0", "blocks.1"}


# ------------------------------------------------------------------------------------------------------------ bad input
def test_fused_attention_is_an_error_with_the_fix() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    x = torch.randn(2, 3, 8)
    with pytest.raises(TargetError, match=r"no attention map came out of TransformerEncoderLayer.*need_weights=True"):
        attention_maps(layer, x)
    with penalised(layer), pytest.raises(TargetError, match="attn_implementation='eager'"):
        layer(x)


def test_logits_and_dropout_are_no_maps() -> None:
    with pytest.raises(ScoreError, match="is no softmax: a row misses the sum 1"):
        attention_maps(Own(logits=True), torch.randn(2, 5, 6))
    model = vit(attention_probs_dropout_prob=0.5).train()
    with pytest.warns(UserWarning), penalised(model), pytest.raises(ScoreError, match="before dropout"):
        model(torch.randn(2, 1, 8, 8))


def test_bad_words() -> None:
    with pytest.raises(RecipeError, match="penalty is 'logs': did you mean 'log'"):
        penalty([torch.eye(2).view(1, 1, 2, 2)], "logs")
    with pytest.raises(RecipeError, match="reduction is 'sum'"), penalised(Own(), reduction="sum"):
        pass
    with pytest.raises(TargetError, match=r"layers has 2; there are 2 attention layers: possible -2 … 1"):
        attention.chosen((0, 2), 2)
    with pytest.raises(RecipeError, match="layers is 'first'; possible: last, all, or indices"):
        attention.chosen("first", 2)
    with pytest.raises(RecipeError, match="strength is nan"), penalised(Own(), math.nan):
        pass
    with pytest.warns(UserWarning, match="it now rewards peaked attention"), penalised(Own(), -0.1):
        pass


def test_images_that_do_not_fit_the_patches() -> None:
    with pytest.raises(SparselandError, match="which do not tile 8×8"):
        vit(patch_size=3)
    with pytest.raises(ValueError, match="channel"):
        build("hf:config:vit", in_shape=(3, 8, 8), classes=10, **SIZES)(torch.randn(1, 1, 8, 8))
