"""Promises about mixed precision and the shape of a loop: scaled, skipped, clipped and accumulated steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..core.errors import SparselandError
from ..core.selection import kept
from .report import CheckFailed, expect
from .run import Case, MakeOptimizer, Run, difference, nonzero_dead, sgd

SCALE = 1024.0  # a power of two: scaling by it changes no bit of a gradient that does not overflow


def zeros_survive_amp(case: Case) -> str:
    """Under bf16 autocast, fp16 with a GradScaler, and clipping with accumulation, zeros stay and steps count right.

    A step that the scaler skips moves no mask, advances no step and loses no weight, also in fused optimizers; scaled
    gradients give the run that unscaled ones give.
    """
    steps: dict[str, Callable[[Run, Any], None]] = {
        "bf16 autocast": _Autocast(torch.bfloat16),
        "clipping and accumulation": _clipped_step,
    }
    for name, step in steps.items():
        run = case.begin()
        run.step = step
        _train(case, run, name)
        _ends_well(case, run, name)
    for fused in (False, True):
        _skips(case, fused)
        _scaling_is_invisible(case, fused)
    return ", ".join([*steps, "fp16 with a skipped step", "fused with a skipped step", "scaled = unscaled"])


class _Autocast:
    """A loop under autocast; with a scaler, ``poisoned`` steps get an infinite gradient."""

    def __init__(
        self, dtype: torch.dtype | None, scaler: torch.amp.GradScaler | None = None, poisoned: int = -1
    ) -> None:
        self.dtype, self.scaler, self.poisoned = dtype, scaler, poisoned

    def __call__(self, run: Run, batch: Any) -> None:
        run.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            loss = run.task.loss(run.net, batch)
        if self.scaler is None:
            loss.backward()
            run.optimizer.step()
            return
        self.scaler.scale(loss).backward()
        if run.done == self.poisoned:
            grads = [p.grad for p in run.model.parameters() if p.grad is not None]
            grads[0].view(-1)[0] = torch.inf
        self.scaler.step(run.optimizer)
        self.scaler.update()


def _clipped_step(run: Run, batch: Any) -> None:
    """Two batches a step, gradients clipped to norm 0.5."""
    run.optimizer.zero_grad()
    for part in (batch, run.task.batches[0]):
        (run.task.loss(run.net, part) / 2).backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 0.5)
    run.optimizer.step()


def _train(case: Case, run: Run, name: str) -> None:
    for _ in range(case.task.steps):
        run.train(1)
        said = nonzero_dead(run) if case.zero_while_training() else ""
        expect(not said, f"{name}, step {run.done}: {said}")


def _ends_well(case: Case, run: Run, name: str) -> None:
    expect(run.sp.step == case.task.steps, f"{name}: {case.task.steps} steps are counted as {run.sp.step}")
    method, total = run.sp.method, run.sp.masks.numel()
    last = None if method.schedule is None else method.schedule.last()
    if method.schedule is not None and last is not None and method.schedule(last) == method.target_sparsity:
        budget, atom = (
            kept(total, method.target_sparsity),
            max(method.pattern.step(t.shape) for t in run.sp.targets.values()),
        )
        found = run.sp.masks.kept()
        expect(found == budget or abs(found - budget) < atom, f"{name}: {found} weights live at the end, not {budget}")
    run.sp.finalize_()
    said = nonzero_dead(run) if method.flow.zeros else ""
    expect(not said, f"{name}, after finalize_: {said}")


def _optimizer(fused: bool) -> MakeOptimizer:
    if not fused:
        return sgd
    return lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=True)


def _skips(case: Case, fused: bool) -> None:
    """One step is poisoned exactly where masks would move (or in the middle): nothing may happen in it."""
    updates = case.updates()
    at = (updates[len(updates) // 2] if updates else case.task.steps // 2) - 1
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=10_000)
    name = f"fp16 GradScaler{', fused' if fused else ''}"
    run = case.begin(optimizer=_optimizer(fused))
    run.step = _Autocast(torch.float16, scaler, poisoned=at)
    run.train(at)
    before, scale = run.state(), scaler.get_scale()
    try:
        run.train(1)
    except SparselandError as error:
        raise CheckFailed(f"{name}: the step {at + 1}, which the scaler skips, raises {error}") from error
    expect(scaler.get_scale() < scale, f"{name}: the poisoned step {at + 1} was not skipped, so nothing was tested")
    buffers = {n for n, _ in run.model.named_buffers()}  # the forward pass of a skipped step still counts for these
    after = run.state()
    for state in (before, after):
        state["model"] = {n: v for n, v in state["model"].items() if n not in buffers}
    said = difference(before, after)
    expect(not said, f"{name}: the skipped step {at + 1} changed {said}")
    while run.sp.step < case.task.steps and run.done < case.task.steps + 5:
        run.train(1)
        said = nonzero_dead(run) if case.zero_while_training() else ""
        expect(not said, f"{name}, step {run.sp.step}: {said}")
    _ends_well(case, run, name)


def _scaling_is_invisible(case: Case, fused: bool) -> None:
    """fp32 with a scale of 1024 is, bit for bit, fp32 without a scaler."""
    plain = case.begin(optimizer=_optimizer(fused)).finish()
    scaled = case.begin(optimizer=_optimizer(fused))
    scaled.step = _Autocast(None, torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=10_000))
    scaled.finish()
    said = difference(plain.state(), scaled.state())
    expect(not said, f"{'fused, ' if fused else ''}scaled by {SCALE:g}: not the run without scaler: {said}")
