"""Milliseconds in the engine: the fine-tuned nets of one seed, and MobileNetV1 at 224 pixels with 30 % and 50 % zeros.

Nets take turns in one process on pinned threads; the clock is that of papers/23-fast-sparse-convnets.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch
from torch import nn

import sparseland as sl
from sparseland.account.timing import take_turns
from sparseland.core import pattern
from sparseland.zoo import load_weights

LATENCY, TIMES = "latency (ms)", "dense / sparse (times)"


def _clock() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "23-fast-sparse-convnets" / "latency.py"
    spec = importlib.util.spec_from_file_location("latency_23", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(net: str, part: str, arms: list[str], threads: int, rounds: int, seed: int, place: str) -> dict[str, Any]:
    """Median milliseconds of every fine-tuned net of one part and seed, batch 1."""
    began, clock = time.monotonic(), _clock()
    shape, options = ((1, 28, 28), {"stem_stride": 2}) if net.startswith("mobilenet") else ((3, 32, 32), {})
    sample = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    with clock.pinned(threads):
        rivals = {}
        for arm in arms:
            model = sl.zoo.build(net, in_shape=shape, classes=10, seed=0, **options)
            load_weights(model, Path(place) / "weights" / part / arm / str(seed) / "model.safetensors")
            rivals[arm] = clock.engine(model, sample, threads)
        times = take_turns(rivals, rounds=rounds, warm_up=max(3, rounds // 10))
    measured = []
    for arm, taken in times.items():
        name, _, share = arm.rpartition(" ") if arm.endswith("%") else (arm, "", "")
        value = round(1000 * median(taken), 5)
        measured.append({"setting": f"{part} {share}".strip(), "arm": name, "metric": LATENCY, "value": value})
    answer: dict[str, Any] = clock.answer(measured, began)
    return answer


@torch.no_grad()
def prune_(model: nn.Module, shape: str, sparsity: float) -> None:
    """Zeros in all 1x1 convolutions, the smallest atoms of each."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
            scores, word = layer.weight.abs(), pattern(shape)
            layer.weight.mul_(word.project(scores, word.reachable(scores.shape, (1 - sparsity) * scores.numel())))


def speed(sparsity: float, shapes: dict[str, str], threads: int, rounds: int, seed: int) -> dict[str, Any]:
    """MobileNetV1 of random weights, 224 pixels, batch 1: without zeros, and with those of each pattern, in turns."""
    began, clock = time.monotonic(), _clock()
    sample = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(seed))
    with clock.pinned(threads):
        rivals = {}
        for name, shape in {"dense": "", **shapes}.items():
            model = sl.zoo.build("mobilenet-v1", in_shape=(3, 224, 224), classes=1000, seed=seed)
            if shape:
                prune_(model, shape, sparsity)
            rivals[name] = clock.engine(model, sample, threads)
        times = take_turns(rivals, rounds=rounds, warm_up=5)
    measured = []
    for name, taken in times.items():
        setting = f"MobileNetV1, {sparsity:.0%}"
        values = {LATENCY: 1000 * median(taken)}
        if name != "dense":
            values[TIMES] = median(a / b for a, b in zip(times["dense"], taken, strict=True))
        measured += [{"setting": setting, "arm": name, "metric": m, "value": round(v, 5)} for m, v in values.items()]
    answer: dict[str, Any] = clock.answer(measured, began)
    return answer
