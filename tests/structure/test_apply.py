"""Physical removal: outputs equal the masked twin's, for 200 random networks and for the families of the field."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparseland.account import flops as account_flops
from sparseland.core.errors import OwnershipError
from sparseland.kernels import available
from sparseland.weights import structure
from sparseland.zoo import build
from tests.structure.random_nets import RandomNet, shake_

SEEDS = 200
Sample = tuple[Any, ...] | dict[str, Any]


def call(net: Callable[..., Any], sample: Sample) -> Tensor:
    """The network's tensor."""
    with torch.no_grad():
        out = net(**sample) if isinstance(sample, dict) else net(*sample)
    if isinstance(out, Tensor):
        return out
    return out.logits if hasattr(out, "logits") else out[0]


@pytest.mark.parametrize("block", range(4))
def test_random_networks(block: int) -> None:
    removed = 0
    for seed in range(block, SEEDS, 4):
        net = shake_(RandomNet(seed), seed)
        x = torch.randn(2, 3, 4, 4)
        graph = structure.trace(net, x)
        keep = {group.name: torch.rand(group.size) < 0.6 for group in graph.prunable}
        for mask in keep.values():
            mask[0] |= not bool(mask.any())
        plan = structure.Plan.from_dict(graph.plan(keep=keep).to_dict())
        masked = call(plan.mask_(copy.deepcopy(net)), (x,))
        small = plan.apply(copy.deepcopy(net))
        difference = (call(small, (x,)) - masked).abs().max() / masked.abs().max().clamp(min=1)
        assert float(difference) <= 1e-5, f"seed {seed}"
        assert account_flops.trace(small, x).dense() == plan.after[0] == graph.flops(plan.widths), f"seed {seed}"
        assert sum(p.numel() for p in small.parameters()) == plan.after[1] == graph.params(plan.widths), f"seed {seed}"
        removed += sum(int((~mask).sum()) for mask in keep.values())
    assert removed > 400  # the test is about something


# ------------------------------------------------------------------------------------------------------------ families
def _zoo(name: str, side: int = 32) -> Callable[[], tuple[nn.Module, Sample]]:
    def make() -> tuple[nn.Module, Sample]:
        return build(name, in_shape=(3, side, side), classes=10, seed=0), (torch.randn(1, 3, side, side),)

    return make


def _hugging(kind: str) -> Callable[[], tuple[nn.Module, Sample]]:
    def make() -> tuple[nn.Module, Sample]:
        transformers = pytest.importorskip("transformers")
        layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        words = torch.randint(0, 50, (2, 9))
        if kind == "vit":
            config = transformers.ViTConfig(**layers, image_size=16, patch_size=4, num_labels=5)
            return transformers.ViTForImageClassification(config), (torch.randn(2, 3, 16, 16),)
        if kind == "bert":
            config = transformers.BertConfig(**layers, vocab_size=50, max_position_embeddings=32)
            return transformers.BertForSequenceClassification(config), {"input_ids": words}
        if kind == "convnext":
            config = transformers.ConvNextConfig(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2, num_labels=5)
            return transformers.ConvNextForImageClassification(config), (torch.randn(2, 3, 32, 32),)
        layers |= {"num_attention_heads": 8, "num_key_value_heads": 4, "attn_implementation": kind.rpartition("-")[2]}
        config = transformers.LlamaConfig(**layers, vocab_size=50, max_position_embeddings=32, tie_word_embeddings=True)
        return transformers.LlamaForCausalLM(config), {"input_ids": words, "use_cache": False}

    return make


FAMILIES = {
    **{name: _zoo(name) for name in ("resnet-56", "vgg-c", "mobilenet-v1", "mobilenet-v2", "efficientnet-b0")},
    **{name: _hugging(name) for name in ("vit", "bert", "llama-sdpa", "llama-eager", "convnext")},
}


EXPORTED = ("mobilenet-v1", "llama-sdpa")


def _family(name: str) -> tuple[nn.Module, Sample]:
    torch.manual_seed(0)
    net, sample = FAMILIES[name]() if name in FAMILIES else _zoo(name, 16)()
    with torch.no_grad():  # as after training: fresh weights of transformers hardly matter for the output
        for parameter in net.parameters():
            parameter.mul_(3) if parameter.ndim == 2 else None
    return shake_(net, 1), sample


@pytest.mark.parametrize("name", FAMILIES)
def test_families_lose_half_of_their_flops(name: str) -> None:
    net, sample = _family(name)
    graph = structure.trace(net, sample)
    assert graph.barriers == ()
    plan = graph.plan(scores=graph.weight_norms(), flops=0.5, scope="layer")
    assert 0.4 < plan.after[0] / plan.before[0] <= 0.5
    masked, small = call(plan.mask_(copy.deepcopy(net)), sample), plan.apply(copy.deepcopy(net))
    scale = masked.abs().max()
    assert float((call(small, sample) - masked).abs().max() / scale) <= 1e-5
    assert float((call(net, sample) - masked).abs().max() / scale) > 1e-3  # and it is not the network it was
    args, named = ((), sample) if isinstance(sample, dict) else (sample, {})
    assert account_flops.trace(small, *args, **named).dense() == plan.after[0]
    assert sum(p.numel() for p in small.parameters()) == plan.after[1]


@pytest.mark.parametrize(
    "name",
    [*EXPORTED, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in EXPORTED)],
)
def test_export_works_afterwards(name: str) -> None:
    net, sample = _family(name)
    graph = structure.trace(net, sample)
    small = graph.plan(scores=graph.random(), flops=0.5, scope="layer").apply(net)
    args, named = ((), sample) if isinstance(sample, dict) else (sample, {})
    exported = torch.export.export(small, args, named, strict=False).module()
    assert torch.allclose(call(exported, sample), call(small, sample), atol=1e-5)


def test_groups_of_heads_are_told_to_the_modules() -> None:
    net, sample = _family("bert")
    graph = structure.trace(net, sample)
    (name,) = [g.name for g in graph.prunable if g.kind == "head" and "layer.0" in g.name]
    graph.plan(keep={name: torch.tensor([True, False, True, False])}).apply(net)
    attention = net.bert.encoder.layer[0].attention.self  # type: ignore[union-attr]
    assert (attention.num_attention_heads, attention.all_head_size, attention.attention_head_size) == (2, 16, 8)


@pytest.mark.skipif(not available(), reason="the native extension is not built")
@pytest.mark.parametrize("name", ["resnet-8", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)])
def test_the_engine_runs_it(name: str) -> None:
    import sparseland as sl

    net, sample = _family(name)
    graph = structure.trace(net, sample)
    small = graph.plan(scores=graph.weight_norms(), flops=0.5, scope="layer").apply(net)
    fast = sl.deploy.convert(small, sample, threads=1, measure=False)
    reference = call(small, sample)
    assert float((call(fast, sample) - reference).abs().max() / reference.abs().max()) <= 1e-4


# ----------------------------------------------------------------------------------------------------- optimizer state
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_in_the_masked_network(kind: str) -> None:
    """One more step from the carried state: what stays moves as it moves in the masked twin."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    x, y = torch.randn(16, 3, 4, 4), torch.randint(0, 3, (16,))
    optimizer = OPTIMIZERS[kind](net.parameters())

    def step(model: nn.Module, stepper: torch.optim.Optimizer) -> None:
        stepper.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        stepper.step()

    for _ in range(3):
        step(net, optimizer)
    plan = structure.trace(net, x).plan(keep={"0": torch.tensor([True, False, True, True, False, True])})
    twin = plan.mask_(copy.deepcopy(net))
    other = OPTIMIZERS[kind](twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    params = list(net.parameters())
    small = plan.apply(net, optimizer)
    assert all(one is two for one, two in zip(params, small.parameters(), strict=True))
    for param in small.parameters():
        for value in optimizer.state[param].values():
            assert not isinstance(value, Tensor) or value.ndim == 0 or value.shape == param.shape
    step(small, optimizer)
    step(twin, other)
    left = {(cut.name, cut.dim): cut.left for cut in plan.cuts}
    for (name, mine), theirs in zip(small.named_parameters(), twin.parameters(), strict=True):
        for dim in range(theirs.ndim):
            if (name, dim) in left:
                theirs = theirs.index_select(dim, left[name, dim].nonzero().flatten())
        assert torch.allclose(mine, theirs, atol=1e-6), name
    step(small, optimizer)  # and it goes on


def test_factored_state_follows_and_strangers_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = torch.optim.Adafactor(net.parameters(), lr=1e-2)
    x = torch.randn(8, 4)
    net(x).square().mean().backward()
    optimizer.step()
    rows = optimizer.state[net[0].weight]["row_var"].clone()
    plan = structure.trace(net, x).plan(keep={"0": torch.arange(6) % 2 == 0})
    with pytest.raises(OwnershipError):
        plan.apply(net, object())
    assert net[0].out_features == 6  # nothing was lost
    plan.apply(net, optimizer)
    assert torch.equal(optimizer.state[net[0].weight]["row_var"], rows[::2])
    net(x).square().mean().backward()
    optimizer.step()


def test_gradients_of_what_stays_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    net(torch.randn(8, 4)).sum().backward()
    before = net[0].weight.grad.clone()
    structure.trace(net, torch.zeros(1, 4)).plan(keep={"0": torch.arange(6) < 2}).apply(net)
    assert torch.equal(net[0].weight.grad, before[:2])


def test_twice() -> None:
    """A shrunk network can be traced and shrunk again."""
    net, sample = _family("mobilenet-v2")
    for _ in range(2):
        graph = structure.trace(net, sample)
        plan = graph.plan(scores=graph.weight_norms(), flops=0.7, scope="layer")
        masked = call(plan.mask_(copy.deepcopy(net)), sample)
        net = plan.apply(net)
        assert torch.allclose(call(net, sample), masked, atol=1e-5 * float(masked.abs().max()))
