"""The estimator that all six models share: settings, fit, one EM step as a pure function, questions to posteriors."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...core.errors import SparselandError
from . import checking, inference, parallel, training
from .annealing import Annealing
from .em import Heat, Parameters, Part, Table, Truncation, em_step
from .inference import Posterior
from .manners import Manners, column_names

Self = TypeVar("Self", bound="SparseCoding")


class SparseCoding(Manners, ABC):
    """Base of BSC, TSC, DSC, MCA, MMCA and GSC: probabilistic sparse coding learned by truncated EM.

    Parameters, for all models:
        n_components: H, number of latents (dictionary elements). candidates: H' ≤ H latents that each point looks at
        (None: min(H, 8)). gamma: γ ≤ H', most causes of a state (None: min(H', 4)).
        max_iter: EM steps. tol: stop once the annealing is over and the gain per step is below it (None: never).
        annealing: an `Annealing`, or None (T = 1, no data cut). noise_policy: ``{"W": (low, high, absolute), …}``, how
        parameters are clipped after the annealing's noise. n_restarts: runs from other starts; the best one stays.
        batch_size: points of a chunk (None: what fits the cache). init: starting values of some or all parameters.
        dtype: "float64" or "float32". checkpoint: a file; written every ``checkpoint_every`` steps, resumed from.
        random_state: None, an integer or a NumPy generator. verbose: 0 silent, 1 a progress bar or ten lines.

    Every model names these settings again in its own ``__init__``: scikit-learn reads them from that signature.

    After `fit`: ``components_`` (H, D), ``pi_``, ``sigma_``, ``mean_`` (D,), ``log_likelihood_`` per point at T = 1,
    ``log_likelihoods_`` (of the parameters each step began with, at its temperature), ``n_iter_``, ``n_features_in_``,
    ``params_`` (tensors). Arrays are NumPy's, or tensors on the data's device where the data were a tensor.
    """

    def __init__(
        self,
        n_components: int = 16,
        *,
        candidates: int | None = None,
        gamma: int | None = None,
        max_iter: int = 100,
        tol: float | None = None,
        annealing: Annealing | None = None,
        noise_policy: Mapping[str, tuple[float, float, bool]] | None = None,
        n_restarts: int = 1,
        batch_size: int | None = None,
        init: Mapping[str, Any] | None = None,
        dtype: str = "float64",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.candidates = candidates
        self.gamma = gamma
        self.max_iter = max_iter
        self.tol = tol
        self.annealing = annealing
        self.noise_policy = noise_policy
        self.n_restarts = n_restarts
        self.batch_size = batch_size
        self.init = init
        self.dtype = dtype
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.random_state = random_state
        self.verbose = verbose

    # --------------------------------------------------------------------------------------------- what a model brings
    def _shapes(self, H: int, D: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters."""
        return {"W": (H, D), "pi": (), "sigma": ()}

    def _initial(self, size: Truncation, mean: Tensor, spread: Tensor, generator: torch.Generator) -> Parameters:
        """A start: W_h = mean + N(0, (σ₀/4)²), π = 1/H, σ = σ₀, the mean over the features of the data's deviation."""
        sigma = spread.mean()
        noise = torch.randn(size.components, len(mean), generator=generator, dtype=torch.float64).to(mean)
        W = mean + 0.25 * sigma * noise
        return {"W": W, "pi": mean.new_tensor(min(0.5, 1.0 / size.components)), "sigma": sigma}

    def _valid(self, parameters: Parameters) -> Parameters:
        """Parameters pulled back into the ranges in which the model is defined."""
        tiny = torch.finfo(torch.float32).tiny
        return parameters | {
            "pi": parameters["pi"].clamp(1e-10, 1 - 1e-7),
            "sigma": parameters["sigma"].clamp_min(tiny**0.5),
        }

    def _check_settings(self) -> None:
        """Refuse settings of the model's own."""

    def _check_parameters(self, parameters: Parameters) -> None:
        """Refuse starting values that each are in range, but not together."""

    def _check_data(self, Y: Tensor) -> None:
        """Refuse data that the model cannot explain."""

    def _obeys_cut(self) -> bool:
        """Whether the data cut applies."""
        return True

    @abstractmethod
    def _choices(self) -> int:
        """How many non-zero values a latent has."""

    @abstractmethod
    def _prepare(self, parameters: Parameters, size: Truncation, heat: Heat) -> Any:
        """What one step computes once; has at least parameters, size, heat, states, singles and values."""

    @abstractmethod
    def _split(self, prepared: Any, Y: Tensor, batch: int | None) -> Iterator[Part]:
        """Rows of Y in chunks that fit the cache, or of ``batch`` points, with their candidates, if they are known."""

    @abstractmethod
    def _joint(self, prepared: Any, Y: Tensor, known: Tensor | None = None) -> Table:
        """F_n(s) of all states, but for `_offset` and `_log_constant`; known: the candidates, from `_split`."""

    @abstractmethod
    def _offset(self, prepared: Any, Y: Tensor) -> Tensor:
        """(n,) the part of F that all states of a point share."""

    @abstractmethod
    def _statistics(self, prepared: Any, Y: Tensor, posterior: Table, weight: Tensor) -> dict[str, Tensor]:
        """Sums over the points that the new parameters are made of; weight (n, 1) is 0 for a point that is left out,
        whose probabilities are 0 already."""

    @abstractmethod
    def _maximise(self, prepared: Any, sums: dict[str, Tensor], points: int) -> Parameters:
        """The new parameters."""

    @abstractmethod
    def _log_constant(self, prepared: Any) -> float:
        """The part of the log-likelihood that all points share."""

    @abstractmethod
    def _log_mass(self, prepared: Any) -> float:
        """log A, the prior's mass on at most γ causes."""

    @abstractmethod
    def _means(self, prepared: Any, posterior: Table) -> Tensor:
        """(n, H) posterior means."""

    @abstractmethod
    def _reconstruct(self, prepared: Any, Y: Tensor, posterior: Table) -> Tensor:
        """(n, D) posterior mean of the superposition."""

    @abstractmethod
    def _superpose(self, parameters: Parameters, S: Tensor) -> Tensor:
        """(n, D) what codes (n, H) stand for."""

    @abstractmethod
    def _draw(self, parameters: Parameters, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n`` latents and points."""

    # -------------------------------------------------------------------------------------------------------- learning
    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Learn the parameters from ``X`` (N, D); returns the model.

        Under torch.distributed every process gives its own part of the data (`shard`); all get the same parameters.

        Raises:
            SparselandError: settings or data that the model forbids; said on every process.
            ResumeError: the checkpoint belongs to other data or settings.
        """
        problem: Exception | None = None
        try:
            size = self._size()
            Y, wrap = checking.as_tensor(X, self.dtype)
            self._check_data(Y)
        except (ValueError, TypeError) as error:
            problem = error
        elsewhere = parallel.anywhere(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        if elsewhere:
            raise SparselandError(elsewhere)
        parameters, history, final = training.train(self, Y, size)
        names = column_names(X)
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self._publish(parameters, wrap)
        self.log_likelihoods_ = history
        self.log_likelihood_ = final
        self.n_iter_ = len(history)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `transform` of the same points."""
        return self.fit(X).transform(X)

    def step(
        self,
        params: Mapping[str, Any],
        X: Any,
        *,
        T: float = 1.0,
        Ncut_factor: float = 0.0,
        anneal_prior: bool = False,
    ) -> tuple[Parameters, float]:
        """One EM step as a pure function: new parameters, and the log-likelihood per point of the old ones.

        params: tensors or arrays by name, as in ``params_``. Over several processes ``X`` is each one's part.

        Raises:
            SparselandError: a parameter is missing, has the wrong shape or is out of range; T ≤ 0; no point is left.
        """
        values = Annealing(T=T, Ncut_factor=Ncut_factor, anneal_prior=anneal_prior).at(0, 1)
        size = self._size()
        Y, _ = checking.as_tensor(X, self.dtype)
        self._check_data(Y)
        given = checking.parameters(params, self._shapes(size.components, Y.shape[1]), Y)
        self._check_parameters(given)
        prepared = self._prepare(self._valid(given), size, Heat(values["T"], bool(anneal_prior)))
        new, likelihood, _ = em_step(self, prepared, Y, cut=values["Ncut_factor"], batch=self.batch_size)
        return self._valid(new), likelihood

    def _size(self) -> Truncation:
        self._check_settings()
        size = checking.truncation(self.n_components, self.candidates, self.gamma)
        checking.whole("max_iter", self.max_iter, 1)
        checking.whole("n_restarts", self.n_restarts, 1)
        checking.whole("checkpoint_every", self.checkpoint_every, 1)
        if self.batch_size is not None:
            checking.whole("batch_size", self.batch_size, 1)
        if self.annealing is not None and not isinstance(self.annealing, Annealing):
            raise TypeError(
                f"annealing={self.annealing!r} is {type(self.annealing).__name__}; possible: None or Annealing(…)"
            )
        return size

    def _publish(self, parameters: Parameters, wrap: checking.Wrap) -> None:
        self.params_ = parameters
        W = parameters["W"]
        self.components_ = wrap(W)
        self.n_features_in_ = W.shape[1]
        self.mean_ = wrap(
            parameters.get("mu", torch.zeros_like(W[0])) if "psi" not in parameters else torch.zeros_like(W[0])
        )
        pi = parameters["pi"]
        self.pi_ = wrap(pi) if pi.ndim else float(pi)
        if "sigma" in parameters:
            self.sigma_ = float(parameters["sigma"])

    # ------------------------------------------------------------------------------------------------------- inference
    def _ready(self, X: Any) -> tuple[Any, Tensor, checking.Wrap]:
        self._need_fit()
        Y, wrap = checking.as_tensor(X, self.dtype)
        self._same_columns(X, Y)
        self._check_data(Y)
        prepared = self._prepare({n: p.to(Y) for n, p in self.params_.items()}, self._size(), Heat())
        return prepared, Y, wrap

    def _same_columns(self, X: Any, Y: Tensor) -> None:
        if Y.shape[1] != self.n_features_in_:
            raise SparselandError(
                f"X has {Y.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input"
            )
        names, known = column_names(X), getattr(self, "feature_names_in_", None)
        inference.check_names(type(self).__name__, names, known)

    def transform(self, X: Any) -> Any:
        """Posterior means of the latents, (N, H); GSC: of s∘z."""
        prepared, Y, wrap = self._ready(X)
        return wrap(inference.collect(self, prepared, Y, self._means, self.batch_size))

    def score_samples(self, X: Any) -> Any:
        """Truncated log-likelihood of every point at T = 1, (N,)."""
        prepared, Y, wrap = self._ready(X)
        return wrap(inference.likelihoods(self, prepared, Y, self.batch_size))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: what ``log_likelihood_`` is on the training data."""
        prepared, Y, _ = self._ready(X)
        return float(inference.likelihoods(self, prepared, Y, self.batch_size).double().mean())

    def reconstruct(self, X: Any) -> Any:
        """Posterior mean of what the latents make of each point, (N, D): the data without the noise."""
        prepared, Y, wrap = self._ready(X)
        return wrap(inference.reconstruct(self, prepared, Y, self.batch_size))

    def inverse_transform(self, S: Any) -> Any:
        """The data that codes ``S`` (N, H) stand for, (N, D), by the model's superposition."""
        self._need_fit()
        codes, wrap = checking.as_tensor(S, self.dtype)
        if codes.shape[1] != len(self.params_["W"]):
            raise SparselandError(f"codes are {tuple(codes.shape)}; possible: (N, {len(self.params_['W'])})")
        return wrap(self._superpose({n: p.to(codes) for n, p in self.params_.items()}, codes))

    def posterior(
        self,
        X: Any,
        top: int = 10,
        adaptive: bool = False,
        candidates_max: int | None = None,
        gamma_max: int | None = None,
    ) -> Posterior:
        """The ``top`` most probable states of every point, marginals and means.

        adaptive: points whose best state has γ causes are looked at again with H'+1 and γ+1, until it has fewer or the
        caps (None: H'+3 and γ+3, at most H) are reached.
        """
        prepared, Y, wrap = self._ready(X)
        caps = (candidates_max, gamma_max)
        return inference.posterior(self, prepared, Y, checking.whole("top", top, 1), adaptive, caps).wrapped(wrap)

    def sample(self, n: int = 1, random_state: Any = None) -> tuple[Any, Any]:
        """``n`` points drawn from the model, (n, D), and the latents they were made of, (n, H)."""
        self._need_fit()
        generator = training.generator(training.seed_of(random_state))
        S, Y = self._draw(self.params_, checking.whole("n", n, 1), generator)
        tensors = isinstance(self.components_, Tensor)
        return (Y, S) if tensors else (Y.cpu().numpy(), S.cpu().numpy())
