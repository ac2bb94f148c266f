"""Activations of a model's layer over batches of tokens: padding and special tokens left out, gradients on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import SparselandError
from . import hook
from .gradients import activation_gradients, warn_if_random
from .inputs import Batches, Inputs, call, ids_of, last_places, real_tokens
from .objectives import LOSSES, Objective
from .source import Block


@dataclass
class Reading:
    """One batch as read: x [B, L, d], g or None, which places are kept [B, L], and the inputs themselves."""

    x: Tensor
    g: Tensor | None
    kept: Tensor
    inputs: Inputs

    @property
    def ids(self) -> Tensor | None:
        """Token ids [B, L], where the inputs hold any."""
        return ids_of(self.inputs)


class ModelActivations:
    """What a layer of a model hands on, row by row: a source for `ActivationStream`.

    x[b, t] for every sequence b and every place t that is text (attention mask), no special token, and not among the
    first ``skip_first``; with a next-token gradient the last place of a sequence, whose gradient is zero, is left out.
    Without gradients the layers behind the one that is read do not run.

    Parameters:
        model: any nn.Module, `transformers` models among them; call ``model.eval()`` first. layer: its name in
            ``model.named_modules()``; at: "output" or "input" of it.
        data: token ids [n, L], a mapping of tensors with n rows (``input_ids``, ``attention_mask``, ``labels`` …), an
            iterable of such batches, or a function that makes one. batch, shuffle, seed: see `Batches`.
        gradient: None, or the loss whose gradient comes with x: see `objective`. Pairs (x, g) then.
        special: ids to leave out (``tokenizer.all_special_ids``). skip_first: places of text at the start (BOS).

    Raises:
        TargetError: no such layer; said at once. SparselandError: an unknown loss, a bad number.

    >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    >>> ids = torch.tensor([[1, 2, 0], [3, 4, 5]])
    >>> [tuple(block.shape) for block in ModelActivations(net, "0", ids, special=[0]).blocks(0, 0)]
    [(5, 4)]
    >>> x, g = next(ModelActivations(net, "0", ids, gradient="next_token").blocks(0, 0))
    >>> tuple(g.shape)
    (4, 4)
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        data: Any,
        *,
        at: str = "output",
        gradient: Objective | None = None,
        special: Iterable[int] = (),
        skip_first: int = 0,
        batch: int = 32,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        hook.layer(model, layer)
        if at not in hook.PLACES:
            raise SparselandError(f"at is one of {', '.join(hook.PLACES)}, not {at!r}")
        if isinstance(gradient, str) and gradient not in LOSSES:
            raise SparselandError(f"gradient is None, one of {', '.join(LOSSES)} or a function; got {gradient!r}")
        if not isinstance(skip_first, int) or skip_first < 0:
            raise SparselandError(f"skip_first is a whole number of places, at least 0; got {skip_first!r}")
        self.model, self.layer, self.at, self.gradient = model, layer, at, gradient
        self.special = torch.tensor(sorted(set(special)), dtype=torch.long)
        self.skip_first = skip_first
        self.data = Batches(data, batch=batch, shuffle=shuffle, seed=seed)

    @property
    def repeats(self) -> bool:
        """Whether the inputs can be read again."""
        return self.data.repeats

    def kept(self, inputs: Inputs, shape: torch.Size) -> Tensor:
        """Bool [B, L]: the places whose activations are read."""
        real = real_tokens(inputs, shape)
        kept, last = real.clone(), last_places(real)
        ids = ids_of(inputs)
        if len(self.special) and ids is not None:
            kept &= ~torch.isin(ids.cpu(), self.special)
        kept &= real.cumsum(1) > self.skip_first  # places of text, wherever the padding is
        if self.gradient == "next_token":
            kept &= ~last
        return kept

    def read(self, inputs: Inputs) -> Reading:
        """Run the model on one batch."""
        if self.gradient is None:
            warn_if_random(self.model)
            with torch.no_grad():
                x = hook.tapped(self.model, self.layer, lambda: call(self.model, inputs), at=self.at)
            g = None
        else:
            with torch.enable_grad():
                x, g = activation_gradients(self.model, self.layer, inputs, loss=self.gradient, at=self.at)
        if x.ndim not in (2, 3):
            raise SparselandError(
                f"layer {self.layer!r} hands on {tuple(x.shape)}; activations are [B, L, d] or [N, d] (of pictures, "
                f"move the channels last and flatten in a function that makes the stream)"
            )
        if x.ndim == 2:
            kept = torch.ones(len(x), 1, dtype=torch.bool)
            return Reading(x[:, None], None if g is None else g[:, None], kept, inputs)
        return Reading(x, g, self.kept(inputs, x.shape[:2]), inputs)

    def readings(self, epoch: int = 0, start: int = 0) -> Iterator[Reading]:
        """The batches of an epoch as `Reading`: what evaluation and dashboards need beside the rows."""
        for inputs in self.data.read(epoch, start):
            yield self.read(inputs)

    def blocks(self, epoch: int, start: int) -> Iterator[Block]:
        """The kept rows of each batch, from batch ``start`` on."""
        for reading in self.readings(epoch, start):
            kept = reading.kept.to(reading.x.device)
            x = reading.x[kept].float()
            yield x if reading.g is None else (x, reading.g[kept].float())
