"""Batch normalisation remembers the weights it was trained with: measure its statistics anew when they were changed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..core.errors import ScoreError
from .targets import plain_module


def running_norms(model: nn.Module) -> dict[str, _NormBase]:
    """The layers of ``model`` that keep running statistics, by name: batch norms, and instance norms that track.

    >>> list(running_norms(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))))
    ['1']
    """
    layers = plain_module(model).named_modules()
    return {name: m for name, m in layers if isinstance(m, _NormBase) and m.running_mean is not None}


def recalibrate_(model: nn.Module, batches: Iterable[Any] | None, *, seed: int = 0) -> int:
    """Measure the running statistics of every batch norm anew: train mode, no update of weights, plain average.

    Equation: μ = Σ_b μ_b / B and σ² = Σ_b σ²_b / B over the B batches, each seen by the layers as they are now. Pruned,
    averaged or swapped weights need it: the old statistics belong to other activations. Nets without batch norm
    (layer norm, group norm) are left alone, and no batch is drawn.

    Parameters:
        model: changed in place; only buffers of batch norms (and of instance norms that track) change.
        batches: each an input tensor, an (input, label) tuple, or a dict of the model's arguments. Shuffle them with
            a fixed seed: the first batches of a data set sorted by class are no sample of it.
        seed: of what the model draws in train mode (dropout); the global generators are put back.

    Returns:
        How many layers were measured; 0 where there are none, or no batch.

    Warns:
        The model has batch norms and there is no batch: they stay as they were, and accuracies may be far too low.

    Raises:
        ScoreError: a statistic is NaN or infinite. Nothing was changed then, nor by an error of the model itself.

    >>> net = nn.Sequential(nn.BatchNorm1d(1))
    >>> recalibrate_(net, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    1
    >>> net[0].running_mean.item(), net[0].running_var.item(), net.training
    (4.0, 2.0, True)

    References: arXiv 2306.16788 (soups), 1803.05407 (weight averaging).
    """
    norms = running_norms(model)
    if not norms:
        return 0
    saved = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms.values()]
    count = 0
    try:
        with _measuring(model, norms.values(), seed):
            for batch in batches if batches is not None else ():
                _forward(plain_module(model), batch)
                count += 1
        if count:
            _check(norms)
            return len(norms)
    except BaseException:
        _put_back(norms, saved)
        raise
    _put_back(norms, saved)
    warnings.warn(
        f"{type(model).__name__} has {len(norms)} batch norms (first: {next(iter(norms))!r}) and there are no batches "
        f"to recalibrate them with: their statistics belong to other weights, accuracies may be far too low",
        stacklevel=2,
    )
    return 0


@contextlib.contextmanager
def _measuring(model: nn.Module, norms: Iterable[_NormBase], seed: int) -> Iterator[None]:
    """Train mode, statistics that start empty and are averaged plainly, a seed; all modes put back."""
    training = {module: module.training for module in model.modules()}
    momenta = [(norm, norm.momentum) for norm in norms]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        try:
            model.train()
            for norm, _ in momenta:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for a plain average over batches
            yield
        finally:
            for norm, momentum in momenta:
                norm.momentum = momentum
            for module, mode in training.items():
                module.training = mode


def _forward(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _check(norms: Mapping[str, _NormBase]) -> None:
    for name, norm in norms.items():
        for buffer in (norm.running_mean, norm.running_var):
            if isinstance(buffer, Tensor) and not bool(torch.isfinite(buffer).all()):
                raise ScoreError(
                    f"the activations before {name!r} are not finite (NaN or Inf): batch norm cannot be recalibrated; "
                    f"nothing was changed"
                )


def _put_back(norms: Mapping[str, _NormBase], saved: list[dict[str, Tensor]]) -> None:
    with torch.no_grad():
        for norm, buffers in zip(norms.values(), saved, strict=True):
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
