"""Calibration, unknown data and FGSM on nets that are trained already: dense beside randomly pruned."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import sparseland as sl
from sparseland.train.result import machine, versions

EPSILONS = (4, 8)  # of 255
BATCH = 1000


def auroc(inside: Tensor, outside: Tensor) -> float:
    """The chance that a score of ``inside`` is above one of ``outside``, ties counting half.

    >>> auroc(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.8]))
    0.875
    """
    ordered = outside.sort().values
    below = torch.searchsorted(ordered, inside, right=False).double()
    up_to = torch.searchsorted(ordered, inside, right=True).double()
    return float(((below + up_to) / 2).mean() / len(outside))


@torch.no_grad()
def confidence(model: nn.Module, images: Tensor) -> Tensor:
    """The largest softmax probability of each image [n]."""
    return torch.cat([model(batch).softmax(1).amax(1) for batch in images.split(BATCH)])


def under_attack(model: nn.Module, pixels: Tensor, labels: Tensor, epsilon: float, mean: Tensor, std: Tensor) -> float:
    """Accuracy on x + epsilon sign(dL/dx), pixels in 0 … 1 (FGSM, arXiv 1412.6572)."""
    right = 0
    for x, y in zip(pixels.split(BATCH), labels.split(BATCH), strict=True):
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model((leaf - mean) / std), y, reduction="sum"), leaf)
        attacked = (x + epsilon * slope.sign()).clamp(0, 1)
        with torch.no_grad():
            right += int((model((attacked - mean) / std).argmax(1) == y).sum())
    return right / len(labels)


def measure(runs: dict[str, str], place: str) -> dict[str, Any]:
    """All measures of each run in ``runs`` ({arm: its folder below ``place``}), in percent."""
    began, measured = time.monotonic(), []
    for arm, folder in runs.items():
        config = sl.train.TrainConfig.from_dict(_config(Path(place, folder)))
        data = sl.data.load(config.data, folder=config.folder, seed=config.seed, limit=config.limit)
        digits = sl.data.load("mnist-test", folder=config.folder)
        unknown = torch.cat([split.images for split in digits.splits.values()])
        model = sl.zoo.build(config.model, in_shape=data.shape, classes=data.classes, **config.model_options).eval()
        model.load_state_dict(load_file(Path(place, folder, "best.safetensors")))
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
        pixels, labels = data.test.images.float() / 255, data.test.labels
        whole = sl.train.evaluate(model, data.test, classes=data.classes, mean=data.mean, std=data.std)
        known, other = (confidence(model, (x - mean) / std) for x in (pixels, unknown.float() / 255))
        values = {
            "test accuracy (%)": whole["accuracy"],
            "ECE (%)": whole["ece"],
            "AUROC against MNIST digits (%)": auroc(known, other),
        }
        for step in EPSILONS:
            attacked = under_attack(model, pixels, labels, step / 255, mean, std)
            values[f"accuracy under FGSM {step}/255 (%)"] = attacked
        measured += [{"arm": arm, "metric": name, "value": 100 * value} for name, value in values.items()]
    about = {"seconds": round(time.monotonic() - began, 1), "machine": machine(torch.device("cpu"))}
    return {"measured": measured, **about, "versions": versions()}


def _config(folder: Path) -> dict[str, Any]:
    """The configuration that a finished run was trained with."""
    import json

    config: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))["config"]
    return config
