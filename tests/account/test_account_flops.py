"""Inference FLOPs: ResNet-50 in closed form, torch's counter on everything it sees, operators, patterns, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparseland.account import Cost, bitmask_bytes, count, printed_agrees, trace, training_ratio
from sparseland.core import ERK
from sparseland.core.errors import InfeasibleBudget, SparselandError
from sparseland.weights import eligible


def _torch_flops(model: nn.Module, *inputs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return int(counter.get_total_flops())


# ---------------------------------------------------------------------------------------------------------- ResNet-50
@pytest.fixture(scope="module")
def resnet50() -> tuple[nn.Module, Cost]:
    import transformers

    with torch.device("meta"):  # shapes only: nothing is computed
        model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
        return model, trace(model, torch.zeros(1, 3, 224, 224), strict=True)


def _stage(inside: int, entering: int, side: int, blocks: int, stride: int) -> int:
    """Multiply-adds of a stage of bottlenecks whose outputs are side × side, the stride in the 3×3 convolution."""
    out, before = 4 * inside, side * stride
    first = entering * inside * before**2 + 9 * inside**2 * side**2 + inside * out * side**2 + entering * out * side**2
    rest = (out * inside + 9 * inside**2 + inside * out) * side**2
    return first + (blocks - 1) * rest


def test_resnet_50_in_closed_form(resnet50: tuple[nn.Module, Cost]) -> None:
    model, cost = resnet50
    macs = 3 * 64 * 49 * 112**2 + 2048 * 1000
    macs += (
        _stage(64, 64, 56, 3, 1) + _stage(128, 256, 28, 4, 2) + _stage(256, 512, 14, 6, 2) + _stage(512, 1024, 7, 3, 2)
    )
    assert cost.dense() == 2 * macs == 2 * 4_089_184_256
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    scopes = count_on_meta(model)
    assert scopes == {"all": 25_557_032, "maskable": 25_502_912}
    assert cost.by_operator({}) == {
        "conv": {"dense": 2 * (macs - 2_048_000), "sparse": 2 * (macs - 2_048_000)},
        "linear": {"dense": 4_096_000, "sparse": 4_096_000},
    }


def count_on_meta(model: nn.Module) -> dict[str, int]:
    """Totals (a meta tensor has no zeros to count)."""
    whole = sum(p.numel() for p in model.parameters())
    return {"all": whole, "maskable": sum(t.param.numel() for t in eligible(model).values())}


def _erk(model: nn.Module, sparsity: float) -> dict[str, tuple[int, int]]:
    targets = eligible(model)
    kept = ERK()({name: t.shape for name, t in targets.items()}, sparsity)
    return {name: (kept[name], t.param.numel()) for name, t in targets.items()}


def test_the_ratios_that_rigl_prints(resnet50: tuple[nn.Module, Cost]) -> None:
    """ResNet-50 at 80 %: ERK .42 of dense in inference and training, uniform with a dense first layer .23."""
    model, cost = resnet50
    erk = cost.sparse(_erk(model, 0.8)) / cost.dense()
    assert printed_agrees("0.42x", erk) and erk == pytest.approx(0.4138, abs=1e-4)
    assert printed_agrees("0.42x", training_ratio("rigl", erk, every=100))
    first, *rest = eligible(model)
    uniform = cost.at_density(dict.fromkeys(rest, 0.2)) / cost.dense()
    assert first.startswith("resnet.embedder") and printed_agrees("0.23x", uniform)
    assert erk / uniform == pytest.approx(1.85, abs=0.01)  # equal parameters, not equal FLOPs
    assert training_ratio("rigl", erk, length=5) == pytest.approx(2.09, rel=0.01)


def test_a_copied_cost_is_caught(resnet50: tuple[nn.Module, Cost]) -> None:
    """ITOP's table lists RigL 5× at 90 % with .25 of dense training, the entry of 1×; RigL's own says 1.23."""
    model, cost = resnet50
    computed = training_ratio("rigl", cost.sparse(_erk(model, 0.9)) / cost.dense(), length=5)
    assert printed_agrees("1.23x", computed)
    assert not printed_agrees("0.25x", computed)
    assert printed_agrees("0.25×", computed / 5)


def test_bytes_of_resnet_50(resnet50: tuple[nn.Module, Cost]) -> None:
    model, _ = resnet50
    layers = _erk(model, 0.8)
    nonzeros, total = (sum(column) for column in zip(*layers.values(), strict=True))
    rest = 25_530_472 - total  # biases and the offsets of norms, dense
    assert 4 * (total + rest) == pytest.approx(102.12e6, abs=5e3)
    assert bitmask_bytes(total, nonzeros) + 4 * rest == pytest.approx(23.683e6, rel=1e-3)


# ------------------------------------------------------------------------------------------------------ torch's counter
class Products(nn.Module):
    """Products of activations in many spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        scores = torch.einsum("btd,bsd->bts", y, y) + y @ y.transpose(1, 2) + torch.matmul(y, y.mT)
        added = torch.baddbmm(scores, y, y.mT)
        return torch.bmm(added, y)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), (1, 20)),
    "mlp on tokens": (lambda: nn.Linear(20, 30), (1, 7, 20)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5, padding=2, dilation=2), (1, 4, 17)),
    "conv in groups": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8)), (1, 4, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, stride=2), (1, 2, 7, 7, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), (1, 4, 5, 5)),
    "transposed in groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5)),
    "products": (Products, (2, 5, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str) -> None:
    build, shape = CASES[name]
    model, sample = build(), torch.randn(shape)
    cost = trace(model, sample, strict=True)
    assert cost.dense() == _torch_flops(model, sample) > 0


@pytest.mark.parametrize("kind", ["torch encoder", "bert", "gpt2", "vit", "t5"])
def test_strict_accepts_transformers(kind: str) -> None:
    """Fused attention is counted here and not by torch on CPU; everything else must agree, or strict refuses."""
    model, inputs, layers, tokens, width = _transformer(kind)
    cost = trace(model, **inputs, strict=True) if isinstance(inputs, dict) else trace(model, *inputs, strict=True)
    if kind != "t5":
        assert cost.by_operator({})["attention"] == {"dense": layers * 4 * tokens**2 * width, "sparse": cost.fixed}
    tables = ("cls_token", "position_embeddings", "embedding_positions")  # added, multiplied by nothing
    assert all(name.endswith(tables) for name in cost.uncounted)


def _transformer(kind: str) -> tuple[nn.Module, Any, int, int, int]:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    words = torch.zeros(1, 7, dtype=torch.long)
    if kind == "torch encoder":
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(1, 7, 32),), 2, 7, 32
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=50, num_labels=3, **sizes)
        return transformers.BertForSequenceClassification(config), (words,), 2, 7, 32
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=16, vocab_size=50, bos_token_id=0, eos_token_id=0
        )
        return transformers.GPT2LMHeadModel(config), (words,), 2, 7, 32
    if kind == "vit":
        config = transformers.ViTConfig(image_size=16, patch_size=4, num_labels=3, **sizes)
        return transformers.ViTForImageClassification(config), (torch.zeros(1, 3, 16, 16),), 2, 17, 32
    config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return transformers.T5ForConditionalGeneration(config), {"input_ids": words, "decoder_input_ids": words}, 0, 0, 0


def test_shared_parameters_count_once_and_a_note_says_so() -> None:
    """GPT-2 reads its token table and multiplies with it: one parameter, two operators."""
    model, inputs, *_ = _transformer("gpt2")
    cost = trace(model, *inputs)
    assert cost.notes == ("'transformer.wte.weight' is also 'lm_head.weight': counted once",)
    table = cost.by_operator({"transformer.wte.weight": (160, 1600)})
    assert table["embedding"] == {"dense": 0, "sparse": 0, "reads_dense": 2 * 7 * 32, "reads": 7 * 32 + 7 * 160 // 50}
    assert table["linear"]["dense"] - table["linear"]["sparse"] == 2 * 7 * (1600 - 160)
    assert sum(row["dense"] for row in table.values()) == cost.dense()
    assert count(model).scope("all")[1] == sum(p.numel() for p in model.parameters())


# ----------------------------------------------------------------------------------------------- operators and patterns
def test_a_table_by_operator_and_pattern() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 8), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[2].weight[:, ::2] = 0
        model[2].weight[:, 1] = 0
    counts = count(model, patterns=True)
    cost = trace(model, torch.zeros(1, 4, 6, 6))
    assert counts.patterns()["0.weight"] == "row" and counts.patterns()["2.weight"] == "column"
    table = cost.by_pattern(counts.layers(), counts.patterns())
    assert table == {
        "conv": {"row": {"dense": 2 * 288 * 16, "sparse": 288 * 16}},
        "linear": {"column": {"dense": 2 * 1024, "sparse": 2 * 8 * 63}, "dense": {"dense": 64, "sparse": 64}},
    }
    layer = cost.by_layer(counts.layers())["2.weight"]
    assert layer == {"operator": "linear", "dense": 2048, "sparse": 1008}


def test_recurrent_layers_are_an_operator() -> None:
    cost = trace(nn.LSTM(8, 16), torch.randn(5, 1, 8), strict=True)
    assert cost.by_operator({}) == {"recurrent": {"dense": cost.dense(), "sparse": cost.dense()}}


# ------------------------------------------------------------------------------------------------------------- refusals
class Odd(nn.Module):
    """A matrix that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.free = nn.Linear(4, 4), nn.Parameter(torch.zeros(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) @ self.free


class Functions(nn.Module):
    """Products that are not intercepted: the first torch sees too, the second nobody."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "linear":
            return nn.functional.linear(x, x[0])
        return torch.addbmm(torch.zeros(3, 3), x, x.mT)


def test_strict_refuses_a_total_that_is_not_whole() -> None:
    assert trace(Odd(), torch.zeros(1, 4)).uncounted == ("free",)
    words = r"saw 64 FLOPs, layers and products explain 32\. .* no hook counts: Odd \(parameters: free\).*strict=False"
    with pytest.raises(SparselandError, match=words):
        trace(Odd(), torch.zeros(1, 4), strict=True)
    with pytest.raises(SparselandError, match=r"saw 108 FLOPs, layers and products explain 0\."):
        trace(Functions("linear"), torch.zeros(2, 3, 3), strict=True)
    with pytest.raises(SparselandError, match="functions that are not counted: addbmm"):
        trace(Functions("addbmm"), torch.zeros(2, 3, 3), strict=True)
    with pytest.raises(SparselandError, match="no hook counts: Bilinear"):
        trace(nn.Bilinear(3, 4, 5), torch.zeros(1, 3), torch.zeros(1, 4), strict=True)


def test_wrong_counts_are_refused() -> None:
    cost = Cost({"w": 1}, {"w": 100})
    with pytest.raises(InfeasibleBudget, match=r"'w' cannot have -1 non-zeros; possible: 0 to 100"):
        cost.sparse({"w": (-1, 100)})
    with pytest.raises(InfeasibleBudget, match="cannot have 101"):
        cost.sparse({"w": (101, 100)})
    with pytest.raises(SparselandError, match="'w' has 100 weights; these counts speak of 99"):
        cost.sparse({"w": (9, 99)})
    for density in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(InfeasibleBudget, match="density of 'w'.*above 0, up to 1"):
            cost.at_density(density)
    assert cost.at_density(1.0) == cost.dense() == 200
