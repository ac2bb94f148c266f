"""The three layers of the prior, w | rho | s, its coordinate updates, and the two guards of its hyperparameters.

w_n | rho_n ~ N(0, 1/rho_n);  rho_n | s_n ~ Gamma(a, b) if s_n = 1, Gamma(a_off, b_off) if s_n = 0 (shape, rate);
s ~ Markov chains (see `messages`). Posterior, factor by factor: N(mu, sigma^2), Gamma(a~, b~), Bernoulli(s~).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.criterion import Criterion, Stats
from ...core.errors import RecipeError, nearest
from .messages import CHAINS, check_transitions, stationary_odds, support_odds

CLIP = 30.0  # of the evidence that enters messages
ORDERS = ("channel", "kernel")


@dataclass(frozen=True)
class Prior:
    """The prior of one layer, all numbers known.

    Parameters:
        a, b: shape and rate of the precision of an active weight: a/b is about 1 over its typical square. > 0.
        a_off, b_off: of an inactive one; a_off/b_off must exceed a/b.
        p01, p10: P(1|0) and P(0|1) of the support's chains, in (0, 1); clusters have mean length 1/p10.
        chain: "row", "col", "grid" or "iid".

    Raises:
        RecipeError: a number outside of its range; inactive weights that are not more precise than active ones.

    >>> prior = Prior(a=4, b=0.08, a_off=4, b_off=8e-4, p01=1.5e-7, p10=0.3)
    >>> prior.guards()["stable"], prior.guards()["isolated"]  # useless weights fall off; one lone weight can stay
    (False, True)
    """

    a: float
    b: float
    a_off: float
    b_off: float
    p01: float
    p10: float
    chain: str = "row"

    def __post_init__(self) -> None:
        for name in ("a", "b", "a_off", "b_off"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise RecipeError(f"{name} is {value!r}; shapes and rates of the precisions are numbers > 0")
        if self.a_off / self.b_off <= self.a / self.b:
            raise RecipeError(
                f"inactive must be more precise: a_off/b_off is {self.a_off / self.b_off:g}, a/b is "
                f"{self.a / self.b:g}; possible: b_off < {self.a_off * self.b / self.a:g}"
            )
        check_transitions(self.p01, self.p10)
        if self.chain not in CHAINS:
            raise RecipeError(f"unknown support prior {self.chain!r}: {nearest(self.chain, CHAINS)}")

    @property
    def odds(self) -> float:
        """logit lambda of the stationary law."""
        return stationary_odds(self.p01, self.p10)

    # --- coordinate updates -------------------------------------------------------------------------------------

    def gamma(self, support: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        """q(rho): a~ = 1/2 + s~ a + (1 - s~) a_off, b~ = (mu^2 + sigma^2)/2 + s~ b + (1 - s~) b_off (real weights).

        support: s~ in [0, 1]. square: mu^2 + sigma^2, >= 0.
        """
        shape = 0.5 + support * self.a + (1 - support) * self.a_off
        return shape, square / 2 + support * self.b + (1 - support) * self.b_off

    def evidence(self, shape: Tensor, rate: Tensor) -> Tensor:
        """e = E ln Gamma(rho; a, b) - E ln Gamma(rho; a_off, b_off) under q(rho) = Gamma(shape, rate).

        With a = a_off that is a ln(b/b_off) - (b - b_off) E rho, at most a ln(b/b_off) however large the weight.

        >>> prior = Prior(1, 0.02, 1, 2e-4, 0.01, 0.3)
        >>> e = prior.evidence(*prior.gamma(torch.ones(2), torch.tensor([0.0, 9.0])))
        >>> bool(e[0] < e[1] < math.log(100))
        True
        """
        mean, log = shape / rate, torch.digamma(shape) - torch.log(rate)
        on = self.a * math.log(self.b) - math.lgamma(self.a) + (self.a - 1) * log - self.b * mean
        off = self.a_off * math.log(self.b_off) - math.lgamma(self.a_off) + (self.a_off - 1) * log - self.b_off * mean
        return on - off

    def elbo(self, support: Tensor, shape: Tensor, rate: Tensor, square: Tensor, odds: Tensor) -> Tensor:
        """The terms of the evidence lower bound that hold rho and s, for independent P(s_n = 1) = sigmoid(odds).

        Equation: sum of 1/2 E ln rho - 1/2 E rho (mu^2 + sigma^2) + E ln p(rho|s) + E ln p(s) + H(q(rho)) + H(q(s)).
        """
        mean, log = shape / rate, torch.digamma(shape) - torch.log(rate)
        likelihood = 0.5 * log - 0.5 * mean * square
        off = self.a_off * math.log(self.b_off) - math.lgamma(self.a_off) + (self.a_off - 1) * log - self.b_off * mean
        gammas = off + support * self.evidence(shape, rate)
        entropy = shape - torch.log(rate) + torch.lgamma(shape) + (1 - shape) * torch.digamma(shape)
        log1, log0 = torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds)
        bernoulli = support * log1 + (1 - support) * log0
        bernoulli = bernoulli - torch.special.xlogy(support, support) - torch.special.xlogy(1 - support, 1 - support)
        bound: Tensor = (likelihood + gammas + entropy + bernoulli).sum()
        return bound

    # --- guards -------------------------------------------------------------------------------------------------

    def useless(self) -> float:
        """Evidence of an active weight without data, whose posterior is N(0, b/a): a (ln(b/b_off) - 1 + b_off/b).

        It stays active, for ever, where logit lambda + this is above 0 (the formula is that of a = a_off).
        """
        ones = torch.ones((), dtype=torch.float64)
        return float(self.evidence(*self.gamma(ones, ones * self.b / self.a)))

    def cap(self) -> float:
        """The most evidence that a weight can give: a ln(b/b_off) with a = a_off, else the most over all squares."""
        if self.a == self.a_off:
            return self.a * math.log(self.b / self.b_off)
        squares = self.b_off * torch.logspace(-6, 12, 721, dtype=torch.float64)
        return float(self.evidence(*self.gamma(torch.ones_like(squares), squares)).max())

    def guards(self) -> dict[str, float | bool]:
        """What becomes of a weight without data and of a lone useful one.

        Returns:
            {"useless": logit lambda + `useless` (above 0: such weights stay), "stable": whether they do,
            "lone": `cap` + ln(p01 p10), of a chain (iid: `cap` + logit lambda), "isolated": whether it can survive}
        """
        useless = self.odds + self.useless()
        lone = self.cap() + (self.odds if self.chain == "iid" else math.log(self.p01) + math.log(self.p10))
        return {"useless": useless, "stable": useless > 0, "lone": lone, "isolated": lone > 0}

    def warnings(self) -> list[str]:
        """One sentence for each guard that does not hold, with values that satisfy it."""
        found, guards = [], self.guards()
        if guards["stable"]:
            found.append(
                f"weights without any data stay active (logit lambda + {self.useless():.2f} = "
                f"{guards['useless']:.2f} > 0): p01 ≤ {self.p10 * math.exp(-self.useless()):.3g} would let them go"
            )
        if not guards["isolated"]:
            needed = (self.cap() - float(guards["lone"])) / math.log(self.b / self.b_off)
            found.append(
                f"a lone useful weight is deleted however large (evidence at most {self.cap():.2f}, "
                f"{-float(guards['lone']):.2f} short): a ≥ {needed:.3g} or b_off ≤ "
                f"{self.b_off * math.exp(float(guards['lone']) / self.a):.3g} would let it stay"
            )
        return found


def alternate(prior: Prior, square: Tensor, odds: Tensor, prior_odds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One exchange: q(rho) from s~, the evidence, q(s), and messages that turn the evidence into a new P(s).

    square: mu^2 + sigma^2 [R, C]; odds: of s~; prior_odds: logit pi, what `support_odds` said last.

    Returns:
        (E rho, odds, prior_odds). The messages get the evidence alone, never s~, which holds it already.
    """
    shape, rate = prior.gamma(odds.sigmoid(), square)
    evidence = prior.evidence(shape, rate)
    odds = prior_odds + evidence
    return shape / rate, odds, support_odds(evidence.clamp(-CLIP, CLIP), prior.chain, prior.p01, prior.p10)


@dataclass(frozen=True, repr=False)
class Support(Criterion):
    """Posterior log-odds that a weight is active, logit pi_n + e_n, under the three-layer prior.

    On a plain tensor the weights are taken as known (sigma = 0) and ``sweeps`` exchanges are made: magnitude pruning
    in which neighbours vote. With a trained posterior see `Inference`.

    Parameters:
        chain: "row", "col", "grid" or "iid" (which ranks as |w| does, within a layer).
        a, a_off: shapes, > 0 (a_off None: as a). b: None is a times the mean square of the layer's weights.
        b_off: None is b/100. p10: P(0|1). p01: None is the largest for which weights without data fall off (guard 1).
        order: how convolutions are laid out along a row: "channel" (the taps of one input channel stand together) or
            "kernel" (the channels of one tap do).

    >>> w = torch.tensor([[0.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0]])
    >>> scores = Support("row")(w, Stats())[0]
    >>> bool(scores[0] > scores[8]), bool(Support("iid")(w, Stats())[0, 0] == Support("iid")(w, Stats())[0, 8])
    (True, True)
    """

    kind: ClassVar[str] = "support"
    chain: str = "row"
    a: float = 4.0
    b: float | None = None
    a_off: float | None = None
    b_off: float | None = None
    p01: float | None = None
    p10: float = 0.3
    order: str = "channel"
    sweeps: int = 5

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise RecipeError(f"order is {self.order!r}; {nearest(self.order, ORDERS)}")
        if self.sweeps < 1:
            raise RecipeError(f"sweeps is {self.sweeps!r}; possible: 1 or more")
        self.of(1.0)

    def of(self, power: float) -> Prior:
        """The prior of a layer whose weights have the mean square ``power``, > 0."""
        b = self.a * max(power, 1e-12) if self.b is None else self.b
        a_off = self.a if self.a_off is None else self.a_off
        b_off = b / 100 if self.b_off is None else self.b_off
        if self.p01 is not None:
            return Prior(self.a, b, a_off, b_off, self.p01, self.p10, self.chain)
        free = Prior(self.a, b, a_off, b_off, 0.5, self.p10, self.chain)
        odds = min(-free.useless() - 0.05, math.log(0.5))  # a little inside of the guard
        return Prior(self.a, b, a_off, b_off, min(self.p10 * math.exp(odds), 0.5), self.p10, self.chain)

    def matrix(self, weight: Tensor) -> Tensor:
        """[out, in] or [out, in, taps …] as [R, C], in the order of the chains."""
        return (weight.movedim(1, -1) if self.order == "kernel" else weight).reshape(weight.shape[0], -1)

    def shaped(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of `matrix`, for a weight shaped as ``like``."""
        if self.order == "channel" or like.ndim < 3:
            return matrix.reshape(like.shape)
        return matrix.reshape(like.movedim(1, -1).shape).movedim(-1, 1)

    def __call__(self, weight: Tensor, stats: Stats) -> Tensor:
        square = self.matrix(weight.float()).square()
        prior = self.of(float(square.mean()))
        prior_odds = odds = torch.full_like(square, prior.odds)
        for _ in range(self.sweeps):
            _, odds, prior_odds = alternate(prior, square, odds, prior_odds)
        shape, rate = prior.gamma(odds.sigmoid(), square)
        return self.shaped(prior_odds + prior.evidence(shape, rate), weight)

    def __str__(self) -> str:
        return repr(self)
