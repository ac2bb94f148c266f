"""The training loop: deterministic batches in, a sparse model out, and a state from which it goes on bit for bit.

An interruption may come at any moment. Everything that influences the next step is in `Fit` and `Record`, and each
checkpoint is both of them, the weights, and the random states.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseland.account import Cost, Meter, trace
from sparseland.core import MaskSet
from sparseland.core.errors import ScoreError
from sparseland.data import Dataset
from sparseland.train.average import WeightAverage
from sparseland.train.branching import Branched
from sparseland.train.config import TrainConfig, checkpoint_steps
from sparseland.train.fit import Diverged, Fit, Record, Window, last_step
from sparseland.train.following import follow
from sparseland.train.interrupt import Interrupt
from sparseland.train.journal import Journal
from sparseland.train.optim import clip_, make_optimizer
from sparseland.train.processes import Processes
from sparseland.train.progress import Bar, describe
from sparseland.train.randomness import random_state, set_random_state
from sparseland.train.second import scoring
from sparseland.train.supply import Batch, Supply, build_model
from sparseland.weights import Method
from sparseland.weights.targets import Rules
from sparseland.zoo import logits

__all__ = ["Diverged", "Trainer"]

SKIPS = 100  # consecutive steps without a finite gradient after which fp16 is given up
AGREE_EVERY = 20  # steps between two looks, with several processes, at whether somebody pressed Ctrl-C
Callback = Callable[[dict[str, Any]], object]


class Trainer(Branched):
    """A model, its data and how to optimise it; implements `sparseland.weights.Trainer`.

    ``fit`` trains ``model`` in place, always with a fresh optimizer. Procedures of several fits (iterative pruning
    with rewinding) are functions of this object; `train.run` adds the folder, the resuming and the result.

    Parameters:
        config: the run. dataset, model: instead of those that ``config`` names.
        journal: writes checkpoints; None: nothing is written. callback: gets each entry of the history (rank 0).
        progress: show a bar on a terminal. target: sparsity from which checkpoints are candidates, for procedures
            whose fits end at different ones.

    >>> config = TrainConfig(model="mlp-16", method={"name": "dense"}, epochs=2, limit=200, lr=0.05)
    >>> trainer = Trainer(config)
    >>> before, done, after = trainer.evaluate()["accuracy"], trainer.fit()["steps"], trainer.evaluate()["accuracy"]
    >>> done == trainer.steps == 2 * 4, after > before
    (True, True)
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        dataset: Dataset | None = None,
        model: nn.Module | None = None,
        processes: Processes | None = None,
        journal: Journal | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        target: float | None = None,
    ) -> None:
        self.config = config
        self.processes = processes or Processes()
        self.supply = Supply(config, self.processes, dataset)
        self.place(model or build_model(config, self.supply.dataset))
        self.record = Record(Meter(trace(self.model, self.example)))
        self.removed = 0  # weights that a procedure took out of the layers that may become sparse
        self.journal = journal or Journal(config, self.processes)
        self.callback, self.progress, self.target = callback, progress, target
        self.interrupt = Interrupt()
        # What other processes cannot build from the configuration; `run` builds both from it.
        self.by_hand = tuple(name for name, given in (("data", dataset), ("model", model)) if given is not None)
        self.branchings = 0

    def place(self, model: nn.Module) -> None:
        """Take in a model: on the device, wrapped for several processes, with a copy that evaluations fill."""
        self.model = model.to(self.processes.device)
        self._prepared = self.processes.prepare(self.model)
        self.shadow = copy.deepcopy(self.model).requires_grad_(False)

    # --- the protocol -----------------------------------------------------------------------------------------------

    @property
    def cost(self) -> Cost:
        """FLOPs of one sample."""
        return self.record.meter.cost

    @property
    def example(self) -> Tensor:
        """Zeros of the shape of one image, as a batch: what the model takes."""
        return torch.zeros(1, *self.supply.dataset.shape, device=self.processes.device)

    @property
    def images(self) -> int:
        """How many training images there are, over all ranks (a divergence counts once per data set)."""
        return len(self.supply.split("train"))

    @property
    def steps(self) -> int:
        """Optimizer steps of one whole schedule."""
        return self.config.epochs * self.supply.steps_per_epoch

    def fit(
        self,
        method: Method | None = None,
        masks: MaskSet | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        lrs: Sequence[float] | None = None,
        targets: Rules = None,
    ) -> dict[str, Any]:
        """Train from step ``start`` to ``stop`` (None: the end) of the learning-rate schedule.

        The method counts its own steps from 0 at ``start``. Batches are those the schedule has at these steps. ``lrs``:
        the learning rate of each step instead of the schedule's; then there are as many, also beyond its end.
        ``targets``: what the method acts on in this fit, instead of the run's own.

        Returns:
            {"steps": steps done, "sparsity": at the end, "lrs": the learning rate of each step}

        Raises:
            ScheduleError: start or stop outside the schedule. Diverged: the loss became NaN or infinite.
            KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.
        """
        stop = last_step(start, stop, lrs, self.steps)
        ended, saved = self.journal.begin()
        if ended is not None:
            self._load_end(ended)
            return dict(ended["result"])
        fit = self._begin(method or Method(name="dense"), masks, start, stop, saved, targets)
        fit.lrs = None if lrs is None else tuple(lrs)
        if saved is None:
            self._save(fit)  # so that a run can be resumed from its first moment, and a full disk is known at once
        with self.interrupt:
            self._train(fit)
        return self._end(fit)

    def evaluate(self, split: str = "validation", *, limit: int | None = None) -> dict[str, Any]:
        """Metrics of the model as it is; ``split``: train, validation or test. Test adds the confusion matrix, ECE.

        limit: on so many images, always the same, not of test; as part of a search they count as training FLOPs.
        """
        metrics = self.supply.measure(self.model, split, limit)
        if limit is not None:
            counts = {n: (int(p.count_nonzero()), p.numel()) for n, p in self.model.named_parameters()}
            named = {n: c for n, c in counts.items() if n in self.cost.sizes}
            self.record.meter.add(metrics["images"] * self.cost.sparse(named), "search")
        return metrics if split == "test" else {k: metrics[k] for k in ("accuracy", "loss", "per_class")}

    def clone(self) -> Trainer:
        """An independent copy: same data, same configuration, own weights. Journal and record are shared."""
        other = copy.copy(self)
        other.place(copy.deepcopy(self.model))
        return other

    def state(self) -> dict[str, Any]:
        """A copy of the model's weights and buffers."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def load(self, state: dict[str, Any]) -> None:
        """Put a `state` back."""
        self.model.load_state_dict(state)

    # --- a fit ------------------------------------------------------------------------------------------------------

    def _begin(
        self, method: Method, masks: MaskSet | None, start: int, stop: int, saved: dict[str, Any] | None, targets: Rules
    ) -> Fit:
        config, device, per_epoch = self.config, self.processes.device, self.supply.steps_per_epoch
        follow(self)
        if saved is not None:
            self.model.load_state_dict(saved["model"])
        optimizer = make_optimizer(config, self.model)
        if saved is not None:
            optimizer.load_state_dict(saved["optimizer"])
        first, scored = scoring(method, self.supply, stop - start)
        sparsifier = method.attach(
            self.model,
            optimizer,
            config.targets if targets is None else targets,
            config.ignore if targets is None else None,
            data=first,
            loss=self._loss,
            steps=stop - start,
            seed=config.seed,
            masks=masks if saved is None else None,
            state=None if saved is None else saved["sparsifier"],
        )
        fit = Fit(
            method=sparsifier.method,
            sparsifier=sparsifier,
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
            average=None if config.ema is None else WeightAverage(self.model, config.ema),
            forward=torch.compile(self._prepared) if config.compile else self._prepared,
            window=Window.empty(device),
            start=start,
            stop=stop,
            step=start,
            epoch=start // per_epoch,
            batch=start % per_epoch * config.accumulate,
            scored=scored,
        )
        if saved is not None:
            fit.restore(saved, self.record, self.processes)
        elif masks is None and method.needs_data:
            self.record.meter.measured(method, fit.scored)
        return fit

    def _save(self, fit: Fit) -> None:
        """Write the checkpoint of this moment."""
        self.journal.save({"model": self.model.state_dict(), **fit.state(self.record, self.processes)})

    def _end(self, fit: Fit) -> dict[str, Any]:
        """Plain modules again; the shadow holds what the last evaluation saw."""
        self._fill_shadow(fit)
        fit.sparsifier.assert_agree()
        record, sparsifier = self.record, fit.sparsifier.finalize_()
        record.counts, record.explored = fit.living(), max(record.explored, sparsifier.explored())
        before = record.steps - (fit.step - fit.start)
        record.meter.close_round()
        record.moves += [{**entry, "step": before + entry["step"]} for entry in sparsifier.history]
        lrs = [fit.lr(self.config, step, self.steps) for step in range(fit.start, fit.step)]
        result = {"steps": fit.step - fit.start, "sparsity": sparsifier.sparsity, "lrs": lrs}
        self.journal.end(lambda: self._end_state(result))
        return result

    def _end_state(self, result: dict[str, Any]) -> dict[str, Any]:
        random = self.processes.gather(random_state())
        weights, record = self.model.state_dict(), self.record.state_dict()
        return {"result": result, "model": weights, "record": record, "random": random}

    def _load_end(self, ended: dict[str, Any]) -> None:
        self.model.load_state_dict(ended["model"])
        self.record.load_state_dict(ended["record"])
        set_random_state(ended["random"][self.processes.rank])

    # --- steps ------------------------------------------------------------------------------------------------------

    def _train(self, fit: Fit) -> None:
        bar = Bar(fit.stop, label=fit.method.name, shown=self.progress and self.processes.main)
        try:
            while fit.step < fit.stop:
                for group, images, after in self.supply.groups(fit.epoch, fit.batch):
                    fit.epoch, fit.batch = after
                    taken = self._step(fit, group, images)
                    self._after_step(fit, taken, bar)
                    if fit.step == fit.stop:
                        break
        finally:
            bar.close()

    def _after_step(self, fit: Fit, taken: bool, bar: Bar) -> None:
        """Evaluate, show, save and stop when it is time."""
        over, done = fit.batch == 0, fit.step == fit.stop
        if done or (over and fit.epoch % self.config.evaluate_every == 0):
            self._evaluate(fit, bar)
        every = checkpoint_steps(self.config.checkpoint_every)
        if every is None:
            due = over and fit.epoch % int(self.config.checkpoint_every) == 0
        else:
            due = taken and fit.step % every == 0
        if bar.progress is not None and fit.window.seen:
            loss, right = float(fit.window.loss) / fit.window.seen, float(fit.window.right) / fit.window.seen
            lr = fit.optimizer.param_groups[0]["lr"]
            bar.update(fit.step, loss=loss, accuracy=right, sparsity=1 - _density(fit.living()), lr=lr)
        stopped = self._stopped(fit)
        if due or done or stopped:
            self._save(fit)
        if stopped:
            raise KeyboardInterrupt(f"stopped at step {fit.step} of {fit.stop}; resume=True goes on from there")

    def _step(self, fit: Fit, group: list[Batch], images: int) -> bool:
        """One optimizer step; False if fp16 found no finite gradient and skipped it."""
        lr = fit.lr(self.config, fit.step, self.steps)
        for param_group in fit.optimizer.param_groups:
            param_group["lr"] = lr
        fit.optimizer.zero_grad(set_to_none=True)
        self._prepared.train()
        for number, (x, y) in enumerate(group, 1):
            # DDP averages over ranks: this weight makes the sum the mean over all images of the step.
            weight = len(y) * self.processes.world / images
            if number < len(group):
                with self.processes.alone(self._prepared):
                    self._backward(fit, x, y, weight)
            else:
                self._backward(fit, x, y, weight)
        if self.config.clip is not None:
            fit.scaler.unscale_(fit.optimizer)
            clip_(self.model.parameters(), self.config.clip, fit.living_masks())
        counts, moves, scale = fit.living(), fit.moves, fit.scaler.get_scale()
        try:
            fit.scaler.step(fit.optimizer)
        except ScoreError:  # masks cannot move by gradients that are no numbers
            _check_loss(fit, float(fit.window.loss), self.config.lr)
            raise
        fit.scaler.update()
        taken = not fit.scaler.is_enabled() or fit.scaler.get_scale() >= scale
        moved, key = len(fit.sparsifier.history) > moves, (self.journal.fits, moves)
        self.record.meter.step(fit.method, counts["layers"], samples=images, moved=moved, key=key)
        if moved:
            self.record.meter.measured(fit.method, fit.scored, at_start=False)
        if not taken:
            fit.skipped += 1
            if fit.skipped >= SKIPS:
                raise Diverged(f"{SKIPS} steps in a row gave no finite gradient in fp16 (step {fit.step}, lr {lr:g})")
            return False
        fit.skipped, fit.step = 0, fit.step + 1
        self.record.steps += 1
        if fit.average is not None:
            fit.average.update(self.model)
        return True

    def _backward(self, fit: Fit, x: Tensor, y: Tensor, weight: float) -> None:
        with self.processes.precision(self.config.precision):
            output = logits(fit.forward(x))
        output = output.float()
        loss = F.cross_entropy(output, y, label_smoothing=self.config.label_smoothing)
        fit.window.add(loss, output, y)
        self.processes.accelerator.backward(fit.scaler.scale(loss * weight))

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """For methods that measure on data."""
        return F.cross_entropy(logits(model(batch[0])), batch[1], label_smoothing=self.config.label_smoothing)

    def _stopped(self, fit: Fit) -> bool:
        """Whether Ctrl-C was pressed; several processes agree on it now and then."""
        if self.processes.world == 1:
            return self.interrupt.asked
        if fit.step % AGREE_EVERY and fit.batch:
            return False
        return bool(self.processes.sum(torch.tensor(float(self.interrupt.asked), device=self.processes.device)))

    # --- looking ----------------------------------------------------------------------------------------------------

    def _evaluate(self, fit: Fit, bar: Bar) -> None:
        """Measure on validation, write the log, keep the weights if they are the best at the target sparsity."""
        loss, right, seen = fit.window.totals(self.processes)
        _check_loss(fit, loss, self.config.lr)
        fit.window = Window.empty(self.processes.device)
        self._fill_shadow(fit)
        measured = self.supply.measure(self.shadow, "validation") if len(self.supply.split("validation")) else {}
        counts = fit.living()
        entry = {
            "step": self.record.steps,
            "epoch": fit.epoch,
            "loss": loss / seen,
            "accuracy": right / seen,
            "validation_accuracy": measured.get("accuracy"),
            "validation_loss": measured.get("loss"),
            "sparsity": 1 - _density(counts),
            "lr": fit.lr(self.config, max(fit.step - 1, 0), self.steps),
        } | ({"fit": self.journal.fits - 1} if self.journal.keep_fits else {})
        self.record.history.append(entry)
        about = {k: entry[k] for k in ("step", "epoch", "sparsity")} | counts
        about |= {k: measured.get(k) for k in ("accuracy", "loss", "per_class")}
        self.journal.candidate(about, self.shadow.state_dict(), eligible=fit.at_target(self.target))
        self.journal.log(self.record.history)
        self.processes.track(entry, self.record.steps)
        shown = {"loss": entry["loss"], "accuracy": entry["accuracy"], "validation": entry["validation_accuracy"]}
        bar.say(f"epoch {fit.epoch:>3}  step {fit.step:>6}  {describe({**shown, 'sparsity': entry['sparsity']})}")
        if self.callback is not None and self.processes.main:
            self.callback(dict(entry))

    @torch.no_grad()
    def _fill_shadow(self, fit: Fit) -> None:
        """The weights to evaluate: the average where there is one, dead weights zero as they will be in the end."""
        self.shadow.load_state_dict(self.model.state_dict() if fit.average is None else fit.average.tensors)
        if fit.method.flow.zeros:
            fit.sparsifier.project_(self.shadow)


def _check_loss(fit: Fit, loss: float, lr: float) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the training loss is {loss} at step {fit.step} of {fit.stop}: lower the learning rate ({lr:g}), warm it "
            f"up, or clip gradients"
        )


def _density(counts: dict[str, Any]) -> float:
    return counts["kept"] / counts["total"] if counts["total"] else 1.0
