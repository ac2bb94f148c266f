"""What the zeros of trained nets are worth here: one sample through torch and through the engine, dense and sparse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def speeds(runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """One row per method: its first run whose weights are there, timed in turns on one thread.

    Parameters:
        runs: as `finish` takes them.
        folder: what ``run["folder"]`` is relative to.

    Returns:
        Rows as `sparseland.reports.schema.Speed` describes them; torch does not know of the zeros, "dense" is the
        engine told to ignore them, "sparse" the engine choosing by timing.
    """
    rows, seen = [], set()
    for run in runs:
        place = folder / run["folder"] / "best.safetensors"
        if run["label"] not in seen and place.is_file():
            seen.add(run["label"])
            rows.append({"label": run["label"], "seed": run["seed"], **_times(*_net(run["result"]["config"], place))})
    return rows


def _net(config: Mapping[str, Any], weights: Path) -> tuple[nn.Module, tuple[int, ...]]:
    from .. import zoo
    from ..train import TrainConfig
    from ..train.supply import load_data
    from .weights_file import fill

    made = TrainConfig.from_dict(dict(config))
    data = load_data(made)
    net = zoo.build(made.model, in_shape=data.shape, classes=data.classes, seed=0, **made.model_options)
    fill(net, weights)
    return net.eval(), data.shape


def _times(net: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    import torch

    from ..deploy import convert

    engine = convert(net, torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)), threads=1)
    times = engine.facts["times"]
    return {
        "torch_ms": 1e3 * times["torch eager"], "dense_ms": 1e3 * times.get("engine, dense", times["engine"]),
        "sparse_ms": 1e3 * times["engine"], "threads": 1, "isa": engine.facts["isa"],
    }  # fmt: skip
