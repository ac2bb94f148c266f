"""Log-domain Sinkhorn against POT, its options, its gradients and what it refuses."""

from __future__ import annotations

import importlib
import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseland.core.errors import SparselandError
from sparseland.transport import (
    OTResult,
    Problem,
    TransportError,
    gaussian_problem,
    grid_cost,
    image_problem,
    random_assignment,
    sinkhorn,
    sns,
)

ot = pytest.importorskip("ot")


def uneven(n: int, m: int, *batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Problem:
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(*batch, k, generator=g, dtype=torch.float64) + 0.05 for k in (n, m))
    cost = torch.rand(*batch, n, m, generator=g, dtype=torch.float64)
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    return Problem(a.to(dtype), b.to(dtype), cost.to(dtype))


@lru_cache(maxsize=3)
def pots(eta: float) -> Any:
    """POT's plan of one problem."""
    problem = uneven(16, 12)
    a, b, cost = (t.numpy() for t in (problem.a, problem.b, problem.M))
    return ot.sinkhorn(a, b, cost, 1 / eta, method="sinkhorn_log", stopThr=1e-11, numItermax=10_000, warn=False)


@pytest.mark.parametrize("eta", [10.0, 50.0, 100.0])
@pytest.mark.parametrize("solver", [sinkhorn, sns])
def test_plan_potentials_and_values_are_pots(eta: float, solver: Any) -> None:
    problem = uneven(16, 12)
    theirs, cost = pots(eta), problem.M.numpy()
    found = solver(problem, 1 / eta, tol=1e-12, **({"max_iter": 100_000} if solver is sinkhorn else {}))
    assert found.status == "converged" and bool(found.converged) and found.feasible
    assert np.abs(found.plan.numpy() - theirs).max() <= 1e-8
    assert float(found.value_linear) == pytest.approx((theirs * cost).sum(), abs=1e-8)
    assert float(found.value) == pytest.approx((theirs * cost).sum() + (theirs * np.log(theirs)).sum() / eta, abs=1e-8)
    u, v = found.potentials
    assert torch.allclose(((u[:, None] + v[None] - problem.M) * eta).exp(), found.plan, rtol=1e-10)
    assert float(found.row_error) <= 1e-12 and float(found.col_error) <= 1e-12
    assert int(found.nnz) == 16 * 12


def test_reg_is_pots_and_eta_its_inverse() -> None:
    problem = uneven(9, 9)
    assert torch.equal(sinkhorn(problem, 0.02).plan, sinkhorn(problem, eta=50.0).plan)
    for given, words in (({}, "got reg=None, eta=None"), ({"reg": 0.1, "eta": 10.0}, "one of them; got reg=0.1")):
        with pytest.raises(TransportError, match=words):
            sinkhorn(problem, **given)
    with pytest.warns(UserWarning, match=r"eta=0.05 is 1 / reg; .* pass reg=0.05"):
        sinkhorn(problem, eta=0.05)


@pytest.mark.parametrize("solver", [sinkhorn, sns])
def test_batches_are_their_problems(solver: Any) -> None:
    problem = uneven(12, 9, 2, 3)
    found = solver(problem, 0.02, tol=1e-9)
    assert found.plan.shape == (2, 3, 12, 9) and found.converged.shape == (2, 3) == found.value.shape
    assert {line["problem"] for line in found.log} == set(range(6))
    for i in range(2):
        for j in range(3):
            one = solver(Problem(problem.a[i, j], problem.b[i, j], problem.M[i, j]), 0.02, tol=1e-9)
            assert torch.allclose(one.plan, found.plan[i, j], rtol=1e-8, atol=1e-14)
            assert float(one.value) == pytest.approx(float(found.value[i, j]), abs=1e-10)
    packed = solver(problem, 0.02, tol=1e-9, sparse=True)
    assert packed.plan.is_sparse and packed.plan.shape == (2, 3, 12, 9)
    assert torch.allclose(packed.plan.to_dense(), found.plan, atol=1e-13)


def test_a_batch_goes_together_where_it_is_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = uneven(12, 9, 4)
    alone = sinkhorn(problem, 0.02, tol=1e-9, native=False)
    monkeypatch.setattr(importlib.import_module("sparseland.transport.sinkhorn"), "_groups", lambda parts: [parts])
    together = sinkhorn(problem, 0.02, tol=1e-9, native=False)
    assert torch.allclose(together.plan, alone.plan, rtol=1e-9) and together.n_iter == alone.n_iter


@pytest.mark.parametrize("solver", [sinkhorn, sns])
def test_total_mass_and_dtype_are_those_given(solver: Any) -> None:
    small = uneven(15, 11)
    large = Problem(7 * small.a, 7 * small.b, small.M)
    one, seven = solver(small, 0.02, tol=1e-10), solver(large, 0.02, tol=1e-10)
    assert torch.allclose(seven.plan, 7 * one.plan, rtol=1e-11)
    plan = seven.plan
    assert float(seven.value) == pytest.approx(float((plan * large.M + 0.02 * plan * plan.log()).sum()), rel=1e-8)
    u, v = seven.potentials
    assert torch.allclose(((u[:, None] + v[None] - large.M) / 0.02).exp(), plan, rtol=1e-10)
    half = solver(uneven(15, 11, dtype=torch.float32), 0.02, tol=1e-10)
    assert half.plan.dtype == torch.float32 == half.value.dtype == half.potentials[0].dtype
    assert bool(half.converged) and torch.allclose(half.plan.double(), one.plan, rtol=1e-4)


@pytest.mark.parametrize("solver", [sinkhorn, sns])
def test_the_sparse_plan_is_the_dense_one_without_what_is_negligible(solver: Any) -> None:
    problem = random_assignment(60, 50, seed=3)
    dense, packed = (solver(problem, eta=900.0, tol=1e-9, sparse=s) for s in (False, True))
    assert packed.plan.is_coalesced() and packed.plan.to_sparse_coo()._nnz() == int(packed.nnz) < int(dense.nnz)
    gap = (dense.plan - packed.plan.to_dense()).abs()
    assert float(gap.sum()) <= 1e-9 and float(gap[packed.plan.to_dense() > 0].max()) <= 1e-15
    assert float(packed.value_linear) == pytest.approx(float(dense.value_linear), abs=1e-11)


@pytest.mark.parametrize("solver", [sinkhorn, sns])
def test_zero_masses_are_named_or_left_out(solver: Any) -> None:
    problem = uneven(8, 7)
    a, b = problem.a.clone(), problem.b.clone()
    a[[2, 5]], b[4] = 0.0, 0.0
    holed = Problem(a / a.sum(), b / b.sum(), problem.M)
    with pytest.raises(TransportError, match=r"a\[2\] is 0 \(2 of 8 masses are\).*drop_zero=True"):
        solver(holed, 0.05)
    rows, columns = (a > 0).nonzero()[:, 0], (b > 0).nonzero()[:, 0]
    inner = solver(Problem(holed.a[rows], holed.b[columns], problem.M[rows][:, columns]), 0.05, tol=1e-10)
    for packed in (False, True):
        found = solver(holed, 0.05, tol=1e-10, drop_zero=True, sparse=packed)
        assert torch.allclose(found.dense_plan[rows][:, columns], inner.plan, atol=1e-13)
        assert float(found.dense_plan.sum()) == pytest.approx(1.0, abs=1e-9)
        assert found.potentials[0][2] == -math.inf and bool(torch.isfinite(found.potentials[0][rows]).all())
        assert float(found.value) == pytest.approx(float(inner.value), abs=1e-10)
    with pytest.raises(TransportError, match="negative mass"):
        Problem(-a, b, problem.M)


@pytest.mark.parametrize("solver", [sinkhorn, sns])
@pytest.mark.parametrize("name", ["a", "b", "M"])
def test_gradients_of_the_value_are_those_of_finite_differences(solver: Any, name: str) -> None:
    base = uneven(5, 4, seed=2)
    given = {"a": base.a.clone(), "b": base.b.clone(), "M": base.M.clone()}
    given[name].requires_grad_()

    def value(**change: Tensor) -> Tensor:
        return solver(Problem(**(given | change)), 0.1, tol=1e-12).value

    value().backward()
    slope = given[name].grad
    assert slope is not None
    way = torch.randn(slope.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if name != "M":
        way -= way.mean()  # totals stay equal
    step = 1e-5 * way
    start = given[name].detach()
    with torch.no_grad():
        numeric = (value(**{name: start + step}) - value(**{name: start - step})) / 2e-5
    assert float((slope * way).sum()) == pytest.approx(float(numeric), rel=1e-5, abs=1e-9)


def test_left_out_points_get_no_gradient_and_batches_get_theirs() -> None:
    a = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    cost = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    found = sinkhorn(Problem(a, torch.tensor([0.5, 0.5]).double(), cost), 0.1, drop_zero=True, sparse=True)
    found.value.backward()
    assert a.grad is not None and cost.grad is not None
    assert torch.equal(cost.grad, found.plan.to_dense()) and bool(torch.isfinite(a.grad).all())
    costs = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    both = sns(Problem.make(None, None, costs), 0.1)
    (both.value * torch.tensor([1.0, 2.0])).sum().backward()
    assert costs.grad is not None and torch.allclose(costs.grad[1], 2 * both.plan[1])


def test_a_tolerance_that_is_not_reached_is_told() -> None:
    problem = random_assignment(100, seed=0)
    short = sinkhorn(problem, eta=1200.0, max_iter=30)
    assert short.status == "max_iter" and not bool(short.converged) and short.n_iter == 30
    assert float(short.row_error) <= 1e-15  # rows are exact at every step
    assert short.log[-1]["error"] == pytest.approx(float((short.plan.sum(0) - problem.b).abs().sum()), rel=1e-9)
    longer = sinkhorn(problem, eta=1200.0, max_iter=300)
    assert longer.log[-1]["error"] < short.log[-1]["error"]


@pytest.mark.parametrize("solver", [sinkhorn, sns])
def test_the_twin_gives_the_same_plan(solver: Any) -> None:
    problem = uneven(40, 30)
    ours, twins = (solver(problem, eta=150.0, tol=1e-10, native=n) for n in (None, False))
    assert torch.allclose(ours.plan, twins.plan, rtol=1e-8, atol=1e-16) and ours.n_iter == twins.n_iter


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (TransportError, "reg is a finite number > 0; got 0.0", {"reg": 0.0}),
        (TransportError, "reg is a finite number > 0; got -1", {"reg": -1}),
        (TransportError, "eta is a finite number > 0; got inf", {"eta": math.inf}),
        (TypeError, "reg is a number > 0; got '0.1'", {"reg": "0.1"}),
        (TypeError, "eta is a number > 0; got True", {"eta": True}),
        (TransportError, "max_iter is a whole number >= 1; got 0", {"reg": 0.1, "max_iter": 0}),
        (TypeError, "max_iter is a whole number >= 1; got 2.5", {"reg": 0.1, "max_iter": 2.5}),
        (TransportError, "tol is a finite number >= 0; got -1e-09", {"reg": 0.1, "tol": -1e-9}),
        (TypeError, "tol is a number >= 0; got None", {"reg": 0.1, "tol": None}),
    ],
)
def test_wrong_options_are_quoted(error: type[Exception], words: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=words.replace("(", r"\(")):
        sinkhorn(uneven(3, 3), **options)


def test_wrong_problems_are_refused_and_wide_costs_warned_of() -> None:
    good = uneven(3, 3)
    with pytest.raises(SparselandError, match="a sums to 1 and b to 2"):
        Problem(good.a, 2 * good.b, good.M)
    for bad in (math.nan, math.inf):
        with pytest.raises(SparselandError, match="NaN and .* infinite"):
            Problem(good.a, good.b, good.M.clone().fill_(bad))
    with pytest.warns(UserWarning, match=r"\(max M - min M\) / reg is .*e\+06; above 100000"):
        sinkhorn(Problem(good.a, good.b, 1e4 * good.M), eta=500.0, max_iter=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sinkhorn(Problem(good.a, good.b, good.M + 1e6), eta=20.0)  # a shift costs nothing


def test_made_problems_are_what_they_say() -> None:
    line = grid_cost(1, 4, 1)
    assert torch.allclose(line, (torch.arange(4.0)[:, None] - torch.arange(4.0)).abs().double() / 3)
    square = grid_cost(3, 2)
    assert float(square[0, 5]) == 1.0 == float(square.max()) and float(square[0, 1]) == pytest.approx(0.2)
    assert torch.equal(random_assignment(5, seed=1).M, random_assignment(5, seed=1).M)
    assert not torch.equal(random_assignment(5, seed=1).M, random_assignment(5, seed=2).M)
    problem = gaussian_problem(8, p=1, seed=3)
    assert problem.n == 64 and float(problem.a.min()) >= 0.01 / 64 and float(problem.M.max()) == 1.0
    for bad in (torch.zeros(2, 2), torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.full((2, 2), math.nan)):
        with pytest.raises(TransportError, match="the second image needs finite pixels >= 0, not all 0"):
            image_problem(torch.ones(2, 2), bad)
    with pytest.raises(TransportError, match=r"one shape \[h, w\]; got \(2, 2\) and \(2, 3\)"):
        image_problem(torch.ones(2, 2), torch.ones(2, 3))
    for call in (lambda: image_problem(torch.ones(2, 2), torch.ones(2, 2), floor=1.0), lambda: grid_cost(0, 3),
                 lambda: random_assignment(0)):  # fmt: skip
        with pytest.raises(TransportError, match="got"):
            call()


def test_results_are_ot_results() -> None:
    assert isinstance(sinkhorn(uneven(2, 2), 1.0), OTResult)
