"""Turbo-VBI at work: the optimizer fits q(w) on batches, and now and then q(rho), q(s) and the messages are renewed.

before a step   grad mu += k/N E[rho] mu,  grad ln sigma^2 += k/N (E[rho] sigma^2 - 1)/2   (k ramps from 0 to 1)
after some      q(rho) and q(s) in closed form, message passing, new P(s)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ...core.errors import RecipeError, TargetError
from ...core.schedule import resolve_step
from .. import ranks
from ..method import Method
from ..optimizer_state import grad_scale
from ..sparsifier import Sparsifier
from ..targets import Rules
from .messages import em_step
from .posterior import Posterior
from .prior import CLIP, Prior, Support, alternate


@dataclass(frozen=True, repr=False)
class Variational(Method):
    """A method that prunes nothing: attached to a net with posteriors (`bayesian_`), it infers them.

    Parameters:
        criterion: the prior, a `Support`. images: N, how many training images the loss is a mean over.
        ramp: step (or share of the run) from which the whole KL divergence counts. warmup: from which supports are
            inferred; before it every weight has the layer's own Gaussian prior. every: steps (or share) between
            exchanges. em: fit p01 and p10 as well.

    >>> Variational(criterion=Support("row"), images=1000).resolve(200).every
    2
    """

    kind: ClassVar[str] = "variational"
    name: str = "variational"
    criterion: Any = Support()
    images: int | None = None
    ramp: int | float = 0.4
    warmup: int | float = 0.2
    every: int | float = 0.01
    em: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.criterion, Support):
            raise RecipeError(f"the criterion of a {self.name} holds the prior: Support(…); got {self.criterion!r}")

    def resolve(self, steps: int | None) -> Method:
        """Fractions of the run become steps."""
        found = {name: resolve_step(getattr(self, name), steps, name) for name in ("ramp", "warmup", "every")}
        return self.replace(**{name: max(1, value or 1) for name, value in found.items()})

    def check(self) -> None:
        """Raise RecipeError unless the number of training images is known."""
        if self.images is None or self.images < 1:
            raise RecipeError(
                f"images is {self.images!r}; the KL divergence counts once per data set: give the number of "
                f"training images, 1 or more"
            )

    def attach(self, model: nn.Module, optimizer: Any, targets: Rules = None, ignore: Rules = None, **more: Any) -> Any:
        """An `Inference`; arguments and errors as in `Method.attach`."""
        return Inference(self, model, optimizer, targets, ignore, **more)


class Inference(Sparsifier):
    """A `Variational` at work on one model and one optimizer. All of its state lies in the layers' buffers.

    Raises:
        TargetError: no layer has a posterior. RecipeError: ``images`` is missing or below 1.

    >>> from .layers import bayesian_
    >>> net = bayesian_(nn.Sequential(nn.Linear(4, 2)))
    >>> Variational().attach(net, torch.optim.Adam(net.parameters()), steps=100)
    Traceback (most recent call last):
    sparseland.core.errors.RecipeError: images is None; the KL divergence counts once per data set: give the number of \
training images, 1 or more
    """

    method: Variational

    def __init__(self, method: Variational, model: nn.Module, *args: Any, **more: Any) -> None:
        method.check()
        self.posterior = Posterior(model, method.criterion)
        self.layers = self.posterior.layers
        if any(ranks.is_sharded(layer.weight) for layer in self.layers.values()):
            raise TargetError("posteriors of sharded (FSDP2) weights cannot be inferred: chains need whole rows")
        super().__init__(method, model, *args, **more)
        if not self.step:
            for name in self.layers:
                self._begin(name)

    # --- q(w) ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _before_update(self, first: bool) -> None:
        super()._before_update(first)
        assert self.method.images is not None
        share = min(1.0, self.step / self.method.ramp) / self.method.images * grad_scale(self.optimizer)
        for layer in self.layers.values():
            if layer.weight.grad is None or layer.log_var.grad is None:
                continue
            layer.weight.grad.addcmul_(layer.precision, layer.weight, value=share)
            excess = layer.precision.flatten() * layer.log_var.exp() - 1
            layer.log_var.grad.add_(excess, alpha=share / 2)

    # --- q(rho), q(s) -------------------------------------------------------------------------------------------

    def _after_update(self) -> None:
        super()._after_update()
        age, every = self.step - int(self.method.warmup), int(self.method.every)
        if age >= 0 and age % every == 0:
            self.exchange_()
        elif age < 0 and self.step % every == 0:
            for name in self.layers:
                self._begin(name)

    def _begin(self, name: str) -> None:
        """Before supports are inferred: one Gaussian for the layer, its variance a/b or the mean square."""
        layer, support = self.layers[name], self.method.criterion
        with torch.no_grad():
            power = float((layer.weight.square() + layer.variance).mean())
            layer.precision.fill_(1 / max(power, 1e-12) if support.b is None else support.a / support.b)
            layer.odds.fill_(support.of(power).odds)
            layer.prior_odds.copy_(layer.odds)

    @torch.no_grad()
    def exchange_(self) -> None:
        """One exchange in every layer; the first one fixes the prior's numbers and says which guards do not hold."""
        support = self.method.criterion
        for name, layer in self.layers.items():
            square = support.matrix(layer.weight.square() + layer.variance)
            if bool(layer.numbers.isnan().any()):
                self._fix(name, support.of(float(square.mean())))
            found = alternate(
                self.posterior.prior(name), square, support.matrix(layer.odds), support.matrix(layer.prior_odds)
            )
            for buffer, value in zip((layer.precision, layer.odds, layer.prior_odds), found, strict=True):
                buffer.copy_(support.shaped(value, layer.weight))
            if self.method.em and support.chain != "iid":
                self._fit(name)

    def _fix(self, name: str, prior: Prior) -> None:
        for sentence in prior.warnings():
            warnings.warn(f"{name}: {sentence}", stacklevel=2)
        self._write(name, prior)
        self.layers[name].odds.fill_(prior.odds)
        self.layers[name].prior_odds.fill_(prior.odds)

    def _write(self, name: str, prior: Prior) -> None:
        numbers = (prior.a, prior.b, prior.a_off, prior.b_off, prior.p01, prior.p10)
        self.layers[name].numbers.copy_(torch.tensor(numbers, dtype=torch.float64))

    def _fit(self, name: str) -> None:
        """EM of the transitions, along the chain's own direction (of a grid: its rows)."""
        layer, support, prior = self.layers[name], self.method.criterion, self.posterior.prior(name)
        shape, rate = prior.gamma(layer.odds.sigmoid(), layer.weight.square() + layer.variance)
        evidence = support.matrix(prior.evidence(shape, rate)).clamp(-CLIP, CLIP)
        p01, p10 = em_step(evidence.T if support.chain == "col" else evidence, prior.p01, prior.p10)
        self._write(name, Prior(prior.a, prior.b, prior.a_off, prior.b_off, p01, p10, prior.chain))
