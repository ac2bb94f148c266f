"""Push a model along a feature's direction, and measure how much its logits move."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import SparselandError
from .activations.hook import replaced, tapped
from .activations.inputs import call
from .activations.model import ModelActivations
from .activations.objectives import logits_of
from .metrics import reconstruct, token_scale
from .sae.model import SparseAutoencoder
from .splice import limited


@contextlib.contextmanager
def steer(
    model: nn.Module,
    layer: str,
    direction: Tensor,
    amount: float,
    *,
    at: str = "output",
    kept: Tensor | None = None,
) -> Iterator[nn.Module]:
    """While open, ``amount * direction`` is added to what a layer hands on.

    x ← x + α d

    Parameters:
        direction: [d], for example ``sae.W_dec[i]``; or [B, d], one a sequence. amount: alpha, any sign.
        kept: bool [B, L], the places it is added at; None: all.

    Raises:
        TargetError: no such layer. SparselandError: a direction of another width, a number that is not finite.

    >>> net = nn.Sequential(nn.Identity())
    >>> with steer(net, "0", torch.tensor([0.0, 1.0]), 3.0):
    ...     net(torch.zeros(1, 2)).tolist()
    [[0.0, 3.0]]
    """
    if not math.isfinite(amount) or not bool(torch.isfinite(direction).all()):
        raise SparselandError(f"direction and amount are finite numbers; amount={amount!r}")

    def push(x: Tensor) -> Tensor:
        if direction.shape[-1] != x.shape[-1]:
            raise SparselandError(f"the direction is {direction.shape[-1]} wide, layer {layer!r} {x.shape[-1]}")
        add = amount * direction.to(x)
        if add.ndim == 2 and x.ndim == 3:
            add = add[:, None]
        if kept is not None:
            add = add * kept.to(x.device)[..., None].to(x.dtype)
        return x + add

    with replaced(model, layer, push, at=at):
        yield model


@dataclass
class Influence:
    """What `logit_influence` found at one scale; means over contexts, one entry a measured feature.

    latents: their numbers. amount: alpha. largest: max |Δlogit|. rms: root mean square of Δlogits. entropy: of
    |Δlogits| / sum, in nats. random_95: 95th percentile of rms for random unit directions with the same alphas.
    """

    scale: float
    latents: list[int]
    amount: list[float]
    largest: list[float]
    rms: list[float]
    entropy: list[float]
    random_95: float
    dead: int  # asked for, but never active here

    @property
    def share_above_random(self) -> float:
        """Share of the features that move the logits more than the 95th percentile of random directions."""
        return sum(value > self.random_95 for value in self.rms) / max(len(self.rms), 1)

    @property
    def mean_rms(self) -> float:
        """Mean over features of the RMS change of the logits."""
        return sum(self.rms) / max(len(self.rms), 1)

    @property
    def mean_largest(self) -> float:
        """Mean over features of the largest change of a logit."""
        return sum(self.largest) / max(len(self.largest), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        more = {"share_above_random": self.share_above_random, "mean_rms": self.mean_rms}
        return asdict(self) | more | {"mean_largest": self.mean_largest}


def logit_influence(
    sae: SparseAutoencoder,
    source: ModelActivations,
    *,
    latents: Sequence[int] | int = 128,
    scales: Sequence[float] = (1.0, 4.0, 16.0),
    contexts: int = 4,
    length: int = 32,
    windows: int = 256,
    random: int = 64,
    seed: int = 0,
) -> list[Influence]:
    """How far features move a language model's logits in random contexts where they are not active.

    α_i = s · median(active values of i);  Δ = logits(x_T + α_i d_i) − logits(x_T)  at the last place T of a window

    Parameters:
        sae: a `SparseAutoencoder`. source: model, layer and held-out token ids [n, L].
        latents: their numbers, or how many to draw. scales: values of s, > 0. contexts: windows for each feature.
        length: places of a window. windows: how many are drawn to choose from. random: unit directions to compare with.

    Raises:
        SparselandError: no ids, sequences shorter than ``length``, features out of range, none that is ever active.

    Differs from the paper (arXiv 2411.10397): its measure could not be read; this one is the system's card's.

    >>> from sparseland.features import SAEConfig, SparseAutoencoder
    >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    >>> source = ModelActivations(net, "0", torch.randint(9, (8, 6)))
    >>> found = logit_influence(SparseAutoencoder(SAEConfig(4, 8, k=2)), source, length=4, scales=(1.0,), windows=16)
    >>> len(found), found[0].mean_rms > 0
    (1, True)
    """
    if min(scales, default=0) <= 0 or min(contexts, windows, random, length) < 1:
        raise SparselandError("scales, contexts, windows, random and length are above zero")
    generator = torch.Generator().manual_seed(seed)
    asked = _chosen(sae, latents, generator)
    medians, ids = _medians(sae, source, asked)
    alive = list(medians)
    drawn = _windows(ids, length, windows, generator)
    x, scale = _last_places(sae, source, drawn)
    active = reconstruct(sae, x)[1][:, alive] != 0  # [windows, features]
    pairs = _free_windows(active, contexts, generator)
    median = torch.stack(list(medians.values()))
    directions = sae.W_dec.detach()[alive].float()
    clean = _pushed(source, drawn, torch.zeros_like(x))
    random_directions = torch.nn.functional.normalize(torch.randn(random, x.shape[1], generator=generator), dim=1)
    found = []
    for s in scales:
        alpha = s * median
        one = _effects(source, drawn, clean, scale, directions, alpha, pairs)
        other_pairs = [pairs[j % len(pairs)] for j in range(random)]
        other_alpha = alpha[torch.arange(random) % len(alpha)]
        other = _effects(source, drawn, clean, scale, random_directions, other_alpha, other_pairs)
        bound = float(torch.quantile(torch.tensor(other["rms"]), 0.95))
        found.append(
            Influence(float(s), alive, alpha.tolist(), one["largest"], one["rms"], one["entropy"],
                      bound, len(asked) - len(alive))
        )  # fmt: skip
    return found


def _chosen(sae: SparseAutoencoder, latents: Sequence[int] | int, generator: torch.Generator) -> list[int]:
    size = sae.config.d_sae
    if isinstance(latents, int):
        drawn: list[int] = torch.randperm(size, generator=generator)[:latents].tolist()
        return sorted(drawn)
    bad = [i for i in latents if not 0 <= i < size]
    if bad or not latents:
        raise SparselandError(f"features are numbers from 0 to {size - 1}; got {bad[:5] or 'none'}")
    return list(latents)


def _medians(sae: SparseAutoencoder, source: ModelActivations, asked: list[int]) -> tuple[dict[int, Tensor], Tensor]:
    """The median active value of each feature that is ever active, and the ids of unpadded sequences."""
    values: list[list[Tensor]] = [[] for _ in asked]
    whole = []
    for reading in limited(source, None):
        if reading.ids is None:
            raise SparselandError("steering needs token ids: inputs that are ids or hold input_ids")
        kept = reading.kept.to(reading.x.device)
        codes = reconstruct(sae, reading.x[kept].float())[1][:, asked]
        for i, column in enumerate(codes.unbind(1)):
            values[i].append(column[column > 0])
        mask = None if isinstance(reading.inputs, Tensor) else reading.inputs.get("attention_mask")
        ids = reading.ids.cpu()
        whole.append(ids if mask is None else ids[mask.cpu().bool().all(1)])
    width = max(part.shape[1] for part in whole)
    found = {latent: torch.cat(parts) for latent, parts in zip(asked, values, strict=True)}
    medians = {latent: active.median() for latent, active in found.items() if len(active)}
    if not medians:
        raise SparselandError(f"none of the {len(asked)} features is active in the given text")
    return medians, torch.cat([part for part in whole if part.shape[1] == width])


def _windows(ids: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    if len(ids) == 0 or ids.shape[1] < length:
        raise SparselandError(f"windows of {length} tokens need sequences without padding of at least that length")
    rows = torch.randint(len(ids), (count,), generator=generator)
    starts = torch.randint(ids.shape[1] - length + 1, (count,), generator=generator)
    return ids[rows[:, None], starts[:, None] + torch.arange(length)]


def _last_places(sae: SparseAutoencoder, source: ModelActivations, ids: Tensor) -> tuple[Tensor, Tensor]:
    """x [n, d] at the last place of each window, and the scale of a code there [n, 1]."""
    parts = []
    for part in ids.split(64):
        with torch.no_grad():
            parts.append(tapped(source.model, source.layer, lambda p=part: call(source.model, p), at=source.at)[:, -1])  # type: ignore[misc]
    x = torch.cat(parts).float()
    return x, token_scale(sae, x)


def _free_windows(active: Tensor, contexts: int, generator: torch.Generator) -> list[Tensor]:
    """For each feature, windows in which it is not active."""
    chosen = []
    for column in active.unbind(1):
        free = (~column).nonzero().squeeze(1)
        if len(free) == 0:  # always on: any window will do
            free = torch.arange(len(column))
        chosen.append(free[torch.randperm(len(free), generator=generator)[:contexts]])
    return chosen


def _pushed(source: ModelActivations, ids: Tensor, add: Tensor) -> Tensor:
    """Logits [n, V] at the last place, with ``add`` [n, d] added there."""
    out = []
    for part, more in zip(ids.split(64), add.split(64), strict=True):
        last = torch.zeros(part.shape, dtype=torch.bool)
        last[:, -1] = True
        with torch.no_grad(), steer(source.model, source.layer, more, 1.0, at=source.at, kept=last):
            out.append(logits_of(call(source.model, part))[:, -1].float())
    return torch.cat(out)


def _effects(
    source: ModelActivations,
    ids: Tensor,
    clean: Tensor,
    scale: Tensor,
    directions: Tensor,
    alpha: Tensor,
    pairs: list[Tensor],
) -> dict[str, list[float]]:
    """Mean over each direction's windows of the three measures."""
    windows = torch.cat(pairs)
    owner = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor([len(p) for p in pairs]))
    add = alpha[owner, None].to(directions) * directions[owner] * scale[windows]
    change = (_pushed(source, ids[windows], add) - clean[windows]).double()
    share = change.abs() / change.abs().sum(1, keepdim=True).clamp_min(1e-300)
    each = {
        "largest": change.abs().amax(1),
        "rms": change.square().mean(1).sqrt(),
        "entropy": torch.special.entr(share).sum(1),
    }
    count = torch.bincount(owner, minlength=len(pairs)).double()
    return {
        name: (torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, owner, value.cpu()) / count).tolist()
        for name, value in each.items()
    }
