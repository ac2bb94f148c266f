"""The loop of EM steps: starts, noise, subsets, restarts, checkpoints.

Every draw has its own seed, so that a resumed run, and a run on several processes, sees the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import SparselandError
from . import checking, checkpoint, inference, parallel
from .annealing import Annealing
from .em import Heat, Parameters, Truncation, em_step
from .progress import Progress

if TYPE_CHECKING:
    from .estimator import SparseCoding

NOISE_ROWS = 4096  # data noise is drawn in blocks of this many points, so that a process draws only its own


def train(model: SparseCoding, Y: Tensor, size: Truncation) -> tuple[Parameters, list[float], float]:
    """The best parameters of all restarts, the likelihood before each of their steps, and after the last."""
    seed = parallel.from_first(seed_of(model.random_state))
    run = _Run(model, Y, size, seed)
    best = run.best
    for restart in range(run.restart, model.n_restarts):
        found = run.one(restart)
        if best is None or found[2] > best[2]:
            best = found
        run.finished(restart, best)
    run.progress.close()
    assert best is not None
    return best


class _Run:
    """One call of `fit`: what it has done so far, and where it writes that down."""

    def __init__(self, model: SparseCoding, Y: Tensor, size: Truncation, seed: int) -> None:
        self.model, self.Y, self.size, self.seed = model, Y, size, seed
        self.first = parallel.first_row(Y)
        self.points, self.mean, self.spread = _moments(Y)
        self.annealing = model.annealing or Annealing()
        self.annealing.at(0, model.max_iter)  # positions that fall are found before any work
        self.policy = _policy(model, Y.shape[1])
        self.restart, self.step = 0, 0
        self.best: tuple[Parameters, list[float], float] | None = None
        self.current: tuple[Parameters, list[float]] | None = None
        self.path = None if model.checkpoint is None else Path(model.checkpoint)
        if self.path is not None:
            self._resume(self.path)
        total = model.n_restarts * model.max_iter
        self.progress = Progress(type(model).__name__, total, model.verbose if parallel.rank() == 0 else 0)

    # -------------------------------------------------------------------------------------------------------- one start
    def one(self, restart: int) -> tuple[Parameters, list[float], float]:
        """Train from one start (or go on where the checkpoint ends)."""
        model, steps = self.model, self.model.max_iter
        parameters, history = self.current or (self._start(restart), [])
        last = self.annealing.at(steps - 1, steps)
        for step in range(len(history), steps):
            values = self.annealing.at(step, steps)
            parameters = model._valid(self._noisy(parameters, values, restart, step))
            rows = self._subset(values["partial"], restart, step)
            Y = self.Y if rows is None else self.Y[rows]
            if values["data_noise"]:
                Y = self._noisy_data(values["data_noise"], rows, restart, step)
            heat = Heat(values["T"], values["anneal_prior"] >= 0.5)
            prepared = model._prepare(parameters, self.size, heat)
            parameters, likelihood, _ = em_step(model, prepared, Y, cut=values["Ncut_factor"], batch=model.batch_size)
            if not math.isfinite(likelihood):
                raise SparselandError(
                    f"the log-likelihood is {likelihood} at step {step} (T={values['T']:g}); the data or the start are "
                    "out of the range of the numbers: standardise X, or use dtype='float64'"
                )
            history.append(likelihood)
            self.progress.update(restart * steps + step + 1, likelihood, values["T"])
            if self.path is not None and (step + 1) % model.checkpoint_every == 0 and step + 1 < steps:
                self._write(self.path, restart, (parameters, history))
            if model.tol is not None and step and values == last and likelihood - history[-2] < model.tol:
                break
        self.current = None
        parameters = model._valid(parameters)
        return parameters, history, self._final(parameters)

    def _final(self, parameters: Parameters) -> float:
        model = self.model
        prepared = model._prepare(parameters, self.size, Heat())
        found = inference.likelihoods(model, prepared, self.Y, model.batch_size).double().sum()
        return float(parallel.total(found)) / self.points

    def _start(self, restart: int) -> Parameters:
        model, D = self.model, self.Y.shape[1]
        start = model._initial(self.size, self.mean, self.spread, generator(self.seed, restart, 0, "start"))
        start = {name: value.to(self.Y) for name, value in start.items()}
        if model.init is not None:
            strange = sorted(set(model.init) - set(start))
            if strange:
                raise SparselandError(f"init holds {', '.join(strange)}; this model has {', '.join(start)}")
            start |= checking.parameters(start | dict(model.init), model._shapes(self.size.components, D), self.Y)
            model._check_parameters(start)
        return start

    # ------------------------------------------------------------------------------------------------------------ noise
    def _noisy(self, parameters: Parameters, values: dict[str, float], restart: int, step: int) -> Parameters:
        noisy = dict(parameters)
        for name, (low, high, absolute) in self.policy.items():
            scale = values.get(f"{name}_noise", 0.0)
            if scale:
                value = parameters[name]
                noise = torch.randn(
                    value.shape, generator=generator(self.seed, restart, step, name), dtype=torch.float64
                )
                value = value + scale * noise.to(value)
                noisy[name] = (value.abs() if absolute else value).clamp(low, high)
        return noisy

    def _subset(self, partial: float, restart: int, step: int) -> Tensor | None:
        """This process's rows of a random subset of all points, the same for any number of processes."""
        if not 0.0 < partial < 1.0:
            return None
        chosen = torch.randperm(self.points, generator=generator(self.seed, restart, step, "subset"))
        chosen = chosen[: max(1, int(partial * self.points))] - self.first
        return chosen[(chosen >= 0) & (chosen < len(self.Y))].sort().values.to(self.Y.device)

    def _noisy_data(self, scale: float, rows: Tensor | None, restart: int, step: int) -> Tensor:
        noisy = self.Y.clone()
        last = self.first + len(noisy)
        for block in range(self.first // NOISE_ROWS, -(-last // NOISE_ROWS)):
            source = generator(self.seed, restart, step, "data", block)
            noise = torch.randn(NOISE_ROWS, noisy.shape[1], generator=source, dtype=torch.float64)
            begin, end = max(self.first, block * NOISE_ROWS), min(last, (block + 1) * NOISE_ROWS)
            part = noise[begin - block * NOISE_ROWS : end - block * NOISE_ROWS]
            noisy[begin - self.first : end - self.first] += scale * part.to(noisy)
        return noisy if rows is None else noisy[rows]

    # ------------------------------------------------------------------------------------------------------- checkpoint
    def _key(self) -> dict[str, Any]:
        model = self.model
        free = ("verbose", "checkpoint", "checkpoint_every", "n_restarts", "random_state", "batch_size", "init")
        settings = {name: repr(value) for name, value in model.get_params().items() if name not in free}
        total, square = (float(v) for v in (self.mean.sum(), self.spread.square().sum()))
        data = {"points": self.points, "features": self.Y.shape[1], "mean": total, "variance": square}
        return {"model": type(model).__name__, "seed": self.seed, "init": _digest(model.init), **settings, **data}

    def _resume(self, path: Path) -> None:
        problem: Exception | None = None
        found: Any = None
        if parallel.rank() == 0:
            try:
                checkpoint.prepare(path)
                found = checkpoint.load(path, self._key())
            except (ValueError, OSError) as error:
                problem = error
        elsewhere = parallel.anywhere(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        if elsewhere:
            raise SparselandError(elsewhere)
        found = parallel.from_first(found)
        if found is None:
            return
        state, groups = found
        place = {name: {n: t.to(self.Y.device) for n, t in group.items()} for name, group in groups.items()}
        self.restart = state["restart"]
        if "best" in place:
            self.best = (place["best"], list(state["best_history"]), state["best_final"])
        if "current" in place:
            self.current = (place["current"], list(state["history"]))

    def _write(self, path: Path, restart: int, current: tuple[Parameters, list[float]] | None) -> None:
        if parallel.rank() != 0:
            return
        state: dict[str, Any] = {"restart": restart}
        groups: dict[str, Parameters] = {}
        if current is not None:
            groups["current"], state["history"] = current
        if self.best is not None:
            groups["best"], state["best_history"], state["best_final"] = self.best
        checkpoint.save(path, self._key(), state, groups)

    def finished(self, restart: int, best: tuple[Parameters, list[float], float]) -> None:
        """Remember the best run so far."""
        self.best = best
        if self.path is not None:
            self._write(self.path, restart + 1, None)


def seed_of(random_state: Any) -> int:
    """An integer seed from None, an integer or a NumPy generator (which moves on by one draw)."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**62))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    if hasattr(random_state, "randint"):  # NumPy's older RandomState, or its module
        return int(random_state.randint(2**31 - 1))
    return checking.whole("random_state", random_state, 0)


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A generator of its own for every place at which something is drawn."""
    words = [int.from_bytes(hashlib.sha256(p.encode()).digest()[:4], "big") if isinstance(p, str) else p for p in place]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def _moments(Y: Tensor) -> tuple[int, Tensor, Tensor]:
    """Number of points, mean and standard deviation of every feature (D,) over all processes."""
    wide = Y.double()
    number = parallel.total(torch.tensor([len(Y), Y.shape[1]], device=Y.device))
    if int(number[1]) != Y.shape[1] * parallel.world():
        raise SparselandError(f"processes disagree on the number of features: this one has {Y.shape[1]}")
    points = int(number[0])
    mean = parallel.total(wide.sum(0)) / points
    variance = parallel.total((wide - mean).square().sum(0)) / points
    scale = float(parallel.total(wide.square().sum())) / (points * Y.shape[1])
    # one point, or a constant feature, has no spread to start from
    spread = variance.sqrt()
    if float(spread.mean()) <= 1e-6 * math.sqrt(scale):
        spread = spread + max(math.sqrt(scale), 1.0) * 1e-3
    return points, mean, spread


def _policy(model: SparseCoding, D: int) -> dict[str, tuple[float, float, bool]]:
    inf = math.inf
    policy = {"W": (-inf, inf, False), "pi": (1e-6, 1 - 1e-6, False), "sigma": (1e-6, inf, True)}
    names = model._shapes(1, D)
    policy = {name: limits for name, limits in policy.items() if name in names}
    for name, limits in (model.noise_policy or {}).items():
        if name not in names:
            raise SparselandError(f"noise_policy names {name!r}; this model has {', '.join(names)}")
        try:
            low, high, absolute = limits
        except (TypeError, ValueError):
            raise SparselandError(f"noise_policy[{name!r}]={limits!r}; possible: (low, high, absolute)") from None
        if not low <= high:
            raise SparselandError(f"noise_policy[{name!r}]: low {low} is above high {high}")
        policy[name] = (float(low), float(high), bool(absolute))
    return policy


def _digest(init: Any) -> str:
    if init is None:
        return ""
    digest = hashlib.sha256()
    for name, value in sorted(init.items()):
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()[:16]
