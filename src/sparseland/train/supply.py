"""What a run trains on: its data set, its model, and the batches of every optimizer step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sparseland.core.errors import RecipeError, SparselandError, nearest
from sparseland.data import Batches, Dataset, Split, batches, load
from sparseland.train.config import TrainConfig
from sparseland.train.evaluation import evaluate
from sparseland.train.processes import Processes
from sparseland.zoo import build

Batch = tuple[Tensor, Tensor]


def load_data(config: TrainConfig) -> Dataset:
    """The data set that a configuration names."""
    own: dict[str, Any] = {
        "folder": config.folder,
        "seed": config.seed,
        "limit": config.limit,
        "validation": config.validation,
    }
    _check_options("data_options", config.data_options, own, [k for k in signature(load).parameters if k != "name"])
    return load(config.data, **own, **config.data_options)


def build_model(config: TrainConfig, dataset: Dataset) -> nn.Module:
    """The model that a configuration names, freshly initialised from its seed."""
    own: dict[str, Any] = {"in_shape": dataset.shape, "classes": dataset.classes, "seed": config.seed}
    _check_options("model_options", config.model_options, own)
    return build(config.model, **own, **config.model_options)


def _check_options(
    where: str, options: Mapping[str, Any], own: Mapping[str, Any], known: Iterable[str] | None = None
) -> None:
    for key in options:
        if key in own:
            raise RecipeError(f"{where} has {key!r}, which the run sets itself (to {own[key]!r}); leave it out there")
        if known is not None and key not in known:
            raise RecipeError(f"{where} has {key!r}: {nearest(key, [k for k in known if k not in own])}")


class Supply:
    """The batches of a run, a function of (seed, epoch, batch, rank) alone, on this process's device.

    >>> supply = Supply(TrainConfig(limit=100, batch_size=32, accumulate=3), Processes())
    >>> supply.steps_per_epoch
    2
    >>> [(len(group), images, after) for group, images, after in supply.groups(0, 0)]
    [(3, 96, (0, 3)), (1, 4, (1, 0))]
    """

    def __init__(self, config: TrainConfig, processes: Processes, dataset: Dataset | None = None) -> None:
        self.config, self.processes = config, processes
        self.dataset = dataset or load_data(config)
        self._splits = {name: split.to(processes.device) for name, split in self.dataset.splits.items()}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over train; the last one of an epoch may see fewer images."""
        return math.ceil(self.epoch(0).total / self.config.accumulate)

    def split(self, name: str) -> Split:
        """A split by name, on the device."""
        self.dataset.split(name)  # says which exist
        return self._splits[name]

    def epoch(self, epoch: int) -> Batches:
        """This rank's batches of an epoch."""
        config, data = self.config, self.dataset
        return batches(
            self._splits["train"],
            config.batch_size,
            mean=data.mean,
            std=data.std,
            shuffle=True,
            seed=config.seed,
            epoch=epoch,
            augment=config.augment,
            device=self.processes.device,
            rank=self.processes.rank,
            world=self.processes.world,
        )

    def groups(self, epoch: int, batch: int) -> Iterator[tuple[list[Batch], int, tuple[int, int]]]:
        """The optimizer steps left in an epoch: their batches, their images over all ranks, and the position after."""
        source = self.epoch(epoch)
        iterator = iter(source.skip(batch))
        for first in range(batch, source.total, self.config.accumulate):
            members = range(first, min(first + self.config.accumulate, source.total))
            after = (epoch + 1, 0) if members.stop == source.total else (epoch, members.stop)
            yield [next(iterator) for _ in members], sum(_global_size(source, b) for b in members), after

    def first(self) -> list[Batch]:
        """Training batches to score on: ten images a class and at least 128, as in SNIP and GraSP; whole batches."""
        wanted = max(128, 10 * self.dataset.classes)
        source = self.epoch(0)
        count = math.ceil(wanted / (source.batch_size * source.world))
        return list(itertools.islice(source, count))

    def sample(self, share: float, seen: Callable[[int], object] = lambda images: None) -> Iterator[Batch]:
        """This rank's batches of ``share`` of train, whole ones where there are any; ``seen`` is told their images.

        Not augmented, and in an order that no seed of the run changes: what is measured on them is compared.
        """
        if not 0 < share <= 1:
            raise RecipeError(f"a share of the training images is a number in (0, 1]; got {share!r}")
        config, data, train = self.config, self.dataset, self._splits["train"]
        source = batches(
            train, config.batch_size, mean=data.mean, std=data.std, shuffle=True, seed=0, epoch=0,
            device=self.processes.device, rank=self.processes.rank, world=self.processes.world,
            drop_last=len(train) >= config.batch_size * self.processes.world,
        )  # fmt: skip
        for number, batch in enumerate(itertools.islice(source, math.ceil(share * source.total))):
            seen(_global_size(source, number))
            yield batch

    def subset(self, name: str, images: int) -> Split:
        """So many images of train or validation, drawn once from the run's seed: the same for all that are compared.

        Raises:
            SparselandError: the test split, or one that holds the very same images; nothing is chosen by those.

        >>> supply = Supply(TrainConfig(limit=100), Processes())
        >>> len(supply.subset("train", 30)), len(supply.subset("train", 1000))
        (30, 100)
        """
        whole, test = self.split(name), self.split("test")
        if name == "test" or (len(whole) and whole.images.data_ptr() == test.images.data_ptr()):
            raise SparselandError(
                f"{name!r} holds the test images: nothing is chosen by them; possible: train, validation"
            )
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(self.config.seed))
        return whole[order[:images].to(whole.labels.device)]

    def measure(self, model: nn.Module, split: str, images: int | None = None) -> dict[str, Any]:
        """All metrics of `evaluate` for a model, over all ranks; ``images``: on a `subset` of so many."""
        self.processes.same_buffers_(model)
        return evaluate(
            model,
            self.split(split) if images is None else self.subset(split, images),
            classes=self.dataset.classes,
            mean=self.dataset.mean,
            std=self.dataset.std,
            device=self.processes.device,
            rank=self.processes.rank,
            world=self.processes.world,
            add_up=self.processes.sum,
        )


def _global_size(epoch: Batches, batch: int) -> int:
    """Images of a batch over all ranks (each rank has at least one, if need be a repeated one)."""
    whole = epoch.batch_size * epoch.world
    return max(epoch.world, min(whole, len(epoch.split) - batch * whole))
