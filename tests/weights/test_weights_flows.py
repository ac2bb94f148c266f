"""Every flow in the sparsifier against a loop of three lines written by hand: the same numbers to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.core import (
    SRSTE,
    Constant,
    Fading,
    Flow,
    Frozen,
    Hard,
    MaskSet,
    OneShot,
    Penalised,
    Shrinking,
    StraightThrough,
    pattern,
)

STEPS, LR, MOMENTUM, DECAY = 8, 0.2, 0.9, 0.05
MASK = torch.arange(48).view(6, 8) % 3 != 0
Step = Callable[[Tensor, Tensor, Tensor, int], None]


def start() -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(2))


def loss(w: Tensor, i: int) -> Tensor:
    x = torch.randn(10, 8, generator=torch.Generator().manual_seed(i))
    return (torch.tanh(x @ w.t()) - x[:, :6]).square().mean()


def gradient(w: Tensor, i: int) -> Tensor:
    """dL/d(the value the layer computes with)."""
    leaf = w.detach().clone().requires_grad_(True)
    loss(leaf, i).backward()
    return leaf.grad  # type: ignore[return-value]


def optimizer_for(w: Tensor, kind: str = "sgd") -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW([w], lr=LR, weight_decay=DECAY)
    return torch.optim.SGD([w], lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


def sparse(
    flow: Flow, kind: str = "sgd", mask: Tensor | None = MASK, **words: Any
) -> tuple[list[Tensor], sl.Sparsifier]:
    """What the layer computes with before each step, and at the end, under the sparsifier."""
    layer = nn.Linear(8, 6, bias=False)
    layer.weight.data.copy_(start())
    optimizer = optimizer_for(layer.weight, kind)
    masks = None if mask is None else MaskSet({"weight": mask})
    sp = sl.Method(flow=flow, **words).attach(layer, optimizer, masks=masks, steps=STEPS)
    seen = [layer.weight.detach().clone()]
    for i in range(STEPS):
        optimizer.zero_grad()
        loss(layer.weight, i).backward()
        optimizer.step()
        seen.append(layer.weight.detach().clone())
    sp.finalize_()
    return [*seen, layer.weight.detach().clone()], sp


def equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    for i, (one, two) in enumerate(zip(got, expected, strict=True)):
        assert torch.equal(one, two), f"value {i} of {len(got)} differs by up to {float((one - two).abs().max()):g}"


def by_hand(
    m: Tensor | Callable[[Tensor], Tensor],
    forward: Callable[[Tensor, Tensor, int], Tensor],
    grad: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    update: Callable[[Tensor, Tensor, Tensor, int], Tensor] = lambda w, before, m, t: w,
    kind: str = "sgd",
    last: Callable[[Tensor, Tensor], Tensor] = lambda w, m: w * m,
) -> list[Tensor]:
    """The definition: after t steps the layer computes with forward(w, m, t), the optimizer sees grad(g, w, m, t)."""
    w = start()
    choose = m if callable(m) else lambda _: m
    optimizer, mask, seen = optimizer_for(w, kind), choose(w), []
    for t in range(STEPS):
        seen.append(forward(w, mask, t))
        before, w.grad = w.clone(), grad(gradient(seen[-1], t), w, mask, t)
        optimizer.step()
        w.copy_(update(w, before, mask, t + 1))
        mask = choose(w)
    return [*seen, forward(w, mask, STEPS), last(w, mask)]


def masked(w: Tensor, m: Tensor, t: int) -> Tensor:
    return w.masked_fill(~m, 0)


def identity(w: Tensor, m: Tensor, t: int) -> Tensor:
    return w.clone()


def same(g: Tensor, w: Tensor, m: Tensor, t: int) -> Tensor:
    return g


def two_of_four(w: Tensor) -> Tensor:
    """2:4 along the inputs, by sorting."""
    groups = w.abs().reshape(-1, 4)
    best = groups.sort(dim=1, descending=True).indices[:, :2]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, best, True).view_as(w)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_straight_through(kind: str) -> None:
    got, _ = sparse(StraightThrough(), kind)
    equal(got, by_hand(MASK, masked, same, kind=kind))


def test_straight_through_with_weaker_gradients() -> None:
    got, _ = sparse(StraightThrough(dead=0.25))
    equal(got, by_hand(MASK, masked, lambda g, w, m, t: torch.where(m, g, 0.25 * g)))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_straight_through_of_the_living_only(kind: str) -> None:
    got, sp = sparse(StraightThrough(dead=0.0), kind)

    def wait(w: Tensor, before: Tensor, m: Tensor, t: int) -> Tensor:
        return torch.where(m, w, before)

    equal(got, by_hand(MASK, masked, lambda g, w, m, t: g * m, wait, kind))
    assert sp.masks["weight"].equal(MASK)


def test_waiting_weights_come_back_with_their_old_value() -> None:
    layer = nn.Linear(8, 6, bias=False)
    layer.weight.data.copy_(start())
    optimizer = optimizer_for(layer.weight)
    sp = sl.Method(flow=StraightThrough(dead=0.0)).attach(layer, optimizer, masks=MaskSet({"weight": MASK}))
    for i in range(3):
        optimizer.zero_grad()
        loss(layer.weight, i).backward()
        optimizer.step()
    assert torch.equal(sp.state_dict()["latent"]["weight"][~MASK], start()[~MASK])
    assert not layer.weight[~MASK].any()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_sr_ste_with_masks_that_follow_the_dense_weights(kind: str) -> None:
    method: dict[str, Any] = {"pattern": "2:4", "allocation": "uniform", "schedule": Constant(0.5)}
    got, sp = sparse(SRSTE(decay=0.1), kind, mask=None, **method)
    equal(got, by_hand(two_of_four, masked, lambda g, w, m, t: g + 0.1 * w.masked_fill(m, 0), kind=kind))
    assert sp.explored() > 0.5  # masks did move
    pattern("2:4").check(sp.masks["weight"])


def test_the_sr_ste_method_is_that_loop() -> None:
    layer = nn.Linear(8, 6, bias=False)
    layer.weight.data.copy_(start())
    optimizer = optimizer_for(layer.weight)
    sl.methods.SRSTE("2:4", decay=2e-4).attach(layer, optimizer)
    for i in range(STEPS):
        optimizer.zero_grad()
        loss(layer.weight, i).backward()
        optimizer.step()
    expected = by_hand(two_of_four, masked, lambda g, w, m, t: g + 2e-4 * w.masked_fill(m, 0))
    assert torch.equal(layer.weight, expected[STEPS])


@pytest.mark.parametrize("gradient_", ["ste", "exact"])
@pytest.mark.parametrize("curve", ["exponential", "linear"])
@pytest.mark.parametrize("begin", [0, 3])
def test_fading(gradient_: str, curve: str, begin: int) -> None:
    def d(t: int) -> float:
        age = max(0, t - begin)
        return math.exp(-0.2 * age) if curve == "exponential" else max(0.0, 1 - 0.2 * age)

    def faded(x: Tensor, m: Tensor, t: int) -> Tensor:
        return torch.where(m, x, d(t) * x)

    def grad(g: Tensor, w: Tensor, m: Tensor, t: int) -> Tensor:
        return g if gradient_ == "ste" else faded(g, m, t)  # the factor of the forward that made g

    got, _ = sparse(Fading(0.2, curve, begin, gradient_))
    equal(got, by_hand(MASK, faded, grad))


def test_exact_fading_is_the_true_derivative() -> None:
    got, _ = sparse(Fading(0.3, gradient="exact"))
    w = start()
    optimizer = optimizer_for(w)
    for t in range(STEPS):
        leaf = w.clone().requires_grad_(True)
        loss(torch.where(MASK, leaf, math.exp(-0.3 * t) * leaf), t).backward()
        w.grad = leaf.grad
        optimizer.step()
    torch.testing.assert_close(got[-1], w * MASK, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("until", [None, 5])
def test_shrinking(until: int | None) -> None:
    def shrink(w: Tensor, before: Tensor, m: Tensor, t: int) -> Tensor:
        return w.masked_fill(~m, 0) if until is not None and t >= until else torch.where(m, w, 0.5 * w)

    got, _ = sparse(Shrinking(0.5, until))
    equal(got, by_hand(MASK, identity, same, shrink))


def test_shrinking_reaches_weights_without_a_gradient() -> None:
    model = nn.ModuleList([nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False)])
    before = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    sl.Method(flow=Shrinking(0.5, until=3)).attach(
        model, optimizer, masks=MaskSet({"0.weight": MASK, "1.weight": MASK})
    )
    for i in range(3):
        optimizer.zero_grad()
        loss(model[0].weight, i).backward()
        optimizer.step()
        expected = torch.where(MASK, before, before * (0.5 ** (i + 1) if i < 2 else 0))
        torch.testing.assert_close(model[1].weight.detach(), expected)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_penalised(norm: str) -> None:
    def grad(g: Tensor, w: Tensor, m: Tensor, t: int) -> Tensor:
        return g + (0.1 + 0.02 * t) * (w if norm == "l2" else w.sign()).masked_fill(m, 0)

    got, _ = sparse(Penalised(0.1, norm, ramp=0.02))
    equal(got, by_hand(MASK, identity, grad))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_frozen(kind: str) -> None:
    def stay(w: Tensor, before: Tensor, m: Tensor, t: int) -> Tensor:
        return torch.where(m, w, before)

    got, sp = sparse(Frozen(), kind)
    equal(got, by_hand(MASK, identity, lambda g, w, m, t: g * m, stay, kind, last=lambda w, m: w))
    assert torch.equal(got[-1][~MASK], start()[~MASK]) and not torch.equal(got[-1][MASK], start()[MASK])
    state = [s for s in sp.optimizer.state[sp.targets["weight"].param].values() if s is not None and s.ndim == 2]
    assert state and not any(s[~MASK].any() for s in state)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_hard(kind: str) -> None:
    w = start() * MASK
    optimizer, seen = optimizer_for(w, kind), []
    for t in range(STEPS):
        seen.append(w.clone())
        w.grad = gradient(w, t) * MASK
        optimizer.step()
    got, _ = sparse(Hard(), kind)
    equal(got, [*seen, w, w])


@pytest.mark.parametrize("flow", [StraightThrough(), SRSTE(), Fading(0.1), Shrinking(), Penalised(), Hard()])
def test_finalized_dead_weights_are_zeros_and_nothing_is_left(flow: Flow) -> None:
    got, sp = sparse(flow, mask=None, schedule=OneShot(0.5))
    dead = ~sp.masks["weight"]
    assert int(dead.sum()) == 24 and not got[-1][dead].any() and got[-1][~dead].all()
    assert not torch.signbit(got[-1][dead]).any()  # no -0.0
    assert list(sp.model.state_dict()) == ["weight"] and not sp.model._forward_hooks


@pytest.mark.parametrize(
    "flow", [StraightThrough(), StraightThrough(0.0), SRSTE(0.1), Fading(0.1), Shrinking(), Frozen()]
)
def test_gradient_accumulation_is_one_step(flow: Flow) -> None:
    ends = []
    for parts in (1, 4):
        layer = nn.Linear(8, 6, bias=False)
        layer.weight.data.copy_(start())
        optimizer = optimizer_for(layer.weight)
        sp = sl.Method(flow=flow).attach(layer, optimizer, masks=MaskSet({"weight": MASK}))
        for i in range(3):
            optimizer.zero_grad()
            x = torch.randn(8, 8, generator=torch.Generator().manual_seed(i))
            for piece in x.chunk(parts):
                (layer(piece).square().sum() / 8).backward()
            optimizer.step()
        assert sp.step == 3
        ends.append(layer.weight.detach())
    torch.testing.assert_close(*ends)
