"""Balanced routing of tokens to experts by sparsity-constrained transport (arXiv 2209.15466): a function of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import Problem, TransportError
from .regularisers import KSparse
from .solve import SOLVERS, smooth_ot


@dataclass(frozen=True, eq=False)
class Routing:
    """Who computes what: token s of group g goes to expert e where ``mask`` is True.

    Args:
        mask: [..., S, E] bool.
        weights: [..., S, E] by which an expert's output is multiplied; 0 outside of the mask; differentiable in logits.
        plan: [..., S, E] the transport plan; its column sums are S / E (its row sums 1, where tokens choose).
        capacity: places of an expert (experts choose) or experts of a token (tokens choose).
    """

    mask: Tensor
    weights: Tensor
    plan: Tensor
    capacity: int

    @property
    def load(self) -> Tensor:
        """[..., E] tokens of each expert."""
        return self.mask.sum(-2)

    @property
    def load_cv(self) -> Tensor:
        """[...] standard deviation of the loads over their mean."""
        load = self.load.double()
        return load.std(-1, correction=0) / load.mean(-1)

    @property
    def unserved(self) -> Tensor:
        """[...] number of tokens that no expert takes; give them a residual path."""
        return (~self.mask.any(-1)).sum(-1)

    def slots(self) -> tuple[Tensor, Tensor]:
        """For a dispatcher that gathers: tokens [..., E, K] of each expert, and which of these places are used.

        K is the largest load. Tokens come in their order; unused places name token 0.

        >>> mask = torch.tensor([[True, False], [True, False], [False, True]])
        >>> at, used = Routing(mask, mask.float(), mask.float(), 2).slots()
        >>> at.tolist(), used.tolist()
        ([[0, 1], [2, 0]], [[True, True], [True, False]])
        """
        columns = self.mask.mT
        most = int(self.load.max())
        used, at = columns.to(torch.uint8).sort(dim=-1, descending=True, stable=True)
        used = used[..., :most].bool()
        return torch.where(used, at[..., :most], 0), used


def route(
    logits: Tensor, *, causal: bool, choose: str = "experts", capacity: int | None = None,
    capacity_factor: float = 1.0, multiple_of: int = 4, experts_per_token: int = 1, reg: float = 1.0,
    solver: str = "adam", steps: int = 20, lr: float = 1e-2, combine: str = "softmax", causal_safe: bool = True,
) -> Routing:  # fmt: skip
    """Assign each group's tokens to experts by transport with cost -softmax(logits), masses 1 and S / E.

    With ``choose="experts"`` every expert takes at most ``capacity`` tokens, so memory is bounded by construction;
    with "tokens" every token takes at most ``experts_per_token`` experts. 20 steps of Adam on the semi-dual are far
    from its optimum, as in the original: the mask is bounded all the same, balance is approximate.

    Args:
        logits: [..., S, E], finite; each leading index is a group of S tokens that is balanced on its own.
        causal: whether the tokens of a group are positions in time of an autoregressive model. Then a token's expert
            depends on later tokens, which leaks the future; this is refused unless ``causal_safe=False`` is passed.
            Group across the batch (one position of many sequences) to be safe.
        capacity: places per expert, 1 … S; None: S / E * capacity_factor, rounded up to a multiple of ``multiple_of``.
        reg: weight of the squared norm, > 0.
        solver, steps, lr: "adam", "gradient" or "lbfgs", on the semi-dual from zero.
        combine: weights from the "softmax" gates (only they carry gradients) or from the "plan" (no gradient).

    Raises:
        TransportError: NaN or infinite logits, names or numbers out of range, capacity * E < S, or ``causal``.

    Differs from the paper's code: places with a zero in the plan are not dispatched, also where k of them are free.

    >>> routing = route(torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0)), causal=False)
    >>> routing.capacity, int(routing.load.max()) <= 8
    (8, True)
    """
    _check(logits, choose, solver, combine, steps, causal, causal_safe)
    tokens, experts = logits.shape[-2:]
    gates = torch.softmax(logits, -1)
    cost = -gates.detach().to(logits.dtype if logits.dtype == torch.float64 else torch.float32)
    groups = cost.reshape(-1, tokens, experts)
    ones = groups.new_ones(groups.shape[0], tokens)
    shares = groups.new_full((groups.shape[0], experts), tokens / experts)
    problem = Problem(ones, shares, groups)
    k = _capacity(capacity, capacity_factor, multiple_of, tokens, experts) if choose == "experts" else experts_per_token
    if choose == "tokens":
        problem = problem.swapped()
    if not 1 <= k <= problem.n:
        what = "capacity" if choose == "experts" else "experts_per_token"
        raise TransportError(f"{what} is 1 … {problem.n}; got {k}")
    found = smooth_ot(problem, KSparse(reg, k), solver=solver, max_iter=steps, lr=lr)
    plan = found.plan if choose == "experts" else found.plan.mT
    plan = plan.reshape(logits.shape)
    mask = plan > 0
    weights = torch.where(mask, gates, 0) if combine == "softmax" else plan.to(logits.dtype)
    return Routing(mask, weights, plan, k)


def _capacity(capacity: int | None, factor: float, multiple: int, tokens: int, experts: int) -> int:
    if capacity is None:
        if not (factor > 0 and math.isfinite(factor)) or multiple < 1:
            raise TransportError(f"capacity_factor is > 0 and multiple_of >= 1; got {factor!r} and {multiple!r}")
        least = math.ceil(tokens * factor / experts)
        capacity = min(tokens, -(-least // multiple) * multiple)
    if capacity * experts < tokens:
        raise TransportError(
            f"capacity {capacity} x {experts} experts are {capacity * experts} places for {tokens} tokens: some rows "
            f"cannot be served; capacity is at least {-(-tokens // experts)}"
        )
    return capacity


def _check(logits: Tensor, choose: str, solver: str, combine: str, steps: int, causal: bool, causal_safe: bool) -> None:
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            f"logits is a floating-point tensor [..., S, E]; got {getattr(logits, 'dtype', type(logits).__name__)}"
        )
    if logits.ndim < 2 or logits.numel() == 0:
        raise TransportError(f"logits is [..., S, E], S tokens and E experts; got {tuple(logits.shape)}")
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise TransportError(f"logits {tuple(logits.shape)} hold {bad} NaN or infinite values (did training diverge?)")
    for what, name, options in (
        ("choose", choose, ("experts", "tokens")),
        ("solver", solver, SOLVERS),
        ("combine", combine, ("softmax", "plan")),
    ):
        if name not in options:
            raise TransportError(f"{what} is one of {', '.join(options)}; got {name!r}")
    if steps < 1:
        raise TransportError(f"steps is at least 1; got {steps}")
    if causal and causal_safe:
        raise TransportError(
            "balancing positions of one sequence against each other lets a token's expert depend on later tokens; "
            "group across the batch and pass causal=False, or accept it with causal_safe=False"
        )
