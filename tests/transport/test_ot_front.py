"""The front door: what it accepts, what it refuses and how, derivatives of the value, both axes, batches, zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sparseland as sl
from sparseland.core.errors import SparselandError
from sparseland.transport import OTResult, Problem, TransportError, solve
from tests.transport.test_ot_smooth import cloud, masses

DOUBLE = torch.float64
SPARSE: dict[str, Any] = {"reg_type": "sparsity_constrained", "max_nz": 4}


def given(n: int = 12, m: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    return masses(n, 1), masses(m, 2), cloud(n, m)


def test_the_door_is_a_function_however_its_file_was_imported() -> None:
    import sparseland.transport.solve  # noqa: F401 - binds the submodule's name

    assert callable(sl.transport.solve) and callable(sl.transport.sinkhorn)
    assert all(hasattr(sl.transport, name) for name in sl.transport.__all__)
    assert set(dir(sl.transport)) == set(sl.transport.__all__)
    with pytest.raises(AttributeError, match="no attribute 'emd'; possible: .*solve"):
        _ = sl.transport.emd


# ------------------------------------------------------------------------------------------------------------ accepted
def test_arrays_lists_and_nothing_for_uniform() -> None:
    a, b, cost = given()
    wanted = solve(a, b, cost, 1.0, **SPARSE)
    for kind in (lambda t: t.numpy(), lambda t: t.tolist()):
        assert torch.equal(solve(kind(a), kind(b), kind(cost), 1.0, **SPARSE).plan, wanted.plan)
    uniform = solve(None, None, cost, 1.0, **SPARSE)
    even = solve(torch.full((12,), 1 / 12, dtype=DOUBLE), torch.full((10,), 0.1, dtype=DOUBLE), cost, 1.0, **SPARSE)
    assert torch.allclose(uniform.plan, even.plan)
    assert solve(None, None, np.eye(4, dtype=int), 1.0, reg_type="l2").plan.dtype == DOUBLE


def test_numpys_integers_and_numbers_are_numbers() -> None:
    a, b, cost = given()
    wanted = solve(a, b, cost, 1.0, **SPARSE)
    options = {"reg_type": "sparsity_constrained", "max_nz": np.int64(4)}
    assert torch.equal(solve(a, b, cost, np.float32(1), **options).plan, wanted.plan)


def test_the_result_speaks_pots_names() -> None:
    a, b, cost = given()
    found = solve(a, b, cost, 1.0, **SPARSE)
    assert isinstance(found, OTResult)
    assert found.potential_a is found.potentials[0] and found.potential_b is found.potentials[1]
    assert torch.allclose(found.marginal_a, found.plan.sum(1)) and torch.equal(found.marginals[1], found.marginal_b)
    assert (
        torch.equal(found.sparse_plan.to_dense(), found.plan) and int(found.nnz) == found.sparse_plan.values().numel()
    )
    assert float(found.value_linear) == pytest.approx(float((found.plan * cost).sum()))
    assert "OTResult(12x10, value=" in repr(found)
    thin = solve(a, b, cost, 1.0, sparse=True, **SPARSE)
    assert thin.plan.is_sparse and torch.equal(thin.dense_plan, found.plan) and "sparse" in repr(thin)


def test_a_bound_on_rows_is_the_transposed_problem() -> None:
    a, b, cost = given()
    rows = solve(a, b, cost, 1.0, axis="row", **SPARSE)
    columns = solve(b, a, cost.T, 1.0, **SPARSE)
    assert torch.equal(rows.plan, columns.plan.T) and int((rows.plan > 0).sum(1).max()) <= 4
    assert torch.equal(rows.potentials[0], columns.potentials[1])
    assert float(rows.row_error) == float(columns.col_error) < 1e-12


@pytest.mark.parametrize("kind", ["l2", "sparsity_constrained", "entropy"])
def test_points_without_mass(kind: str) -> None:
    a, b, cost = given()
    a, b = a.clone(), b.clone()
    a[[1, 5]], b[3] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    options: dict[str, Any] = {"reg_type": kind} | ({"max_nz": 4} if kind.startswith("s") else {})
    with pytest.raises(TransportError, match="a holds 2 zero masses of 12; leave them out, or pass drop_zero=True"):
        solve(a, b, cost, 0.5, **options)
    found = solve(a, b, cost, 0.5, drop_zero=True, **options)
    rows, columns = a > 0, b > 0
    alone = solve(a[rows], b[columns], cost[rows][:, columns], 0.5, **options)
    assert torch.allclose(found.plan[rows][:, columns], alone.plan) and found.plan.shape == (12, 10)
    assert float(found.plan[~rows].sum() + found.plan[:, ~columns].sum()) == 0
    assert float(found.value) == pytest.approx(float(alone.value))
    u, v = found.potentials
    assert bool(torch.isfinite(u).all() and torch.isfinite(v).all())
    batch = torch.stack([cost, cost + 1])
    assert solve(a, b, batch, 0.5, drop_zero=True, **options).plan.shape == (2, 12, 10)
    with pytest.raises(TransportError, match="different places"):
        solve(torch.stack([a, masses(12)]), b, batch, 0.5, drop_zero=True, **options)


@pytest.mark.parametrize(
    ("kind", "axis"),
    [("l2", "column"), ("entropy", "column"), ("sparsity_constrained", "column"), ("sparsity_constrained", "row")],
)
def test_the_values_derivatives_are_finite_differences(kind: str, axis: str) -> None:
    options: dict[str, Any] = {"reg_type": kind, "axis": axis, "tol": 1e-13}
    options |= {"max_nz": 8} if kind.startswith("s") else {"method": "semi_dual"}
    a, b, cost = (t.requires_grad_() for t in given(9, 8))
    solve(a, b, cost, 0.5, **options).value.backward()
    step, generator = 1e-5, torch.Generator().manual_seed(0)

    def value(a: Tensor, b: Tensor, cost: Tensor) -> float:
        return float(solve(a.detach(), b.detach(), cost.detach(), 0.5, **options).value)

    for name, held in (("a", a), ("b", b), ("M", cost)):
        way = torch.randn(held.shape, dtype=DOUBLE, generator=generator)
        way = way - way.mean() if name != "M" else way  # totals must stay equal
        ends = [value(*(t + sign * step * way if t is held else t for t in (a, b, cost))) for sign in (1, -1)]
        assert float((held.grad * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)
    assert not solve(a, b, cost, 0.5, differentiable=False, **options).value.requires_grad


def test_gradients_of_a_batch_stay_in_their_problems() -> None:
    cost = torch.stack([cloud(6, 6, seed) for seed in (0, 1)]).requires_grad_()
    solve(None, None, cost, 0.5, reg_type="l2").value[1].backward()
    assert float(cost.grad[0].abs().sum()) == 0 and float(cost.grad[1].sum()) == pytest.approx(1)


def test_small_differences_of_the_totals_are_scaled_away() -> None:
    a, b, cost = given()
    found = solve(a, b * (1 + 1e-8), cost, 1.0, **SPARSE)
    assert float(found.plan.sum()) == pytest.approx(float(a.sum()), abs=1e-12)


def test_progress_sees_every_iteration() -> None:
    seen: list[dict[str, Any]] = []
    found = solve(*given(), 1.0, progress=seen.append, **SPARSE)
    assert [entry["iteration"] for entry in seen] == list(range(1, found.n_iter + 1)) and seen == found.log


@pytest.mark.parametrize("method", ["sinkhorn", "sns", "auto"])
@pytest.mark.parametrize("tol", [None, 1e-9])
def test_entropy_has_one_plan_whoever_solves_it(method: str, tol: float | None) -> None:
    a, b, cost = given()
    wanted = solve(a, b, cost, 0.1, method="semi_dual", tol=1e-15)
    found = solve(a, b, cost, 0.1, method=method, tol=tol)
    assert found.status == "converged"
    assert torch.allclose(found.plan, wanted.plan, atol=1e-6)
    assert float(found.value) == pytest.approx(float(wanted.value), abs=1e-6)


# ------------------------------------------------------------------------------------------------------------- refused
def bad(**changes: Any) -> Callable[[], Any]:
    a, b, cost = given()
    everything = {"a": a, "b": b, "M": cost, "reg": 1.0} | SPARSE | changes
    return lambda: solve(**everything)


A, B, M = given()
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "totals": (bad(b=B * 2), TransportError, "a sums to 1 and b to 2; balanced transport needs equal totals"),
    "negative": (bad(a=A - A[0] * 1.5), TransportError, "a holds negative mass"),
    "nothing": (bad(a=A * 0, b=B * 0), TransportError, "no mass at all"),
    "NaN masses": (bad(a=A * torch.nan), TransportError, "a (12,) holds 12 NaN and 0 infinite values"),
    "NaN costs": (bad(M=M.masked_fill(M > 0.5, torch.nan)), TransportError, "NaN"),
    "infinite costs": (bad(M=M.where(M.max() > M, torch.inf)), TransportError, "0 NaN and 1 infinite"),
    "shapes": (bad(M=M.T), TransportError, "M is [..., n, m] for a [..., n] and b [..., m]; got a (12,)"),
    "vector": (bad(M=M[0]), TransportError, "a cost for every pair; got shape (10,)"),
    "batches": (bad(a=A.expand(2, 12), M=M.expand(3, 12, 10)), TransportError, "do not fit each other"),
    "empty": (bad(a=A[:0], M=M[:0]), TransportError, "nothing to transport"),
    "dtype": (bad(a=A.float()), TypeError, "share one dtype; got torch.float32"),
    "half": (bad(a=A.half(), b=B.half(), M=M.half()), TypeError, "float32 or float64; got torch.float16"),
    "complex": (bad(M=M + 0j), TypeError, "complex128"),
    "words": (bad(M="costs"), TypeError, "M is a tensor, an array or a list of numbers; got str"),
    "device": (bad(M=M.to("meta")), TransportError, "on one device; got cpu, cpu and meta"),
    "no reg": (bad(reg=None), TransportError, "without one use POT's emd"),
    "reg 0": (bad(reg=0), TransportError, "reg is a finite number > 0; got 0.0 (without regularisation: POT's emd)"),
    "reg nan": (bad(reg=float("nan")), TransportError, "reg is a finite number > 0"),
    "reg word": (bad(reg="much"), TypeError, "reg is a number > 0; got 'much'"),
    "no k": (bad(max_nz=None), TransportError, "needs max_nz, 1 … 12"),
    "k 0": (bad(max_nz=0), TransportError, "max_nz is an integer in 1 … 12; got 0"),
    "k half": (bad(max_nz=2.5), TypeError, "max_nz is an integer in 1 … 12; got 2.5"),
    "k true": (bad(max_nz=True), TypeError, "got True"),
    "k too few": (bad(max_nz=1), TransportError, "1 non-zeros in each of 10 columns are 10 places for 12 rows with "
                  "mass: some rows cannot be served; max_nz is at least 2"),
    "k for l2": (bad(reg_type="l2"), TransportError, 'max_nz=4 needs reg_type="sparsity_constrained"; got \'l2\''),
    "type": (bad(reg_type="sparsity"), TransportError, "unknown reg_type='sparsity'"),
    "kl": (bad(reg_type="KL"), TransportError, '"entropy" has the same plan'),
    "method": (bad(method="sinkhorn"), TransportError, "unknown method='sinkhorn': possible: auto, dual, semi_dual"),
    "solver": (bad(solver="adams"), TransportError, "did you mean 'adam'?"),
    "axis": (bad(axis="rows"), TransportError, "did you mean 'row'?"),
    "axis of l2": (bad(axis="row", reg_type="l2", max_nz=None), TransportError, 'axis="row" is for'),
    "POT's tol": (bad(stopThr=1e-9), TransportError, "'stopThr' is called 'tol' here"),
    "POT's max_iter": (bad(numItermax=10), TransportError, "'numItermax' is called 'max_iter' here"),
    "option": (bad(memory=3), TransportError, "method='semi_dual' has no option 'memory'; possible: lr"),
    "tol": (bad(tol=0), TransportError, "tol is a number > 0; got 0"),
    "max_iter": (bad(max_iter=-1), TransportError, "max_iter is an integer >= 0; got -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_what_was_given_and_what_was_possible(case: str) -> None:
    call, kind, said = REFUSED[case]
    with pytest.raises(kind) as caught:
        call()
    assert said in str(caught.value), str(caught.value)
    assert kind is TypeError or isinstance(caught.value, SparselandError)


def test_too_many_non_zeros_are_clipped_with_a_warning() -> None:
    a, b, cost = given()
    with pytest.warns(UserWarning, match="max_nz=40 is more than the 12 rows"):
        found = solve(a, b, cost, 1.0, reg_type="sparsity_constrained", max_nz=40)
    assert torch.allclose(found.plan, solve(a, b, cost, 1.0, reg_type="l2").plan, atol=1e-6)


def test_a_problem_is_checked_once_and_cannot_be_changed() -> None:
    a, b, cost = given()
    problem = Problem(a, b, cost.expand(3, 12, 10))
    assert (problem.n, problem.m, tuple(problem.batch), problem.a.shape) == (12, 10, (3,), (3, 12))
    assert problem.swapped().n == 10 and problem.flat().M.shape == (3, 12, 10)
    with pytest.raises(AttributeError):
        problem.a = b  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"Problem\.make takes arrays and lists"):
        Problem(a.numpy(), b, cost)
