"""Card 26, part C: TopK, mutual choice, and mutual then feature choice on the layers of two real models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import language_model
import measuring
import torch
from torch import Tensor
from torch.nn import functional as F

from sparseland.core.errors import DataNotFound
from sparseland.features import SAEConfig, SparseAutoencoder, train
from sparseland.features.activations import ActivationStream, ModelActivations, store
from sparseland.features.activations.model import Reading
from sparseland.features.metrics import evaluate
from sparseland.features.splice import output_similarity, recovered
from sparseland.train.result import machine, versions

ARMS = {"TopK": "topk", "mutual choice": "batchtopk", "mutual, then feature choice": "mutual_then_feature"}
MINILM = Path("~/.cache/sparseland/peers/minilm").expanduser()  # where benchmarks/cpu_inference puts it


def minilm(place: str, tokens: int, held: int) -> tuple[Any, ModelActivations]:
    """Stored activations of layer 3 on WikiText-2's validation text, and a source on its test text."""
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging

    found = next(MINILM.glob("**/model.safetensors"), None)
    if found is None:
        raise DataNotFound(f"no weights of MiniLM below {MINILM}: benchmarks/cpu_inference fetches them")
    logging.set_verbosity_error()  # it reports that the pooler is not asked for
    logging.disable_progress_bar()
    model = BertModel.from_pretrained(found.parent, add_pooling_layer=False).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(found.parent)

    def source(name: str, rows: int) -> ModelActivations:
        path = measuring.data_folder() / "text" / name
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 200]
        ids = tokenizer(lines[:rows], truncation=True, max_length=64, padding="max_length", return_tensors="pt")
        return ModelActivations(
            model, "encoder.layer.2", dict(ids), special=tokenizer.all_special_ids, batch=32, shuffle=False
        )

    data = store(source("wikitext2-valid.txt", -(-tokens // 60)), Path(place) / f"minilm-{tokens}", rows=tokens)
    return data, source("wikitext2-test.txt", held)


def small_gpt(place: str, tokens: int, held: int) -> tuple[Any, ModelActivations]:
    """The stored activations of the small GPT without their gradients, and a source on its test text."""
    model, letters, words = measuring.gpt(place)
    data = measuring.Plain(measuring.collected(place, tokens))
    ids = language_model.sequences(words, "test", letters)[:held]
    return data, ModelActivations(model, measuring.LAYER, ids, batch=32, shuffle=False)


def sentence(outputs: Any, reading: Reading) -> Tensor:
    """MiniLM's sentence vector: the mean over all places that are not padding, to length 1."""
    mask = reading.inputs["attention_mask"][..., None].float()  # type: ignore[index, call-overload]
    return F.normalize((outputs.last_hidden_state * mask).sum(1) / mask.sum(1), dim=1)


def compare(
    model: str,
    k: int,
    seed: int,
    place: str,
    steps: int | None = None,
    batch: int = 1024,
    lr: float = 8e-4,
    tokens: int | None = None,
    held: int = 24,
    expansion: int = 8,
) -> dict[str, Any]:
    """The three arms of one seed."""
    began, measured = time.time(), []
    lm = model == "gpt"
    steps, tokens = steps or (150 if lm else 60), tokens or (300_000 if lm else 30_000)
    data, source = (small_gpt if lm else minilm)(place, tokens, held)
    rows = torch.cat([r.x[r.kept] for r in source.readings()])
    rows = rows[: max(len(rows) // batch, 1) * batch]  # whole batches: the same rows for every arm
    for label, activation in ARMS.items():
        width = rows.shape[1]
        sae = SparseAutoencoder(
            SAEConfig(width, expansion * width, activation=activation, k=k, aux="aux_k", dead_window=50_000, seed=seed)
        )
        stream = ActivationStream(data, batch=batch, buffer=65_536 if lm else 16_384, seed=seed)
        train(sae, stream, steps=steps, lr=lr, progress=False)
        sae.eval()
        numbers: dict[str, float] = {}
        for mode in ("batch", "threshold"):
            found = evaluate(sae, rows, batch=batch, mode=mode)
            numbers[f"NMSE, {mode} (%)"] = 100 * found["fvu"]
            numbers[f"NMSE per token, {mode} (%)"] = 100 * found["nmse_per_token"]
            numbers[f"L0, {mode}"] = found["l0"]
            numbers[f"dead, {mode} (%)"] = 100 * found["dead"]
        numbers["standard deviation of L0, batch"] = evaluate(sae, rows, batch=batch)["l0_std"]
        if lm:
            arms = recovered(sae, source, mode="batch").arms["activation"]
            numbers["CE recovered (%)"], numbers["loss added (0.001 nats)"] = 100 * arms.recovered, 1000 * arms.delta
        else:
            said = output_similarity(sae, source, sentence, mode="batch")
            numbers["cosine of the sentence vector (0.01)"] = 100 * said["cosine"]
            numbers["NMSE of the sentence vector (%)"] = 100 * said["nmse"]
        measured += [{"arm": label, "metric": name, "value": value} for name, value in numbers.items()]
    return {
        "measured": measured,
        "seconds": time.time() - began,
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
