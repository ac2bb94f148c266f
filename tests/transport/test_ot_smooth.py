"""The smooth solvers beside POT, linear programs, brute force and each other."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparseland.transport import KSparse, NegEntropy, Problem, SquaredL2, project_sparse_simplex, solve, top_k_relu
from sparseland.transport.regularisers import Regulariser, threshold
from sparseland.transport.shortlist import Shortlist
from sparseland.transport.smooth import Dense, Pruned

DOUBLE = torch.float64


def cloud(n: int, m: int, seed: int = 0) -> Tensor:
    """Squared distances between two Gaussian clouds, the largest 1."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 1, 2)), rng.normal(size=(1, m, 2)) * [1.0, 0.5] + [1.0, 0.5]
    cost = ((x - y) ** 2).sum(-1)
    return torch.from_numpy(cost / cost.max())


def masses(n: int, seed: int = 0) -> Tensor:
    a = np.random.default_rng(seed).uniform(0.5, 1.5, n)
    return torch.from_numpy(a / a.sum())


def pot(a: Tensor, b: Tensor, cost: Tensor, gamma: float, form: str, kind: dict[str, Any]) -> tuple[float, np.ndarray]:
    """POT's dual value and plan; it prints the shape at every step, and warns when it stops early."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ot = pytest.importorskip("ot")
        call = ot.smooth.smooth_ot_dual if form == "dual" else ot.smooth.smooth_ot_semi_dual
        with contextlib.redirect_stdout(io.StringIO()):
            given = (a.numpy(), b.numpy(), cost.numpy(), gamma)
            plan, log = call(*given, **kind, stopThr=1e-15, numItermax=2000, log=True)
    return -float(log["res"].fun), plan


# ------------------------------------------------------------------------------------------------------ against oracles
@pytest.mark.parametrize("form", ["dual", "semi_dual"])
@pytest.mark.parametrize("k", [5, 60])
def test_values_agree_with_pot(form: str, k: int) -> None:
    a, b, cost = masses(60, 1), masses(60, 2), cloud(60, 60)
    kind = {"reg_type": "l2"} if k == 60 else {"reg_type": "sparsity_constrained", "max_nz": k}  # POT refuses k = n
    value, plan = pot(a, b, cost, 0.1, form, kind)
    ours = solve(a, b, cost, 0.1, reg_type="sparsity_constrained", max_nz=k, method=form)
    assert float(ours.value) == pytest.approx(value, abs=1e-7)
    assert int((ours.plan > 0).sum(0).max()) <= k
    if k == 60:
        assert np.abs(ours.plan.numpy() - plan).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("form", ["dual", "semi_dual"])
def test_two_non_zeros_are_no_worse_than_pots(form: str, seed: int) -> None:
    a, b, cost = masses(100, seed), masses(100, seed + 10), cloud(100, 100, seed)
    value, _ = pot(a, b, cost, 0.1, form, {"reg_type": "sparsity_constrained", "max_nz": 2})
    options = {"reg_type": "sparsity_constrained", "max_nz": 2, "method": form, "tol": 1e-15, "max_iter": 3000}
    gain = float(solve(a, b, cost, 0.1, **options).value) - value
    assert -1e-6 < gain < 2e-5  # a maximum all kinks: POT, with ten pairs of curvature, stops a few 1e-6 short of ours


@pytest.mark.parametrize(("form", "gamma"), [("dual", 1.0), ("semi_dual", 0.1), ("semi_dual", 10.0)])
def test_one_non_zero_is_transport_without_regulariser(form: str, gamma: float) -> None:
    """k = 1: t_j = b_j at one place, so the regulariser is the constant gamma / 2 sum b^2."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    n = 24
    cost, a = cloud(n, n), torch.full((n,), 1 / n, dtype=DOUBLE)
    rows, columns = np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))
    limits = np.full(2 * n, 1 / n)
    wanted = linprog(cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=limits, method="highs").fun
    options = {"reg_type": "sparsity_constrained", "max_nz": 1, "max_iter": 20_000}
    found = solve(a, a, cost, gamma, method=form, **options)
    assert float(found.value) == pytest.approx(wanted + gamma / 2 / n, abs=1e-6)
    if found.feasible:
        assert float(found.value_linear) == pytest.approx(wanted, abs=1e-6)


def test_with_unequal_masses_one_non_zero_comes_close() -> None:
    """No plan with one non-zero per column is feasible: all kink, and what L-BFGS finds is a lower bound."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    n = 20
    cost, a, b = cloud(n, n), masses(n, 3), masses(n, 4)
    rows, columns = np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))
    limits = np.concatenate([a.numpy(), b.numpy()])
    wanted = linprog(cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=limits, method="highs").fun
    wanted += 5.0 * float((b**2).sum())
    found = solve(a, b, cost, 10.0, reg_type="sparsity_constrained", max_nz=1, tol=1e-15)
    assert wanted - 1e-4 < float(found.value) <= wanted + 1e-9 and not found.feasible


def test_it_is_the_convex_hull_of_the_k_sparse_problem() -> None:
    """Brute force over all supports of a 3 x 3 problem: the dual's value is below, equal where the plan is feasible."""
    minimize = pytest.importorskip("scipy.optimize").minimize
    a, b, cost, gamma = masses(3, 5), masses(3, 6), cloud(3, 3, 2), 2.0
    best = np.inf
    supports = list(itertools.combinations(range(3), 2))
    for chosen in itertools.product(supports, repeat=3):
        free = [(i, j) for j, rows in enumerate(chosen) for i in rows]
        where = tuple(np.array(free).T)
        c = cost.numpy()[where]
        sums = np.zeros((6, len(free)))
        for e, (i, j) in enumerate(free):
            sums[i, e] = sums[3 + j, e] = 1
        limits = np.concatenate([a.numpy(), b.numpy()])
        found = minimize(
            lambda t, c=c: c @ t + gamma / 2 * t @ t, np.full(len(free), 1 / 6), jac=lambda t, c=c: c + gamma * t,
            bounds=[(0, None)] * len(free), method="SLSQP", options={"ftol": 1e-12},
            constraints={"type": "eq", "fun": lambda t, s=sums, c=limits: s @ t - c, "jac": lambda t, s=sums: s},
        )  # fmt: skip
        if found.success:
            best = min(best, found.fun)
    ours = solve(a, b, cost, gamma, reg_type="sparsity_constrained", max_nz=2, tol=1e-15, max_iter=5000)
    assert float(ours.value) <= best + 1e-7
    assert float(ours.value) > best - 0.05 * gamma  # a hull, not just any lower bound
    if ours.feasible:
        assert float(ours.value) == pytest.approx(best, abs=1e-6)


def test_the_value_falls_with_k_and_ends_at_the_squared_norm() -> None:
    a, b, cost = masses(12, 7), masses(9, 8), cloud(12, 9)
    options: dict[str, Any] = {"max_iter": 3000}
    values = [
        float(solve(a, b, cost, 5.0, reg_type="sparsity_constrained", max_nz=k, **options).value) for k in (2, 3, 6, 12)
    ]
    assert all(later <= earlier + 1e-8 for earlier, later in itertools.pairwise(values))
    assert values[-1] == pytest.approx(float(solve(a, b, cost, 5.0, reg_type="l2", **options).value), abs=1e-9)


@pytest.mark.parametrize("k", [2, 16])
def test_both_forms_have_one_value(k: int) -> None:
    a, b, cost = masses(16, 1), masses(16, 2), cloud(16, 16)
    options: dict[str, Any] = {"reg_type": "sparsity_constrained", "max_nz": k}
    dual, semi = (solve(a, b, cost, 1.0, method=form, **options) for form in ("dual", "semi_dual"))
    assert float(dual.value) == pytest.approx(float(semi.value), abs=5e-5)
    assert float(semi.col_error) < 1e-12  # which marginal is exact depends on the form


def test_the_entropic_limit_is_pots() -> None:
    a, b, cost = masses(15, 1), masses(20, 2), cloud(15, 20)
    value, plan = pot(a, b, cost, 0.05, "semi_dual", {"reg_type": "kl"})
    for form in ("dual", "semi_dual"):
        ours = solve(a, b, cost, 0.05, method=form, tol=1e-15)
        assert np.abs(ours.plan.numpy() - plan).max() < 1e-6
        assert float(ours.value) == pytest.approx(value, abs=1e-8)
        primal = float((ours.plan * cost).sum() + 0.05 * torch.xlogy(ours.plan, ours.plan).sum())
        assert float(ours.value) == pytest.approx(primal, abs=1e-6)


def test_all_solutions_are_feasible_or_say_that_they_are_not() -> None:
    """The card's table: ties at rank k leave rows open for small k; from some k on they close."""
    cost = cloud(40, 40)
    found = {k: solve(None, None, cost, 1.0, reg_type="sparsity_constrained", max_nz=k, max_iter=400) for k in (3, 12)}
    assert not found[3].feasible and float(found[3].row_error) > 1e-3
    assert found[12].feasible and float(found[12].row_error) < 1e-6
    assert int((found[3].plan > 0).sum(0).max()) <= 3


# ------------------------------------------------------------------------------------------------------- its own parts
REGULARISERS = [SquaredL2(0.7), KSparse(0.7, 3), NegEntropy(0.7)]


@pytest.mark.parametrize("regulariser", REGULARISERS, ids=lambda r: type(r).__name__)
def test_the_pieces_are_maxima_and_their_gradients_the_maximisers(regulariser: Regulariser) -> None:
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(6, 8, dtype=DOUBLE, generator=generator)
    b = torch.rand(6, dtype=DOUBLE, generator=generator) + 0.1
    delta, t = regulariser.delta(s)
    best, p, multiplier = regulariser.maximum(s, b)
    assert torch.allclose(delta, (t * s).sum(-1) - regulariser.omega(t))
    assert torch.allclose(best, (p * s).sum(-1) - regulariser.omega(p))
    assert torch.allclose(p.sum(-1), b) and bool((p >= 0).all())
    for _ in range(200):  # nothing feasible is better
        other = torch.rand(6, 8, dtype=DOUBLE, generator=generator) ** 4
        if isinstance(regulariser, KSparse):
            other = torch.zeros_like(other).scatter(1, torch.randint(8, (6, 3), generator=generator), other[:, :3])
        assert bool(((other * s).sum(-1) - regulariser.omega(other) <= delta + 1e-12).all())
        other = other / other.sum(-1, keepdim=True) * b[:, None]
        assert bool(((other * s).sum(-1) - regulariser.omega(other) <= best + 1e-12).all())
    step = 1e-6
    for i in range(8):
        moved = s.clone()
        moved[:, i] += step
        assert torch.allclose((regulariser.delta(moved)[0] - delta) / step, t[:, i], atol=1e-4)
        assert torch.allclose((regulariser.maximum(moved, b)[0] - best) / step, p[:, i], atol=1e-4)
    assert torch.allclose((regulariser.maximum(s, b + step)[0] - best) / step, multiplier, atol=1e-4)


def test_projection_is_the_nearest_of_all_supports() -> None:
    s = torch.randn(50, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    found = project_sparse_simplex(s, 2, mass=1.5)
    assert int((found > 0).sum(-1).max()) <= 2 and torch.allclose(found.sum(-1), torch.tensor(1.5, dtype=DOUBLE))
    best = torch.full((50,), torch.inf, dtype=DOUBLE)
    for support in itertools.combinations(range(5), 2):
        part = project_sparse_simplex(s[:, list(support)], mass=1.5)
        whole = torch.zeros_like(s)
        whole[:, list(support)] = part
        best = torch.minimum(best, (whole - s).square().sum(-1))
    assert torch.allclose((found - s).square().sum(-1), best)
    assert torch.equal(project_sparse_simplex(s.T, 2, mass=1.5, dim=0), found.T)


def test_a_threshold_of_no_mass_takes_nothing() -> None:
    values = torch.tensor([[3.0, 1.0]])
    assert threshold(values, torch.zeros(1)).item() == 3.0
    assert top_k_relu(torch.tensor([-1.0, -3.0]), 1)[0].item() == 0.0


@pytest.mark.parametrize("semi", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_shortlists_change_no_number(semi: bool, batch: int) -> None:
    """A walk with small steps, large steps and single risers: value, gradient and plan are those of the whole cost."""
    n, m, k = 120, 40, 3
    costs = torch.stack([cloud(n, m, seed) for seed in range(batch)])
    problem = Problem(masses(n, 1), masses(m, 2), costs)
    dense = Dense(problem, KSparse(0.5, k), semi=semi)
    pruned = Pruned(problem, KSparse(0.5, k), semi=semi, widths=(24, 8))
    generator = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(batch, dense.size, dtype=DOUBLE, generator=generator)
    for step in range(80):
        size = 0.3 if step % 20 == 0 else 0.003
        x = x + size * torch.randn(batch, dense.size, dtype=DOUBLE, generator=generator)
        x[:, step % n] += 0.2 * (step % 3)  # one that rises far more than the others
        for mine, whole in zip(pruned(x), dense(x), strict=True):
            assert torch.allclose(mine, whole, rtol=0, atol=1e-12)
    for mine, whole in zip(pruned.solution(x), dense.solution(x), strict=True):
        assert torch.allclose(mine, whole, rtol=0, atol=1e-12)
    assert pruned.scanned < 80 * m * batch  # it did not look at everything each time


def test_a_shortlist_doubts_every_column_that_an_outsider_may_enter() -> None:
    n = 300
    cost = torch.rand(20, n, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    wide = Shortlist(cost, torch.zeros(20, dtype=torch.int64), 10)
    u = torch.zeros(1, n, dtype=DOUBLE)
    everything = torch.arange(20)
    assert torch.equal(wide.doubted(u, torch.zeros(20, dtype=DOUBLE)), everything)  # nothing is known yet
    wide.renew(u, everything)
    edge = wide.values(u, slice(None)).amin(-1)
    assert wide.doubted(u, edge).numel() == 0
    u[0, 17] += 10.0
    inside = (wide.at == 17).any(-1)
    assert torch.equal(wide.doubted(u, edge), (~inside).nonzero().squeeze(1))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dual", "semi_dual"])
def test_shortlists_change_no_solution_at_a_thousand_points(form: str) -> None:
    cost = cloud(1000, 1000)
    options: dict[str, Any] = {"reg_type": "sparsity_constrained", "max_nz": 8, "tol": 1e-10}
    ours = solve(None, None, cost, 1.0, method=form, **options)
    whole = Dense(Problem.make(None, None, cost).flat(), KSparse(1.0, 8), semi=form == "semi_dual")
    x = torch.cat(ours.potentials if form == "dual" else ours.potentials[:1])[None]
    assert float(-whole(x)[0]) == pytest.approx(float(ours.value), abs=1e-12)
    assert torch.allclose(whole.solution(x)[0][0], ours.plan, atol=1e-12)
