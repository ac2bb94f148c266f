"""Every family of the zoo, and transformers with random weights, become graphs that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sparseland import zoo
from tests.deploy.capture_cases import captured, lively, ops

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
IDS = torch.randint(3, 50, (2, 12), generator=torch.Generator().manual_seed(2))
MASK = torch.ones(2, 12, dtype=torch.long)
MASK[1, 8:] = 0
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {"vocab_size": 60, "max_position_embeddings": 40, **SMALL}

ZOO: dict[str, tuple[tuple[int, int, int], dict[str, int]]] = {
    "lenet-300-100": ((1, 8, 8), {"reshape": 1, "linear": 3}),
    "lenet-5": ((1, 28, 28), {"conv": 2, "max_pool": 2, "reshape": 1, "linear": 2}),
    "mlp-16-8": ((1, 8, 8), {"reshape": 1, "linear": 3}),
    "resnet-20": ((3, 32, 32), {"conv": 19, "max_pool": 2, "concat": 2, "constant": 4, "mean": 1, "linear": 1}),
    # Three of the normalisations before an activation follow a convolution, the others a sum that is read twice.
    "wrn-16-1": ((3, 16, 16), {"conv": 15, "scale": 7, "mean": 1, "linear": 1}),
    "vgg-d": ((3, 32, 32), {"conv": 13, "max_pool": 5, "reshape": 1, "linear": 3}),
    "mobilenet-v1-0.25": ((3, 32, 32), {"conv": 27, "mean": 1, "linear": 1}),
}


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name: str) -> None:
    shape, expected = ZOO[name]
    model = lively(zoo.build(name, in_shape=shape, classes=10, seed=0))
    assert ops(captured(model, torch.randn(2, *shape))) == expected


def test_a_shortcut_with_weights_leaves_only_layers() -> None:
    model = lively(zoo.build("resnet-20", in_shape=(3, 16, 16), classes=10, seed=0, shortcut="B"))
    graph = captured(model, torch.randn(2, 3, 16, 16))
    assert ops(graph) == {"conv": 21, "mean": 1, "linear": 1}
    assert sum(len(node.inputs) == 2 for node in graph.nodes) == 9  # every sum is a residual
    assert sum(node.act()[0] == "clamp" for node in graph.nodes) == 19


def transformer(kind: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    name = next(name for name in (f"{kind}ForImageClassification", f"{kind}Model") if hasattr(transformers, name))
    return lively(getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**config)))


CONVNETS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "mobilenet v1, paddings of TensorFlow": (
        lambda: transformer("MobileNetV1", image_size=64, depth_multiplier=0.25, num_labels=7),
        {"conv": 27, "mean": 1, "linear": 1},
    ),
    "mobilenet v1": (
        lambda: transformer("MobileNetV1", image_size=64, depth_multiplier=0.25, num_labels=7, tf_padding=False),
        {"conv": 27, "mean": 1, "linear": 1},
    ),
    "mobilenet v2, paddings of TensorFlow": (
        lambda: transformer("MobileNetV2", image_size=64, depth_multiplier=0.35, num_labels=7),
        {"conv": 52, "mean": 1, "linear": 1},
    ),
    "mobilenet v2": (
        lambda: transformer("MobileNetV2", image_size=64, depth_multiplier=0.35, num_labels=7, tf_padding=False),
        {"conv": 52, "mean": 1, "linear": 1},
    ),
    "efficientnet": (
        lambda: transformer(
            "EfficientNet", image_size=64, width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320, num_labels=7
        ),
        {"conv": 41, "mul": 8, "mean": 9, "linear": 1},
    ),
    "resnet": (
        lambda: transformer(
            "ResNet", embedding_size=8, hidden_sizes=[16, 32, 32, 64], depths=[1, 2, 1, 1], num_labels=7
        ),
        {"conv": 20, "max_pool": 1, "mean": 1, "linear": 1},
    ),
    "convnext": (
        lambda: transformer("ConvNext", hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 2, 1], num_labels=7),
        {"conv": 19, "layer_norm": 10, "mean": 1, "linear": 1},
    ),
}


@pytest.mark.parametrize("name", CONVNETS)
def test_convolutional_transformers_models(name: str) -> None:
    make, expected = CONVNETS[name]
    assert ops(captured(make(), IMAGE)) == expected


VIT = {"layer_norm": 5, "linear": 13, "attention": 2, "conv": 1, "concat": 1, "add": 1, "constant": 2, "slice": 1}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_vit(attention: str) -> None:
    graph = captured(
        transformer("ViT", image_size=64, patch_size=16, num_labels=7, attn_implementation=attention, **SMALL), IMAGE
    )
    assert ops(graph) == {**VIT, "reshape": 10, "transpose": 9}
    assert all(node.attrs["causal"] == 0 and len(node.inputs) == 3 for node in graph.nodes if node.op == "attention")
    assert sum(len(node.inputs) == 2 for node in graph.nodes if node.op == "linear") == 4


def test_deit_and_clip() -> None:
    graph = captured(transformer("DeiT", image_size=64, patch_size=16, num_labels=7, **SMALL), IMAGE)
    assert ops(graph) == {**VIT, "constant": 3, "reshape": 10, "transpose": 9}
    transformers = pytest.importorskip("transformers")
    clip = lively(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=64, patch_size=16, **SMALL)))
    found = ops(captured(clip, IMAGE))  # its x · sigmoid(1.702 x) goes into the layers around it
    assert not {"act", "affine", "mul", "torch"} & found.keys()


def test_bert_without_a_mask_has_no_torch() -> None:
    graph = captured(transformer("Bert", **TEXT), IDS)
    assert ops(graph) == {
        "embedding": 1, "constant": 1, "add": 1, "layer_norm": 5, "linear": 13, "attention": 2, "slice": 1,
        "reshape": 9, "transpose": 8,
    }  # fmt: skip
    assert graph.outputs == [graph.nodes[-1].output] or len(graph.outputs) == 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_with_a_mask_has_no_torch(attention: str) -> None:
    inputs = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": torch.zeros_like(IDS)}
    graph = captured(transformer("Bert", attn_implementation=attention, **TEXT), inputs)
    assert "torch" not in ops(graph) and ops(graph)["embedding"] == 2
    masks = {node.inputs[3] for node in graph.nodes if node.op == "attention"}
    assert masks == {"attention_mask"} and graph.values["attention_mask"].dtype == "int64"


class Masked(torch.nn.Module):
    """Attention under a mask made of which tokens count, in a way of one's own."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[2, 3, 4] and [2, 3]."""
        q = x[:, None]
        return torch.nn.functional.scaled_dot_product_attention(q, q, q, self.make(tokens))


LAST = torch.tensor([[1, 1, 0], [1, 0, 1]])
FOLLOWED = {
    "not equal zero": lambda t: (t != 0)[:, None, None, :],
    "asked twice": lambda t: (t.bool() & (t != 0))[:, None, None, :].expand(2, 1, 3, 3),
    "not not": lambda t: ~(t == 0)[:, None, None, :],
    "the past": lambda t: t.bool()[:, None, None, :] & torch.ones(3, 3, dtype=torch.bool).tril(),
    "added": lambda t: torch.where(t.bool()[:, None, None, :], 0.0, float("-inf")),
    "filled": lambda t: torch.zeros(2, 1, 3, 3).masked_fill((t == 0)[:, None, None, :], torch.finfo(torch.float32).min),
}
OTHERS = {  # they look alike: what is not followed stays torch, and right
    "backwards": lambda t: t.flip(1).bool()[:, None, None, :],
    "of queries": lambda t: t.bool()[:, None, :, None] | torch.eye(3, dtype=torch.bool),
    "positive": lambda t: (t > 0)[:, None, None, :],
    "another text's": lambda t: t.bool()[[1, 0]][:, None, None, :],
    "the future": lambda t: (
        t.bool()[:, None, None, :] & torch.ones(3, 3, dtype=torch.bool).triu() | torch.eye(3).bool()
    ),
    "where zero": lambda t: (t == 0)[:, None, None, :] | torch.eye(3, dtype=torch.bool),
    "a little": lambda t: torch.where(t.bool()[:, None, None, :], 0.0, -1.0),
    "shifted": lambda t: torch.where(t.bool()[:, None, None, :], 1.0, float("-inf")),
}


@pytest.mark.parametrize("name", [*FOLLOWED, *OTHERS])
def test_masks_are_followed_or_left_alone(name: str) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    graph = captured(Masked({**FOLLOWED, **OTHERS}[name]), (x, LAST))
    assert ("torch" in ops(graph)) == (name in OTHERS)


def test_tokens_that_count_and_are_read_otherwise_stay_what_they_are() -> None:
    class Pooled(Masked):
        def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            return super().forward(x, tokens) * tokens[:, None, :, None].float()

    graph = captured(Pooled(FOLLOWED["not equal zero"]), (torch.randn(2, 3, 4), LAST))
    assert "torch" in ops(graph)


def test_distilbert_and_roberta() -> None:
    transformers = pytest.importorskip("transformers")
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    config = transformers.DistilBertConfig(
        vocab_size=60, max_position_embeddings=40, dim=32, n_layers=2, n_heads=2, hidden_dim=64
    )
    graph = captured(lively(transformers.DistilBertForSequenceClassification(config)), inputs)
    assert "torch" not in ops(graph)
    graph = captured(transformer("Roberta", **TEXT), inputs)
    pieces = [node for node in graph.nodes if node.op == "torch"]
    assert [node.inputs for node in pieces] == [["input_ids"]]  # places are counted where there is text
    assert {graph.values[name].dtype for node in pieces for name in node.outputs} == {"int64"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_llama_reads_few_keys_for_many_heads(attention: str) -> None:
    config = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
    graph = captured(transformer("Llama", attn_implementation=attention, **config), IDS)
    assert ops(graph) == {
        "embedding": 1, "rms_norm": 5, "linear": 14, "rope": 4, "attention": 2, "mul": 2, "reshape": 8, "transpose": 8,
    }  # fmt: skip
    for node in graph.nodes:
        if node.op == "attention":
            assert [graph.values[name].shape[1] for name in node.inputs] == [4, 2, 2] and node.attrs["causal"] == 1


def test_llama_with_a_mask() -> None:
    config = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
    graph = captured(transformer("Llama", **config), {"input_ids": IDS, "attention_mask": MASK})
    assert "torch" not in ops(graph)
    assert all(node.attrs["causal"] for node in graph.nodes if node.op == "attention")


def test_gpt2_linear_layers_work_on_tokens() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=32, n_layer=1, n_head=2, n_positions=32, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    graph = captured(lively(transformers.GPT2Model(config)), IDS)
    assert not {"torch", "act"} & ops(graph).keys()
    assert all(len(graph.values[node.output].shape) == 3 for node in graph.nodes if node.op == "linear")
    assert [node.act()[0] for node in graph.nodes if node.name.endswith("mlp.c_fc")] == ["gelu_tanh"]
