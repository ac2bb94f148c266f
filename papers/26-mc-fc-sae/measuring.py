"""What paper 26 measures: autoencoders of patches and digits that differ in how they spend k codes a token."""

from __future__ import annotations

import functools
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from sparseland.features import SAEConfig, SparseAutoencoder, train
from sparseland.features.sae.density import Zipf, gini
from sparseland.features.sae.losses import variation
from sparseland.train.result import machine, versions

PATCH, BLOCK = 8, 32


@functools.cache
def photos() -> tuple[Tensor, ...]:
    """The two photographs that scikit-learn ships, in grey, 0 … 1."""
    from sklearn.datasets import load_sample_images

    weights = torch.tensor([0.299, 0.587, 0.114])
    return tuple(torch.tensor(image).float() @ weights / 255 for image in load_sample_images().images)


def patches(count: int, seed: int, part: str) -> Tensor:
    """Random 8x8 patches (count, 64). Each photo is cut into blocks of 32x32 pixels: a fifth for testing, a tenth for
    validation, the same ones for every seed; no patch crosses a block's edge."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for image in photos():
        down, across = image.shape[0] // BLOCK, image.shape[1] // BLOCK
        order = torch.randperm(down * across, generator=torch.Generator().manual_seed(26))
        fifth, tenth = order.numel() // 5, order.numel() // 10
        blocks = {"test": order[:fifth], "validation": order[fifth : fifth + tenth], "train": order[fifth + tenth :]}[
            part
        ]
        block = blocks[torch.randint(0, blocks.numel(), (count // 2,), generator=generator)]
        shift = torch.randint(0, BLOCK - PATCH + 1, (2, count // 2), generator=generator)
        views = image.unfold(0, PATCH, 1).unfold(1, PATCH, 1)
        found.append(views[block // across * BLOCK + shift[0], block % across * BLOCK + shift[1]].reshape(-1, PATCH**2))
    x = torch.cat(found)
    return x[torch.randperm(x.shape[0], generator=generator)]


def whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, matrix) of ZCA; directions below a thousandth of the largest variance are not blown up."""
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((x - mean).t().double()))
    scale = values.clamp(min=1e-3 * float(values.max())).rsqrt()
    return mean, ((vectors * scale) @ vectors.t()).float()


def data(name: str, seed: int, tokens: int, split: str = "test", held_out: int = 8192) -> tuple[Tensor, Tensor]:
    """(training, held-out) tokens: ``patches`` as they are, ``whitened``, or whitened and each scaled to ``rms`` 1."""
    x, test = patches(tokens, seed, "train"), patches(held_out, seed + 1000, split)
    if name == "patches":
        return x, test
    mean, matrix = whitening(x)
    x, test = (x - mean) @ matrix, (test - mean) @ matrix
    if name == "rms":
        x, test = (t / t.square().mean(1, keepdim=True).sqrt().clamp(min=1e-3) for t in (x, test))
    return x, test


@torch.no_grad()
def evaluate(sae: SparseAutoencoder, test: Tensor, batch: int, mode: str) -> dict[str, Any]:
    """NMSE, per-token NMSE, L0, density over test tokens, in batches of the training's size."""
    sae.eval()
    error, l0, ratios = 0.0, [], []
    fired = torch.zeros(sae.config.d_sae)
    for part in test.split(batch):
        if part.shape[0] < batch:
            break
        output = sae(part, mode=mode)
        error += float((part - output.x_hat).square().sum())
        ratios.append((part - output.x_hat).square().sum(1) / part.square().sum(1).clamp(min=1e-12))
        l0.append(output.codes.l0.float())
        fired += output.codes.fired()
    whole = test[: test.shape[0] // batch * batch]
    counts = torch.cat(l0)
    return {
        "nmse": error / float(variation(whole)),
        "token": float(torch.cat(ratios).mean()),
        "l0": float(counts.mean()),
        "l0 std": float(counts.std()),
        "dead": float((fired == 0).float().mean()),
        "density": fired / whole.shape[0],
    }


def measure(
    label: str,
    sae: dict[str, Any],
    source: str,
    tokens: int,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    split: str = "test",
    held_out: int = 8192,
) -> dict[str, Any]:
    """Train one autoencoder and look at held-out data."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    x, test = data(source, seed, tokens, split, held_out)
    config = SAEConfig(d_in=x.shape[1], seed=seed, **sae)
    model = SparseAutoencoder(config)
    train(model, x, steps=steps, batch=batch, lr=lr, warmup=50, progress=False, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # batches are those of training: nothing to warn of
        found = evaluate(model, test, batch, "batch")
    silent = float(model.dead.float().mean())
    density = found.pop("density")
    curve = Zipf.fit(density)
    measured = {
        "NMSE (%)": 100 * found["nmse"],
        "per-token NMSE (%)": 100 * found["token"],
        "L0": found["l0"],
        "L0 std": found["l0 std"],
        "never fires, held out (%)": 100 * found["dead"],
        "silent for 100,000 training tokens (%)": 100 * silent,
        "density Gini": gini(density),
        "Zipf s": curve.s,
        "Zipf b": curve.b,
        "Zipf R2": curve.r2,
    }
    if model.current_rule in ("mutual", "feature"):
        held = evaluate(model, test, batch, "threshold")
        measured |= {
            "NMSE, thresholds (%)": 100 * held["nmse"],
            "L0, thresholds": held["l0"],
            "never fires, thresholds (%)": 100 * held["dead"],
        }
    return {
        "measured": [{"setting": source, "arm": label, "metric": m, "value": round(v, 6)} for m, v in measured.items()],
        "seconds": round(time.perf_counter() - started, 2),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
