"""One solver's process: a problem's file and the options in, seconds and the error of the plan out, line by line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Answer = dict[str, Any]
Solve = Callable[[np.ndarray, np.ndarray, np.ndarray, float, float, int], tuple[float, np.ndarray, int]]


def pot(a: np.ndarray, b: np.ndarray, cost: np.ndarray, eta: float, tol: float, cap: int) -> Any:
    """POT's log-domain Sinkhorn; its own test is an l2 norm every ten steps."""
    import ot

    began = time.perf_counter()
    plan, log = ot.sinkhorn(
        a, b, cost, 1 / eta, method="sinkhorn_log", stopThr=tol / 10, numItermax=cap, warn=False, log=True
    )
    return time.perf_counter() - began, plan, int(log["niter"])


def ott(a: np.ndarray, b: np.ndarray, cost: np.ndarray, eta: float, tol: float, cap: int, weight: float = 1.0) -> Any:
    """OTT's Sinkhorn, compiled before the clock starts."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    def solve(cost: Any, a: Any, b: Any) -> Any:
        problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=cost, epsilon=1 / eta), a, b)
        solver = sinkhorn.Sinkhorn(threshold=tol, max_iterations=cap, momentum=acceleration.Momentum(value=weight))
        out = solver(problem)
        return out.matrix, out.n_iters

    given = [jax.numpy.asarray(x) for x in (cost, a, b)]
    made = jax.jit(solve).lower(*given).compile()
    began = time.perf_counter()
    plan, steps = jax.block_until_ready(made(*given))
    return time.perf_counter() - began, np.asarray(plan), int(steps)


def ott_momentum(a: np.ndarray, b: np.ndarray, cost: np.ndarray, eta: float, tol: float, cap: int) -> Any:
    """The same with over-relaxation 1.5."""
    return ott(a, b, cost, eta, tol, cap, 1.5)


def regot(name: str) -> Solve:
    """A solver of regot; its own test is an l2 norm."""

    def solve(a: np.ndarray, b: np.ndarray, cost: np.ndarray, eta: float, tol: float, cap: int) -> Any:
        import regot as package

        turned = np.asfortranarray(cost)
        began = time.perf_counter()
        found = getattr(package, f"sinkhorn_{name}")(turned, a, b, 1 / eta, tol=tol / 30, max_iter=cap)
        return time.perf_counter() - began, np.asarray(found.plan), int(found.niter)

    return solve


def ours(name: str) -> Solve:
    """sns or sinkhorn, from arrays to the dense plan."""

    def solve(a: np.ndarray, b: np.ndarray, cost: np.ndarray, eta: float, tol: float, cap: int) -> Any:
        import torch

        from sparseland import transport

        torch.set_num_threads(1)
        began = time.perf_counter()
        problem = transport.Problem.make(*map(torch.from_numpy, (a, b, cost)))
        if name == "sns":
            found = transport.sns(problem, eta=eta, tol=tol)
        else:
            found = transport.sinkhorn(problem, eta=eta, tol=tol, max_iter=cap)
        return time.perf_counter() - began, found.plan.numpy(), found.n_iter

    return solve


SOLVERS: dict[str, Solve] = {
    "pot": pot,
    "ott": ott,
    "ott, momentum": ott_momentum,
    "regot ssns": regot("ssns"),
    "regot splr": regot("splr"),
    "ours, sns": ours("sns"),
    "ours, sinkhorn": ours("sinkhorn"),
}


def problem_of(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random assignment: uniform masses, costs from U[0, 1); the same in every process."""
    uniform = np.full(n, 1.0 / n)
    return uniform, uniform.copy(), np.random.default_rng(seed).random((n, n))


def answer(solver: str, n: int, seed: int, eta: float, tol: float, cap: int) -> Answer:
    """Seconds, |P 1 - a|_1 + |P^T 1 - b|_1 of the plan that was given back, and steps."""
    a, b, cost = problem_of(n, seed)
    seconds, plan, steps = SOLVERS[solver](a, b, cost, eta, tol, cap)
    error = np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()
    return {"seconds": seconds, "error": float(error), "steps": steps, "cost": float((plan * cost).sum())}


def main() -> None:
    """Answer one line with one line until there are no more."""
    for line in sys.stdin:
        try:
            told = answer(**json.loads(line))
        except Exception as error:
            told = {"failed": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
