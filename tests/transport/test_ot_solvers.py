"""L-BFGS and first-order steps on batches, rounding, and what happens when they cannot arrive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparseland.transport import TransportError, round_plan, solve
from sparseland.transport.first_order import descend
from sparseland.transport.lbfgs import minimise
from tests.transport.test_ot_smooth import cloud, masses

DOUBLE = torch.float64


class Quadratics:
    """f_i(x) = 1/2 <x, A_i x> - <c_i, x>, B of them."""

    def __init__(self, a: Tensor, c: Tensor) -> None:
        self.a, self.c, self.calls = a, c, 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        pull = torch.einsum("bij,bj->bi", self.a, x)
        return 0.5 * (x * pull).sum(-1) - (x * self.c).sum(-1), pull - self.c

    def take(self, which: Tensor) -> Quadratics:
        return Quadratics(self.a[which], self.c[which])


def quadratics(count: int = 5, size: int = 12) -> Quadratics:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(count, size, size, dtype=DOUBLE, generator=generator)
    steep = 10.0 ** torch.arange(count, dtype=DOUBLE)[:, None, None]  # every problem needs its own step
    a = steep * (root @ root.mT + torch.eye(size, dtype=DOUBLE))
    return Quadratics(a, torch.randn(count, size, dtype=DOUBLE, generator=generator))


def test_every_problem_of_a_batch_reaches_its_own_minimum() -> None:
    f = quadratics()
    one = torch.ones(5, dtype=DOUBLE)
    found = minimise(f, torch.zeros(5, 12, dtype=DOUBLE), tol=1e-9, scale=0 * one, reach=one, max_iter=500)
    wanted = torch.linalg.solve(f.a, f.c)
    assert bool(found.converged.all()) and not bool(found.stalled.any())
    assert torch.allclose(f.a @ (found.x - wanted)[..., None], torch.zeros(5, 12, 1, dtype=DOUBLE), atol=1e-3)
    assert len(set(found.n_iter.tolist())) > 1  # they end when they are done, not together


def test_a_batch_is_its_problems_one_by_one() -> None:
    a, b = masses(25, 1), masses(30, 2)
    costs = torch.stack([cloud(25, 30, seed) for seed in range(4)])
    options: dict[str, Any] = {"reg_type": "sparsity_constrained", "max_nz": 6}
    together = solve(a, b, costs.view(2, 2, 25, 30), 1.0, **options)
    assert together.plan.shape == (2, 2, 25, 30) and together.value.shape == together.converged.shape == (2, 2)
    for i, cost in enumerate(costs):
        alone = solve(a, b, cost, 1.0, **options)
        assert float(together.value.flatten()[i]) == pytest.approx(float(alone.value), abs=1e-10)
        assert torch.allclose(together.plan.view(4, 25, 30)[i], alone.plan, atol=1e-5)
        assert bool(together.converged.flatten()[i]) == (alone.status == "converged")


def test_kinks_do_not_stop_the_line_search() -> None:
    class Kinks:
        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
            weights = torch.arange(1.0, 5.0, dtype=DOUBLE)
            return (weights * (x - 1).abs()).sum(-1), weights * (x - 1).sign()

        def take(self, which: Tensor) -> Kinks:
            return self

    one = torch.ones(1, dtype=DOUBLE)
    found = minimise(Kinks(), torch.zeros(1, 4, dtype=DOUBLE), tol=1e-12, scale=0 * one, reach=one, max_iter=500)
    assert float(found.value) < 1e-6


def test_an_unreachable_tolerance_says_so_and_keeps_the_best() -> None:
    a, b, cost = masses(12, 1), masses(12, 2), cloud(12, 12)
    options: dict[str, Any] = {"reg_type": "sparsity_constrained", "max_nz": 3}
    fine = solve(a, b, cost, 1.0, **options)
    stalled = solve(a, b, cost, 1.0, tol=1e-300, max_iter=20_000, **options)
    assert stalled.status == "stalled" and not bool(stalled.converged)
    assert float(stalled.value) >= float(fine.value) - 1e-9
    cut = solve(a, b, cost, 1.0, tol=1e-14, max_iter=5, **options)
    assert cut.status == "max_iter" and cut.n_iter == 5 and not bool(cut.converged)
    values = [entry["value"] for entry in cut.log]
    assert values == sorted(values) and float(cut.value) == values[-1]
    assert solve(a, b, cost, 1.0, max_iter=0, **options).status == "max_iter"


@pytest.mark.parametrize(("kind", "lr"), [("adam", 3e-3), ("gradient", 0.05)])
def test_first_order_steps_approach_the_same_value(kind: str, lr: float) -> None:
    a, b, cost = masses(20, 1), masses(20, 2), cloud(20, 20)
    wanted = float(solve(a, b, cost, 1.0, reg_type="l2").value)
    found = solve(a, b, cost, 1.0, reg_type="l2", solver=kind, lr=lr, max_iter=3000)
    assert wanted - 1e-3 < float(found.value) <= wanted + 1e-9
    assert found.status in ("converged", "max_iter")


def test_first_order_keeps_the_best_iterate_not_the_last() -> None:
    class Bowl:
        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return (x**2).sum(-1), 2 * x

        def take(self, which: Tensor) -> Bowl:
            return self

    start, one = torch.tensor([[1.0]]), torch.ones(1)
    found = descend(Bowl(), start, kind="gradient", lr=1.5, tol=1e-9, reach=one, max_iter=10)  # it runs away
    assert found.x.tolist() == [[1.0]] and not bool(found.converged)
    with pytest.raises(TransportError, match="lr is > 0"):
        descend(Bowl(), start, kind="adam", lr=0.0, tol=1e-9, reach=one, max_iter=10)


def test_float32_arrives_as_far_as_it_can() -> None:
    a, b, cost = masses(30, 1), masses(30, 2), cloud(30, 30)
    options: dict[str, Any] = {"reg_type": "sparsity_constrained", "max_nz": 30}
    single = solve(a.float(), b.float(), cost.float(), 1.0, **options)
    double = solve(a, b, cost, 1.0, **options)
    assert single.plan.dtype == single.value.dtype == torch.float32 and single.status == "converged"
    assert float(single.value) == pytest.approx(float(double.value), abs=1e-5)


@pytest.mark.parametrize("fill", ["outer", "corner"])
def test_rounding_meets_both_marginals(fill: str) -> None:
    a, b, cost = masses(40, 1), masses(30, 2), cloud(40, 30)
    result = solve(a, b, cost, 1.0, reg_type="sparsity_constrained", max_nz=2, max_iter=50)
    rounded = round_plan(result.plan, a, b, fill=fill)
    assert float(result.row_error) > 1e-3  # there was something to do
    assert bool((rounded >= 0).all())
    assert torch.allclose(rounded.sum(-1), a, atol=1e-14) and torch.allclose(rounded.sum(-2), b, atol=1e-14)
    apart = (result.plan.sum(-1) - a).abs().sum() + (result.plan.sum(-2) - b).abs().sum()
    assert float((rounded * cost).sum() - (result.plan * cost).sum()) <= 2 * float(cost.max() * apart)
    if fill == "corner":
        assert int((rounded > 0).sum()) <= int(result.nnz) + 40 + 30 - 1


def test_rounding_of_a_batch_of_nothing_and_of_nonsense() -> None:
    a, b = masses(4, 1), masses(3, 2)
    empty = round_plan(torch.zeros(2, 4, 3, dtype=DOUBLE), a, b)
    assert torch.allclose(empty, (a[:, None] * b).expand(2, 4, 3))
    exact = a[:, None] * b
    assert torch.allclose(round_plan(exact, a, b), exact)
    with pytest.raises(TransportError, match="'outer' or 'corner'"):
        round_plan(exact, a, b, fill="north")
    with pytest.raises(TransportError, match="no negative entries"):
        round_plan(exact - 1, a, b)
