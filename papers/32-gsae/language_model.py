"""A small GPT-2 on single characters of tinyshakespeare, trained here once and kept; and the text it never saw.

The first 90 % of the text train it (and later the autoencoders), the next 5 % choose beta, the last 5 % are for the
numbers. 4 layers of width 128, 4 heads, 128 characters of context, no dropout: 0.8 million weights.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseland.core.errors import DataNotFound
from sparseland.files import write_folder

LENGTH, SHARES = 128, {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
SETTING = {"n_embd": 128, "n_layer": 4, "n_head": 4, "steps": 900, "batch": 24, "lr": 2e-3, "seed": 0}


def text(data: Path) -> str:
    """The whole of tinyshakespeare; ``data`` is the folder that SPARSELAND_DATA names."""
    path = data / "text" / "tinyshakespeare.txt"
    if not path.is_file():
        raise DataNotFound(f"no file {path}; set SPARSELAND_DATA to the folder that holds text/tinyshakespeare.txt")
    return path.read_text(encoding="utf-8")


class Characters:
    """Characters as numbers, in the order of their code points."""

    def __init__(self, letters: str) -> None:
        self.letters = letters
        self.numbers = {letter: number for number, letter in enumerate(letters)}

    def encode(self, words: str) -> Tensor:
        return torch.tensor([self.numbers[letter] for letter in words])

    def decode(self, ids: Any) -> str:
        return "".join(self.letters[int(i)] for i in ids)


def sequences(words: str, split: str, letters: Characters, length: int = LENGTH) -> Tensor:
    """A part of the text as [n, length] ids, without overlap; what is left at its end is dropped."""
    low, high = (int(share * len(words)) for share in SHARES[split])
    ids = letters.encode(words[low:high])
    return ids[: len(ids) // length * length].view(-1, length)


def build(vocabulary: int, setting: dict[str, Any]) -> Any:
    """A GPT-2 of that size with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(setting["seed"])
    sizes = {name: setting[name] for name in ("n_embd", "n_layer", "n_head")}
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=LENGTH,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
            **sizes,
            **none,
        )
    )


def train(place: Path, words: str, setting: dict[str, Any]) -> None:
    """Train the small GPT and write it into ``place``, whole or not at all."""
    letters = Characters("".join(sorted(set(words))))
    low, high = (int(share * len(words)) for share in SHARES["train"])
    ids, model, began = letters.encode(words[low:high]), build(len(letters.letters), setting), time.process_time()
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting["lr"], betas=(0.9, 0.99), weight_decay=0.1)
    generator, steps = torch.Generator().manual_seed(setting["seed"]), setting["steps"]
    model.train()
    for step in range(steps):
        rate = min(1.0, (step + 1) / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        optimizer.param_groups[0]["lr"] = setting["lr"] * rate
        starts = torch.randint(len(ids) - LENGTH, (setting["batch"],), generator=generator)
        batch = ids[starts[:, None] + torch.arange(LENGTH)]
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item():.3f}, {time.process_time() - began:.0f} s", flush=True)
    model.eval()
    said = {"setting": setting, "letters": letters.letters, "seconds": round(time.process_time() - began, 1)}
    for split in ("validation", "test"):
        said[f"{split} loss"] = round(cross_entropy(model, sequences(words, split, letters)), 4)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        (folder / "made.json").write_text(json.dumps(said), encoding="utf-8")

    place.parent.mkdir(parents=True, exist_ok=True)
    write_folder(place, fill)


def cross_entropy(model: Any, ids: Tensor) -> float:
    """Nats per character over [n, length] ids."""
    with torch.no_grad():
        losses = [model(part, labels=part).loss.item() * len(part) for part in ids.split(64)]
    return sum(losses) / len(ids)


def small_gpt(place: Path, data: Path, setting: dict[str, Any] | None = None) -> tuple[Any, Characters, dict[str, Any]]:
    """The trained model (evaluation mode, frozen), its characters, and how it was made; trained if it is not there."""
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    wanted = dict(setting or SETTING)
    made = place / "made.json"
    if not made.is_file() or json.loads(made.read_text(encoding="utf-8"))["setting"] != wanted:
        train(place, text(data), wanted)
    said = json.loads(made.read_text(encoding="utf-8"))
    logging.disable_progress_bar()
    model = GPT2LMHeadModel.from_pretrained(place).eval().requires_grad_(False)
    return model, Characters(said["letters"]), said
