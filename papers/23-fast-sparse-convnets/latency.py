"""Milliseconds of trained nets in the engine: all nets of one seed take turns in one process, on pinned threads.

`speed` asks how many times faster the same net runs with its zeros than without, at the paper's size of images; its
weights are random, which changes no time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.account.timing import take_turns
from sparseland.train.result import machine, versions
from sparseland.zoo import load_weights

LATENCY, TIMES = "latency (ms)", "dense / sparse (times)"
SHAPES = {"cifar": (3, 32, 32), "fashion": (1, 28, 28)}
# Of the largest number, engine against torch, before anything is timed. Some of these nets have channels that died in
# training: their BatchNorm divides by a variance of 1e-16, and torch's own float32 is up to 4e-4 from its float64.
CLOSE = 5e-3


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """This process on its first ``threads`` cores, torch with as many threads."""
    cores, before = sorted(os.sched_getaffinity(0)), torch.get_num_threads()
    os.sched_setaffinity(0, set(cores[:threads]))
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        os.sched_setaffinity(0, set(cores))
        torch.set_num_threads(before)


def engine(model: nn.Module, sample: Tensor, threads: int) -> Callable[[], object]:
    """The converted model as a call without arguments; its answer is compared with torch's first.

    Layers get the kernel that is fastest for them, dense ones too; but the whole is not given up for torch.
    """
    made = sl.deploy.convert(model.eval(), sample, threads=threads, never_slower=False, tolerance=CLOSE)
    with torch.no_grad():
        ours, theirs = torch.as_tensor(made(sample)), model(sample)
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if not apart < CLOSE:
        raise ValueError(f"the engine's answer differs from torch's by {apart:.1e} of its largest number")
    return lambda: made(sample)


def answer(measured: list[dict[str, Any]], began: float) -> dict[str, Any]:
    """What a job returns."""
    return {
        "measured": measured,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }


def measure(
    part: str, stem: int, nets: dict[str, float], batch: int, threads: int, rounds: int, seed: int, place: str
) -> dict[str, Any]:
    """Median milliseconds of every net of one part and seed; ``nets``: {its name in the table: width}."""
    began = time.monotonic()
    shape = SHAPES[part]
    draw = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch, *shape, generator=draw)
    with pinned(threads):
        rivals = {}
        for name, width in nets.items():
            model = sl.zoo.build("mobilenet-v1", in_shape=shape, classes=10, seed=0, width=width, stem_stride=stem)
            load_weights(model, Path(place) / "weights" / part / name / str(seed) / "model.safetensors")
            rivals[name] = engine(model, sample, threads)
        times = take_turns(rivals, rounds=rounds, warm_up=max(3, rounds // 10))
    setting = f"{part}, batch {batch}"
    return answer(
        [
            {"setting": setting, "arm": name, "metric": LATENCY, "value": round(1000 * median(taken), 5)}
            for name, taken in times.items()
        ],
        began,
    )


@torch.no_grad()
def prune_(model: nn.Module, sparsity: float) -> None:
    """Zeros in all 1x1 convolutions, the smallest of each; blocks of four outputs in the last one, as published."""
    from sparseland.core import pattern

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.groups == 1]
    for layer in layers:
        fits = layer is layers[-1] and layer.out_channels % 4 == 0  # of width 1.4 it has 1,433
        shape = pattern("block 4x1" if fits else "unstructured")
        scores = layer.weight.abs()
        layer.weight.mul_(shape.project(scores, shape.reachable(scores.shape, (1 - sparsity) * scores.numel())))


def speed(net: str, width: float, sparsity: float, side: int, threads: int, rounds: int, seed: int) -> dict[str, Any]:
    """One net of random weights at ``side`` pixels, batch 1: with zeros and without, in turns."""
    began = time.monotonic()
    sample = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    with pinned(threads):
        rivals = {}
        for name in ("dense", "sparse"):
            model = sl.zoo.build(net, in_shape=(3, side, side), classes=1000, seed=seed, width=width)
            if name == "sparse":
                prune_(model, sparsity)
            rivals[name] = engine(model, sample, threads)
        times = take_turns(rivals, rounds=rounds, warm_up=5)
    ratio = median(a / b for a, b in zip(times["dense"], times["sparse"], strict=True))
    setting = f"{net} {width:g}, {side} pixels, {threads} thread{'s' if threads > 1 else ''}"
    values = [(LATENCY, f"{name}", 1000 * median(taken)) for name, taken in times.items()] + [
        (TIMES, f"{sparsity:.0%}", ratio)
    ]
    return answer([{"setting": setting, "arm": a, "metric": m, "value": round(v, 5)} for m, a, v in values], began)
