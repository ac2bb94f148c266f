"""What Sinkhorn and the sparse Newton steps share: the regulariser, masses brought to 1, and the result.

    min_P <P, M> + reg sum P log P,  P 1 = a,  P^T 1 = b;   P_ij = exp((u_i + v_j - M_ij) / reg)

``reg`` is POT's; papers and regot's authors also write eta = 1 / reg.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..kernels.newton import Entries, entries
from ..kernels.newton import plan as whole
from .problem import Problem, TransportError
from .result import STATUSES, OTResult

LARGEST = 1e5  # (max M - min M) / reg from which double precision has too few digits left for the marginals


@dataclass(frozen=True, eq=False)
class Single:
    """One problem in float64, masses > 0 with sum 1; ``rows``, ``columns`` say which points of the original stayed."""

    a: Tensor
    b: Tensor
    cost: Tensor
    mass: float
    rows: Tensor | None = None
    columns: Tensor | None = None


@dataclass(eq=False)
class Found:
    """Potentials of a `Single`, how they were found, and the evaluation at them where it is there."""

    u: Tensor
    v: Tensor
    status: str
    steps: int
    entries: Entries | None = None
    log: list[dict[str, Any]] = field(default_factory=list)


def inverse(reg: float | None, eta: float | None) -> float:
    """1 / reg or eta, whichever was given.

    >>> inverse(0.01, None), inverse(None, 1200.0)
    (100.0, 1200.0)
    """
    if (reg is None) == (eta is None):
        raise TransportError(f"give reg (POT's, > 0) or eta = 1 / reg, one of them; got reg={reg!r}, eta={eta!r}")
    name, value = ("reg", reg) if eta is None else ("eta", eta)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number > 0; got {value!r}")
    if not (value > 0 and math.isfinite(value)):
        raise TransportError(f"{name} is a finite number > 0; got {value!r}")
    if eta is not None and eta < 1:
        warnings.warn(f"eta={eta:g} is 1 / reg; a number below 1 looks like reg itself: pass reg={eta:g}", stacklevel=3)
    return 1.0 / value if eta is None else float(value)


def singles(problem: Problem, eta: float, drop_zero: bool) -> list[Single]:
    """The problems of a batch, one by one; a zero mass is refused with its index, or left out."""
    flat = problem.detach().flat()
    scale = float(flat.M.amax() - flat.M.amin()) * eta
    if scale > LARGEST:
        warnings.warn(
            f"(max M - min M) / reg is {scale:.2g}; above {LARGEST:g} float64 has too few digits for the plan. "
            "Scale M to [0, 1], or take a larger reg",
            stacklevel=3,
        )
    return [_single(a, b, cost, drop_zero) for a, b, cost in zip(flat.a, flat.b, flat.M, strict=True)]


def _single(a: Tensor, b: Tensor, cost: Tensor, drop_zero: bool) -> Single:
    kept: list[Tensor | None] = [None, None]
    for axis, (name, masses) in enumerate((("a", a), ("b", b))):
        zero = masses == 0
        if not bool(zero.any()):
            continue
        if not drop_zero:
            first = int(zero.nonzero()[0, 0])
            raise TransportError(
                f"{name}[{first}] is 0 ({int(zero.sum())} of {len(masses)} masses are); the entropic plan needs masses "
                "> 0: leave such points out, or pass drop_zero=True"
            )
        kept[axis] = (~zero).nonzero()[:, 0]
    rows, columns = kept
    cost = cost.double()
    if rows is not None:
        a, cost = a[rows], cost[rows]
    if columns is not None:
        b, cost = b[columns], cost[:, columns]
    a, b = a.double(), b.double()
    mass = float(a.sum())
    return Single(a / mass, b / b.sum(), cost.contiguous(), mass, rows, columns)


def result(
    problem: Problem,
    eta: float,
    parts: Sequence[Single],
    found: Sequence[Found],
    *,
    tol: float,
    sparse: bool,
    native: bool | None,
) -> OTResult:
    """The plans, potentials and errors of all problems, in the problem's shape and dtype."""
    shape, n, m = problem.batch, problem.n, problem.m
    made = [_finished(problem, eta, part, one, tol, sparse, native) for part, one in zip(parts, found, strict=True)]

    def joined(name: str, *inner: int) -> Tensor:
        return torch.stack([one[name] for one in made]).reshape((*shape, *inner))

    u, v = joined("u", n), joined("v", m)
    value, linear = joined("value"), joined("linear")
    plan = joined("plan", n, m) if not sparse else _stacked([one["plan"] for one in made], (*shape, n, m))
    if any(t.requires_grad for t in (problem.a, problem.b, problem.M)):
        value = _attached(problem, value, u + 1 / eta, v, plan)
    return OTResult(
        plan=plan,
        potentials=(u, v),
        value=value,
        value_linear=linear,
        n_iter=max(one.steps for one in found),
        status=max((one.status for one in found), key=STATUSES.index),
        converged=torch.tensor([one.status == "converged" for one in found], device=problem.device).reshape(shape),
        row_error=joined("row_error"),
        col_error=joined("col_error"),
        nnz=joined("nnz"),
        mass=max(float(problem.a.detach().max()), float(problem.b.detach().max())),
        log=found[0].log
        if len(found) == 1
        else [{"problem": k, **line} for k, f in enumerate(found) for line in f.log],
    )


def _finished(
    problem: Problem, eta: float, part: Single, one: Found, tol: float, sparse: bool, native: bool | None
) -> dict[str, Tensor]:
    floor = 0.01 * tol / part.cost.numel() if sparse else math.inf  # what is left out is a hundredth of the tolerance
    seen = one.entries if one.entries is not None else entries(part.cost, eta, one.u, one.v, floor, native=native)
    u, v = one.u + math.log(part.mass) / eta, one.v
    linear: Tensor
    if sparse:
        if one.entries is not None:
            seen = seen.keep(seen.values >= floor)
        rows, columns, values = seen.row_numbers, seen.places.long(), seen.values * part.mass
        linear, nnz = values @ part.cost[rows, columns], torch.tensor(len(values), device=values.device)
        rows = rows if part.rows is None else part.rows[rows]
        columns = columns if part.columns is None else part.columns[columns]
        plan = torch.sparse_coo_tensor(
            torch.stack([rows, columns]),
            values.to(problem.dtype),
            (problem.n, problem.m),
            is_coalesced=True,
            check_invariants=False,
        )
    else:
        plan, linear, nnz = whole(part.cost, eta, u, v, native=native)
        plan = _placed(_placed(plan, part.rows, problem.n, 0, 0.0), part.columns, problem.m, 1, 0.0).to(problem.dtype)
    return {
        "plan": plan,
        "u": _placed(u, part.rows, problem.n, 0, -math.inf).to(problem.dtype),
        "v": _placed(v, part.columns, problem.m, 0, -math.inf).to(problem.dtype),
        "value": (part.mass * (part.a @ u + part.b @ v)).to(problem.dtype),
        "linear": linear.to(problem.dtype),
        "row_error": (part.mass * (seen.rows - part.a).abs().max()).to(problem.dtype),
        "col_error": (part.mass * (seen.columns - part.b).abs().max()).to(problem.dtype),
        "nnz": nnz,
    }


def _placed(values: Tensor, at: Tensor | None, size: int, axis: int, other: float) -> Tensor:
    """Values at their places along an axis, ``other`` where a point was left out."""
    if at is None:
        return values
    shape = list(values.shape)
    shape[axis] = size
    return torch.full(shape, other, dtype=values.dtype, device=values.device).index_copy_(axis, at, values)


def _stacked(plans: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    if len(shape) == 2:
        return plans[0]
    flat = torch.stack(plans).coalesce()  # [B, n, m]
    first, rest = flat.indices()[0], flat.indices()[1:]
    lead = torch.stack(torch.unravel_index(first, shape[:-2]))
    return torch.sparse_coo_tensor(
        torch.cat([lead, rest]), flat.values(), shape, is_coalesced=True, check_invariants=False
    )


def _attached(problem: Problem, value: Tensor, u: Tensor, v: Tensor, plan: Tensor) -> Tensor:
    """The value with its gradients by the envelope theorem: u in a, v in b, the plan in M; 0 at left-out points."""

    def tail(given: Tensor, slope: Tensor) -> Tensor:  # zero, with a slope
        finite = torch.where(torch.isfinite(slope), slope, torch.zeros_like(slope))
        return (given - given.detach()) * finite

    dense = plan.to_dense() if plan.is_sparse else plan
    return value + tail(problem.a, u).sum(-1) + tail(problem.b, v).sum(-1) + tail(problem.M, dense).sum((-2, -1))
