"""Train a sparse autoencoder on a stream of activations: a loop that can stop anywhere and go on from a file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...core.errors import ResumeError, ScheduleError, ScoreError, SparselandError
from ...files import probe, settle, sweep, write_file
from .adam import Adam
from .model import Output, SparseAutoencoder
from .progress import Bar
from .saelens import save
from .schedules import default_lr, k_at, lr_factor
from .supply import SAMPLE, Supply

CHECKPOINT = "checkpoint.pt"
Callback = Callable[[int, SparseAutoencoder, dict[str, float]], Any]


@dataclass
class TrainResult:
    """What a run was.

    Parameters:
        history: one record every ``log_every`` steps: step, tokens, loss, its parts, l0, dead (share), lr, k.
        seconds, trained: of this process alone, without what a resumed run had done before.
        folder: where checkpoint and weights lie, if anywhere.
    """

    steps: int
    tokens: int
    seconds: float
    trained: int
    history: list[dict[str, float]] = field(default_factory=list)
    folder: Path | None = None

    @property
    def tokens_per_second(self) -> float:
        """Training speed of this process, 0 if it had nothing left to do."""
        return self.trained / self.seconds if self.seconds > 0 else 0.0

    @property
    def loss(self) -> float:
        """The last one recorded."""
        return self.history[-1]["loss"] if self.history else math.nan


def train(
    sae: SparseAutoencoder,
    stream: Any,
    *,
    steps: int | None = None,
    tokens: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 6.25e-10,
    warmup: int | None = None,
    decay: float = 0.2,
    k_start: int | None = None,
    k_anneal: int | float = 0.1,
    initialise: bool = True,
    out: str | Path | None = None,
    resume: str | bool = "auto",
    checkpoint_every: int = 1000,
    log_every: int = 50,
    progress: bool = True,
    callback: Callback | None = None,
    seed: int = 0,
) -> TrainResult:
    """Adam on reconstruction + auxiliary losses, rows of W_dec held at norm 1 (gradient projected, then renormalised).

    theta <- theta - lr_t m / (sqrt(v) + eps); W_dec rows: g <- g - <g, w> w before, w <- w / |w| after

    Parameters:
        stream: a table (N, d_in), a pair (x, g) of them, or an iterable of batches or of pairs; see `Supply`.
        steps or tokens: how long; one of them. batch: tokens of a step; None: as they come (4,096 of a table).
        lr: None is 2e-4 sqrt(2^14 / F). warmup: steps, None is 1,000 or a tenth of the run. decay: last share, linear.
        k_start, k_anneal: k falls linearly to the configured k over so many steps (or share of the run, below 1).
        initialise: b_dec at the geometric median (and the expected norm) of the first tokens.
        out: folder for checkpoints and, at the end, the SAELens files.
        resume: "auto" goes on where a checkpoint is, True demands one, False refuses to overwrite one.
        callback: called as callback(step, sae, record) at each record.

    Raises:
        SparselandError: the stream's width differs or changes, or it ends early. ScoreError: the loss is not finite.
        ResumeError: no checkpoint, one of another configuration, or one that must not be overwritten.

    >>> torch.manual_seed(0); from sparseland.features import SAEConfig
    <torch._C.Generator object at ...>
    >>> x = torch.randn(512, 8) @ torch.randn(8, 8)
    >>> result = train(SparseAutoencoder(SAEConfig(8, 32, k=4)), x, steps=60, batch=128, lr=1e-2, progress=False)
    >>> result.history[-1]["loss"] < result.history[0]["loss"], result.tokens
    (True, 7680)
    """
    if not isinstance(sae, SparseAutoencoder):
        raise TypeError(f"train takes a SparseAutoencoder, not {type(sae).__name__}")
    supply = Supply(stream, sae.config.d_in, batch, seed)
    size = _batch_size(supply)
    total = _steps(steps, tokens, size)
    plan = _plan(sae, total, lr, warmup, decay, k_start, k_anneal)
    optimizer = Adam(sae, betas, eps)
    run = _Run(sae, optimizer, supply, plan, None if out is None else Path(out))
    run.resume(resume)
    if run.step == 0 and initialise:
        sae.initialise_(run.sample())
    return run.go(log_every, checkpoint_every, progress, callback)


def _plan(
    sae: SparseAutoencoder,
    total: int,
    lr: float | None,
    warmup: int | None,
    decay: float,
    k_start: int | None,
    k_anneal: int | float,
) -> _Plan:
    """The schedules of a run, checked."""
    if not 0 <= decay <= 1:
        raise ScheduleError(f"decay is a share of the steps in [0, 1]; got {decay!r}")
    if k_start is not None and not sae.config.k <= k_start <= sae.config.d_sae:
        raise ScheduleError(f"k_start lies in k … d_sae, {sae.config.k} … {sae.config.d_sae}; got {k_start}")
    return _Plan(
        total,
        lr if lr is not None else default_lr(sae.config.d_sae),
        min(1000, total // 10) if warmup is None else warmup,
        decay,
        k_start,
        round(k_anneal * total) if k_anneal < 1 else int(k_anneal),
    )


def _steps(steps: int | None, tokens: int | None, batch: int) -> int:
    if (steps is None) == (tokens is None):
        raise SparselandError(f"say how long to train: steps or tokens, one of them; got {steps=} and {tokens=}")
    total = steps if steps is not None else -(-int(tokens or 0) // batch)
    if isinstance(total, bool) or not isinstance(total, int) or total < 1:
        raise SparselandError(f"a run has at least one step; got {steps=}, {tokens=}")
    return total


def _batch_size(supply: Supply) -> int:
    """Tokens of a batch, from the first one, which is put back."""
    if supply.batch is not None:
        return supply.batch
    return int(getattr(supply.stream, "batch", 0)) or supply.peek()


@dataclass(frozen=True)
class _Plan:
    steps: int
    lr: float
    warmup: int
    decay: float
    k_start: int | None
    k_anneal: int


class _Run:
    """One run: what changes, and how to put it into a file and take it out again."""

    def __init__(
        self, sae: SparseAutoencoder, optimizer: Adam, supply: Supply, plan: _Plan, folder: Path | None
    ) -> None:
        self.sae, self.optimizer, self.supply, self.plan, self.folder = sae, optimizer, supply, plan, folder
        self.step = 0
        self.history: list[dict[str, float]] = []
        if folder is not None:
            probe(folder, needed=4 * sum(p.numel() * p.element_size() for p in sae.parameters()))
            sweep(folder)

    def sample(self) -> torch.Tensor:
        """The first tokens, for b_dec; they are trained on, too."""
        return self.supply.ahead(SAMPLE)

    def resume(self, how: str | bool) -> None:
        """Take up a checkpoint, if there is one and it is wanted."""
        if how not in ("auto", True, False):
            raise SparselandError(f"resume is 'auto', True or False; got {how!r}")
        path = None if self.folder is None else settle(self.folder) / CHECKPOINT
        if path is None or not path.is_file():
            if how is True:
                raise ResumeError(f"nothing to resume: {path or 'no out= folder was given'}")
            return
        if how is False:
            raise ResumeError(f"{path} is there already; resume it, or choose another folder")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            config, plan = state["config"], state["plan"]
        except Exception as error:
            raise ResumeError(f"{path} is damaged or no checkpoint: {str(error).splitlines()[0]}") from error
        if config != self.sae.config.to_dict():
            changed = [n for n, v in self.sae.config.to_dict().items() if config.get(n) != v]
            raise ResumeError(f"{path} belongs to another autoencoder: {', '.join(changed)} differ")
        if plan != list(vars(self.plan).values()):
            raise ResumeError(f"{path} belongs to another run: plan {plan}, now {list(vars(self.plan).values())}")
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.supply.load_state_dict(state["supply"])
        self.step, self.history = int(state["step"]), state["history"]

    def write(self) -> None:
        """The checkpoint, whole or not at all."""
        if self.folder is None:
            return
        state = {
            "config": self.sae.config.to_dict(),
            "plan": list(vars(self.plan).values()),
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "supply": self.supply.state_dict(),
            "step": self.step,
            "history": self.history,
        }
        write_file(self.folder / CHECKPOINT, lambda file: torch.save(state, file))

    def go(self, log_every: int, checkpoint_every: int, progress: bool, callback: Callback | None) -> TrainResult:
        """The loop."""
        bar, started, before = Bar(self.plan.steps, shown=progress), time.perf_counter(), int(self.sae.tokens_seen)
        self.sae.train()
        try:
            while self.step < self.plan.steps:
                output, lr = self._one()
                self.step += 1
                if self.step % log_every == 0 or self.step in (1, self.plan.steps):
                    record = self._record(output, lr)
                    self.history.append(record)
                    bar.update(self.step, record)
                    if callback is not None:
                        callback(self.step, self.sae, record)
                if self.step % checkpoint_every == 0 and self.step < self.plan.steps:
                    self.write()
        except KeyboardInterrupt:
            self.write()
            raise
        finally:
            bar.close()
        seconds = time.perf_counter() - started
        seen = int(self.sae.tokens_seen)
        self.sae.eval()
        if self.folder is not None:
            self.write()
            save(self.sae, self.folder)
        return TrainResult(self.step, seen, seconds, seen - before, self.history, self.folder)

    def _one(self) -> tuple[Output, float]:
        """One step: stage, k, forward, backward, update, bookkeeping."""
        sae, plan = self.sae, self.plan
        self._stage()
        sae.k_now = k_at(self.step, sae.config.k, plan.k_start, plan.k_anneal)
        lr = plan.lr * lr_factor(self.step, plan.steps, plan.warmup, plan.decay)
        x, g = self.supply.next()
        device = sae.W_dec.device
        output = sae(x.to(device), None if g is None else g.to(device))
        if not bool(torch.isfinite(output.loss.detach())):
            raise ScoreError(f"the loss is {float(output.loss.detach())} at step {self.step}; lower lr (now {lr:g})")
        self.optimizer.zero_grad()
        output.loss.backward()
        self.optimizer.step(lr)
        sae.observe_(output.codes)
        return output, lr

    def _stage(self) -> None:
        """Fit the Zipf curve, and turn from mutual to feature choice, when it is time."""
        sae, c = self.sae, self.sae.config
        if c.activation == "mutual_then_feature" and not bool(sae.feature_stage):
            if self.step >= round(c.stage_split * self.plan.steps) and int(sae.observed):
                sae.begin_feature_stage_()
            return
        wants = c.aux == "aux_zipf" or sae.current_rule == "feature"
        if wants and self.step and self.step % c.refit_every == 0:
            sae.refit_()

    def _record(self, output: Output, lr: float) -> dict[str, float]:
        sae = self.sae
        parts = {name: float(value.detach()) for name, value in output.losses.items()}
        return {
            "step": self.step,
            "tokens": int(sae.tokens_seen),
            "loss": float(output.loss.detach()),
            **parts,
            "l0": output.codes.values.numel() / (output.codes.offsets.numel() - 1),
            "dead": float(sae.dead.float().mean()),
            "lr": lr,
            "k": sae.k_now,
        }
