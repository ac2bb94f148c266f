"""Sinkhorn-Newton-Sparse: the card's proofs in short, the rules, the safeguards, the options it refuses."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from sparseland.transport import (
    Problem,
    TransportError,
    gaussian_problem,
    image_problem,
    random_assignment,
    sinkhorn,
    sns,
)

ETA = 1200.0


def newtons(found: Any) -> list[dict[str, Any]]:
    return [line for line in found.log if line["stage"] == "newton"]


def error_of(found: Any, problem: Problem) -> float:
    plan = found.dense_plan
    return float((plan.sum(-1) - problem.a).abs().sum() + (plan.sum(-2) - problem.b).abs().sum())


@pytest.mark.parametrize("options", [{}, {"warmup": 20}, {"warmup": 20, "rule": "density", "density": 8.0}])
def test_twelve_newton_steps_to_machine_precision(options: dict[str, Any]) -> None:
    """Proof A: n = 500, eta = 1200, C ~ U[0, 1], uniform masses; Sinkhorn is far away after 500 steps."""
    problem = random_assignment(500, seed=0)
    found = sns(problem, eta=ETA, tol=1e-11, **options)
    assert found.status == "converged" and len(newtons(found)) <= 12 and error_of(found, problem) <= 1e-11
    assert all(line["nnz"] <= 20 * 500 for line in newtons(found))
    if options:  # whole steps from there
        assert {line["step"] for line in newtons(found)} == {1.0}
    assert sinkhorn(problem, eta=ETA, tol=1e-8, max_iter=500).status == "max_iter"


def test_the_end_is_superlinear() -> None:
    errors = [line["error"] for line in newtons(sns(random_assignment(300, seed=1), eta=ETA, warmup=20))]
    assert errors[-1] < 1e-11 and errors[-1] <= 1e-2 * errors[-2] <= 1e-3 * errors[-3]


def test_too_few_entries_cost_newton_steps() -> None:
    """The card's first pitfall: 2 entries per row of P need several times the steps of 8."""
    problem = random_assignment(200, seed=0)
    with pytest.warns(UserWarning, match=r"density=1.5 keeps 300 entries of P; .* n \+ m - 1 = 399"):
        few = sns(problem, eta=ETA, warmup=20, rule="density", density=1.5, max_newton=300)
    many = sns(problem, eta=ETA, warmup=20, rule="density", density=8.0)
    assert many.status == "converged" and len(newtons(few)) > 2 * len(newtons(many))
    assert max(line["nnz"] for line in newtons(few)) == 300


@pytest.mark.parametrize("p", [2.0, 1.0])
@pytest.mark.parametrize("source", ["gaussians", "digits"])
def test_the_mass_rule_solves_densities_with_both_costs(p: float, source: str) -> None:
    """Proof B on data that comes with the tests: non-unique plans included (L1)."""
    if source == "gaussians":
        problem = gaussian_problem(14, p=p, seed=0)
    else:
        digits = pytest.importorskip("sklearn.datasets").load_digits().images
        big = [torch.from_numpy(np.kron(digits[i], np.ones((2, 2)))) for i in (0, 1)]
        problem = image_problem(*big, p=p)
    found = sns(problem, eta=ETA)
    assert found.status == "converged" and error_of(found, problem) <= 2e-11
    plain = sinkhorn(problem, eta=ETA, tol=1e-9, max_iter=found.n_iter + 3 * len(newtons(found)))
    assert plain.status == "max_iter"  # with more passes over the cost Sinkhorn is not at 1e-9


def test_a_poor_start_is_left_by_more_sinkhorn() -> None:
    """From 20 steps on an L1 cost plain SNS diverges (the card's pitfall 4): damping, and more Sinkhorn, save it."""
    problem = gaussian_problem(14, p=1.0, seed=1)
    found = sns(problem, eta=ETA, warmup=20)
    assert found.status == "converged" and error_of(found, problem) <= 1e-11
    assert any(line["damping"] > 0 for line in newtons(found)) and newtons(found)[-1]["damping"] < 1e-9
    bouts = [line["steps"] for line in found.log if line["stage"] == "sinkhorn"]
    assert bouts[0] == 20 and all(two <= 2 * one for one, two in pairwise(bouts))


def test_dense_plans_have_nothing_to_gain() -> None:
    """Proof D: at eta = 10 the mass rule keeps almost all entries, and the warm-up alone converges."""
    problem = random_assignment(150, seed=0)
    forced = newtons(sns(problem, eta=10.0, warmup=1))
    assert forced[-1]["density"] > 0.9
    auto = sns(problem, eta=10.0)
    assert auto.status == "converged" and not newtons(auto)
    sparse = newtons(sns(problem, eta=ETA, warmup=20))
    assert sparse[-1]["density"] < 0.15


def test_rectangles_uneven_masses_and_the_twin() -> None:
    g = torch.Generator().manual_seed(5)
    a, b = (torch.rand(k, generator=g, dtype=torch.float64) + 0.01 for k in (70, 110))
    problem = Problem(a / a.sum(), b / b.sum(), 3 * torch.rand(70, 110, generator=g, dtype=torch.float64) - 1)
    ours, twins = (sns(problem, eta=400.0, native=n) for n in (None, False))
    assert ours.status == twins.status == "converged" and error_of(ours, problem) <= 1e-11
    assert len(newtons(ours)) == len(newtons(twins)) and torch.allclose(ours.plan, twins.plan, atol=1e-14)
    assert float(ours.value) == pytest.approx(float(sns(problem, eta=400.0, warmup=300).value), abs=1e-12)


def test_one_point_and_one_row() -> None:
    assert sns(Problem.make([2.0], [2.0], [[5.0]]), 0.1).plan.tolist() == [[pytest.approx(2.0)]]
    found = sns(Problem.make([1.0], [0.25, 0.75], [[1.0, 3.0]]), 0.1)
    assert found.plan.tolist() == [pytest.approx([0.25, 0.75])] and found.status == "converged"


def test_an_unreachable_tolerance_is_told_and_the_best_kept() -> None:
    problem = random_assignment(80, seed=0)
    found = sns(problem, eta=ETA, tol=0.0, max_newton=60)
    assert found.status == "stalled" and not bool(found.converged)
    assert error_of(found, problem) < 1e-12
    cut = sns(problem, eta=ETA, warmup=5, max_newton=2)
    assert cut.status == "max_iter" and len(newtons(cut)) == 2
    reached = min(line["error"] for line in cut.log)
    assert error_of(cut, problem) == pytest.approx(reached, rel=1e-6)
    assert sns(problem, eta=ETA, warmup=5, max_iter=2).log[-1]["error"] == cut.log[-1]["error"]
    none = sns(problem, eta=ETA, warmup=5, max_newton=0)
    assert none.status == "max_iter" and none.n_iter == 5
    batch = sns(Problem.make(None, None, torch.stack([problem.M, 0 * problem.M])), eta=ETA, max_newton=1, warmup=3)
    assert batch.status == "max_iter" and batch.converged.tolist() == [False, True]


def test_the_log_says_what_was_done() -> None:
    found = sns(random_assignment(100, seed=0), eta=ETA, warmup=7)
    assert found.log[0]["stage"] == "sinkhorn" and found.log[0]["steps"] == 7
    assert found.n_iter == sum(line.get("steps", 1) for line in found.log)
    for line in newtons(found):
        assert {"error", "nnz", "density", "cg", "residual", "step", "damping", "seconds"} <= line.keys()
        assert line["nnz"] == round(line["density"] * 100 * 100) and line["cg"] >= 1
    assert all(one["seconds"] <= two["seconds"] for one, two in pairwise(found.log))


def test_float32_is_computed_in_float64() -> None:
    problem = random_assignment(60, seed=0)
    single = Problem(problem.a.float(), problem.b.float(), problem.M.float())
    found = sns(single, eta=ETA, tol=1e-11)
    assert found.status == "converged" and found.plan.dtype == torch.float32
    assert float((found.plan.double().sum(0) - 1 / 60).abs().max()) < 1e-8


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (TransportError, "warmup is 'auto' or a number of Sinkhorn steps >= 1; got 'long'", {"warmup": "long"}),
        (TransportError, "warmup is a whole number >= 1; got 0", {"warmup": 0}),
        (TypeError, "warmup is a whole number >= 1; got 1.5", {"warmup": 1.5}),
        (TransportError, "max_newton is a whole number >= 0; got -1", {"max_newton": -1}),
        (TransportError, "max_iter is a whole number >= 1; got 0", {"max_iter": 0}),
        (TransportError, "cg_max is a whole number >= 1; got 0", {"cg_max": 0}),
        (TransportError, "rule 'dense': did you mean 'density'", {"rule": "dense"}),
        (TransportError, r"nu is a number in \(0, 1\), .*; got 1.0", {"nu": 1.0}),
        (TransportError, "density is a number > 0, kept entries of P per row; got 0.0", {"density": 0.0}),
        (TransportError, "tol is a finite number >= 0; got inf", {"tol": math.inf}),
    ],
)
def test_wrong_options_are_quoted(error: type[Exception], words: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=words):
        sns(random_assignment(4, seed=0), eta=10.0, **options)


def test_no_warning_where_nothing_is_wrong() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sns(random_assignment(30, seed=0), eta=ETA, rule="density", density=8.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_card_s_proof_in_full(seed: int) -> None:
    """A: <= 12 Newton steps to 1e-11; Sinkhorn with as many passes as twenty SNS runs does not reach 1e-8."""
    problem = random_assignment(500, seed=seed)
    for options in ({}, {"rule": "density", "density": 8.0}):
        found = sns(problem, eta=ETA, warmup=20, tol=1e-11, **options)  # type: ignore[arg-type]
        assert found.status == "converged" and len(newtons(found)) <= 12
    passes = 20 * (20 + 4 * len(newtons(found)))
    assert sinkhorn(problem, eta=ETA, tol=1e-8, max_iter=passes).status == "max_iter"
    at_2500 = sinkhorn(problem, eta=ETA, tol=0.0, max_iter=2500)
    assert 1e-8 < at_2500.log[-1]["error"] < 1e-4  # the card: about 2e-6
