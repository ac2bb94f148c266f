"""Promises about hooks: none on modules while hard masks train, none at all afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..core.errors import ScoreError
from .repeating import pickled
from .report import CheckFailed, expect
from .run import Case, Run, difference, nonzero_dead, plain_step, sgd

MODULE_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
OPTIMIZER_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


def hooks(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[str]:
    """Every hook on modules, parameters and the optimizer, as text.

    >>> layer = nn.Linear(2, 2)
    >>> handle = layer.register_forward_hook(lambda *_: None)
    >>> list(hooks(layer))
    ["_forward_hooks of ''"]
    """
    for path, module in model.named_modules():
        for kind in MODULE_HOOKS:
            yield from (f"{kind} of {path!r}" for _ in getattr(module, kind, None) or ())
    for name, param in model.named_parameters():
        for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            yield from (f"{kind} of {name!r}" for _ in getattr(param, kind, None) or ())
    for kind in OPTIMIZER_HOOKS:
        yield from (f"{kind} of the optimizer" for _ in getattr(optimizer, kind, None) or ())


def no_forward_hooks(case: Case) -> str:
    """Hard masks put no hook on any module or parameter; and ``needs_data`` says truly whether attach needs data."""
    fresh = case.task.build()
    before = sorted(hooks(fresh))
    run = case.begin()
    run.train(1)
    added = sorted(hooks(run.model))
    if not case.method.flow.two_way:
        expect(added == before, f"the model has new hooks: {[h for h in added if h not in before][:4]}")
        classes = {n: type(m) for n, m in fresh.named_modules()}
        changed = [n for n, m in run.model.named_modules() if type(m) is not classes.get(n)]
        expect(not changed, f"modules changed their class: {changed[:4]}")
    try:
        case.begin(data=None)
    except ScoreError as error:
        expect(case.method.needs_data, f"needs_data is False, but without data attach raises: {error}")
        return "needs data"
    expect(not case.method.needs_data, "needs_data is True, but attach did without data")
    return "no data"


def plain_after_finalize(case: Case) -> str:
    """After `finalize_`: the original's modules and keys, no hooks, copies work, and training goes on unmasked."""
    fresh = case.task.build()
    run = case.begin().finish()
    masks = run.sp.masks.clone()
    ids = [id(p) for p in run.model.parameters()]
    run.sp.finalize_()
    keys, wanted = list(run.model.state_dict()), list(fresh.state_dict())
    expect(keys == wanted, f"keys of the state_dict: {keys} instead of {wanted}")
    left = [h for h in hooks(run.model, run.optimizer) if h not in set(hooks(fresh, sgd(fresh.parameters())))]
    expect(not left, f"{len(left)} hooks are left: {left[:4]}")
    expect(ids == [id(p) for p in run.model.parameters()], "parameters were exchanged for others")
    _same_modules(fresh, run.model)
    if case.method.flow.zeros:
        said = nonzero_dead(run, masks)
        expect(not said, f"after finalize_: {said}")
    for how, make in (("deepcopy", copy.deepcopy), ("pickle", pickled)):
        try:
            said = difference(run.model.state_dict(), make(run.model).state_dict())
        except Exception as error:
            raise CheckFailed(f"{how} of the model alone raises {type(error).__name__}: {error}") from error
        expect(not said, f"{how} of the model alone differs: {said}")
    return _trains_on(run, masks)


def _same_modules(fresh: nn.Module, model: nn.Module) -> None:
    for (path, a), (_, b) in zip(fresh.named_modules(), model.named_modules(), strict=True):
        expect(type(a) is type(b), f"module {path!r} is a {type(b).__name__}, was a {type(a).__name__}")
        new = sorted(set(vars(b)) - set(vars(a)))
        expect(not new, f"module {path!r} has new attributes {new}")


def _trains_on(run: Run, masks: Any) -> str:
    """Dead weights move again, and the sparsifier sees nothing of it."""
    dead = {n: ~m for n, m in masks.items()}
    count = sum(int(m.sum()) for m in dead.values())
    steps, history = run.sp.step, len(run.sp.history)
    before = {n: t.param.detach().clone() for n, t in run.sp.targets.items()}
    for batch in run.task.batches[:4]:
        plain_step(run, batch)
    expect(run.sp.step == steps and len(run.sp.history) == history, f"the sparsifier still counts: {run.sp.step} steps")
    moved = sum(int((t.param.detach() != before[n])[dead[n]].sum()) for n, t in run.sp.targets.items())
    expect(
        # not all of them: what feeds a dead ReLU, as whole rows of zeros do, receives no gradient
        count == 0 or moved > count // 10,
        f"training on moved {moved} of {count} dead weights: they are still masked",
    )
    return f"{moved} of {count} dead weights move again"
