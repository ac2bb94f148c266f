"""The losses of a frozen model, summed over tokens: with labels, and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...core.errors import SparselandError, nearest
from .inputs import Inputs, ids_of, real_tokens

LOSSES = ("next_token", "labels", "self", "self_kl")
Objective = str | Callable[[Any, Inputs], Tensor]
SHARPER = 0.5  # temperature of "self_kl"'s target


def logits_of(outputs: Any) -> Tensor:
    """The logits in what a model returned.

    Raises:
        SparselandError: it has none (an encoder without a head).

    >>> import torch
    >>> logits_of(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = getattr(outputs, "logits", None)
    if not isinstance(found, Tensor):
        raise SparselandError(
            f"{type(outputs).__name__} has no logits; a model without a head needs loss=function(outputs, inputs)"
        )
    return found


def token_losses(logits: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every next token, and which of them count; both [B, L - 1].

    loss[b, t] = -log softmax(logits[b, t])[label[b, t + 1]]

    Labels are ``inputs["labels"]`` (−100 does not count) or else the ids themselves; padding does not count.

    Raises:
        SparselandError: neither labels nor ids are there, or logits are not [B, L, V].

    >>> import torch
    >>> loss, counts = token_losses(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]))
    >>> loss.shape, round(loss[0, 0].item(), 4)  # log 4
    (torch.Size([1, 2]), 1.3863)
    """
    given = None if isinstance(inputs, Tensor) else inputs.get("labels")
    labels = ids_of(inputs) if given is None else given
    if labels is None:
        raise SparselandError("the next-token loss needs labels: inputs with input_ids [B, L] or labels")
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise SparselandError(
            f"the next-token loss needs logits [B, L, V] for labels [B, L]; got {tuple(logits.shape)} for "
            f"{tuple(labels.shape)}"
        )
    target = labels[:, 1:].to(logits.device)
    counts = real_tokens(inputs, labels.shape)[:, 1:].to(logits.device) & (target != -100)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), target.clamp_min(0), reduction="none")
    return losses * counts, counts


def objective(loss: Objective, outputs: Any, inputs: Inputs) -> Tensor:
    """The loss as one number, summed over tokens and sequences.

    Parameters:
        loss: "next_token"; "labels" (classes [B] or [B, L], unshifted); "self" (the model's own most likely token);
            "self_kl" (its own softmax at temperature 1/2); or a function of outputs and inputs.

    Raises:
        SparselandError: an unknown name, labels that are not there, a result that is no number.

    >>> import torch
    >>> objective("self", torch.tensor([[0.0, 0.0]]), torch.zeros(1, 1)).item()  # log 2
    0.6931471824645996
    """
    if callable(loss):
        value = loss(outputs, inputs)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise SparselandError(f"loss(outputs, inputs) returns one number as a tensor, not {value!r:.80}")
        return value.reshape(())
    if loss not in LOSSES:
        raise SparselandError(f"unknown loss {loss!r}: {nearest(loss, LOSSES)}, or a function(outputs, inputs)")
    logits = logits_of(outputs)
    if loss == "next_token":
        return token_losses(logits, inputs)[0].sum()
    if loss == "labels":
        labels = None if isinstance(inputs, Tensor) else inputs.get("labels")
        if labels is None:
            raise SparselandError('loss="labels" needs labels beside the inputs; without any, use loss="self"')
        rows = logits.reshape(-1, logits.shape[-1]).float()
        return F.cross_entropy(rows, labels.reshape(-1).to(rows.device), reduction="sum")
    own = logits.detach().float()
    if loss == "self":
        each = F.cross_entropy(logits.float().movedim(-1, 1), own.argmax(-1), reduction="none")
    else:
        target = F.softmax(own / SHARPER, -1)
        each = F.kl_div(F.log_softmax(logits.float(), -1), target, reduction="none").sum(-1)
    if each.ndim == 2:
        each = each * real_tokens(inputs, each.shape).to(each.device)
    return each.sum()
