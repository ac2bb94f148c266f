"""The hierarchical prior: coordinate updates, the bound, fixed points, the two guards."""

from __future__ import annotations

import math

import pytest
import torch

from sparseland.core import Magnitude, Stats
from sparseland.core.errors import RecipeError
from sparseland.weights.turbo import Prior, Support, alternate

CARD = Prior(a=4, b=0.08, a_off=4, b_off=8e-4, p01=1.5e-7, p10=0.3)


def settled(prior: Prior, support: float, steps: int = 150) -> tuple[float, float]:
    """(E rho, s~) where a weight without data ends: its posterior is N(0, 1/E rho)."""
    precision = torch.tensor(prior.a / prior.b if support > 0.5 else prior.a_off / prior.b_off, dtype=torch.float64)
    on = torch.tensor(support, dtype=torch.float64)
    for _ in range(steps):
        shape, rate = prior.gamma(on, 1 / precision)
        precision = shape / rate
        on = (prior.odds + prior.evidence(shape, rate)).sigmoid()
    return float(precision), float(on)


@pytest.mark.parametrize("a", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("ratio", [20.0, 100.0])
def test_the_fixed_point_of_a_weight_without_data_is_the_formula(a: float, ratio: float) -> None:
    """Active, E rho = a/b; it lasts exactly where logit lambda + a (ln(b/b_off) - 1 + b_off/b) > 0, up to s~ < 1."""
    b, formula = 0.02 * a, a * (math.log(ratio) - 1 + 1 / ratio)
    for margin, stays in ((8.0, True), (-2.0, False)):  # 8: s~ is 1 to 1e-3
        rate = 1 / (1 + math.exp(formula - margin))
        prior = Prior(a, b, a, b / ratio, rate, 1 - rate, "iid")
        assert prior.useless() == pytest.approx(formula, rel=1e-9)
        assert prior.guards()["useless"] == pytest.approx(margin, rel=1e-6) and prior.guards()["stable"] is stays
        precision, support = settled(prior, 1.0)
        assert (support > 0.5) is stays
        expected = a / b if stays else a * ratio / b
        assert precision == pytest.approx(expected, rel=0.05)


def test_coordinate_updates_raise_the_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = Prior(2, 0.04, 3, 4e-4, 0.05, 0.3)
    square = (0.3 * torch.randn(6, 9, generator=generator, dtype=torch.float64)) ** 2
    odds = torch.randn(6, 9, generator=generator, dtype=torch.float64)  # of an independent prior
    support = torch.rand(6, 9, generator=generator, dtype=torch.float64)
    shape, rate = torch.full_like(square, 1.5), torch.full_like(square, 0.1)
    bound = float(prior.elbo(support, shape, rate, square, odds))
    for _ in range(5):
        shape, rate = prior.gamma(support, square)
        after = float(prior.elbo(support, shape, rate, square, odds))
        assert after >= bound - 1e-9
        support = (odds + prior.evidence(shape, rate)).sigmoid()
        bound = float(prior.elbo(support, shape, rate, square, odds))
        assert bound >= after - 1e-9
    # the optimum of each factor: no other value of it is better
    for other in (support * 0.9, support * 0.9 + 0.1):
        assert float(prior.elbo(other, shape, rate, square, odds)) < bound


def test_the_bound_against_sampling() -> None:
    """One weight: the analytic terms are expectations under q."""
    prior = Prior(2, 0.04, 3, 4e-4, 0.2, 0.3)
    shape, rate, square, support, odds = (torch.tensor([v], dtype=torch.float64) for v in (3.0, 0.05, 0.02, 0.3, -1.0))
    torch.manual_seed(0)
    gamma = torch.distributions.Gamma(shape, rate)
    rho = gamma.sample((200_000,))
    on, off = (torch.distributions.Gamma(torch.tensor(a), torch.tensor(b)) for a, b in ((2.0, 0.04), (3.0, 4e-4)))
    drawn = 0.5 * rho.log() - 0.5 * rho * square - gamma.log_prob(rho)
    drawn = drawn + support * on.log_prob(rho.float()) + (1 - support) * off.log_prob(rho.float())
    s = float(support)
    rest = s * math.log(1 / (1 + math.e)) + (1 - s) * math.log(math.e / (1 + math.e))
    rest -= s * math.log(s) + (1 - s) * math.log(1 - s)
    assert float(prior.elbo(support, shape, rate, square, odds)) == pytest.approx(float(drawn.mean()) + rest, abs=0.3)


def test_evidence_is_capped() -> None:
    squares = torch.logspace(-6, 8, 50, dtype=torch.float64)
    evidence = CARD.evidence(*CARD.gamma(torch.ones_like(squares), squares))
    assert bool((evidence.diff() > 0).all()) and float(evidence[-1]) == pytest.approx(4 * math.log(100), rel=1e-6)
    assert float(evidence.max()) <= CARD.cap() == pytest.approx(4 * math.log(100))
    odd = Prior(2, 0.04, 3, 4e-4, 0.2, 0.3)
    assert float(odd.evidence(*odd.gamma(torch.ones_like(squares), squares)).max()) <= odd.cap() + 1e-2


@pytest.mark.parametrize(
    ("prior", "stable", "isolated"),
    [
        (CARD, False, True),
        (Prior(1, 0.02, 1, 0.02 / 30, 0.01, 0.19), False, False),  # the card: accuracy .94 -> .48
        (Prior(2, 0.04, 2, 4e-4, 1e-3, 0.3), True, True),
    ],
)
def test_guard_two_is_what_happens_to_a_lone_weight(prior: Prior, stable: bool, isolated: bool) -> None:
    assert prior.guards()["stable"] is stable and prior.guards()["isolated"] is isolated
    square = torch.full((1, 41), prior.b_off / prior.a_off, dtype=torch.float64)
    square[0, 20] = 1e6  # as useful as it can be
    odds = torch.full_like(square, prior.odds)
    prior_odds = odds.clone()
    for _ in range(30):
        _, odds, prior_odds = alternate(prior, square, odds, prior_odds)
    assert (float(odds[0, 20]) > 0) is isolated
    assert bool((odds[0, :15] < 0).all())


def test_warnings_name_values_that_hold() -> None:
    assert CARD.warnings() == []
    (first,) = Prior(2, 0.04, 2, 4e-4, 1e-3, 0.3).warnings()
    limit = float(first.split("p01 ≤ ")[1].split()[0])
    assert not Prior(2, 0.04, 2, 4e-4, 0.99 * limit, 0.3).guards()["stable"]
    bad = Prior(1, 0.02, 1, 0.02 / 30, 0.01, 0.19)
    (second,) = bad.warnings()
    shape = float(second.split("a ≥ ")[1].split()[0])
    assert Prior(1.01 * shape, 0.02, 1.01 * shape, 0.02 / 30, 0.01, 0.19).guards()["isolated"]
    rate = float(second.split("b_off ≤ ")[1].split()[0])
    assert Prior(1, 0.02, 1, 0.99 * rate, 0.01, 0.19).guards()["isolated"]


def test_both_guards_need_a_large_shape() -> None:
    """Guard 1 at its limit leaves ln lambda = -a (ln(b/b_off) - 1); guard 2 then needs a > -2 ln p10, about."""
    fine, short = Support("row", a=2.7).of(0.02), Support("row", a=2.0).of(0.02)
    assert not fine.guards()["stable"] and fine.guards()["isolated"]
    assert not short.guards()["stable"] and not short.guards()["isolated"]


def test_the_exchange_is_extrinsic() -> None:
    """Ten sweeps over an uncoupled chain end where ten sweeps over independent supports do: nothing counted twice."""
    square = torch.rand(3, 8, dtype=torch.float64) * 0.1
    chain, iid = (Prior(2, 0.04, 2, 4e-4, 0.1, 0.9, kind) for kind in ("row", "iid"))
    odds = {p: (torch.full_like(square, p.odds),) * 2 for p in (chain, iid)}
    for _ in range(10):
        odds = {p: alternate(p, square, *odds[p])[1:] for p in (chain, iid)}
    torch.testing.assert_close(odds[chain][0], odds[iid][0])


@pytest.mark.parametrize("name", ["a", "b", "a_off", "b_off"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_numbers_must_be_positive(name: str, value: float) -> None:
    numbers = {"a": 2, "b": 0.04, "a_off": 2, "b_off": 4e-4, "p01": 0.1, "p10": 0.3}
    with pytest.raises(RecipeError, match=f"{name} is"):
        Prior(**(numbers | {name: value}))


def test_inactive_must_be_more_precise() -> None:
    with pytest.raises(RecipeError, match=r"inactive must be more precise.*possible: b_off < 0.02"):
        Prior(1, 0.02, 1, 0.02, 0.1, 0.3)
    with pytest.raises(RecipeError, match="inactive must be more precise"):
        Support(a=2, b=0.04, b_off=0.1)
    with pytest.raises(RecipeError, match="inside"):
        Support(p10=1.0)
    with pytest.raises(RecipeError, match="unknown support prior 'cols'"):
        Support("cols")
    with pytest.raises(RecipeError, match="order is 'taps'"):
        Support(order="taps")
    with pytest.raises(RecipeError, match="sweeps is 0"):
        Support(sweeps=0)


# ------------------------------------------------------------------------------------------------------- the criterion
def test_independent_supports_rank_as_magnitude() -> None:
    weight = torch.randn(6, 10)
    scores = Support("iid")(weight, Stats())
    assert torch.equal(scores.flatten().argsort(), Magnitude()(weight, Stats()).flatten().argsort())


def test_neighbours_vote() -> None:
    weight = torch.full((2, 12), 0.01)
    weight[0, 2:7] = torch.tensor([1.0, 1.0, 0.35, 1.0, 1.0])
    weight[1, 4] = 0.35
    scores = Support("row")(weight, Stats())
    assert float(scores[0, 4]) > float(scores[1, 4]) + 1
    columns = Support("col")(weight.T.contiguous(), Stats()).T
    torch.testing.assert_close(columns, scores)


def test_convolutions_are_laid_out_on_purpose() -> None:
    weight = torch.randn(4, 3, 2, 5)
    channel, kernel = Support(order="channel"), Support(order="kernel")
    assert channel.matrix(weight)[1, 0:2].tolist() == weight[1, 0, 0, 0:2].tolist()  # taps of one channel
    assert kernel.matrix(weight)[1, 0:3].tolist() == weight[1, :, 0, 0].tolist()  # channels of one tap
    for support in (channel, kernel):
        assert torch.equal(support.shaped(support.matrix(weight), weight), weight)
        assert support(weight, Stats()).shape == weight.shape
    assert Support.from_dict(kernel.to_dict()) == kernel
