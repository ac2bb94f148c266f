"""Optimizers by name, the learning rate as a pure function of the step, and clipping that sees living weights only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sparseland.core.errors import RecipeError, nearest
from sparseland.train.config import OPTIMIZERS, TrainConfig


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names, over the parameters of ``model`` that train.

    Weight decay acts on parameters with two or more axes, not on biases and norms (``decay_all=True``: on all).

    >>> groups = make_optimizer(TrainConfig(weight_decay=0.1), nn.Linear(2, 2)).param_groups
    >>> [(len(g["params"]), g["weight_decay"]) for g in groups]
    [(1, 0.1), (1, 0.0)]
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if config.decay_all or p.ndim >= 2]
    chosen = {id(p) for p in decayed}
    rest = [p for p in trained if id(p) not in chosen]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((decayed, config.weight_decay), (rest, 0.0))
        if members
    ]
    match config.optimizer:
        case "sgd":
            nesterov = config.nesterov and config.momentum > 0
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
        case "adam":
            return torch.optim.Adam(groups, lr=config.lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=config.lr, momentum=config.momentum)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=config.lr)
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=config.lr)
    raise RecipeError(f"optimizer is {config.optimizer!r}: {nearest(config.optimizer, OPTIMIZERS)}")


def optimizer_slots(config: TrainConfig) -> int:
    """How many tensors of a parameter's size the optimizer keeps (to foresee the size of a checkpoint)."""
    momentum = int(config.momentum > 0)
    return {"sgd": momentum, "adam": 2, "adamw": 2, "rmsprop": 1 + momentum, "adagrad": 1}.get(config.optimizer, 0)


def lr_at(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of optimizer step ``step`` (from 0) in a run of ``steps``.

    Equation: with W warm-up steps, lr·(t + 1)/W for t < W; after it, with p = (t − W)/(T − W): lr·(1 + cos πp)/2
    (cosine), lr·γ^#{m : t ≥ m·T} (step), lr (constant).

    >>> config = TrainConfig(lr=1.0, warmup=2, lr_schedule="cosine")
    >>> [round(lr_at(config, t, 6), 4) for t in range(6)]
    [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464]
    >>> step = config.replace(warmup=0, lr_schedule="step", milestones=(0.5,), gamma=0.1)
    >>> [lr_at(step, t, 4) for t in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """
    warm = config.warmup if isinstance(config.warmup, int) else round(config.warmup * steps)
    if step < warm:
        return config.lr * (step + 1) / warm
    if config.lr_schedule == "cosine":
        progress = (step - warm) / max(1, steps - warm)
        return config.lr * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    if config.lr_schedule == "step":
        return config.lr * config.gamma ** sum(step >= m * steps for m in config.milestones)
    return config.lr


def clip_(parameters: Iterable[nn.Parameter], limit: float, masks: Mapping[int, Tensor] | None = None) -> float:
    """Scale all gradients so that their norm over living weights is at most ``limit``; returns that norm.

    Equation: g ← g · min(1, limit / ‖g ⊙ m‖₂). Dead weights receive dense gradients (which growth reads), but no
    update: if they counted, a sparse net would be clipped harder than a dense one.

    Parameters:
        limit: > 0. masks: {id(parameter): bool tensor}, True = alive; those not in it are alive.

    >>> w = nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
    >>> clip_([w], 1.5, {id(w): torch.tensor([True, False])}), [round(g, 3) for g in w.grad.tolist()]
    (3.0, [1.5, 2.0])
    """
    masks = masks or {}
    with_grad = [p for p in parameters if p.grad is not None]
    if not with_grad:
        return 0.0
    grads: list[Tensor] = [p.grad * masks[id(p)] if id(p) in masks else p.grad for p in with_grad]  # type: ignore
    norm = torch.nn.utils.get_total_norm(grads)
    torch.nn.utils.clip_grads_with_norm_(with_grad, limit, norm)
    return float(norm)
