"""The front door: which regulariser, which form, which solver; and everything that is asked of the input."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import nearest
from .first_order import descend
from .lbfgs import Minimum, minimise
from .problem import Problem, TransportError
from .regularisers import KSparse, NegEntropy, Regulariser, SquaredL2
from .result import OTResult
from .smooth import objective

REG_TYPES = ("entropy", "l2", "sparsity_constrained")
METHODS = {
    "entropy": ("auto", "sinkhorn", "sns", "dual", "semi_dual"),
    "l2": ("auto", "dual", "semi_dual"),
    "sparsity_constrained": ("auto", "dual", "semi_dual"),
}
SOLVERS = ("lbfgs", "adam", "gradient")
TOL = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the smooth solvers
MAX_ITER, LR = 1000, 1e-2
MEMORY = {"smooth": 10, "kinks": 50}  # pairs of L-BFGS; where the k-th and the next entry tie, few of them stop short
RENAMED = {"stopThr": "tol", "numItermax": "max_iter", "k": "max_nz", "eps": "reg", "epsilon": "reg"}
Progress = Callable[[dict[str, Any]], object]


def solve(
    a: Any, b: Any, M: Any, reg: float | None = None, *, reg_type: str = "entropy",
    max_nz: int | None = None, axis: str = "column", method: str = "auto", solver: str = "lbfgs",
    max_iter: int | None = None, tol: float | None = None, sparse: bool = False, drop_zero: bool = False,
    differentiable: bool = True, progress: Progress | None = None, **options: Any,
) -> OTResult:  # fmt: skip
    """Regularised optimal transport of one problem, or of a batch of them at once.

        min_{T >= 0, T 1 = a, T^T 1 = b}  <T, M> + Omega(T)

    Omega: reg * sum(T log T) ("entropy"), reg / 2 * ||T||^2 ("l2"), or that with at most ``max_nz`` non-zeros in every
    column ("sparsity_constrained", arXiv 2209.15466; ``axis="row"``: row). The last is not convex; its dual is solved,
    and for 1 < k < n the plan may miss row sums where entries tie; see ``result.feasible`` and `round_plan`.

    Args:
        a, b: [..., n], [..., m] masses with equal totals; tensors, arrays, lists, or None for uniform ones.
        M: [..., n, m] costs. Leading dimensions are a batch. float32 or float64, on any one device.
        reg: weight of the regulariser, > 0.
        max_nz: k, 1 … n, of "sparsity_constrained"; more than n is clipped with a warning.
        method: "sinkhorn" or "sns" (entropy only), "dual" (neither marginal exact) or "semi_dual" (exact column sums;
            with axis="row" row sums). "auto": semi_dual, and for entropy what suits the tolerance.
        solver: of dual and semi_dual: "lbfgs", or "adam" and "gradient" with step ``lr`` (default 0.01).
        max_iter, tol: dual and semi_dual (1000; 1e-12, in float32 1e-6) stop when no entry of the gradient exceeds tol
            * mass, or when a step of L-BFGS gains at most tol * max(|value|, mass * range of M).
        sparse: return the plan as a COO tensor.
        drop_zero: leave points without mass out (their rows and columns of the plan are 0); else they are refused.
        differentiable: ``value`` carries gradients of a, b and M (by the envelope theorem: u, v and the plan).
        progress: called after every iteration of dual and semi_dual with its entry of ``result.log``.
        options: ``lr``; or keywords of `sinkhorn` and `sns`.

    Raises:
        TransportError: no problem (see `Problem`), reg <= 0, max_nz < 1 or too small to serve every row, unknown
            names. TypeError: types that do not fit.

    >>> M = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    >>> result = solve([0.5, 0.5], [0.5, 0.5], M, reg=1.0, reg_type="sparsity_constrained", max_nz=1)
    >>> result.plan.tolist(), round(float(result.value), 9)  # k = 1: no regulariser but reg / 2 sum b^2 in the value
    ([[0.5, 0.0], [0.0, 0.5]], 0.25)
    """
    problem = Problem.make(a, b, M)
    _names(reg_type, axis, method, solver)
    _stopping(tol, max_iter)
    asked = problem.detach() if axis == "column" else problem.detach().swapped()
    inner, places = _without_zeros(asked) if drop_zero else (asked.require_positive(), None)
    regulariser = _regulariser(reg, reg_type, max_nz, inner)
    chosen = _auto(method, reg_type, tol, inner)
    _options(options, chosen)
    if chosen in ("sinkhorn", "sns"):
        result = _entropic(chosen, inner, regulariser.gamma, tol, max_iter, options)
    else:
        given = options | {"solver": solver, "tol": tol, "max_iter": max_iter, "progress": progress}
        result = smooth_ot(inner, regulariser, semi=chosen == "semi_dual", **given)
    result = result if places is None else _with_zeros(result, asked, *places)
    return _handed_over(result if axis == "column" else _turned(result), problem, sparse, differentiable)


def _handed_over(result: OTResult, problem: Problem, sparse: bool, differentiable: bool) -> OTResult:
    if differentiable:
        result.value = envelope(result, problem)
    if sparse and not result.plan.is_sparse:
        result.plan = result.sparse_plan
    return result


def _names(reg_type: str, axis: str, method: str, solver: str) -> None:
    _known("reg_type", reg_type, REG_TYPES, also={"kl": '"entropy" has the same plan'})
    _known("axis", axis, ("column", "row"))
    _known("method", method, METHODS[reg_type])
    _known("solver", solver, SOLVERS)
    if axis == "row" and reg_type != "sparsity_constrained":
        raise TransportError(
            f'axis="row" is for reg_type="sparsity_constrained", whose rows it bounds; got {reg_type!r}'
        )


def smooth_ot(
    problem: Problem,
    regulariser: Regulariser,
    *,
    semi: bool = True,
    solver: str = "lbfgs",
    tol: float | None = None,
    max_iter: int | None = None,
    lr: float = LR,
    progress: Progress | None = None,
    start: Tensor | None = None,
) -> OTResult:
    """Solve the dual or (``semi``) the semi-dual of a validated problem; what `solve` does for these methods.

        max_{u, v} <a, u> + <b, v> - sum_j delta(u + v_j 1 - M_j),   or over u alone with v_j at its best

    Args:
        start: [B, n + m] or (semi) [B, n], B problems in all; zeros if None.

    >>> p = Problem.make(None, None, [[0.0, 1.0], [1.0, 0.0]])
    >>> smooth_ot(p, SquaredL2(0.1), semi=False).status
    'converged'
    """
    flat = problem.detach().flat()
    tol = TOL[flat.dtype] if tol is None else tol
    max_iter = MAX_ITER if max_iter is None else max_iter
    function = objective(flat, regulariser, semi=semi)
    if start is None:
        start = torch.zeros(flat.M.shape[0], function.size, dtype=flat.dtype, device=flat.device)
    mass = flat.a.sum(-1)
    spread = flat.M.amax((-2, -1)) - flat.M.amin((-2, -1))
    if solver == "lbfgs":
        found = minimise(
            function,
            start,
            tol=tol,
            scale=mass * spread,
            reach=mass,
            max_iter=max_iter,
            progress=progress,
            memory=MEMORY["kinks" if isinstance(regulariser, KSparse) and regulariser.k < flat.n else "smooth"],
        )
    else:
        found = descend(function, start, kind=solver, lr=lr, tol=tol, reach=mass, max_iter=max_iter, progress=progress)
    return _result(problem, function, found)


def envelope(result: OTResult, problem: Problem) -> Tensor:
    """``result.value`` with the derivatives dV/da = u, dV/db = v, dV/dM = T; u and v are known up to a constant.

    Adds zeros that have these gradients, so the value itself is unchanged.

    >>> M = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    >>> solve([2.0], [2.0], M, reg=1.0, reg_type="l2").value.backward()
    >>> round(M.grad.item(), 9)
    2.0
    """
    value = result.value.detach()
    u, v = result.potentials
    for held, pull in ((problem.a, u), (problem.b, v)):
        if held.requires_grad:
            value = value + ((held - held.detach()) * pull.detach()).sum(-1)
    if problem.M.requires_grad:
        value = value + ((problem.M - problem.M.detach()) * result.dense_plan.detach()).sum((-2, -1))
    return value


def _result(problem: Problem, function: Any, found: Minimum) -> OTResult:
    plan, u, v = function.solution(found.x)
    status = "converged"
    if not bool(found.converged.all()):
        status = "stalled" if bool((found.converged | found.stalled).all()) else "max_iter"
    return OTResult.of(
        problem,
        plan.reshape(problem.M.shape),
        (u.reshape(problem.a.shape), v.reshape(problem.b.shape)),
        value=-found.value.reshape(problem.batch),
        n_iter=int(found.n_iter.max()),
        converged=found.converged.reshape(problem.batch),
        status=status,
        log=found.log,
    )


def _entropic(
    name: str, problem: Problem, reg: float, tol: float | None, max_iter: int | None, options: dict[str, Any]
) -> OTResult:
    from .newton import sns
    from .sinkhorn import sinkhorn

    given: dict[str, Any] = {"tol": tol, "max_iter": max_iter}
    stop = {key: value for key, value in given.items() if value is not None}
    return (sns if name == "sns" else sinkhorn)(problem, reg, **stop, **options)


def _auto(method: str, reg_type: str, tol: float | None, problem: Problem) -> str:
    """Newton's method where accuracy is asked for that Sinkhorn reaches slowly."""
    if method != "auto":
        return method
    if reg_type != "entropy":
        return "semi_dual"
    return "sns" if problem.dtype == torch.float64 and (tol is not None and tol < 1e-6) else "sinkhorn"


def _regulariser(reg: Any, reg_type: str, max_nz: Any, problem: Problem) -> Regulariser:
    if reg is None:
        raise TransportError("reg is the weight of the regulariser, > 0 (for transport without one use POT's emd)")
    try:
        gamma = float(reg)
    except (TypeError, ValueError) as error:
        raise TypeError(f"reg is a number > 0; got {reg!r}") from error
    if reg_type != "sparsity_constrained":
        if max_nz is not None:
            raise TransportError(f'max_nz={max_nz!r} needs reg_type="sparsity_constrained"; got {reg_type!r}')
        return SquaredL2(gamma) if reg_type == "l2" else NegEntropy(gamma)
    if max_nz is None:
        raise TransportError(f'reg_type="sparsity_constrained" needs max_nz, 1 … {problem.n}')
    return KSparse(gamma, _cardinality(max_nz, problem))


def _cardinality(max_nz: Any, problem: Problem) -> int:
    """k as a Python int, at most n; NumPy's integers are integers."""
    try:
        k = operator.index(max_nz)
    except TypeError as error:
        raise TypeError(f"max_nz is an integer in 1 … {problem.n}; got {max_nz!r}") from error
    if isinstance(max_nz, bool):
        raise TypeError(f"max_nz is an integer in 1 … {problem.n}; got {max_nz!r}")
    if k < 1:
        raise TransportError(f"max_nz is an integer in 1 … {problem.n}; got {k}")
    if k > problem.n:
        warnings.warn(f"max_nz={k} is more than the {problem.n} rows there are; all may be non-zero", stacklevel=4)
        k = problem.n
    if k * problem.m < problem.n:
        raise TransportError(
            f"{k} non-zeros in each of {problem.m} columns are {k * problem.m} places for {problem.n} rows with mass: "
            f"some rows cannot be served; max_nz is at least {-(-problem.n // problem.m)}"
        )
    return k


def _known(what: str, name: Any, options: tuple[str, ...], also: dict[str, str] | None = None) -> None:
    if name not in options:
        hint = (also or {}).get(str(name).lower())
        raise TransportError(f"unknown {what}={name!r}: {hint or nearest(name, options)}")


def _options(options: dict[str, Any], method: str) -> None:
    for name in options:
        if name in RENAMED:
            raise TransportError(f"{name!r} is called {RENAMED[name]!r} here")
        if method in ("dual", "semi_dual") and name != "lr":
            raise TransportError(f"method={method!r} has no option {name!r}; possible: lr")


def _stopping(tol: Any, max_iter: Any) -> None:
    if tol is not None and not (isinstance(tol, (int, float)) and tol > 0):
        raise TransportError(f"tol is a number > 0; got {tol!r}")
    if max_iter is not None and (isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 0):
        raise TransportError(f"max_iter is an integer >= 0; got {max_iter!r}")


def _without_zeros(problem: Problem) -> tuple[Problem, tuple[Tensor, Tensor]]:
    """The problem of the points with mass, and which rows and columns these are."""
    kept = []
    for name, masses in (("a", problem.a), ("b", problem.b)):
        some = (masses > 0).reshape(-1, masses.shape[-1])
        if bool((some.any(0) != some.all(0)).any()):
            raise TransportError(f"{name} is zero at different places of the batch's problems; solve them one by one")
        kept.append(some[0].nonzero().squeeze(1))
    rows, columns = kept
    made = Problem(problem.a[..., rows], problem.b[..., columns], problem.M[..., rows, :][..., columns])
    return made, (rows, columns)


def _with_zeros(result: OTResult, problem: Problem, rows: Tensor, columns: Tensor) -> OTResult:
    """Put the points without mass back: nothing moves there, and their potentials are as high as may be."""
    plan = torch.zeros_like(problem.M, memory_format=torch.contiguous_format)
    plan[..., rows[:, None], columns] = result.dense_plan
    u, v = result.potentials
    left = problem.M[..., columns] - v[..., None, :]
    u_all = left.amin(-1)
    u_all[..., rows] = u
    v_all = (problem.M - u_all[..., None]).amin(-2)
    v_all[..., columns] = v
    return OTResult.of(
        problem, plan, (u_all, v_all), value=result.value, n_iter=result.n_iter, converged=result.converged,
        status=result.status, log=result.log,
    )  # fmt: skip


def _turned(result: OTResult) -> OTResult:
    """The result of the swapped problem, for the problem itself."""
    result.plan = result.dense_plan.mT
    result.potentials = result.potentials[::-1]
    result.row_error, result.col_error = result.col_error, result.row_error
    return result
