"""Kernels of entropic transport against plain NumPy, the twin against the extension, and the sparse Hessian."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseland.core.errors import SparselandError
from sparseland.kernels import available, native, newton
from sparseland.transport import TransportError, sparsify

BOTH = [False, pytest.param(True, marks=pytest.mark.skipif(not available(), reason="the extension is not built"))]
SHAPES = [(1, 1), (1, 9), (5, 3), (33, 32), (40, 65)]


def setting(n: int, m: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    cost = torch.rand(n, m, generator=g, dtype=torch.float64)
    a, b = (torch.rand(k, generator=g, dtype=torch.float64) + 0.1 for k in (n, m))
    return (
        cost,
        a / a.sum(),
        b / b.sum(),
        torch.randn(n, generator=g).double() / 9,
        torch.randn(m, generator=g).double() / 9,
    )


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_and_entries_are_numpys(shape: tuple[int, int], native: bool) -> None:
    cost, _, _, u, v = setting(*shape)
    plan = np.exp(30 * (u.numpy()[:, None] + v.numpy()[None] - cost.numpy()))
    floor = float(np.median(plan))
    found = newton.entries(cost, 30.0, u, v, floor, native=native)
    assert np.allclose(found.rows, plan.sum(1), rtol=1e-13) and np.allclose(found.columns, plan.sum(0), rtol=1e-13)
    rows, columns = np.nonzero(plan >= floor * (1 + 1e-13))
    extra = len(found.values) - len(rows)  # the entry at the floor itself may fall either way
    assert 0 <= extra <= 1
    dense = np.zeros_like(plan)
    dense[found.row_numbers.numpy(), found.places.numpy()] = found.values.numpy()
    assert np.allclose(dense[rows, columns], plan[rows, columns], rtol=1e-13)
    assert len(newton.entries(cost, 30.0, u, v, math.inf, native=native).values) == 0
    made, linear, nnz = newton.plan(cost, 30.0, u, v, native=native)
    assert np.allclose(made, plan, rtol=1e-13) and int(nnz) == plan.size
    assert float(linear) == pytest.approx((plan * cost.numpy()).sum(), rel=1e-13)


@pytest.mark.parametrize("native", BOTH)
def test_the_exponential_holds_over_its_range(native: bool) -> None:
    x = torch.linspace(-740, 708, 4001, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    made, _, nnz = newton.plan(-x[None], 1.0, zero, torch.zeros_like(x), native=native)
    inside = x >= -700
    assert torch.allclose(made[0, inside], x[inside].exp(), rtol=4e-16, atol=0)
    assert bool((made[0, ~inside] <= math.exp(-700)).all()) and int(nnz) == int((made > 0).sum())
    over = newton.entries(
        torch.tensor([[-800.0, 0.0]]).double(), 1.0, zero, torch.zeros(2).double(), 1.0, native=native
    )
    assert math.isinf(float(over.rows)) and float(over.columns[1]) == 1.0  # overflow is told, not raised


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sinkhorn_step_is_the_textbook_s(shape: tuple[int, int], native: bool) -> None:
    cost, a, b, u, v = setting(*shape)
    kernel = np.exp(-20 * cost.numpy())
    left, right = np.exp(20 * u.numpy()), np.exp(20 * v.numpy())
    for _ in range(3):
        left = a.numpy() / (kernel @ right)
        error = np.abs(b.numpy() - right * (kernel.T @ left)).sum()
        last, right = right, b.numpy() / (kernel.T @ left)
    found = newton.sinkhorn_steps(
        cost[None], a.log()[None], b.log()[None], 20.0, u[None], v[None], steps=3, tol=-1.0, native=native
    )
    assert np.allclose(found[0][0], np.log(left) / 20, atol=1e-13)
    assert np.allclose(found[1][0], np.log(last) / 20, atol=1e-13)  # the rows are exact at what is given back
    assert int(found[2]) == 3 and float(found[3]) == pytest.approx(error, abs=1e-14)


@pytest.mark.parametrize("native", BOTH)
def test_columns_that_no_row_sees_are_computed_with_their_own_maximum(native: bool) -> None:
    cost = torch.zeros(3, 3, dtype=torch.float64)
    cost[:, 2] = 1.0  # exp(-5000): nothing beside the others
    third = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    u, v, done, error = newton.sinkhorn_steps(
        cost[None], third.log(), third.log(), 5000.0, 0 * third, 0 * third, steps=50, tol=1e-12, native=native
    )
    assert float(error) <= 1e-12 and int(done) <= 3
    assert float(v[0, 2] - v[0, 0]) == pytest.approx(1.0, abs=1e-12) and bool(torch.isfinite(u).all())


@pytest.mark.parametrize("native", BOTH)
def test_problems_of_a_batch_stop_on_their_own(native: bool) -> None:
    cost = torch.stack([setting(20, 20, seed)[0] * (1 + 2 * seed) for seed in range(3)])
    a = torch.full((3, 20), 0.05, dtype=torch.float64)
    args = (a.log(), a.log(), 10.0, torch.zeros_like(a), torch.zeros_like(a))
    u, v, done, error = newton.sinkhorn_steps(cost, *args, steps=900, tol=1e-6, native=native)
    assert done[0] < done[1] < done[2] < 900 and bool((error <= 1e-6).all())
    for k in range(3):
        alone = [x[k : k + 1] if isinstance(x, Tensor) else x for x in args]
        one = newton.sinkhorn_steps(cost[k : k + 1], *alone, steps=900, tol=1e-6, native=native)  # type: ignore[arg-type]
        assert torch.equal(one[0][0], u[k]) and torch.equal(one[1][0], v[k]) and int(one[2]) == int(done[k])


def test_twin_and_extension_leave_the_warm_up_at_the_same_step() -> None:
    if not available():
        pytest.skip("the extension is not built")
    cost, a, b, u, v = setting(60, 50)
    args = (cost[None], a.log()[None], b.log()[None], 400.0, 0 * u[None], 0 * v[None])
    ours, theirs = (newton.sinkhorn_steps(*args, steps=900, level=0.2, native=n) for n in (True, False))
    assert int(ours[2]) == int(theirs[2]) < 900 and float(ours[3]) == pytest.approx(float(theirs[3]), rel=1e-9)
    assert torch.allclose(ours[0], theirs[0], atol=1e-13) and float(ours[3]) <= 0.2


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("seed", range(4))
def test_cut_drops_as_much_as_the_budget_allows(native: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(size=500) * 9 - 20)
    for share in (0.0, 1e-9, 1e-3, 0.5, 0.999):
        budget = share * values.sum()
        edge = newton.cut(torch.from_numpy(values), budget, native=native)
        dropped = values[values < edge]
        assert dropped.sum() <= budget < dropped.sum() + edge  # one more would be too much
    assert newton.cut(torch.from_numpy(values), 2 * values.sum(), native=native) == math.inf
    assert newton.cut(torch.ones(4).double(), 2.5, native=native) == 1.0  # ties stay together


@pytest.mark.parametrize("native", BOTH)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_the_system_is_solved(shape: tuple[int, int], native: bool) -> None:
    cost, _, _, u, v = setting(*shape)
    found = newton.entries(cost, 40.0, u, v, 1e-12, native=native)
    budget = 0.05 * float(found.values.sum())
    matrix = sparsify(found, rule="mass", budget=budget, native=native)
    g, h = torch.randn(shape[0]).double(), torch.randn(shape[1]).double()
    x, y, steps, left = matrix.solve(g, h, tol=1e-11, max_iter=500, native=native)
    expected = torch.linalg.lstsq(matrix.dense(), torch.cat([g, h])).solution
    assert torch.allclose(matrix.dense() @ torch.cat([x, y]), torch.cat([g, h]), atol=1e-9)
    assert torch.allclose(torch.cat([x, y]), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert steps <= 500 and left <= 1e-11
    assert matrix.solve(g, h, tol=0.0, max_iter=2, native=native)[2] <= 2


def test_times_is_the_derivative_of_the_gradient() -> None:
    """Finite differences: of the dual's value, and of its gradient (the card's part C)."""
    eta, step = 25.0, 1e-6
    cost, a, b, u, v = setting(7, 5)
    whole = sparsify(newton.entries(cost, eta, u, v, 1e-300), rule="mass", budget=0.0)
    assert whole.nnz == 35 and whole.density == 1.0

    def dual(u: Tensor, v: Tensor) -> tuple[float, Tensor]:
        at = newton.entries(cost, eta, u, v, math.inf)
        return float(a @ u + b @ v - at.rows.sum() / eta), torch.cat([a - at.rows, b - at.columns])

    x, y = torch.randn(7).double(), torch.randn(5).double()
    plus, minus = (dual(u + s * x, v + s * y) for s in (step, -step))
    assert (plus[0] - minus[0]) / (2 * step) == pytest.approx(float(dual(u, v)[1] @ torch.cat([x, y])), rel=1e-6)
    curvature = -eta * torch.cat(whole.times(x, y))  # the true Hessian is negative: the sign must not get lost
    assert torch.allclose((plus[1] - minus[1]) / (2 * step), curvature, rtol=1e-5, atol=1e-6)
    assert torch.allclose(torch.cat(whole.times(x, y)), whole.dense() @ torch.cat([x, y]), atol=1e-12)


def test_the_sparse_hessian_is_diagonally_dominant_and_exact_in_number() -> None:
    cost, _, _, u, v = setting(40, 30)
    found = newton.entries(cost, 60.0, u, v, 1e-16)
    values = found.values.sort(descending=True).values
    for density in (0.5, 2.0, 3.3):
        kept = sparsify(found, rule="density", density=density)
        assert kept.nnz == math.ceil(density * 40) and float(kept.block.values.min()) == float(values[kept.nnz - 1])
    for budget in (1e-9, 1e-3, 0.3):
        kept = sparsify(found, rule="mass", budget=budget)
        full = kept.dense()
        slack, scale = 2 * full.diagonal() - full.sum(1), float(full.max())
        assert float(slack.min()) >= -1e-14 * scale and float(torch.linalg.eigvalsh(full)[0]) >= -1e-14 * scale
        assert float(slack[:40].sum()) <= budget + 1e-13 * scale  # the slack of the rows is what was dropped


def test_equal_entries_are_kept_in_exact_number() -> None:
    zero = torch.zeros(6, dtype=torch.float64)
    found = newton.entries(torch.zeros(6, 6, dtype=torch.float64), 1.0, zero, zero, 0.5)
    assert sparsify(found, rule="density", density=1.5).nnz == 9
    assert sparsify(found, rule="mass", budget=5.5).nnz == 36  # equal ones stay together


@pytest.mark.skipif(not available(), reason="the extension is not built")
def test_threads_do_not_change_a_bit() -> None:
    cost, a, b, u, v = (t.numpy() for t in setting(700, 600))
    told = []
    for threads in (1, 2, 3):
        at = [np.zeros_like(u), np.zeros_like(v), np.empty_like(u), np.empty_like(v)]
        error = native().ot_sinkhorn(cost, np.log(a), np.log(b), 300.0, at[0], at[1], 4, 0.0, 0.0, 0.1, threads)
        entries = native().ot_entries(cost, 300.0, at[0], at[1], 1e-9, at[2], at[3], threads)
        told.append((error, *(x.tobytes() for x in (*at, *entries))))
    assert told[0] == told[1] == told[2]


BAD: list[tuple[str, dict[str, Any]]] = [
    ("log_a has 3 numbers; 4 are asked for", {"log_a": np.zeros(3)}),
    ("v has 4 numbers; 5 are asked for", {"v": np.zeros(4)}),
    ("eta is a number > 0", {"eta": 0.0}),
    ("the cost has no entries", {"cost": np.zeros((0, 5)), "log_a": np.zeros(0), "u": np.zeros(0)}),
]


@pytest.mark.skipif(not available(), reason="the extension is not built")
@pytest.mark.parametrize(("words", "change"), BAD)
def test_sizes_are_checked_before_memory_is_touched(words: str, change: dict[str, Any]) -> None:
    given = {"cost": np.zeros((4, 5)), "log_a": np.zeros(4), "log_b": np.zeros(5), "eta": 1.0, "u": np.zeros(4),
             "v": np.zeros(5), "steps": 1, "tol": 0.0, "level": 0.0, "slow": 0.1, "threads": 1}  # fmt: skip
    with pytest.raises(ValueError, match=words):
        native().ot_sinkhorn(**(given | change))


@pytest.mark.skipif(not available(), reason="the extension is not built")
@pytest.mark.parametrize(
    ("words", "starts", "places"),
    [
        ("a column is out of range", [0, 1, 2], [0, 3]),
        ("a column is out of range", [0, 1, 2], [-1, 0]),
        ("starts does not span the values", [0, 1, 9], [0, 1]),
        ("starts must not fall", [0, 5, 2], [0, 1]),
        ("starts has 2 numbers; 3 are asked for", [0, 2], [0, 1]),
        ("places has 1 numbers; 2 are asked for", [0, 1, 2], [0]),
    ],
)
def test_a_system_with_wrong_indices_is_refused(words: str, starts: list[int], places: list[int]) -> None:
    two, three = np.ones(2), np.ones(3)
    at = (np.array(starts, dtype=np.int64), np.array(places, dtype=np.int32), two, two, three, two, three)
    with pytest.raises(ValueError, match=words):
        native().ot_solve(*at, 1e-9, 5, np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="values to cut are >= 0"):
        native().ot_cut(np.array([1.0, np.nan]), 1.0)


def test_what_the_kernels_and_the_rules_refuse() -> None:
    cost, a, b, u, v = setting(3, 4)
    with pytest.raises(SparselandError, match="the native kernel takes float64 on a CPU; got torch.float32 on cpu"):
        newton.entries(cost.float(), 1.0, u.float(), v.float(), 0.1, native=True)
    with pytest.raises(SparselandError, match="steps is a number >= 1; got 0"):
        newton.sinkhorn_steps(cost[None], a.log()[None], b.log()[None], 1.0, u[None], v[None], steps=0)
    with pytest.raises(TransportError, match="rule 'masses': did you mean 'mass'"):
        sparsify(newton.entries(cost, 1.0, u, v, 0.1), rule="masses")
