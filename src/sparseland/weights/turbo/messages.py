"""Message passing over binary supports: Markov chains along the last axis, and grids of them, in log-odds.

A chain starts from its stationary law, P(1) = lambda = p01 / (p01 + p10), p01 = P(1|0), p10 = P(0|1). What travels is
one number per entry: e = ln l(1)/l(0), the evidence; F and G, what the past and the future say. In log-odds a binary
transition is T(x) = ln(p01 + (1 - p10) exp x) - ln(1 - p01 + p10 exp x), which neither over- nor underflows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.errors import RecipeError, nearest

CHAINS = ("row", "col", "grid", "iid")
LOWEST, HIGHEST = math.log(1e-9), math.log((1 - 1e-6) / 1e-6)  # a coarser floor would destroy a small lambda


def check_transitions(p01: float, p10: float) -> None:
    """Raise RecipeError unless both are probabilities inside (0, 1)."""
    for name, value in (("p01", p01), ("p10", p10)):
        if not 0 < value < 1:
            raise RecipeError(f"{name} is {value!r}, the probability that a support changes; possible: inside (0, 1)")


def stationary_odds(p01: float, p10: float) -> float:
    """logit lambda = ln p01 - ln p10.

    >>> round(stationary_odds(0.1, 0.3), 4)
    -1.0986
    """
    check_transitions(p01, p10)
    return math.log(p01) - math.log(p10)


def messages(evidence: Tensor, p01: float, p10: float) -> tuple[Tensor, Tensor]:
    """Forward messages F (with the prior) and backward messages G of chains along the last axis; own evidence left out.

    Equation: F_1 = logit lambda, F_c = T(F_(c-1) + e_(c-1)); G_C = 0, G_c = ln (p10 + (1 - p10) x)/(1 - p01 + p01 x),
    x = exp(G_(c+1) + e_(c+1)).
    """
    both = torch.stack([evidence, evidence.flip(-1)]).movedim(-1, 0)  # [C, 2, …]: the two directions in one loop
    table = [[p01, p10], [1 - p10] * 2, [1 - p01] * 2, [p10, p01]]
    shape = (4, 2, *[1] * (evidence.ndim - 1))
    up, stay, rest, down = torch.tensor(table, dtype=evidence.dtype, device=evidence.device).log().view(shape)
    state = torch.zeros_like(both[0])
    state[0] = stationary_odds(p01, p10)
    said = [state]
    for own in both[:-1]:
        x = state + own
        state = torch.logaddexp(up, stay + x) - torch.logaddexp(rest, down + x)
        said.append(state)
    forward, backward = torch.stack(said, -1)  # [2, …, C]
    return forward, backward.flip(-1)


def chain_odds(evidence: Tensor, p01: float, p10: float) -> Tensor:
    """What all other entries of its chain say of an entry: extrinsic log-odds [..., C], exact (forward-backward).

    evidence: log-odds [..., C] that the data give each entry. Add it to the result for the posterior's log-odds.

    >>> quiet, loud = torch.tensor([[0.0, -9.0, -9.0]]), torch.tensor([[0.0, 9.0, 9.0]])
    >>> bool(chain_odds(quiet, 0.1, 0.3)[0, 0] < chain_odds(loud, 0.1, 0.3)[0, 0])
    True
    >>> chain_odds(loud, 0.25, 0.75).sigmoid().tolist()  # p01 = 1 - p10: nothing is coupled
    [[0.25, 0.25, 0.25]]
    """
    forward, backward = messages(evidence, p01, p10)
    return forward + backward


def grid_odds(evidence: Tensor, p01: float, p10: float, rounds: int = 3) -> Tensor:
    """Chains along rows and columns of [R, C] exchange what they know; approximate, since the graph has loops.

    Equation: x_row = chain(e + x_col) - logit lambda, x_col likewise, ``rounds`` times; logit lambda + x_row + x_col.

    >>> evidence = torch.full((3, 3), -2.0); evidence[1, 0] = evidence[0, 1] = 6.0
    >>> odds = grid_odds(evidence, 0.1, 0.3)
    >>> bool(odds[1, 1] > odds[2, 2])
    True
    """
    if evidence.ndim != 2 or rounds < 1:
        raise RecipeError(f"a grid is a matrix, rounds 1 or more; got shape {tuple(evidence.shape)}, rounds {rounds}")
    own = stationary_odds(p01, p10)
    across = torch.zeros_like(evidence)
    for _ in range(rounds):
        along = chain_odds(evidence + across, p01, p10) - own
        across = chain_odds((evidence + along).T.contiguous(), p01, p10).T - own
    return own + along + across


def support_odds(evidence: Tensor, chain: str, p01: float, p10: float) -> Tensor:
    """Prior log-odds of each entry of [R, C] given the evidence of the others, clipped to [1e-9, 1 - 1e-6].

    chain: "row" (along each neuron's weights), "col" (across neurons), "grid" (both), "iid" (logit lambda everywhere).
    A chain of one entry is no chain: a layer of one column with "row" is iid, a grid keeps its other direction.

    >>> torch.allclose(support_odds(torch.ones(3, 1), "row", 0.1, 0.9).sigmoid(), torch.tensor(0.1))
    True
    """
    if chain not in CHAINS:
        raise RecipeError(f"unknown support prior {chain!r}: {nearest(chain, CHAINS)}")
    rows, columns = evidence.shape
    if chain == "grid":
        chain = "grid" if min(rows, columns) > 1 else "row" if columns > 1 else "col"
    if chain == "iid" or (chain == "row" and columns == 1) or (chain == "col" and rows == 1):
        return torch.full_like(evidence, stationary_odds(p01, p10)).clamp(LOWEST, HIGHEST)
    if chain == "grid":
        odds = grid_odds(evidence, p01, p10)
    elif chain == "col":
        odds = chain_odds(evidence.T.contiguous(), p01, p10).T
    else:
        odds = chain_odds(evidence, p01, p10)
    return odds.clamp(LOWEST, HIGHEST)


def em_step(evidence: Tensor, p01: float, p10: float) -> tuple[float, float]:
    """One step of expectation-maximisation on p01 and p10, from the chains' pairwise posteriors; evidence [..., C].

    Equation: p01 = sum P(0, 1) / (sum P(0, 0) + P(0, 1)), p10 = sum P(1, 0) / (sum P(1, 0) + P(1, 1)) over neighbours.
    The first entry's law is not fitted. Both stay inside [1e-9, 1 - 1e-6].

    >>> clusters = torch.tensor([[9.0] * 5 + [-9.0] * 5]).repeat(4, 1)
    >>> p01, p10 = em_step(clusters, 0.3, 0.3)
    >>> p01 < 0.3, p10 < 0.3
    (True, True)
    """
    if evidence.shape[-1] < 2:
        return p01, p10
    forward, backward = messages(evidence.double(), p01, p10)
    before = (forward + evidence)[..., :-1]  # log-odds of s_c from c and its past
    after = (backward + evidence)[..., 1:]  # of s_(c+1) from c + 1 and its future
    pairs = torch.stack(
        [
            torch.full_like(before, math.log1p(-p01)),
            math.log(p01) + after,
            math.log(p10) + before,
            math.log1p(-p10) + before + after,
        ]
    ).softmax(0)  # P(00), P(01), P(10), P(11)
    p00, rise, fall, p11 = (float(p.sum()) for p in pairs)
    new = (rise / max(p00 + rise, 1e-300), fall / max(fall + p11, 1e-300))
    return tuple(min(max(p, 1e-9), 1 - 1e-6) for p in new)  # type: ignore[return-value]
