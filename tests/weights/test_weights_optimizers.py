"""The optimizer's side: its state tensors, wrappers around it, mixed precision, steps that are skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.core import kept
from sparseland.core.errors import OwnershipError, ScoreError
from sparseland.weights.optimizer_state import state_tensors, unwrap

F = nn.functional
TOTAL = 6 * 20 + 20 * 8


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 8))


def loss(model: nn.Module, i: int) -> Tensor:
    g = torch.Generator().manual_seed(i)
    return (model(torch.randn(16, 6, generator=g)).float() - torch.randn(16, 8, generator=g)).square().mean()


class Unknown(torch.optim.Optimizer):
    """A user's optimizer, with two elementwise states, one scalar and one per row."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(slow=torch.zeros_like(p), fast=torch.ones_like(p), n=0, row=torch.ones(p.shape[0]))
                state["slow"].lerp_(p.grad, 0.1)
                state["fast"].lerp_(p.grad, 0.5)
                state["n"] += 1
                state["row"] += 1
                p.sub_(state["slow"] + state["fast"], alpha=group["lr"]).mul_(1.01)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01, amsgrad=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "unknown": lambda p: Unknown(p, 0.05),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_weights_and_their_state_are_zero_after_every_step(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    sp = sl.methods.RigL(0.7, every=2, end=8).attach(model, optimizer)
    for i in range(10):
        optimizer.zero_grad()
        loss(model, i).backward()
        optimizer.step()
        for n, t in sp.targets.items():
            tensors = list(state_tensors(optimizer, t.param))
            assert len(tensors) > 0 or name == "adafactor"
            assert not any(x[~sp.masks[n]].any() for x in (t.param, *tensors))
    assert sp.step == 10 and sp.masks.kept() == kept(TOTAL, 0.7)


def test_only_tensors_of_the_parameters_shape_are_touched() -> None:
    model = net()
    optimizer = Unknown(model.parameters(), 0.05)
    sp = sl.methods.Magnitude(0.9).attach(model, optimizer)
    loss(model, 0).backward()
    optimizer.step()
    state = optimizer.state[model[0].weight]
    assert state["n"] == 1 and torch.equal(state["row"], torch.full((20,), 2.0))
    assert [x.shape for x in state_tensors(optimizer, model[0].weight)] == [(20, 6), (20, 6)]
    assert state["fast"][sp.masks["0.weight"]].all()


def test_state_from_before_is_cleaned_at_attach() -> None:
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    loss(model, 0).backward()
    optimizer.step()
    sp = sl.methods.Magnitude(0.8).attach(model, optimizer)
    for n, t in sp.targets.items():
        assert not any(x[~sp.masks[n]].any() for x in state_tensors(optimizer, t.param))


def test_wrappers_are_opened() -> None:
    inner = OPTIMIZERS["sgd"](net().parameters())

    class Wrapper:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    assert unwrap(inner) is inner and unwrap(Wrapper(Wrapper(inner))) is inner
    with pytest.raises(OwnershipError, match="got Wrapper"):
        unwrap(Wrapper(None))


def test_schedulers_and_parameter_groups() -> None:
    model = net()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters()}], lr=0.1
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    sp = sl.methods.GMP(0.8, end=6, every=2).attach(model, optimizer)
    for i in range(8):
        optimizer.zero_grad()
        loss(model, i).backward()
        optimizer.step()
        scheduler.step()
    assert sp.step == 8 and sp.masks.kept() == kept(TOTAL, 0.8)


def run(name: str, kind: str, scale: float | None, spoil: int | None = None) -> tuple[sl.Sparsifier, list[Tensor]]:
    """Six steps, with a GradScaler on CPU if ``scale``; step ``spoil`` overflows."""
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    hyper: dict[str, Any] = {"sparsity": 0.7, "every": 2, "end": 6} | ({"start": 1} if name == "movement" else {})
    method = sl.methods.SRSTE("2:4", decay=0.1) if name == "sr-ste" else sl.methods.build(name, **hyper)
    sp = method.attach(model, optimizer, targets="2.weight")
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, growth_interval=1000, enabled=scale is not None)
    for i in range(6):
        optimizer.zero_grad()
        scaler.scale(loss(model, i)).backward()
        if i == spoil:
            model[2].weight.grad[0, 0] = float("inf")
        if scale is not None or i != spoil:
            scaler.step(optimizer)
            scaler.update(scale) if scale is not None else None
    return sp, [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("kind", ["sgd", "adamw fused"])
@pytest.mark.parametrize("name", ["rigl", "sr-ste", "movement"])
@pytest.mark.parametrize("spoil", [None, 1])
def test_a_gradient_scaler_changes_nothing(name: str, kind: str, spoil: int | None) -> None:
    plain, expected = run(name, kind, None, spoil)
    scaled, got = run(name, kind, 1024.0, spoil)  # a power of two: exact
    assert plain.step == scaled.step == (6 if spoil is None else 5)
    assert plain.masks == scaled.masks
    for p, q in zip(got, expected, strict=True):
        torch.testing.assert_close(p, q)


def test_half_precision_parameters() -> None:
    model = net().bfloat16()
    optimizer = OPTIMIZERS["adamw foreach"](model.parameters())
    sp = sl.methods.RigL(0.7, every=1, end=5).attach(model, optimizer)
    for i in range(5):
        optimizer.zero_grad()
        g = torch.Generator().manual_seed(i)
        model(torch.randn(16, 6, generator=g).bfloat16()).square().mean().backward()
        optimizer.step()
    assert sp.masks.kept() == kept(TOTAL, 0.7)
    assert not any(t.param[~sp.masks[n]].any() for n, t in sp.targets.items())


@pytest.mark.parametrize("name", ["rigl", "granet"])
def test_a_gradient_that_is_not_finite_stops_before_anything_moves(name: str) -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    hyper: dict[str, Any] = {"regrow_until": 10} if name == "granet" else {}
    sp = sl.methods.build(name, sparsity=0.7, every=1, end=5, **hyper).attach(model, optimizer)
    before, masks = [p.detach().clone() for p in model.parameters()], sp.masks.digest()
    loss(model, 0).backward()
    model[2].weight.grad[3, 3] = float("nan")
    with pytest.raises(ScoreError, match=r"gradient of '2.weight' is not finite .* at step 1"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert sp.step == 0 and sp.masks.digest() == masks
    optimizer.zero_grad()
    loss(model, 1).backward()
    optimizer.step()  # the run goes on
    assert sp.step == 1


def test_gradients_changed_by_the_optimizer_in_place_do_not_steer_growth() -> None:
    class Spoils(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.zero_()
            return super().step(closure)

    picked = []
    for kind in (torch.optim.SGD, Spoils):
        model = net()
        optimizer = kind(model.parameters(), lr=0.0)
        sp = sl.methods.RigL(0.7, every=1, end=5).attach(model, optimizer)
        loss(model, 0).backward()
        optimizer.step()
        assert sp.step == 1
        picked.append(sp.masks.digest())
    assert picked[0] == picked[1]


def test_a_step_without_any_gradient_still_counts() -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sp = sl.methods.RigL(0.7, every=1, end=5).attach(model, optimizer)
    optimizer.step()
    assert sp.step == 1 and sp.masks.kept() == kept(TOTAL, 0.7)


class Lookahead(torch.optim.Optimizer):
    """An optimizer around another one that moves the weights itself as well (arXiv 1907.08610)."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__([p for g in optimizer.param_groups for p in g["params"]], {})
        self.optimizer = optimizer
        self.slow = [p.detach().clone() for g in self.param_groups for p in g["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step()
        for slow, p in zip(self.slow, self.param_groups[0]["params"], strict=True):
            slow.lerp_(p, 0.5)
            p.copy_(slow)


def test_an_optimizer_around_another_one_is_the_one_that_counts() -> None:
    model = net()
    outer = Lookahead(OPTIMIZERS["sgd"](model.parameters()))
    sp = sl.methods.RigL(0.7, every=1, end=8).attach(model, outer)
    for i in range(6):
        outer.zero_grad()
        loss(model, i).backward()
        outer.step()
        assert not any(t.param[~sp.masks[n]].any() for n, t in sp.targets.items())
    assert sp.step == 6
