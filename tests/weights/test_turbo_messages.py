"""Messages over binary supports against enumeration of every support."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sparseland.core.errors import RecipeError
from sparseland.weights.turbo import chain_odds, em_step, grid_odds, support_odds
from sparseland.weights.turbo.messages import stationary_odds


def chain_weight(s: tuple[int, ...], p01: float, p10: float) -> float:
    """P(s) of a chain in its stationary law."""
    rate = p01 / (p01 + p10)
    step = {(0, 0): 1 - p01, (0, 1): p01, (1, 0): p10, (1, 1): 1 - p10}
    return (rate if s[0] else 1 - rate) * math.prod(step[pair] for pair in itertools.pairwise(s))


def brute(evidence: Tensor, p01: float, p10: float) -> tuple[list[float], float]:
    """Posterior log-odds of every entry of one chain, and the likelihood, by enumeration."""
    count = len(evidence)
    on, off, total = [0.0] * count, [0.0] * count, 0.0
    for s in itertools.product((0, 1), repeat=count):
        weight = chain_weight(s, p01, p10) * math.exp(sum(float(e) for e, x in zip(evidence, s, strict=True) if x))
        total += weight
        for c, x in enumerate(s):
            (on if x else off)[c] += weight
    return [math.log(a / b) for a, b in zip(on, off, strict=True)], total


@pytest.mark.parametrize("columns", range(1, 13))
def test_chain_marginals_are_those_of_enumeration(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    evidence = 3 * torch.randn(2, columns, generator=generator, dtype=torch.float64)
    p01, p10 = (0.02, 0.3) if columns % 2 else (0.4, 0.15)
    found = chain_odds(evidence, p01, p10) + evidence
    for row in range(2):
        assert found[row].tolist() == pytest.approx(brute(evidence[row], p01, p10)[0], abs=1e-10)


def test_an_uncoupled_chain_is_iid() -> None:
    evidence = 5 * torch.randn(4, 9)
    for rate in (0.01, 0.3):
        chain = support_odds(evidence, "row", rate, 1 - rate)
        torch.testing.assert_close(chain, support_odds(evidence, "iid", rate, 1 - rate), atol=1e-5, rtol=1e-5)
        grid = support_odds(evidence, "grid", rate, 1 - rate)
        torch.testing.assert_close(grid, chain, atol=1e-5, rtol=1e-5)


def test_what_an_entry_says_itself_is_left_out() -> None:
    """Extrinsic: its own evidence changes what the others hear, and nothing of its own message."""
    evidence = torch.randn(1, 6, dtype=torch.float64)
    louder = evidence.clone()
    louder[0, 2] += 4
    before, after = chain_odds(evidence, 0.05, 0.3), chain_odds(louder, 0.05, 0.3)
    assert float(after[0, 2] - before[0, 2]) == pytest.approx(0, abs=1e-12)
    assert bool((after[0, [0, 1, 3, 4, 5]] > before[0, [0, 1, 3, 4, 5]]).all())


def test_huge_evidence_does_not_overflow() -> None:
    evidence = torch.tensor([[1e4, -1e4, 1e4, 0.0, -1e4]])
    odds = support_odds(evidence, "row", 1e-7, 0.3)
    assert bool(torch.isfinite(odds).all())
    assert math.log(1e-9) - 1e-4 <= float(odds.min()) and float(odds.max()) <= math.log(1e6)


def test_columns_are_rows_of_the_transpose() -> None:
    evidence = torch.randn(5, 7)
    torch.testing.assert_close(support_odds(evidence, "col", 0.1, 0.3), support_odds(evidence.T, "row", 0.1, 0.3).T)


def test_a_grid_is_close_to_enumeration() -> None:
    """Loopy, so not exact: within 0.1 of a nat of log-odds where the coupling is mild."""
    evidence = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p01, p10 = 0.25, 0.45
    rate = p01 / (p01 + p10)
    on, off = torch.zeros(9), torch.zeros(9)
    for s in itertools.product((0, 1), repeat=9):
        rows, columns = [s[i : i + 3] for i in (0, 3, 6)], [s[i::3] for i in range(3)]
        weight = math.prod(chain_weight(tuple(line), p01, p10) for line in (*rows, *columns))
        weight /= math.prod(rate if x else 1 - rate for x in s)  # each entry's own law counts once
        weight *= math.exp(sum(float(e) for e, x in zip(evidence.flatten(), s, strict=True) if x))
        for i, x in enumerate(s):
            (on if x else off)[i] += weight
    exact = (on / off).log()
    found = (grid_odds(evidence, p01, p10, rounds=10) + evidence).flatten().float()
    assert float((found - exact).abs().max()) < 0.1
    alone = (chain_odds(evidence, p01, p10) + evidence).flatten().float()
    assert float((found - exact).abs().max()) < float((alone - exact).abs().max())


def test_a_grid_of_one_row_is_a_chain() -> None:
    evidence = torch.randn(1, 8)
    torch.testing.assert_close(support_odds(evidence, "grid", 0.1, 0.3), support_odds(evidence, "row", 0.1, 0.3))
    column = evidence.T.contiguous()
    torch.testing.assert_close(support_odds(column, "grid", 0.1, 0.3), support_odds(column, "col", 0.1, 0.3))


def test_a_layer_with_one_column_falls_back_to_iid() -> None:
    odds = support_odds(torch.randn(6, 1), "row", 0.1, 0.3)
    assert odds.flatten().tolist() == pytest.approx([stationary_odds(0.1, 0.3)] * 6)


def test_em_raises_the_likelihood_and_finds_the_chain_that_was_drawn() -> None:
    generator = torch.Generator().manual_seed(3)
    evidence = 2 * torch.randn(1, 8, generator=generator, dtype=torch.float64)
    p01, p10, before = 0.2, 0.4, 0.0
    for _ in range(4):
        likelihood = brute(evidence[0], p01, p10)[1]
        assert likelihood > 0.98 * before  # the first entry's own law is not part of the step
        before = likelihood
        p01, p10 = em_step(evidence, p01, p10)
    state, rows = torch.zeros(200), []
    for _ in range(200):
        change = torch.where(state > 0, 0.25, 0.05)
        state = torch.where(torch.rand(200, generator=generator) < change, 1 - state, state)
        rows.append(state)
    sharp = 8 * (2 * torch.stack(rows, 1) - 1)
    p01, p10 = 0.5, 0.5
    for _ in range(5):
        p01, p10 = em_step(sharp, p01, p10)
    assert p01 == pytest.approx(0.05, abs=0.006) and p10 == pytest.approx(0.25, abs=0.02)
    assert em_step(sharp[:, :1], 0.2, 0.3) == (0.2, 0.3)


@pytest.mark.parametrize(("p01", "p10"), [(0.0, 0.3), (1.0, 0.3), (0.1, 0.0), (0.1, 1.5), (-0.1, 0.5)])
def test_transitions_outside_of_their_range(p01: float, p10: float) -> None:
    with pytest.raises(RecipeError, match=r"possible: inside \(0, 1\)"):
        support_odds(torch.zeros(2, 2), "row", p01, p10)


def test_unknown_chain() -> None:
    with pytest.raises(RecipeError, match="did you mean 'row'"):
        support_odds(torch.zeros(2, 2), "rows", 0.1, 0.3)
    with pytest.raises(RecipeError, match="rounds 0"):
        grid_odds(torch.zeros(2, 2), 0.1, 0.3, rounds=0)
