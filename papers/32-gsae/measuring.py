"""One seed of Gradient SAEs beside TopK, on a layer of the small GPT: the same start, the same tokens, the same steps.

What is read of a trained autoencoder comes from text that neither it nor the language model saw: cross-entropy with its
reconstructions in place of the layer, chosen without labels ("activation"), by the gradient of the model's own guess
("self") and by that of the true next token ("gradient", which depends on the answer).
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import language_model
import torch
from torch import Tensor

from sparseland.core.errors import DataNotFound
from sparseland.features import SAEConfig, SparseAutoencoder, train
from sparseland.features.activations import (
    ActivationStream,
    ModelActivations,
    StoredActivations,
    store,
)
from sparseland.features.attribution import faithfulness
from sparseland.features.metrics import evaluate, reconstruct
from sparseland.features.splice import SELECTS, recovered
from sparseland.features.steering import logit_influence
from sparseland.train.result import machine, versions

LAYER = "transformer.h.1"  # after the second of four blocks
ACTIVATION, OWN, LABELS = SELECTS
DELTA = "loss added, select={} (0.001 nats)"
RECOVERED = "CE recovered, select={} (%)"
OVER = "loss added less TopK's, select={} (0.001 nats)"
WINS = "seeds in which it adds less loss than TopK, select={} (%)"
NMSE, NMSE_OVER, DEAD, L0 = "NMSE (%)", "NMSE against TopK's (%)", "dead features (%)", "L0"
KL = "KL(clean, spliced), select=activation (0.001 nats)"
RMS, ABOVE = "RMS change of the logits, scale {:g} (0.01)", "above random directions, scale {:g} (%)"
SPEARMAN, SIZE = "attribution against ablation, Spearman (0.01)", "median of beta |d g| over active features (0.01)"
SCALES = (1.0, 4.0, 16.0)


def data_folder() -> Path:
    """Where SPARSELAND_DATA points.

    Raises:
        DataNotFound: it is not set.
    """
    found = os.environ.get("SPARSELAND_DATA")
    if not found:
        raise DataNotFound("set SPARSELAND_DATA to the folder that holds text/tinyshakespeare.txt")
    return Path(found)


@functools.lru_cache(maxsize=1)
def gpt(place: str) -> tuple[Any, Any, str]:
    """The small GPT, its characters, and the whole text."""
    model, letters, _ = language_model.small_gpt(Path(place) / "gpt", data_folder())
    return model, letters, language_model.text(data_folder())


def collected(place: str, tokens: int) -> StoredActivations:
    """Activations and next-token gradients of so many tokens of the training text; made once."""
    model, letters, words = gpt(place)
    ids = language_model.sequences(words, "train", letters)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    chosen = ids[order[: -(-tokens // (language_model.LENGTH - 1))]]
    source = ModelActivations(model, LAYER, chosen, gradient="next_token", batch=32, shuffle=False)
    return store(source, Path(place) / f"activations-{tokens}", rows=tokens, shard=32_768)


def autoencoder(job: dict[str, Any], beta: float, width: int) -> SparseAutoencoder:
    """TopK for beta = 0, Gradient SAE otherwise; the same random start for the same seed."""
    choice = {"select": "gradient", "beta": beta, "grad_norm": job["grad_norm"]} if beta else {}
    return SparseAutoencoder(
        SAEConfig(
            width, job["features"], k=job["k"], aux="aux_k", dead_window=job["dead_window"], seed=job["seed"], **choice
        )
    )


def fitted(job: dict[str, Any], beta: float, data: StoredActivations) -> SparseAutoencoder:
    """Train one arm."""
    sae = autoencoder(job, beta, data.d_in)
    source = data if beta else Plain(data)
    stream = ActivationStream(source, batch=job["batch"], buffer=65_536, seed=job["seed"])
    train(sae, stream, steps=job["steps"], lr=job["lr"], progress=False)
    return sae.eval()


class Plain:
    """Stored pairs without their gradients."""

    repeats = True

    def __init__(self, data: StoredActivations) -> None:
        self.data = data

    def blocks(self, epoch: int, start: int) -> Any:
        return (item[0] if isinstance(item, tuple) else item for item in self.data.blocks(epoch, start))


def look(sae: SparseAutoencoder, source: ModelActivations, job: dict[str, Any]) -> dict[str, float]:
    """Every number of one trained autoencoder."""
    found = recovered(sae, source, selects=SELECTS)
    rows = torch.cat([r.x[r.kept] for r in source.readings()])
    codes = evaluate(sae, rows, batch=4096)
    numbers: dict[str, float] = {NMSE: 100 * codes["fvu"], DEAD: 100 * codes["dead"], L0: codes["l0"]}
    for select in SELECTS:
        numbers[DELTA.format(select)] = 1000 * found.arms[select].delta
        numbers[RECOVERED.format(select)] = 100 * found.arms[select].recovered
    numbers[KL] = 1000 * found.arms[ACTIVATION].kl
    for one in logit_influence(sae, source, latents=job["latents"], scales=SCALES, contexts=3, random=32, seed=0):
        numbers[RMS.format(one.scale)] = 100 * one.mean_rms
        numbers[ABOVE.format(one.scale)] = 100 * one.share_above_random
    numbers[SPEARMAN] = 100 * faithfulness(sae, source, pairs=job["pairs"])["spearman"]
    return numbers


def slope(sae: SparseAutoencoder, source: ModelActivations, beta: float) -> float:
    """Median of beta |d_i g / ‖g‖| over the active features of some text, in 0.01."""
    paired = ModelActivations(source.model, source.layer, source.data.data[:16], gradient="next_token", shuffle=False)
    x, g = next(iter(paired.blocks(0, 0)))
    g = torch.nn.functional.normalize(g, dim=1)
    products: Tensor = (g @ sae.W_dec.detach().t()).abs()[reconstruct(sae, x)[1] != 0]
    return 100 * beta * float(products.median())


def compare(
    k: int,
    betas: list[float],
    split: str,
    seed: int,
    place: str,
    grad_norm: str = "token_l2",
    tokens: int = 300_000,
    features: int = 1024,
    steps: int = 500,
    batch: int = 512,
    lr: float = 8e-4,
    sequences: int = 64,
    latents: int = 64,
    pairs: int = 128,
    dead_window: int = 100_000,
) -> dict[str, Any]:
    """TopK and Gradient SAEs of one seed; every measure, and every difference to TopK of the same seed."""
    began, job = time.time(), dict(locals())
    model, letters, words = gpt(place)
    data = collected(place, tokens)
    held = language_model.sequences(words, split, letters)[:sequences]
    source = ModelActivations(model, LAYER, held, batch=32, shuffle=False)
    base: dict[str, float] = {}
    measured = []
    for beta in (0.0, *betas):
        sae = fitted(job, beta, data)
        arm, numbers = f"g-SAE, beta={beta:g}" if beta else "TopK", look(sae, source, job)
        if beta:
            numbers[SIZE] = slope(sae, source, beta)
            numbers[NMSE_OVER] = 100 * (numbers[NMSE] / base[NMSE] - 1)
            for select in SELECTS:  # TopK is chosen by activation, whatever the mode
                over = numbers[DELTA.format(select)] - base[DELTA.format(ACTIVATION)]
                numbers[OVER.format(select)], numbers[WINS.format(select)] = over, 100.0 * (over < 0)
        else:
            base = numbers
            for select in (OWN, LABELS):  # the same numbers again
                del numbers[DELTA.format(select)], numbers[RECOVERED.format(select)]
        measured += [{"arm": arm, "metric": name, "value": value} for name, value in numbers.items()]
    return {
        "measured": measured,
        "seconds": time.time() - began,
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
