"""How often the mask moves in stage 1, for several factors and learning rates: what the card derives, measured.

A weight in U that is pushed steadily settles at |w| = lr / (1 - factor) under Adam; it can come back where that is
above the layer's threshold.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional as F
from upscale import build, pictures

import sparseland as sl
from sparseland.pixels.super_resolution import Patches
from sparseland.train.result import machine, versions

FLIPS = "mask flips per step in 10,000 weights, {} of stage 1"
BACK = "kept at the end of stage 1, but in U after the first step (%)"
PARTS = ("first tenth", "first half", "second half", "last tenth")


def share(parts: str, values: list[float]) -> float:
    """The mean of a named part of the steps, in 10,000 weights.

    >>> share("second half", [0.0, 0.0, 1.0, 3.0])
    20000.0
    """
    n = len(values)
    cut = {
        "first tenth": values[: n // 10], "first half": values[: n // 2],
        "second half": values[n // 2 :], "last tenth": values[n - n // 10 :],
    }[parts]  # fmt: skip
    return 10_000 * sum(cut) / max(1, len(cut))


def follow(
    settings: list[list[float]], sparsity: float, steps: int, patch: int, batch: int, seed: int
) -> dict[str, Any]:
    """Stage 1 alone, the card's net: for each (learning rate, factor) how many masks flip in a step."""
    began, measured = time.monotonic(), []
    patches = Patches(pictures()[0], patch)
    for lr, factor in settings:
        model = build("conv", seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
        how = sl.methods.ISSP(sparsity, factor=factor, end=steps)
        sparsifier = how.attach(model, optimizer, steps=steps + 1, seed=seed)
        drawn, masks = torch.Generator().manual_seed(seed), []
        for _ in range(steps - 1):
            low, high = patches.batch(batch, drawn)
            optimizer.zero_grad()
            F.l1_loss(model(low), high).backward()
            optimizer.step()
            masks.append(sparsifier.masks)
        churn = [one.churn(two) for one, two in pairwise(masks)]
        back = sum(int((masks[-1][n] & ~masks[0][n]).sum()) for n in masks[0])
        values = {FLIPS.format(part): share(part, churn) for part in PARTS}
        values[BACK] = 100 * back / masks[0].kept()
        about = {"setting": f"lr {lr:g}", "arm": f"factor {factor:g}"}
        measured += [about | {"metric": name, "value": value} for name, value in values.items()]
    about = {"seconds": round(time.monotonic() - began, 1), "machine": machine(torch.device("cpu"))}
    return {"measured": measured, **about, "versions": versions()}
