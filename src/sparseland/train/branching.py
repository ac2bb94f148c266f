"""Several retrainings of one state: here one after the other, or fanned out over processes and Ray."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparseland.core import MaskSet
from sparseland.core.errors import RecipeError
from sparseland.train import checkpoint
from sparseland.train.config import TrainConfig
from sparseland.train.fan_out import fan_out, require
from sparseland.train.fit import Record
from sparseland.train.processes import Processes
from sparseland.train.randomness import seeded
from sparseland.train.supply import Batch, Supply
from sparseland.weights import Method
from sparseland.weights.branches import Branch

if TYPE_CHECKING:
    from sparseland.train.loop import Trainer

FOUND = "branches"  # folder, below that of the run's fits
RETRAIN = Method(name="retrain")


class Branched:
    """What makes a trainer `Branching`: copies that differ, trained here or elsewhere, and images for batch norms."""

    config: TrainConfig
    processes: Processes
    supply: Supply
    record: Record
    clone: Callable[[], Trainer]

    def variant(self, *, seed: int = 0, weight_decay: float | None = None) -> Trainer:
        """A `clone` with ``seed`` added to its own (order of batches, augmentation; same splits), or other decay."""
        decay = self.config.weight_decay if weight_decay is None else weight_decay
        other = self.clone()
        other.config = self.config.replace(seed=self.config.seed + seed, weight_decay=decay)
        other.supply = Supply(other.config, self.processes, self.supply.dataset)
        return other

    def branch(
        self, branches: Sequence[Branch], *, start: int = 0, on: str = "inline", workers: int | None = None
    ) -> list[dict[str, Tensor]]:
        """The states in which several trainings end (see `Branch`); the model stays as it is."""
        return train_branches(self, branches, start=start, on=on, workers=workers)  # type: ignore[arg-type]

    def sample(self, share: float) -> Iterator[Batch]:
        """Batches of ``share`` of the training images, shuffled with a fixed seed, not augmented; FLOPs are counted."""
        meter = self.record.meter
        yield from self.supply.sample(share, lambda images: meter.add(images * meter.cost.dense(), "sample"))


def train_branches(
    trainer: Trainer, branches: Sequence[Branch], *, start: int, on: str, workers: int | None
) -> list[dict[str, Tensor]]:
    """The states in which ``branches`` end; ``trainer``'s model stays, its record counts their steps and FLOPs.

    Raises:
        RecipeError: other processes are asked for, and the trainer's model or data are not those its configuration
            names, or it is itself one of several processes.

    >>> from sparseland.train import TrainConfig, Trainer
    >>> trainer = Trainer(TrainConfig(model="mlp-16", limit=100))
    >>> one, two, again = train_branches(trainer, [Branch([0.1]), Branch([0.1], seed=1), Branch([0.1])], start=0,
    ...                                  on="inline", workers=None)
    >>> torch.equal(one["fc1.weight"], two["fc1.weight"]), torch.equal(one["fc1.weight"], again["fc1.weight"])
    (False, True)
    >>> trainer.record.steps
    3
    """
    if on == "inline":
        return [_inline(trainer, branch, start) for branch in branches]
    if trainer.by_hand:
        raise RecipeError(
            f"on={on!r}: other processes build what the configuration names, and this trainer was given its "
            f"{' and '.join(trainer.by_hand)} by hand; possible: on='inline'"
        )
    if trainer.processes.world > 1:
        raise RecipeError(f"on={on!r} within {trainer.processes.world} processes of one run; possible: on='inline'")
    number, trainer.branchings = trainer.branchings, trainer.branchings + 1
    with _place(trainer, number) as place:
        jobs = {}
        for i, branch in enumerate(branches):
            begin = place / f"{i}-start.pt"
            masks = None if branch.masks is None else branch.masks.pack()
            checkpoint.write_state(begin, {"state": branch.state or trainer.state(), "masks": masks})
            jobs[str(i)] = {
                "config": trainer.config.to_dict(), "begin": str(begin), "end": str(place / f"{i}-end.pt"),
                "lrs": list(branch.lrs), "seed": branch.seed, "weight_decay": branch.weight_decay, "start": start,
            }  # fmt: skip
        threads = trainer.config.threads or torch.get_num_threads()
        told = require(fan_out(branch_job, jobs, out=place, on=on, workers=workers, threads=threads, progress=False))
        states = [checkpoint.read_state(place / f"{i}-end.pt") for i in range(len(branches))]
    for i in range(len(branches)):
        _add(trainer.record, told[str(i)])
    device = trainer.processes.device
    return [{name: value.to(device) for name, value in state.items()} for state in states]


def branch_job(
    config: Mapping[str, Any], begin: str, end: str, lrs: Sequence[float], seed: int, weight_decay: float | None,
    start: int,
) -> dict[str, Any]:  # fmt: skip
    """One branch in a process of its own: from the file ``begin`` to the file ``end``; returns its record."""
    from sparseland.train import Trainer

    trainer = Trainer(TrainConfig.from_dict(config))
    saved = checkpoint.read_state(Path(begin))
    masks = None if saved["masks"] is None else MaskSet.unpack(saved["masks"])
    branch = Branch(lrs, masks, saved["state"], seed, weight_decay)
    checkpoint.write_state(Path(end), _inline(trainer, branch, start))
    record: dict[str, Any] = trainer.record.state_dict()
    return record


def _inline(trainer: Trainer, branch: Branch, start: int) -> dict[str, Tensor]:
    """Here, on a copy; random numbers begin at the branch's seed, so that every place draws the same."""
    other = trainer.variant(seed=branch.seed, weight_decay=branch.weight_decay)
    if branch.state is not None:
        other.load(branch.state)
    with seeded(other.config.seed):
        other.fit(None if branch.masks is None else RETRAIN, branch.masks, start=start, lrs=branch.lrs)
    return other.state()


@contextlib.contextmanager
def _place(trainer: Trainer, number: int) -> Iterator[Path]:
    """Where the files of a branching lie: in the run's folder, so that it can be resumed, else for now only."""
    folder = trainer.journal.folder
    if folder is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    place = (folder / "fits" / f"{FOUND}-{number:03d}").absolute()
    place.mkdir(parents=True, exist_ok=True)
    yield place


def _add(record: Record, told: Mapping[str, Any]) -> None:
    """Count what a branch did elsewhere, as if it had been done here."""
    before, flops, meter = record.steps, told["flops"], record.meter
    record.steps += told["steps"]
    record.history += [{**entry, "step": before + entry["step"]} for entry in told["history"]]
    record.moves += [{**entry, "step": before + entry["step"]} for entry in told["moves"]]
    layers = {name: tuple(pair) for name, pair in told["counts"]["layers"].items()}
    record.counts, record.explored = {**told["counts"], "layers": layers}, max(record.explored, told["explored"])
    meter.training += flops["training"]
    meter.training_dense += flops["training_dense"]
    for name, value in flops["phases"].items():
        meter.phases[name] = meter.phases.get(name, 0) + value
    meter.rounds += flops["rounds"]
