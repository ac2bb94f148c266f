"""One run, from a configuration to a folder with its result; interrupted anywhere, it goes on bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparseland import account
from sparseland.core.errors import SparselandError
from sparseland.train import checkpoint
from sparseland.train.config import TrainConfig
from sparseland.train.following import follow
from sparseland.train.journal import Journal
from sparseland.train.loop import Trainer
from sparseland.train.optim import optimizer_slots
from sparseland.train.plans import Plan, compose, with_rules
from sparseland.train.processes import Processes
from sparseland.train.randomness import seeded
from sparseland.train.result import assemble
from sparseland.train.supply import build_model, load_data
from sparseland.weights import eligible


def run(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool | str = False,
    overwrite: bool = False,
    progress: bool = True,
    callback: Callable[[dict[str, Any]], object] | None = None,
    trackers: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train one run into the folder ``out`` and return its result (see `assemble`), also ``out/result.json``.

    Checkpoints are compared on validation from the moment the schedule has reached its target sparsity: an earlier,
    denser one is never chosen. The test split is evaluated once, at the end, on the chosen checkpoint.

    An interrupted run (Ctrl-C, kill -9, power) goes on from ``out/last`` with ``resume=True`` and ends with the same
    bits as an unbroken one on the same machine, versions and threads. A finished run is returned at once.
    Works under ``torchrun`` (and ``accelerate launch`` on GPUs): every process calls this, the first one writes.

    Parameters:
        config: the run. out: its folder; made if need be.
        resume: True goes on from the last checkpoint; "auto" does so if there is one, and starts otherwise.
        overwrite: start anew in a folder that holds a run (it is removed).
        progress: show a bar, if standard error is a terminal.
        callback: called with each entry of the history, on the first process.
        trackers: `accelerate.tracking.GeneralTracker` objects, beside those that ``config`` names.

    Raises:
        RecipeError, TargetError, ScheduleError, InfeasibleBudget, DataNotFound: before training.
        OutputError: the folder cannot be written (known before training where possible), or holds a run already.
        ResumeError: there is nothing to resume, or it is another run; the first difference is quoted.
        Diverged: the loss became NaN or infinite. KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.

    >>> import tempfile
    >>> config = TrainConfig(model="mlp-16", method={"name": "rigl", "sparsity": 0.5, "every": 2}, epochs=2, limit=200)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     result = run(config, place, progress=False)
    ...     again = run(config, place, resume=True)
    >>> result["sparsity"], result["steps"], again == result
    (0.5, 8, True)
    """
    if resume not in (True, False, "auto"):
        raise SparselandError(f"resume is {resume!r}; possible: True, False, 'auto'")
    plan, folder = with_rules(compose(config.method), config.targets, config.ignore), Path(out)
    processes = Processes((*config.trackers, *trackers), str(folder))
    journal = Journal(config, processes, folder, keep_fits=plan.procedure is not None)
    finished = processes.on_main(lambda: journal.finished() if resume else None)
    if finished is not None:
        return finished
    with seeded(config.seed * processes.world + processes.rank, config.threads):
        dataset = load_data(config)
        model = build_model(config, dataset)
        eligible(model, config.targets, config.ignore)
        processes.on_main(lambda: _open(journal, _needed(config, model), resume, overwrite))
        journal.share()
        trainer = Trainer(
            config, dataset=dataset, model=model, processes=processes, journal=journal, callback=callback,
            progress=progress, target=None if plan.procedure is None else plan.method.target_sparsity,
        )  # fmt: skip
        return _run(trainer, plan)


def _open(journal: Journal, needed: int, resume: bool | str, overwrite: bool) -> None:
    """Read the last checkpoint, or make an empty folder."""
    if resume is True or (resume == "auto" and journal.found()):
        journal.resume()
    else:
        journal.start(needed, overwrite)


def _run(trainer: Trainer, plan: Plan) -> dict[str, Any]:
    trainer.by_hand = ()  # both were built from the configuration, as any other process can
    account.reset_peak(trainer.processes.device)
    trainer.processes.start_trackers("sparseland", trainer.config.to_dict())
    try:
        _train(trainer, plan)
        return _finish(trainer, plan)
    finally:
        trainer.processes.stop_trackers()


def _needed(config: TrainConfig, model: nn.Module) -> int:
    """Bytes that the folder will hold at most: last and best, each beside its successor."""
    weights: int = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    last: int = weights * (2 if config.ema is not None else 1) + trained * optimizer_slots(config)
    return 2 * (last + weights)


def _train(trainer: Trainer, plan: Plan) -> None:
    if plan.procedure is None:
        trainer.fit(plan.method)
        return
    options = dict(plan.options)
    if isinstance(options.get("rewind_to"), float):  # a fraction of the run, as everywhere in configurations
        options["rewind_to"] = round(options["rewind_to"] * trainer.steps)
    plan.procedure(trainer, plan.method, **options)


def _finish(trainer: Trainer, plan: Plan) -> dict[str, Any]:
    """Choose the checkpoint, test it once, write the result."""
    journal, processes, supply = trainer.journal, trainer.processes, trainer.supply
    if not _as_left(trainer):
        _take_as_is(trainer)
    chosen, about = ("best", journal.best) if journal.best is not None else ("last", journal.last)
    if about is None:
        raise SparselandError("the run ended without an evaluation: its schedule has no step")
    place = journal.folder / "best.safetensors" if journal.folder is not None else None
    if chosen == "best" and place is not None:
        tensors = processes.on_main(lambda: checkpoint.read_weights(place))
        trainer.shadow.load_state_dict(tensors)
    else:
        journal.write_best(trainer.shadow.state_dict())
    test = supply.measure(trainer.shadow, "test") if len(supply.split("test")) else None
    result = assemble(trainer, plan, chosen, about, test)

    def close() -> dict[str, Any]:
        journal.close(result)
        return result

    return processes.on_main(close)


def _as_left(trainer: Trainer) -> bool:
    """Whether the model is still what the last fit made (a procedure may have averaged or pruned it since)."""
    ended = trainer.journal.ended
    if ended is None:
        return True
    return all(torch.equal(value, ended[name].to(value.device)) for name, value in trainer.model.state_dict().items())


def _take_as_is(trainer: Trainer) -> None:
    """The model that a procedure left is the only candidate."""
    journal, record = trainer.journal, trainer.record
    follow(trainer)
    trainer.shadow.load_state_dict(trainer.model.state_dict())
    measured = trainer.evaluate("validation") if len(trainer.supply.split("validation")) else {}
    found = eligible(trainer.model, trainer.config.targets, trainer.config.ignore)
    layers = {name: (int(t.param.count_nonzero()), t.param.numel()) for name, t in found.items()}
    kept, total = (sum(column) for column in zip(*layers.values(), strict=True))
    about = {"step": record.steps, "epoch": trainer.config.epochs, "sparsity": 1 - kept / total}
    about |= {"kept": kept, "total": total, "layers": layers}
    about |= {k: measured.get(k) for k in ("accuracy", "loss", "per_class")}
    journal.best = journal.last = about
    journal.write_best(trainer.shadow.state_dict())
