"""Promises about optimizers: nothing in their memory revives a zero, whatever the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.mask import MaskSet
from .report import CheckFailed, expect
from .run import Case, MakeOptimizer, Run, difference, nonzero_dead, sgd


class Unusual(torch.optim.Optimizer):
    """A user's own optimizer: its memory holds param-shaped tensors, also nested ones, and other shapes."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 0.02, weight_decay: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """trace = 0.9 trace + g; average = 0.5 average + 0.5 trace; w -= lr (average + decay w) / (1 + row scale)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                memory = self.state[p]
                if not memory:
                    rows = torch.zeros(p.shape[0], *[1] * (p.ndim - 1))
                    memory["trace"] = torch.zeros_like(p)
                    memory["inner"] = {"average": torch.zeros_like(p), "rows": rows, "seen": [torch.zeros(())]}
                inner = memory["inner"]
                memory["trace"].mul_(0.9).add_(p.grad)
                inner["average"].lerp_(memory["trace"], 0.5)
                inner["rows"].lerp_(p.grad.abs().reshape(p.shape[0], -1).mean(1).view_as(inner["rows"]), 0.1)
                inner["seen"][0] += 1
                p.sub_((inner["average"] + group["weight_decay"] * p) / (1 + inner["rows"]), alpha=group["lr"])
        return loss


class Passing(torch.optim.SGD):
    """A subclass whose step calls its parent's, as users write them."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Exactly SGD's step."""
        return super().step(closure)


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "SGD": sgd,
    "Adam": lambda p: torch.optim.Adam(p, lr=3e-3, weight_decay=1e-2, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=1e-1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True, weight_decay=1e-2),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=1e-2, initial_accumulator_value=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2, weight_decay=1e-2),
    "Unusual": Unusual,
}


def zeros_survive_optimizers(case: Case) -> str:
    """With six optimizers and a user's own, all with weight decay, dead weights stay zero.

    For flows in which dead weights receive nothing, the optimizer's memory of them is zero too; weights that grow
    start at zero with zero memory; the memory of the living is left alone.
    """
    case.need_zeros()
    for name, make in OPTIMIZERS.items():
        run = case.begin(optimizer=make)
        for _ in range(case.task.steps):
            before = run.sp.masks.clone()
            run.train(1)
            try:
                _look(case, run, before)
            except CheckFailed as error:
                raise CheckFailed(f"{name}, step {run.done}: {error}") from error
        alive, total = _memory(run, dead=False)
        expect(
            total == 0 or alive > total // 4,
            f"{name}: of {total} numbers remembered of living weights {alive} are not 0",
        )
        run.sp.finalize_()
        said = nonzero_dead(run)
        expect(not said, f"{name}, after finalize_: {said}")
    return ", ".join(OPTIMIZERS)


def _look(case: Case, run: Run, before: MaskSet) -> None:
    if case.zero_while_training():
        said = nonzero_dead(run)
        expect(not said, said)
    if run.sp.method.flow.ranks_dead:
        return  # dead weights live on behind the mask, so the optimizer remembers them
    odd, total = _memory(run, dead=True)
    expect(odd == 0, f"{odd} of {total} numbers that the optimizer remembers of dead weights are not 0")
    for n, target in run.sp.targets.items():
        grown = run.sp.masks[n] & ~before[n]
        values = target.param.detach()[grown]
        expect(
            int(values.count_nonzero()) == 0,
            f"{int(values.count_nonzero())} of {values.numel()} newly grown weights of {n!r} start at up to "
            f"{float(values.abs().max()) if values.numel() else 0:.3g}, not at 0",
        )
        for where, tensor in remembered(run.optimizer, target.param):
            odd = int(tensor[grown].count_nonzero())
            expect(odd == 0, f"{odd} newly grown weights of {n!r} start with a non-zero {where!r}")


def remembered(optimizer: torch.optim.Optimizer, param: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every float tensor shaped like the parameter in its optimizer state, however deep."""

    def walk(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor):
            if value.shape == param.shape and value.is_floating_point() and value.ndim:
                yield where, value
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{where}.{key}" if where else str(key))
        elif isinstance(value, (list, tuple)):
            for i, inner in enumerate(value):
                yield from walk(inner, f"{where}[{i}]")

    yield from walk(optimizer.state.get(param, {}), "")


def _memory(run: Run, dead: bool) -> tuple[int, int]:
    """(non-zero, all) numbers that the optimizer remembers of dead, or of living, weights."""
    odd = total = 0
    for n, target in run.sp.targets.items():
        mask = ~run.sp.masks[n] if dead else run.sp.masks[n]
        for _, tensor in remembered(run.optimizer, target.param):
            odd, total = odd + int(tensor[mask].count_nonzero()), total + int(mask.sum())
    return odd, total


def ways_to_step(case: Case) -> str:
    """``step(closure)``, several-tensor kernels and a subclass that calls its parent's step give the same run."""
    bare: dict[str, Any] = {
        "lr": 0.05,
        "momentum": 0.9,
        "nesterov": True,
    }  # no decay: then kernels work on p.grad itself
    wanted = case.begin(optimizer=lambda p: torch.optim.SGD(p, **bare, foreach=False)).finish()
    ways: dict[str, MakeOptimizer] = {
        "step(closure)": lambda p: torch.optim.SGD(p, **bare, foreach=False),
        "a subclass calling super().step()": lambda p: Passing(p, **bare, foreach=False),
        "foreach=True": lambda p: torch.optim.SGD(p, **bare, foreach=True),
    }
    for name, make in ways.items():
        run = case.begin(optimizer=make)
        if "closure" in name:
            run.step = _closure_step
        run.finish()
        expect(run.sp.step == wanted.sp.step, f"{name}: {wanted.sp.step} steps are counted as {run.sp.step}")
        said = difference(dict(wanted.sp.masks), dict(run.sp.masks))
        expect(not said, f"{name}: other masks than with a plain step: {said}")
        said = difference(wanted.model.state_dict(), run.model.state_dict())
        expect(not said or name == "foreach=True", f"{name}: other weights than with a plain step: {said}")
    return ", ".join(ways)


def _closure_step(run: Run, batch: Any) -> None:
    def closure() -> Any:
        run.optimizer.zero_grad()
        loss = run.task.loss(run.net, batch)
        loss.backward()
        return loss

    run.optimizer.step(closure)
