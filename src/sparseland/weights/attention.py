"""Attention maps: caught from any model whose modules return them, measured, and penalised while it trains.

A map is A = softmax(Q K^T / sqrt(d)) of shape [batch, heads, n, n]: rows sum to 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import RecipeError, ScoreError, TargetError, nearest

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda a: torch.log1p(a.square()),
    "entropy": lambda a: -torch.xlogy(a, a.clamp_min(1e-30)),
    "square": lambda a: -a.square(),
}
REDUCTIONS = ("mean", "row_sum")
FIX = (
    "fused attention computes none; possible: attn_implementation='eager' in transformers, need_weights=True and "
    "average_attn_weights=False in nn.MultiheadAttention, or own modules that return (output, attention)"
)
Layers = str | int | Sequence[int]


# ------------------------------------------------------------------------------------------------------------- measures
def check_map(attention: Tensor, name: str = "attention") -> Tensor:
    """Return a map [..., n] whose rows are distributions; ScoreError for logits or what dropout has been through."""
    off = float((attention.detach().float().sum(-1) - 1).abs().amax()) if attention.numel() else 0.0
    if not off <= 1e-3 or float(attention.detach().amin()) < 0:
        raise ScoreError(
            f"{name} {tuple(attention.shape)} is no softmax: a row misses the sum 1 by {off:.3g} (possible: 0.001), or "
            f"has negative entries. Logits, or attention dropout: give probabilities before dropout (rate 0)"
        )
    return attention


def penalty(maps: Sequence[Tensor], kind: str = "log", reduction: str = "mean", layers: Layers = "last") -> Tensor:
    """A penalty on attention maps, a scalar; its mean over the chosen layers.

    Equation: "log" log(1 + a^2); "entropy" -a log a; "square" -a^2; per entry, averaged over all entries ("mean") or
    summed along each row and averaged over rows ("row_sum").

    "log" is convex on [0, 1] and rows sum to 1: it is lowest for *uniform* rows, log(1 + 1/n^2), and highest for
    one-hot rows, log(2)/n. "entropy" and "square" are lowest for one-hot rows.

    Args:
        maps: one per layer, [batch, heads, n, n]. layers: "last", "all", or indices.

    >>> uniform, one = torch.full((1, 1, 4, 4), 0.25), torch.eye(4).view(1, 1, 4, 4)
    >>> bool(penalty([uniform]) < penalty([one])), bool(penalty([uniform], "entropy") > penalty([one], "entropy"))
    (True, True)
    """
    check_words(kind, reduction)
    values = []
    for i in chosen(layers, len(maps)):
        entries = PENALTIES[kind](check_map(maps[i], f"the attention of layer {i}"))
        values.append(entries.mean() if reduction == "mean" else entries.sum(-1).mean())
    return torch.stack(values).mean()


def check_words(kind: str, reduction: str) -> None:
    """Raise RecipeError for a penalty or a reduction that does not exist."""
    if kind not in PENALTIES:
        raise RecipeError(f"penalty is {kind!r}: {nearest(kind, PENALTIES)}")
    if reduction not in REDUCTIONS:
        raise RecipeError(f"reduction is {reduction!r}: {nearest(reduction, REDUCTIONS)}")


def chosen(layers: Layers, count: int) -> list[int]:
    """Indices of "last", "all", one index or several, counted from 0 (negative ones from the end).

    >>> chosen("last", 3), chosen("all", 3), chosen((0, -1), 3)
    ([2], [0, 1, 2], [0, 2])
    """
    if isinstance(layers, str):
        if layers not in ("last", "all"):
            raise RecipeError(f"layers is {layers!r}; possible: last, all, or indices")
        return list(range(count))[-1 if layers == "last" else 0 :]
    wanted = [layers] if isinstance(layers, int) else list(layers)
    for i in wanted:
        if not -count <= i < count:
            raise TargetError(f"layers has {i}; there are {count} attention layers: possible {-count} … {count - 1}")
    if not wanted:
        raise TargetError(f"layers is empty; there are {count} attention layers")
    return [i % count for i in wanted]


def row_entropy(attention: Tensor) -> Tensor:
    """Mean entropy of the rows in nats, in [0, log n].

    >>> round(float(row_entropy(torch.full((1, 4), 0.25))), 4)  # log 4
    1.3863
    """
    return PENALTIES["entropy"](attention).sum(-1).mean()


def hoyer(attention: Tensor) -> Tensor:
    """Mean Hoyer sparsity of the rows, (sqrt(n) - |a|_1 / |a|_2) / (sqrt(n) - 1): 0 uniform, 1 one-hot.

    >>> round(float(hoyer(torch.tensor([[1.0, 0.0, 0.0]]))), 6)
    1.0
    """
    root = math.sqrt(attention.shape[-1])
    ratio = attention.abs().sum(-1) / attention.square().sum(-1).sqrt()
    return ((root - ratio) / (root - 1)).mean()


def gini(attention: Tensor) -> Tensor:
    """Mean Gini coefficient of the rows, sum_i (2 i - n - 1) a_(i) / (n sum a), a rising: 0 uniform, 1 - 1/n one-hot.

    >>> float(gini(torch.tensor([[0.0, 0.0, 0.0, 1.0]])))
    0.75
    """
    n = attention.shape[-1]
    weights = 2 * torch.arange(1, n + 1, device=attention.device, dtype=attention.dtype) - n - 1
    ranked = attention.sort(dim=-1).values
    shares: Tensor = (weights * ranked).sum(-1) / (n * ranked.sum(-1))
    return shares.mean()


# ------------------------------------------------------------------------------------------------------------- catching
class _Caught:
    """Forward hooks that keep the maps of the forward pass at hand, in order of computation."""

    def __init__(self, model: nn.Module) -> None:
        self.maps: dict[str, Tensor] = {}
        self._handles = [m.register_forward_hook(self._hook(n)) for n, m in model.named_modules() if n]

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, tuple | list) or len(output) < 2:
                return
            found = output[1]
            square = isinstance(found, Tensor) and found.ndim == 4 and found.shape[-1] == found.shape[-2]
            # An outer module may hand on the map of an inner one. A feature map can be square, too: the word decides.
            if square and _named_attention(name, module) and not self._known(found):
                self.maps[name] = found

        return hook

    def _known(self, found: Tensor) -> bool:
        return any(found is other for other in self.maps.values())

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _named_attention(name: str, module: nn.Module) -> bool:
    words = f"{type(module).__name__} {name.rpartition('.')[2]}".lower()
    return "attention" in words or "attn" in words


@contextmanager
def eager(model: nn.Module) -> Iterator[str | None]:
    """Attention of transformers models that returns its maps, for a while; yields what it was, where that changed."""
    switch = getattr(model, "set_attn_implementation", None)
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if switch is None or before in (None, "eager"):
        yield None
        return
    switch("eager")
    try:
        yield before
    finally:
        switch(before)


def attention_maps(model: nn.Module, *inputs: Any, **named: Any) -> dict[str, Tensor]:
    """The maps of one forward pass in evaluation mode, {module: [batch, heads, n, n]}.

    Raises:
        TargetError: there are none. ScoreError: what is there is no softmax.
    """
    training, caught = model.training, _Caught(model)
    try:
        with eager(model), torch.no_grad():
            model.eval()(*inputs, **named)
    finally:
        model.train(training)
        caught.remove()
    if not caught.maps:
        raise TargetError(f"no attention map came out of {type(model).__name__}: {FIX}")
    return {name: check_map(found, name) for name, found in caught.maps.items()}


@contextmanager
def penalised(
    model: nn.Module,
    strength: float = 0.01,
    *,
    kind: str = "log",
    reduction: str = "mean",
    layers: Layers = "last",
    share: float = 1.0,
) -> Iterator[dict[str, float]]:
    """Inside, every training step of ``model`` also descends ``strength`` times the `penalty`; your loop is unchanged.

    The penalty's gradient joins at the model's output in the backward pass: at ``output.loss`` where the model computes
    its loss itself, else at its first tensor. Yields a dict whose "penalty" is the last value.

    Args:
        strength: of the penalty against the mean loss of the batch. Below 0 it rewards what it would penalise (warns).
        share: factor for loops that split one step over several batches, 1 / accumulation. With a GradScaler and a loss
            outside the model, the scale would be missing: train in float32 or bfloat16.

    Raises:
        RecipeError: an unknown word, or a strength that is not finite. TargetError: (at the first step) no map comes
        out of the model, or a layer that is not there. ScoreError: what comes out is no softmax (dropout).
    """
    check_words(kind, reduction)
    if not math.isfinite(strength):
        raise RecipeError(f"strength is {strength!r}; possible: a finite number, 0 for no penalty")
    if strength < 0:
        gets = "peaked" if kind == "log" else "even"
        warnings.warn(f"strength {strength:g} is negative: it now rewards {gets} attention", stacklevel=3)
    seen: dict[str, float] = {}
    caught = _Caught(model)

    def clear(module: nn.Module, inputs: Any) -> None:
        caught.maps.clear()

    def join(module: nn.Module, inputs: Any, output: Any) -> Any:
        maps = list(caught.maps.values())
        caught.maps.clear()
        if not (module.training and torch.is_grad_enabled()):
            return None
        if not maps:
            raise TargetError(f"no attention map came out of {type(model).__name__}: {FIX}")
        value = penalty(maps, kind, reduction, layers)
        seen["penalty"] = float(value.detach())
        return _joined(output, value, strength * share)

    handles = [model.register_forward_pre_hook(clear), model.register_forward_hook(join)]
    with eager(model) as before:
        if before is not None:
            warnings.warn(f"attention is computed by 'eager' instead of {before!r} here, to see its maps", stacklevel=3)
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()
            caught.remove()


class _Join(torch.autograd.Function):
    """The identity of ``x``, through which ``value`` receives the gradient ``factor``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, factor: float) -> Tensor:
        ctx.factor, ctx.like = factor, value
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, torch.full_like(ctx.like, ctx.factor), None


def _joined(output: Any, value: Tensor, factor: float) -> Any:
    """The model's output with the penalty joined to its loss, or else to its first tensor."""
    if isinstance(output, Tensor):
        return _Join.apply(output, value, factor)
    if isinstance(output, tuple | list):
        return type(output)([_Join.apply(output[0], value, factor), *output[1:]])
    loss = getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        output.loss = loss + factor * value
        return output
    for name in _names(output):
        if isinstance(getattr(output, name, None), Tensor):
            setattr(output, name, _Join.apply(getattr(output, name), value, factor))
            return output
    raise TargetError(f"a model that returns {type(output).__name__} has no tensor that a penalty could join")


def _names(output: Any) -> Iterable[str]:
    return ["logits", *(output.keys() if hasattr(output, "keys") else vars(output))]
