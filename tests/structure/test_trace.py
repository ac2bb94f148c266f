"""What goes together: groups, roles, positions; what cannot go and why; the network is left as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.account import flops as account_flops
from sparseland.core.errors import SparselandError, TargetError
from sparseland.weights import structure
from sparseland.weights.structure import axes
from sparseland.zoo import build


def agree(net: nn.Module, x: Any, keep: dict[str, Tensor] | None = None, ratio: float = 0.5) -> structure.Plan:
    """Remove, and compare with the masked twin and with what was promised; returns the plan."""
    net.eval()
    graph = structure.trace(net, x)
    plan = graph.plan(keep=keep) if keep else graph.plan(scores=graph.random(), ratio=ratio, scope="layer")
    call = (lambda m: m(**x)) if isinstance(x, dict) else (lambda m: m(*(x if isinstance(x, tuple) else (x,))))
    with torch.no_grad():
        masked, small = call(plan.mask_(copy.deepcopy(net))), call(removed := plan.apply(copy.deepcopy(net)))
        assert not torch.equal(call(net), masked)
    assert torch.allclose(masked, small, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in removed.parameters()) == plan.after[1] == graph.params(plan.widths)
    assert plan.after[0] == graph.flops(plan.widths) < graph.flops() == plan.before[0]
    return plan


def test_a_plain_net() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    graph = structure.trace(net, torch.zeros(1, 3, 4, 4))
    group, last = graph.groups
    assert (group.name, group.size, group.kind, group.prunable) == ("0", 4, "channel", True)
    assert (last.name, last.prunable, last.why) == ("4", False, "an output of the network")
    assert [(m.name, m.dim, m.role) for m in group.members] == [
        ("0.weight", 0, "out"), ("0.bias", 0, "bias"), ("1.weight", 0, "norm"), ("1.bias", 0, "norm"),
        ("1.running_mean", 0, "norm"), ("1.running_var", 0, "norm"), ("4.weight", 1, "in"),
    ]  # fmt: skip
    assert group.members[-1].index.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert graph.barriers == ()
    with pytest.raises(TargetError, match="did you mean"):
        graph["00"]


def test_the_network_is_left_as_it_was() -> None:
    net = build("resnet-20", in_shape=(3, 16, 16), classes=10, seed=0).train()
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    structure.trace(net, torch.randn(2, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    for module in net.modules():
        for value in vars(module).values():
            assert not isinstance(value, int) or type(value) in (int, bool)
    assert not torch.equal(random, torch.zeros_like(random))


def test_costs_are_those_of_the_account() -> None:
    x = torch.zeros(1, 3, 32, 32)
    for name in ("vgg-c", "resnet-20", "mobilenet-v2"):
        net = build(name, in_shape=(3, 32, 32), classes=10, seed=0)
        graph = structure.trace(net, x)
        assert graph.flops() == account_flops.trace(net, x).dense()
        assert graph.params() == sum(p.numel() for p in net.parameters())


def test_residual_groups_follow_the_padding_of_option_a() -> None:
    """Option A adds channels of zeros before and after: stage 3 = zeros, zeros of stage 2, stage 1, and so on."""
    net = build("resnet-8", in_shape=(3, 8, 8), classes=10, seed=0)
    graph = structure.trace(net, torch.zeros(1, 3, 8, 8))
    assert {g.name: g.size for g in graph.prunable if g.name.startswith(("conv1", "layer2", "layer3"))} == {
        "conv1": 16, "layer2.0.conv1": 32, "layer2.0.conv2[0:8]": 8, "layer2.0.conv2[24:32]": 8,
        "layer3.0.conv1": 64, "layer3.0.conv2[0:16]": 16, "layer3.0.conv2[48:64]": 16,
    }  # fmt: skip
    keep = {"layer2.0.conv2[0:8]": torch.arange(8) < 3, "conv1": torch.arange(16) % 2 == 0}
    plan = agree(net, torch.randn(2, 3, 8, 8), keep)
    assert {str(place): value for place, value in plan.attributes.items()} == {"layer2.0.shortcut.before": 3}


class Literal(nn.Module):
    """Writes a size of its channels as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).view(-1, 16))


class Unknown(nn.Module):
    """Sorts nothing, but hides the channels in an operation that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.free, self.out = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.fft(self.conv(x)).real.mean((2, 3))
        return self.out(self.free(y).relu())


class Statistics(nn.Module):
    """Divides by a number of channels: fewer channels would be another value."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).relu()
        return self.two(y / y.shape[-1])


@pytest.mark.parametrize(
    ("net", "group", "why", "barrier"),
    [
        (Literal(), "conv", "written as a number", True),
        (Unknown(), "conv", "not followed", True),
        (Statistics(), "one", "part of a value", False),
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), "0", "norm over the axis", False),
        (nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 2)), "0", "softmax over the axis", False),
    ],
)
def test_what_cannot_go_says_why(net: nn.Module, group: str, why: str, barrier: bool) -> None:
    x = torch.zeros(1, 3, 2, 2) if hasattr(net, "conv") else torch.zeros(1, 4)
    graph = structure.trace(net, x)
    assert not graph[group].prunable
    assert why in graph[group].why
    assert bool(graph.barriers) == barrier
    if barrier:
        assert any(why in reason for _, reason in graph.barriers)
    with pytest.raises(TargetError, match="cannot go"):
        graph.plan(keep={group: torch.arange(graph[group].size) > 0})


def test_an_unknown_operation_costs_only_what_it_touches() -> None:
    graph = structure.trace(Unknown(), torch.zeros(1, 3, 2, 2))
    assert [group.name for group in graph.prunable] == ["free"]


def test_torchs_own_attention_and_recurrence_are_barriers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.recur = nn.LSTM(8, 6, batch_first=True)
            self.mix, self.out = nn.Linear(6, 10), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.attend(x, x, x)
            y, _ = self.recur(y)
            return self.out(self.mix(y).relu())

    graph = structure.trace(Net(), torch.randn(1, 5, 8))
    assert [group.name for group in graph.prunable] == ["mix"]
    agree(Net(), torch.randn(1, 5, 8))


class Attention(nn.Module):
    """Packed queries, keys and values, heads as an attribute; ``rep`` query heads share one of keys and values."""

    def __init__(self, heads: int = 4, size: int = 3, packed: bool = True, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.size, self.fused = heads, size, fused
        self.qkv, self.out = nn.Linear(6, 3 * heads * size), nn.Linear(heads * size, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1) @ v
        return self.out(y.transpose(1, 2).reshape(n, tokens, -1))


@pytest.mark.parametrize("fused", [False, True])
def test_heads_of_a_packed_projection(fused: bool) -> None:
    net, x = Attention(fused=fused), torch.randn(2, 5, 6)
    graph = structure.trace(net, x)
    (group,) = graph.prunable
    assert (group.name, group.size, group.kind) == ("qkv", 4, "head")
    assert group.members[0].index[1].tolist() == [3, 4, 5, 15, 16, 17, 27, 28, 29]
    plan = agree(net, x, {"qkv": torch.tensor([True, False, False, True])})
    small = plan.apply(copy.deepcopy(net))
    assert (small.heads, small.size, small.qkv.out_features, small.out.in_features) == (2, 3, 18, 6)


def test_a_head_size_computed_from_the_width_holds_the_heads() -> None:
    class Old(Attention):
        def forward(self, x: Tensor) -> Tensor:
            n, tokens, width = x.shape
            heads = self.heads
            q, k, v = self.qkv(x).reshape(n, tokens, 3, heads, 2 * width // heads).permute(2, 0, 3, 1, 4).unbind(0)
            y = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1) @ v
            return self.out(y.transpose(1, 2).reshape(n, tokens, -1))

    graph = structure.trace(Old(), torch.randn(2, 5, 6))
    assert graph.prunable == ()
    assert any("computed from others" in reason for _, reason in graph.barriers)


def test_grouped_queries_share_their_keys() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(6, 12), nn.Linear(6, 4), nn.Linear(6, 4)
            self.out, self.size, self.rep = nn.Linear(12, 6), 2, 3

        def forward(self, x: Tensor) -> Tensor:
            n, tokens = x.shape[:-1]
            q, k, v = (f(x).view(n, tokens, -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
            k, v = (
                t[:, :, None].expand(n, t.shape[1], self.rep, tokens, self.size).reshape(n, -1, tokens, self.size)
                for t in (k, v)
            )
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, -1))

    net, x = Grouped(), torch.randn(2, 5, 6)
    (group,) = structure.trace(net, x).prunable
    assert (group.size, group.kind) == (2, "head")
    rows = {member.name: member.index[1].tolist() for member in group.members}
    assert rows["q.weight"] == [6, 7, 8, 9, 10, 11]
    assert rows["k.weight"] == [2, 3]
    agree(net, x, {group.name: torch.tensor([False, True])})


def test_tied_weights_are_cut_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(6, 4, bias=False), nn.Linear(6, 4, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.encode(x).relu() @ self.decode.weight

    net, x = Tied(), torch.randn(2, 6)
    plan = agree(net, x, {"encode": torch.tensor([True, False, True, False])})
    small = plan.apply(net)
    assert small.decode.weight is small.encode.weight
    assert small.decode.out_features == small.encode.out_features == 2


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1)),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 2, 1)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelUnshuffle(2), nn.Conv2d(16, 2, 1)),
        nn.Sequential(
            nn.ConvTranspose2d(3, 6, 2), nn.ReLU(), nn.ConvTranspose2d(6, 9, 2, groups=3), nn.Conv2d(9, 2, 1)
        ),
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.Upsample(scale_factor=2), nn.InstanceNorm2d(6), nn.Conv2d(6, 2, 1)),
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.GLU(1), nn.Conv2d(3, 2, 1)),
    ],
    ids=["groupnorm", "shuffle", "unshuffle", "transposed", "upsample", "glu"],
)
def test_layers(net: nn.Module) -> None:
    agree(net, torch.randn(2, 3, 4, 4))


def test_a_net_without_tensors_in_what_it_returns_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> int:
            return 3

    with pytest.raises(SparselandError, match="no tensor"):
        structure.trace(Odd(), torch.zeros(1))


def test_axes_by_hand() -> None:
    a, b, whole = axes.Dim(4), axes.Dim(4), axes.Dim(8)
    axes.unify(axes.cat([a, b]), whole)
    halves = axes.factor(whole, [2, 4])
    assert halves is not None
    assert axes.resolve(a) is axes.resolve(b)  # a view to (2, 4) of a | b makes them one
    assert axes.kept(whole, {axes.resolve(a): torch.tensor([True, False, True, True])}).tolist() == [1, 0, 1, 1] * 2  # type: ignore[dict-item]
    assert axes.width(whole, {axes.resolve(b): 3}) == 6  # type: ignore[dict-item]
    six, four = axes.Dim(6), axes.Dim(4)
    axes.unify(six, four)
    assert "sizes 6 and 4" in six.locked
    circle = axes.Dim(4)
    axes.unify(axes.prod([circle, axes.fixed(2)]), axes.cat([circle, axes.Dim(4)]))
    assert not axes.free(circle) or axes.resolve(circle)
