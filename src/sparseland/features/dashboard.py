"""What features stand for: the places where each is most active, as one self-contained HTML file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import SparselandError
from ..files import write_file
from .activations.model import ModelActivations
from .metrics import reconstruct
from .sae.model import SparseAutoencoder
from .splice import limited

_TEMPLATES = Path(__file__).with_name("templates")
BARS = 20  # of a histogram
Decode = Callable[[int], str]  # from a token's id to its text


def top_activations(
    sae: SparseAutoencoder,
    source: ModelActivations,
    *,
    latents: Sequence[int] | int = 32,
    top: int = 8,
    context: int = 12,
    sequences: int | None = 512,
    mode: str = "batch",
) -> list[dict[str, Any]]:
    """For each feature the places where it is most active, at most one a sequence, with what stands around them.

    Parameters:
        sae: a `SparseAutoencoder`. source: model, layer and token ids.
        latents: their numbers, or how many: then spread evenly over the ranks of density, dead ones left out.
        top: places of a feature. context: tokens on either side. sequences: how many are read, from the start.

    Returns:
        For each feature {"latent", "density", "mean", "largest", "counts" (histogram of active values from 0 to the
        largest), "places": [{"value", "at", "ids", "values"}]}, strongest first; "at" is the place within "ids".

    Raises:
        SparselandError: inputs without token ids, features out of range, numbers below 1.

    >>> from sparseland.features import SAEConfig
    >>> net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9))
    >>> source = ModelActivations(net, "0", torch.randint(9, (6, 5)), shuffle=False)
    >>> found = top_activations(SparseAutoencoder(SAEConfig(4, 8, k=2)), source, latents=3, top=2, context=1)
    >>> len(found), len(found[0]["places"]) <= 2, len(found[0]["places"][0]["ids"]) <= 3
    (3, True, True)
    """
    if min(top, context + 1) < 1 or (sequences is not None and sequences < 1):
        raise SparselandError(
            f"top and sequences are at least 1, context at least 0; got {top}, {sequences}, {context}"
        )
    size = sae.config.d_sae
    if not isinstance(latents, int):
        latents = list(latents)
        if bad := [i for i in latents if not 0 <= i < size]:
            raise SparselandError(f"features are numbers from 0 to {size - 1}; got {bad[:5]}")
    elif latents < 1:
        raise SparselandError(f"latents is a number of features from 1, or a list of them; got {latents}")
    gathered = _gather(sae, source, sequences, mode)
    chosen = _spread(gathered.fired, latents) if isinstance(latents, int) else latents
    return [_feature(gathered, latent, top, context) for latent in chosen]


class _Gathered:
    """Codes of a text, sparse: one entry an active feature."""

    def __init__(self, size: int) -> None:
        self.ids: list[Tensor] = []  # one a sequence
        self.real: list[Tensor] = []
        self.entries: list[Tensor] = []  # [n, 3]: sequence, place, feature
        self.values: list[Tensor] = []
        self.fired = torch.zeros(size, dtype=torch.int64)
        self.tokens = 0

    def add(self, ids: Tensor, kept: Tensor, codes: Tensor) -> None:
        places = kept.nonzero()
        entries = codes.nonzero()
        self.values.append(codes[entries[:, 0], entries[:, 1]])
        where = places[entries[:, 0]]
        self.entries.append(torch.stack([where[:, 0] + len(self.ids), where[:, 1], entries[:, 1]], 1))
        self.ids += list(ids)
        self.fired += torch.bincount(entries[:, 1], minlength=len(self.fired))
        self.tokens += len(codes)

    def close(self) -> None:
        """Join, and sort by feature so that each one's entries are a slice."""
        entries, values = torch.cat(self.entries), torch.cat(self.values)
        order = entries[:, 2].argsort(stable=True)
        self.all, self.strengths = entries[order], values[order]
        self.ends = torch.cat([torch.zeros(1, dtype=torch.int64), self.fired.cumsum(0)])

    def of(self, latent: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sequences, places and values of a feature."""
        part = slice(int(self.ends[latent]), int(self.ends[latent + 1]))
        return self.all[part, 0], self.all[part, 1], self.strengths[part]


def _gather(sae: SparseAutoencoder, source: ModelActivations, sequences: int | None, mode: str) -> _Gathered:
    found = _Gathered(sae.config.d_sae)
    for reading in limited(source, sequences):
        if reading.ids is None:
            raise SparselandError("a dashboard needs token ids: inputs that are ids or hold input_ids")
        kept = reading.kept.to(reading.x.device)
        codes = reconstruct(sae, reading.x[kept].float(), None, mode)[1].cpu()
        found.add(reading.ids.cpu(), reading.kept, codes)
    if not found.tokens:
        raise SparselandError("no activations are kept: every token is padding or special")
    found.close()
    return found


def _spread(fired: Tensor, count: int) -> list[int]:
    """Living features, evenly over the ranks of how often they fire."""
    order = fired.argsort(descending=True, stable=True)[: int((fired > 0).sum())]
    if len(order) <= count:
        return [int(i) for i in order]
    return [int(order[round(i * (len(order) - 1) / max(count - 1, 1))]) for i in range(count)]


def _feature(found: _Gathered, latent: int, top: int, context: int) -> dict[str, Any]:
    sequences, places, values = found.of(latent)
    shown, seen = [], set()
    for i in values.argsort(descending=True, stable=True).tolist():
        row, place = int(sequences[i]), int(places[i])
        if row in seen:
            continue
        seen.add(row)
        ids = found.ids[row]
        low, high = max(place - context, 0), min(place + context + 1, len(ids))
        strengths = torch.zeros(len(ids))
        mine = sequences == row
        strengths[places[mine]] = values[mine].float()
        shown.append(
            {"value": float(values[i]), "at": place - low, "ids": ids[low:high].tolist(),
             "values": strengths[low:high].tolist()}
        )  # fmt: skip
        if len(shown) == top:
            break
    largest = float(values.max()) if len(values) else 0.0
    counts = torch.histc(values.float(), BARS, 0, largest).long().tolist() if largest > 0 else [0] * BARS
    return {
        "latent": latent,
        "density": int(found.fired[latent]) / found.tokens,
        "mean": float(values.mean()) if len(values) else 0.0,
        "largest": largest,
        "counts": counts,
        "places": shown,
    }


def promoted(sae: SparseAutoencoder, model: Any, latent: int, count: int = 8) -> tuple[list[int], list[int]] | None:
    """Tokens whose logits the feature's direction raises and lowers most, straight through the unembedding.

    W_U d_i, without the final norm: a first look, not what the layers between make of it

    Returns:
        Ids of both; None where the model has no unembedding of the activations' width.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(head, "weight", None)
    if weight is None or weight.shape[1] != sae.config.d_in:
        return None
    change = weight.detach().float() @ sae.W_dec.detach()[latent].float()
    count = min(count, len(change))
    return change.topk(count).indices.tolist(), (-change).topk(count).indices.tolist()


def write_dashboard(
    sae: SparseAutoencoder,
    source: ModelActivations,
    path: str | os.PathLike[str],
    *,
    decode: Decode = str,
    latents: Sequence[int] | int = 32,
    top: int = 8,
    context: int = 12,
    sequences: int | None = 512,
    mode: str = "batch",
    title: str = "Features",
) -> Path:
    """Write `top_activations` as one HTML file that loads nothing from elsewhere; for any width, light and dark.

    Parameters:
        path: of the file, ending in .html; written whole or not at all.
        decode: from a token's id to its text, for example ``lambda i: tokenizer.decode([i])``.
        title: the page's. The rest as for `top_activations`.

    Raises:
        SparselandError: see `top_activations`, or another ending. OutputError: it cannot be written.

    >>> import tempfile
    >>> from sparseland.features import SAEConfig
    >>> net = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9))
    >>> source = ModelActivations(net, "0", torch.randint(9, (6, 5)))
    >>> with tempfile.TemporaryDirectory() as place:
    ...     page = write_dashboard(SparseAutoencoder(SAEConfig(4, 8, k=2)), source, f"{place}/features.html", latents=2)
    ...     page.read_text().count("<article")
    2
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise SparselandError(f"a dashboard is an .html file; got {path.name!r}")
    found = top_activations(
        sae, source, latents=latents, top=top, context=context, sequences=sequences, mode=mode
    )  # fmt: skip
    for one in found:
        _spell(one, decode)
        both = promoted(sae, source.model, one["latent"])
        one["up"], one["down"] = ([visible(decode(i)) for i in part] for part in both) if both else ([], [])
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    c = sae.config
    about = {"model": type(source.model).__name__, "layer": source.layer, "d_in": c.d_in, "d_sae": c.d_sae,
             "activation": c.activation, "k": c.k}  # fmt: skip
    text = environment.get_template("features.html.j2").render(title=title, features=found, about=about)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda file: file.write(text.encode()))
    return path


def _spell(one: dict[str, Any], decode: Decode) -> None:
    """Tokens as text with a shade from 0 to 1, and bars with a height from 0 to 100."""
    largest = one["largest"] or 1.0
    for place in one["places"]:
        place["tokens"] = [
            {"text": visible(decode(i)), "value": value, "shade": round(max(value, 0.0) / largest, 3)}
            for i, value in zip(place["ids"], place["values"], strict=True)
        ]
    highest = math.log1p(max(one["counts"], default=0)) or 1.0
    one["bars"] = [round(100 * math.log1p(count) / highest, 1) for count in one["counts"]]


def visible(text: str) -> str:
    """Text with its line ends and tabs to be seen.

    >>> visible("a\\nb")
    'a↵b'
    """
    return text.replace("\r", "").replace("\n", "↵").replace("\t", "⇥")
