"""Small transformers of Hugging Face, converted: encoders, decoders, vision; with masks; wholly or in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from tests.deploy.converting import apart, convert, needs_engine, prepared

transformers = pytest.importorskip("transformers")
pytestmark = needs_engine

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
IDS = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
IMAGE, LARGE = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 64)
MASK = torch.ones(2, 10, dtype=torch.int64)
MASK[1, 6:] = 0


def bert(**more: Any) -> Any:
    """A BERT of two layers."""
    return transformers.BertModel(transformers.BertConfig(vocab_size=50, **SMALL, **more))


def llama() -> Any:
    """A Llama with fewer keys than queries."""
    config = transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, **SMALL)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    """A GPT-2 of two layers."""
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
    return transformers.GPT2LMHeadModel(config)


def vision(name: str, **more: Any) -> Any:
    """An image classifier by the first word of its classes."""
    config = getattr(transformers, f"{name}Config")(num_labels=5, **more)
    return getattr(transformers, f"{name}ForImageClassification")(config)


WIDTHS = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
WHOLE: dict[str, tuple[Callable[[], Any], Any]] = {
    "bert": (bert, (IDS,)),
    "bert of the new gelu": (lambda: bert(hidden_act="gelu_new"), (IDS,)),
    "vit": (lambda: vision("ViT", image_size=32, patch_size=8, **SMALL), (IMAGE,)),
    "convnext": (lambda: vision("ConvNext", **WIDTHS), (LARGE,)),
    "mobilenet-v2": (lambda: vision("MobileNetV2", depth_multiplier=0.25), (LARGE,)),
    "resnet": (lambda: vision("ResNet", embedding_size=16, **WIDTHS), (LARGE,)),
    "regnet": (lambda: vision("RegNet", embedding_size=8, groups_width=8, **WIDTHS), (LARGE,)),
    "llama": (llama, {"input_ids": IDS, "use_cache": False}),
    "gpt2": (gpt2, {"input_ids": IDS, "use_cache": False}),
}


def outputs(model: Any, sample: Any) -> Any:
    """What a model says to a sample."""
    with torch.no_grad():
        return model(**sample) if isinstance(sample, dict) else model(*sample)


@pytest.mark.parametrize("name", WHOLE)
def test_whole(name: str) -> None:
    torch.manual_seed(0)
    make, sample = WHOLE[name]
    model = prepared(make(), 0.7)
    engine = convert(model, sample)
    assert engine.coverage["whole"], engine.coverage["reasons"]
    made, right = outputs(engine, sample), outputs(model, sample)
    assert type(made) is type(right) and list(made) == list(right)
    assert apart(made, right) < 1e-4


def decoder(**more: Any) -> Any:
    """A Llama without its head."""
    return transformers.LlamaModel(
        transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, use_cache=False, **SMALL, **more)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [bert, decoder])
def test_tokens_that_do_not_count(make: Callable[..., Any], attention: str, tmp_path: Path) -> None:
    """The mask needs no torch: the saved engine runs on NumPy alone, and so does the ONNX file."""
    model = prepared(make(attn_implementation=attention), 0.7)
    sample = {"input_ids": IDS, "attention_mask": MASK}
    engine = convert(model, sample)
    assert engine.coverage["whole"], engine.coverage["reasons"]
    engine.save(tmp_path / "m.sland")
    saved = sl.deploy.runtime.load(tmp_path / "m.sland")
    sl.deploy.to_onnx(model, tmp_path / "m.onnx", (IDS, MASK))
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "m.onnx")
    for other in (sample, {"input_ids": IDS.flip(0), "attention_mask": MASK.flip(0)}):
        arrays = {name: tensor.numpy() for name, tensor in other.items()}
        counts = other["attention_mask"].bool()
        right = outputs(model, other)["last_hidden_state"][counts]
        made = saved(*(arrays[one.name] for one in saved.inputs))
        first = made[0] if isinstance(made, tuple | list) else made
        answers = (
            outputs(engine, other)["last_hidden_state"],
            first,
            session.run(None, {one.name: arrays[one.name] for one in session.get_inputs()})[0],
        )
        for answer in answers:
            assert (torch.as_tensor(answer)[counts] - right).abs().max() < 1e-4


def test_windows_stay_in_torch_in_parts() -> None:
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4]}
    model = prepared(vision("Swin", window_size=4, **sizes), 0.7)
    engine = convert(model, (IMAGE,))
    assert apart(engine(IMAGE), outputs(model, (IMAGE,))) < 1e-4
    assert engine.coverage["engine"] > engine.coverage["torch"] > 0
    assert "computed by torch, node by node:" in engine.explain()
