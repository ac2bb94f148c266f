"""Flows with a backward value: weight gradients through the first mask, input gradients through the second."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.core import NM, Bidirectional, Constant, OneShot, pattern
from sparseland.core.errors import TargetError

F = nn.functional
SECOND = NM(1, 4, axis=0)


def attach(layer: nn.Module, **words: Any) -> tuple[sl.Sparsifier, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    first: dict[str, Any] = {"schedule": OneShot(0.5), "pattern": "2:4", "allocation": "uniform"} | words
    return sl.Method(flow=Bidirectional(SECOND, decay=0.01), **first).attach(layer, optimizer), optimizer


def halves(w: Tensor) -> tuple[Tensor, Tensor]:
    """The dense weight under the first and under the second mask."""
    one, two = (p.project(w.abs(), p.capacity(w.shape)) for p in (pattern("2:4"), SECOND))
    assert not torch.equal(one, two)
    return w * one, w * two


def check(layer: nn.Module, apply: Any, x: Tensor) -> None:
    """Output and weight gradient with the first value, input gradient with the second."""
    dense = layer.weight.detach().clone()
    sp, _ = attach(layer)
    first, second = halves(dense)
    x = x.requires_grad_(True)
    out = layer(x)
    seed = torch.randn_like(out)
    (out * seed).sum().backward()
    w = first.clone().requires_grad_(True)
    reference = apply(x.detach(), w)
    (reference * seed).sum().backward()
    y = x.detach().clone().requires_grad_(True)
    (apply(y, second) * seed).sum().backward()
    torch.testing.assert_close(out, reference)
    torch.testing.assert_close(layer.weight.grad, w.grad)
    torch.testing.assert_close(x.grad, y.grad)
    wrong = x.detach().clone().requires_grad_(True)
    (apply(wrong, first) * seed).sum().backward()
    assert not torch.allclose(x.grad, wrong.grad)  # type: ignore[arg-type]
    assert sp.masks["weight"].equal(first != 0)


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(8, 12, bias=bias)
    check(layer, lambda x, w: F.linear(x, w, layer.bias), torch.randn(shape))


CONVS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv2d, {}, (7, 6)),
    (nn.Conv2d, {"stride": 2}, (7, 6)),
    (nn.Conv2d, {"padding": 1}, (7, 6)),
    (nn.Conv2d, {"stride": (2, 3), "padding": (1, 0)}, (9, 8)),
    (nn.Conv2d, {"stride": 2, "padding": 2, "dilation": 2}, (9, 9)),
    (nn.Conv2d, {"groups": 2, "padding": 1}, (6, 6)),
    (nn.Conv2d, {"groups": 2, "stride": 3, "bias": False}, (8, 8)),
    (nn.Conv1d, {"stride": 2, "padding": 1}, (9,)),
    (nn.Conv3d, {"padding": 1, "stride": (1, 2, 1)}, (4, 5, 4)),
]


@pytest.mark.parametrize(("kind", "options", "size"), CONVS)
def test_convolutions(kind: Any, options: dict[str, Any], size: tuple[int, ...]) -> None:
    layer = kind(8, 12, 3, **options)
    apply = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[kind]
    rest = {k: v for k, v in options.items() if k != "bias"}
    check(layer, lambda x, w: apply(x, w, layer.bias, **rest), torch.randn(2, 8, *size))


def test_training_is_a_loop_by_hand() -> None:
    # two layers; the first one learns through the second mask of the second one
    def net() -> nn.Module:
        torch.manual_seed(4)
        return nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False))

    model, loop = net(), net()
    words: dict[str, Any] = {"schedule": Constant(0.5), "pattern": "2:4", "allocation": "uniform"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    sl.Method(flow=Bidirectional(SECOND, decay=0.05), **words).attach(model, optimizer)
    one, two = loop[0].weight, loop[2].weight
    reference = torch.optim.SGD([one, two], lr=0.2, momentum=0.9)
    for i in range(6):
        x = torch.randn(10, 8, generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            (a1, _), (a2, b2) = halves(one.detach()), halves(two.detach())
            hidden = torch.tanh(x @ a1.t())
            error = 2 * (hidden @ a2.t() - x) / x.numel()
            one.grad = ((error @ b2) * (1 - hidden**2)).t() @ x + 0.05 * one.masked_fill(a1 != 0, 0)
            two.grad = error.t() @ hidden + 0.05 * two.masked_fill(a2 != 0, 0)
        reference.step()
    torch.testing.assert_close(model[0].weight.detach(), halves(one.detach())[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model[2].weight.detach(), halves(two.detach())[0], rtol=1e-4, atol=1e-6)


def test_hooks_come_and_go() -> None:
    layer = nn.Linear(8, 8)
    sp, optimizer = attach(layer)
    assert len(layer._forward_hooks) == len(layer._forward_pre_hooks) == 1
    sp.finalize_()
    assert not layer._forward_hooks and not layer._forward_pre_hooks and not optimizer._optimizer_step_pre_hooks
    x = torch.randn(3, 8, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0).expand(3, 8))


def test_inference_and_inputs_without_gradient_are_untouched() -> None:
    layer = nn.Linear(8, 8)
    attach(layer)
    x = torch.randn(3, 8)
    with torch.no_grad():
        expected = F.linear(x, layer.weight, layer.bias)
        assert torch.equal(layer(x), expected) and torch.equal(layer(x.clone().requires_grad_(True)), expected)
    out = layer(x)
    out.sum().backward()
    assert layer.weight.grad is not None and torch.equal(out.detach(), expected)


def test_one_layer_used_twice_and_by_keyword() -> None:
    layer = nn.Linear(8, 8, bias=False)
    dense = layer.weight.detach().clone()
    attach(layer)
    first, second = halves(dense)
    x = torch.randn(3, 8, requires_grad=True)
    layer(layer(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3, 8) @ second @ second)
    w = first.clone().requires_grad_(True)
    inner = x.detach() @ w.t()
    (inner.detach() @ w.t()).sum().backward(retain_graph=True)
    inner.backward(torch.ones(3, 8) @ second)
    torch.testing.assert_close(layer.weight.grad, w.grad)
    y = x.detach().clone().requires_grad_(True)
    layer(input=y).sum().backward()
    torch.testing.assert_close(y.grad, torch.ones(3, 8) @ second)


def test_copies_have_their_own_hooks() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    sp, optimizer = attach(model)
    other, moved, again = copy.deepcopy((model, optimizer, sp))
    assert len(other[0]._forward_hooks) == 1
    for m, o in ((model, optimizer), (other, moved)):
        for i in range(2):
            x = torch.randn(3, 8, generator=torch.Generator().manual_seed(i))
            o.zero_grad()
            m(x).square().sum().backward()
            o.step()
    assert torch.equal(model[0].weight, other[0].weight) and again.step == sp.step == 2
    again.detach()
    assert not other[0]._forward_hooks and len(model[0]._forward_hooks) == 1


def test_layers_added_later_are_two_way_too() -> None:
    model = nn.ModuleList([nn.Linear(8, 8)])
    sp, optimizer = attach(model)
    model.append(nn.Linear(8, 8, bias=False))
    dense = model[1].weight.detach().clone()
    optimizer.add_param_group({"params": list(model[1].parameters())})
    sp.add_("1.weight")
    x = torch.randn(3, 8, requires_grad=True)
    model[1](x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3, 8) @ halves(dense)[1])
    assert len(model[0]._forward_hooks) == len(model[1]._forward_hooks) == 1
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    model.append(nn.LSTM(8, 8))  # type: ignore[arg-type]
    optimizer.add_param_group({"params": list(model[2].parameters())})
    with pytest.raises(TargetError, match="two-way flow needs"):
        sp.add_("2")
    assert list(sp.targets) == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    "layer",
    [nn.ConvTranspose2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding="same"), nn.LSTM(8, 8)]
    + [nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), nn.MultiheadAttention(8, 2)],
)
def test_other_layers_are_refused_before_anything_is_touched(layer: nn.Module) -> None:
    before = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    method = sl.Method(flow=Bidirectional(SECOND), schedule=OneShot(0.5), pattern="2:4", allocation="uniform")
    with pytest.raises(TargetError, match="two-way flow needs"):
        method.attach(layer, optimizer)
    assert all(torch.equal(v, before[n]) for n, v in layer.state_dict().items())
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_patterns_written_as_strings() -> None:
    assert Bidirectional("1:4 axis 0").pattern == SECOND  # type: ignore[arg-type]


def test_autocast() -> None:
    layer = nn.Linear(8, 8, bias=False)
    dense = layer.weight.detach().clone()
    attach(layer)
    x = torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, torch.ones(3, 8) @ halves(dense)[1], rtol=2e-2, atol=2e-2)
