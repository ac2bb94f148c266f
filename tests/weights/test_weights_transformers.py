"""Hugging Face models from small configurations, without a hub: names, transposed layers, ties, attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.weights import eligible

transformers = pytest.importorskip("transformers")


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config)  # type: ignore[no-any-return]


def bert() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    config = transformers.BertConfig(vocab_size=32, max_position_embeddings=16, num_labels=3, **sizes)
    return transformers.BertForSequenceClassification(config)  # type: ignore[no-any-return]


def batches(labels: str) -> list[dict[str, Any]]:
    out = []
    for i in range(2):
        tokens = torch.randint(32, (3, 6), generator=torch.Generator().manual_seed(i))
        out.append({"input_ids": tokens, "labels": tokens if labels == "tokens" else tokens[:, 0] % 3})
    return out


def test_gpt2_stores_its_layers_transposed() -> None:
    model = gpt2()
    found = eligible(model)
    block = [f"{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert list(found) == [f"transformer.h.{i}.{n}" for i in (0, 1) for n in block]  # embeddings, tied head: not
    first = found["transformer.h.0.attn.c_attn.weight"]
    assert first.transposed and tuple(first.param.shape) == (8, 24) and first.shape == (24, 8)
    assert all(type(t.module).__name__ == "Conv1D" for t in found.values())


def test_two_of_four_runs_along_the_true_inputs() -> None:
    model = gpt2()
    sl.prune_(model, sl.methods.Magnitude(0.5, pattern="2:4"))
    weight = model.transformer.h[0].mlp.c_fc.weight  # (in 8, out 32)
    groups = (weight != 0).t().reshape(32, 2, 4).sum(2)
    assert bool((groups == 2).all())
    assert not bool(((weight != 0).reshape(8, 8, 4).sum(2) == 2).all())  # along the outputs it does not hold


def test_rows_are_output_features() -> None:
    model = gpt2()
    target = "transformer.h.0.mlp.c_fc.weight"
    masks = sl.prune_(model, sl.methods.Magnitude(0.5, pattern="row"), targets=target)
    whole = masks[target].float().mean(0)  # per output
    assert set(whole.tolist()) == {0.0, 1.0} and int(whole.sum()) == 16


@pytest.mark.parametrize("name", ["magnitude", "lamp", "snip", "grasp", "random"])
def test_one_shot_methods_on_gpt2(name: str) -> None:
    model = gpt2()
    model.train()
    masks = sl.prune_(model, sl.methods.build(name, sparsity=0.7), batches("tokens"))
    assert masks.kept() == sl.core.kept(masks.numel(), 0.7)
    assert model(**batches("tokens")[0]).loss.isfinite()


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_one_shot_methods_on_bert(name: str) -> None:
    for mode in (True, False):
        model = bert().train(mode)
        masks = sl.prune_(model, sl.methods.build(name, sparsity=0.7), batches("classes"))
        assert masks.kept() == sl.core.kept(masks.numel(), 0.7) and model.training is mode


def test_bert_targets() -> None:
    model = bert()
    names = list(eligible(model))
    attention = [f"bert.encoder.layer.0.attention.{n}.weight" for n in ("self.query", "self.key", "self.value")]
    assert names[:3] == attention and names[-2:] == ["bert.pooler.dense.weight", "classifier.weight"]
    assert not any("embeddings" in n or "LayerNorm" in n for n in names)
    assert list(eligible(model, "*.attention.*", "*output*")) == [
        f"bert.encoder.layer.0.attention.self.{n}.{p}" for n in ("query", "key", "value") for p in ("weight", "bias")
    ]
    assert list(eligible(model, "bert.encoder.layer.0.attention.self")) == attention


@pytest.mark.parametrize(("make", "labels"), [(gpt2, "tokens"), (bert, "classes")])
@pytest.mark.parametrize("name", ["rigl", "movement"])
def test_training(make: Any, labels: str, name: str) -> None:
    model = make()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    hyper = {"start": 1} if name == "movement" else {}
    sp = sl.methods.build(name, sparsity=0.7, every=1, end=4, **hyper).attach(model, optimizer)
    for i in range(5):
        optimizer.zero_grad()
        model(**batches(labels)[i % 2]).loss.backward()
        optimizer.step()
    sp.finalize_()
    assert sp.masks.kept() == sl.core.kept(sp.masks.numel(), 0.7)
    assert not any(t.param[~sp.masks[n]].any() for n, t in sp.targets.items())
    if make is gpt2:
        assert model.lm_head.weight is model.transformer.wte.weight
