"""One seed of super-resolution: every arm trains the same net from the same values on the same patches, equally long.

x2 on the luma. K_P = the first third of the steps at a fixed learning rate, then a linear decay to 0; Adam, L1 loss.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.core.errors import DataNotFound
from sparseland.pixels.super_resolution import (
    EDSR,
    Pair,
    Patches,
    SwinIR,
    bundled_photos,
    imresize,
    measure,
    pair,
    read_photos,
)
from sparseland.train.result import machine, versions

PSNR, SSIM = "Y-PSNR, {} (dB)", "SSIM, {} (x 100)"
OVER = "over {}, all 19 (0.01 dB)"
FLIPS, GRADIENT = "flips per step, {} tenth of stage 1 (% of the weights)", "gradient norm, stage 1 (x 100)"
ALL = "all 19"
SCALE = 2
BICUBIC, DENSE, L1, ONCE, IHT, ISSP = "bicubic", "dense", "L1 mask at init", "dense, then one shot", "IHT", "ISS-P"
ISSR, GREG, GMP, RANDOM = "ISS-R", "ASSL/SRP penalty", "GMP", "random mask"


class Bicubic(nn.Module):
    """No net: the bicubic enlargement."""

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        """[N, 1, h, w] to [N, 1, 2 h, 2 w]."""
        return imresize(low, SCALE)


@functools.lru_cache(maxsize=1)
def pictures() -> tuple[list[Pair], dict[str, list[Pair]]]:
    """Training pairs (CBSD68 and scikit-learn's photographs), and the pairs of each test set."""
    root = os.environ.get("SPARSELAND_DATA")
    if root is None:
        raise DataNotFound("set SPARSELAND_DATA to the folder that holds super-resolution/{CBSD68,CSet5,CSet14}")
    place = Path(root, "super-resolution")
    train = [*read_photos(place / "CBSD68", crop=SCALE), *bundled_photos(crop=SCALE)]
    tests = {name: read_photos(place / f"C{name}", crop=SCALE) for name in ("Set5", "Set14")}
    made = {name: [pair(photo, SCALE) for photo in photos] for name, photos in tests.items()}
    return [pair(photo, SCALE) for photo in train], made


def build(net: str, seed: int) -> nn.Module:
    """The nets: the card's four convolutions, a small EDSR, a small SwinIR; each adds to the bicubic enlargement."""
    torch.manual_seed(seed)
    shared: dict[str, Any] = {"channels": 1, "skip": "bicubic"}
    if net == "conv":
        return EDSR(SCALE, features=20, blocks=1, light=True, **shared)
    if net == "edsr":
        return EDSR(SCALE, features=32, blocks=4, **shared)
    return SwinIR(SCALE, embed=24, depths=(2, 2), heads=(3, 3), **shared)


def method(arm: str, p: float, stage: int) -> sl.Method | None:
    """What an arm is; ``stage`` = K_P."""
    words = sl.methods
    if arm == DENSE:
        return None
    if arm == L1:
        return words.Magnitude(p, allocation="uniform")
    if arm == ONCE:
        return words.Magnitude(p, at=stage, allocation="uniform")
    if arm == RANDOM:
        return words.RandomPruning(p, ratios="uniform")
    if arm == GMP:
        return words.GMP(p, end=stage, every=max(1, stage // 50), allocation="uniform")
    ramp = 0.5 / stage  # the factor ends at the code's 0.5
    if arm == GREG:
        return words.GReg(p, end=stage, ramp=ramp)
    if arm == ISSR:
        return words.ISSP(p, variant="penalty", ramp=ramp, end=stage)
    return words.ISSP(p, factor={IHT: 0.0, ISSP: 0.95}[arm], end=stage)


def trained(
    net: str, how: sl.Method | None, patches: Patches, steps: int, stage: int, lr: float, batch: int, seed: int
) -> tuple[nn.Module, Any, list[float]]:
    """The net after ``steps``, its sparsifier, and the norm of its gradient at each step of stage 1."""
    model = build(net, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.99))
    sparsifier = how.attach(model, optimizer, steps=steps, seed=seed) if how is not None else None
    drawn, norms = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (steps - step) / (steps - stage))
        low, high = patches.batch(batch, drawn)
        optimizer.zero_grad()
        F.l1_loss(model(low), high).backward()
        if step < stage:
            norms.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()))
        optimizer.step()
    if sparsifier is not None:
        sparsifier.finalize_()
    return model, sparsifier, norms


def scores(model: nn.Module, tests: dict[str, list[Pair]]) -> dict[str, float]:
    """PSNR and SSIM on each set, and PSNR over all pictures."""
    values, total = {}, 0.0
    for name, pairs in tests.items():
        found = measure(model, pairs, border=2 * SCALE)
        values |= {PSNR.format(name): found["psnr"], SSIM.format(name): 100 * found["ssim"]}
        total += found["psnr"] * len(pairs)
    return values | {PSNR.format(ALL): total / sum(map(len, tests.values()))}


def flips(sparsifier: Any, stage: int) -> dict[str, float]:
    """Share of the weights whose mask changes in a step, in the first and in the last tenth of stage 1, in percent."""
    entries = [h for h in sparsifier.history if h["churn"] is not None and 1 < h["step"] <= stage]
    first = [h["churn"] for h in entries if h["step"] <= stage / 10]
    last = [h["churn"] for h in entries if h["step"] > stage * 0.9]
    return {FLIPS.format(k): 100 * sum(v) / max(1, len(v)) for k, v in (("first", first), ("last", last))}


def compare(
    net: str, sparsity: float, arms: Sequence[str], steps: int, lr: float, patch: int, batch: int, seed: int
) -> dict[str, Any]:
    """Every arm of one seed at one sparsity, and the differences that are paired by seed."""
    began, stage = time.monotonic(), round(steps / 3)
    train, tests = pictures()
    patches, found = Patches(train, patch), {BICUBIC: scores(Bicubic(), tests)}
    for arm in arms:
        how = method(arm, sparsity, stage)
        model, sparsifier, norms = trained(net, how, patches, steps, stage, lr, batch, seed)
        found[arm] = scores(model, tests) | {GRADIENT: 100 * sum(norms) / len(norms)}
        if sparsifier is not None and arm in (IHT, ISSP, ISSR):
            found[arm] |= flips(sparsifier, stage)
    every = PSNR.format(ALL)
    for arm, values in found.items():
        for other in (L1, ONCE, IHT):
            if other in found and arm not in (other, BICUBIC):
                values[OVER.format(other)] = 100 * (values[every] - found[other][every])
    measured = [
        {"arm": arm, "metric": name, "value": value} | ({"setting": ""} if arm == BICUBIC else {})
        for arm, values in found.items()
        for name, value in values.items()
    ]
    about = {"seconds": round(time.monotonic() - began, 1), "machine": machine(torch.device("cpu"))}
    return {"measured": measured, **about, "versions": versions()}
