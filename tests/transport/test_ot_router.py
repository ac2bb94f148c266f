"""The router: bounded loads, gradients through the gates only, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparseland.transport import TransportError, route


def logits(groups: int = 3, tokens: int = 64, experts: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(groups, tokens, experts, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("solver", ["adam", "lbfgs", "gradient"])
def test_no_expert_ever_holds_more_than_its_capacity(solver: str) -> None:
    skewed = logits() + torch.linspace(0, 5, 8)  # argmax would send nearly all tokens to the last expert
    assert int(torch.bincount(skewed.argmax(-1).flatten()).max()) > 80
    found = route(skewed, causal=False, solver=solver)
    assert found.capacity == 8 and int(found.load.max()) <= 8
    assert torch.allclose(found.plan.sum(-2), torch.tensor(8.0), atol=1e-4)  # every expert has its share of mass
    assert torch.equal(found.mask, found.plan > 0)


def test_the_cards_numbers_of_an_unconverged_router() -> None:
    """64 tokens, 8 experts, k = 8: 2 to 3 tokens unserved after 20 steps of Adam, about 1 when it has converged."""
    early = [float(route(logits(1, seed=s), causal=False).unserved) for s in range(10)]
    late = [float(route(logits(1, seed=s), causal=False, solver="lbfgs", steps=200).unserved) for s in range(10)]
    assert sum(late) < sum(early) <= 10 * 6 and sum(late) <= 10 * 3


def test_tokens_choose() -> None:
    found = route(logits(), causal=False, choose="tokens", experts_per_token=2)
    assert int(found.mask.sum(-1).max()) <= 2 and int(found.unserved.sum()) == 0
    assert torch.allclose(found.plan.sum(-1), torch.ones(3, 64), atol=1e-5)
    assert float(found.load_cv.max()) < float(
        route(logits(), causal=False, choose="tokens", experts_per_token=2, steps=1).load_cv.max()
    )


def test_gates_carry_the_gradient_and_the_plan_does_not() -> None:
    x = logits().requires_grad_()
    found = route(x, causal=False)
    gates = x.softmax(-1)
    assert torch.equal(found.weights, torch.where(found.mask, gates, 0))
    found.weights.sum().backward()
    other = logits().requires_grad_()
    (other.softmax(-1) * found.mask).sum().backward()
    assert torch.allclose(x.grad, other.grad)
    plain = route(x, causal=False, combine="plan")
    assert not plain.weights.requires_grad and torch.equal(plain.weights, plain.plan)


def test_slots_are_the_mask() -> None:
    found = route(logits(), causal=False, capacity_factor=1.25)
    assert found.capacity == 12  # 10, rounded up to a multiple of 4
    at, used = found.slots()
    again = torch.zeros(3, 8, 64, dtype=torch.bool)
    again.scatter_(-1, at, used)  # unused places name token 0 …
    first = found.mask.mT[..., 0]
    again[..., 0] = (used & (at == 0)).any(-1)
    assert torch.equal(again[..., 0], first) and torch.equal(again, found.mask.mT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_any_precision_and_any_leading_shape(dtype: torch.dtype) -> None:
    x = logits(6).view(2, 3, 64, 8).to(dtype)
    found = route(x, causal=False)
    assert found.mask.shape == x.shape and found.weights.dtype == dtype and found.unserved.shape == (2, 3)
    alone = route(x[1, 2], causal=False)
    assert torch.equal(alone.mask, found.mask[1, 2])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"logits": logits() * torch.nan}, "hold 1536 NaN or infinite values"),
    "shape": ({"logits": logits()[0, 0]}, "logits is [..., S, E]"),
    "capacity": ({"capacity": 7}, "some rows cannot be served; capacity is at least 8"),
    "capacity over": ({"capacity": 65}, "capacity is 1 … 64; got 65"),
    "experts per token": ({"choose": "tokens", "experts_per_token": 9}, "experts_per_token is 1 … 8; got 9"),
    "factor": ({"capacity_factor": 0.0}, "capacity_factor is > 0"),
    "choose": ({"choose": "both"}, "choose is one of experts, tokens; got 'both'"),
    "solver": ({"solver": "newton"}, "solver is one of lbfgs, adam, gradient; got 'newton'"),
    "combine": ({"combine": "sum"}, "combine is one of softmax, plan; got 'sum'"),
    "steps": ({"steps": 0}, "steps is at least 1; got 0"),
    "reg": ({"reg": 0.0}, "reg is a finite number > 0"),
    "causal": ({"causal": True}, "depend on later tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    options, said = BAD[case]
    with pytest.raises(TransportError) as caught:
        route(**({"logits": logits(), "causal": False} | options))
    assert said in str(caught.value)


def test_leaking_the_future_is_possible_knowingly() -> None:
    assert int(route(logits(), causal=True, causal_safe=False).load.max()) <= 8
    with pytest.raises(TypeError, match="causal"):
        route(logits())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"floating-point tensor \[\.\.\., S, E\]; got torch.int64"):
        route(torch.zeros(3, 2, dtype=torch.int64), causal=False)
