"""Promises about numbers: budgets are exact at every update, and masks keep to their pattern."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import nn

from ..core.allocation import ER, ERK, LAMP, Global, Ratios, Uniform
from ..core.errors import InfeasibleBudget, PatternError
from ..core.growth import GrowNone
from ..core.mask import MaskSet
from ..core.pattern import NM, Pattern, pattern
from ..core.schedule import Schedule
from ..core.selection import kept
from ..weights.method import Method
from ..weights.targets import eligible
from .report import CheckFailed, Skipped, expect
from .run import Case, Run, nonzero_dead

EVEN = Uniform | ER | ERK | Global | LAMP | Ratios  # they reach every budget that the tensors can hold
PATTERNS = ("unstructured", "2:4", "1:4 axis 0", "block 4x1", "row", "column", "kernel")


def exact_count(case: Case) -> str:
    """After every update, and at the end, exactly round((1 - s) N) weights live; also when all weights are equal.

    Layer counts add up, the history says the same, masks move at scheduled steps only, an exchange changes no layer's
    count, and after `finalize_` dead weights are +0.0.
    """
    said = _follow(case.begin())
    _follow(case.begin(prepare=equal_weights_))
    return said


def equal_weights_(model: nn.Module) -> None:
    """Fill every weight that becomes sparse by default with 0.1: all magnitudes tie."""
    with torch.no_grad():
        for target in eligible(model).values():
            target.param.fill_(0.1)


def _follow(run: Run) -> str:
    sp, method = run.sp, run.sp.method
    total = sum(t.param.numel() for t in sp.targets.values())
    now, layers = total, {n: t.param.numel() for n, t in sp.targets.items()}
    last: float | None = None
    before = None
    for step in range(run.task.steps + 1):
        if step:
            run.train(1)
        expect(sp.step == step, f"after {step} optimizer steps sp.step is {sp.step}")
        value = None if method.schedule is None else method.schedule(step)
        share = method.share(step)
        if value is not None:
            now, last = wanted(method, total, value, now), value
            _near(method, sp.masks, now, f"step {step} (schedule says {value:.6g})", sp.targets)
            now = sp.masks.kept()
        elif before is not None and (share is None or not step):
            expect(sp.masks == before, f"step {step}: masks moved, though neither schedule nor exchange acts there")
        elif share is not None:
            expect(_layers(sp.masks) == layers, f"step {step}: the exchange changed {layers} to {_layers(sp.masks)}")
        _adds_up(run, now, total, step)
        before, layers = sp.masks.clone(), _layers(sp.masks)
    if last is not None and last == method.target_sparsity and not method.relaxed(last):
        _near(method, sp.masks, kept(total, method.target_sparsity), "the end", sp.targets)
    sp.finalize_()
    if method.flow.zeros:
        _exact_zeros(run)
    return f"{now:,} of {total:,}"


def wanted(method: Method, total: int, value: float, now: int) -> int:
    """What a schedule's value makes of ``now`` living weights out of ``total``."""
    budget = kept(total, value)
    stuck = not method.flow.ranks_dead and isinstance(method.growth, GrowNone)  # what is gone cannot come back
    return min(budget, now) if stuck else budget


def _near(method: Method, masks: MaskSet, budget: int, when: str, targets: Any) -> None:
    atom = max(method.pattern.step(t.shape) for t in targets.values())
    found = sum(int(m.sum()) for m in masks.values())
    good = found == budget if atom == 1 else abs(found - budget) < atom
    expect(good, f"{when}: {found} weights live, the budget is {budget}" + ("" if atom == 1 else f" (atoms of {atom})"))


def _layers(masks: MaskSet) -> dict[str, int]:
    return {n: int(m.sum()) for n, m in masks.items()}


def _adds_up(run: Run, now: int, total: int, step: int) -> None:
    sp, counts = run.sp, run.sp.counts()
    found = _layers(sp.masks)
    expect(
        counts["kept"] == sum(found.values()) == now and counts["total"] == total,
        f"step {step}: counts() says {counts['kept']} of {counts['total']}; the masks hold {sum(found.values())}, "
        f"expected {now} of {total}",
    )
    expect(
        {n: kept_ for n, (kept_, _) in counts["layers"].items()} == found,
        f"step {step}: counts()['layers'] is {counts['layers']}; the masks hold {found}",
    )
    expect(
        abs(sp.sparsity - (1 - now / total)) < 1e-12, f"step {step}: sparsity is {sp.sparsity}, not 1 - {now}/{total}"
    )
    entry = sp.history[-1]
    expect(
        entry["kept"] == now and entry["total"] == total and entry["step"] <= step,
        f"step {step}: the last entry of the history is {entry}, expected {now} of {total}",
    )


def _exact_zeros(run: Run) -> None:
    said = nonzero_dead(run)
    expect(not said, f"after finalize_: {said}")
    for name, target in run.sp.targets.items():
        negative = int(target.param.detach()[~run.sp.masks[name]].signbit().sum())
        expect(negative == 0, f"after finalize_: {negative} dead weights of {name!r} are -0.0")


def pattern_valid(case: Case) -> str:
    """With any pattern that fits the model, masks keep to it after every update and budgets are still met.

    Each pattern is tried at the method's own sparsity and, for N:M, at the lowest one it can hold.
    """
    case.need_masks()
    taken, refused = [], []
    for text in PATTERNS:
        p = pattern(text)
        reason = ""
        for sparsity in _sparsities(case.method, p):
            method = with_sparsity(case.method, sparsity).replace(pattern=p)
            reason = _train_with(Case(method, case.task), p)
            if reason:
                break
        if reason:
            refused.append(f"{text} ({reason})")
        else:
            taken.append(text)
    if not taken:
        raise Skipped(f"no pattern fits: {'; '.join(refused)}")
    return f"{', '.join(taken)}" + (f"; not taken: {', '.join(refused)}" if refused else "")


def _sparsities(method: Method, p: Pattern) -> list[float]:
    own = method.target_sparsity
    if not isinstance(p, NM):
        return [own]
    tight = 1 - p.keep / p.of
    return [tight] if own <= tight else [own, tight]


def _train_with(case: Case, p: Pattern) -> str:
    """Train and look at every mask; a reason if the pattern is refused, rightly, before training."""
    try:
        run = case.begin()
    except (PatternError, InfeasibleBudget) as error:
        reason = _rightly(case, p)
        if not reason:
            raise CheckFailed(f"pattern {p} at sparsity {case.method.target_sparsity:g} is refused: {error}") from error
        return reason
    method, total = run.sp.method, run.sp.masks.numel()
    now, last = total, 0.0
    for step in range(run.task.steps + 1):
        if step:
            run.train(1)
        value = None if method.schedule is None else method.schedule(step)
        if value is not None:
            last = value
            now = wanted(method, total, value, now)
            _near(method, run.sp.masks, now, f"pattern {p}, step {step}", run.sp.targets)
            now = run.sp.masks.kept()
        if last and not method.relaxed(last):
            _keeps_to(p, run, step)
    _keeps_to(p, run, run.task.steps)
    run.sp.finalize_()
    said = nonzero_dead(run) if method.flow.zeros else ""
    expect(not said, f"pattern {p}, after finalize_: {said}")
    return ""


def _keeps_to(p: Pattern, run: Run, step: int) -> None:
    for name, target in run.sp.targets.items():
        if step and not target.param.requires_grad:
            continue  # frozen: it keeps the mask of step 0
        try:
            p.check(target.canonical(run.sp.masks[name]), name)
        except PatternError as error:
            raise CheckFailed(f"step {step}, sparsity {run.sp.method.target_sparsity:g}: {error}") from error


def _rightly(case: Case, p: Pattern) -> str:
    """Why no mask of this pattern and sparsity exists on the task's model; empty if one should."""
    targets = eligible(case.task.build())
    shapes = {n: t.shape for n, t in targets.items()}
    for name, shape in shapes.items():
        try:
            p.check_shape(shape, name)
        except PatternError:
            return f"{name!r} is {tuple(shape)}"
    budget = kept(sum(torch.Size(s).numel() for s in shapes.values()), case.method.target_sparsity)
    most, least = sum(p.capacity(s) for s in shapes.values()), sum(p.step(s) for s in shapes.values())
    if not least <= budget <= most:
        return f"a budget of {budget} is not in {least} … {most}"
    if not all(t.param.requires_grad for t in targets.values()):
        return "frozen tensors take their part of the budget"
    rules = [a for a in (case.method.allocation, case.method.initial_allocation) if not isinstance(a, EVEN | None)]
    return f"allocation {rules[0]}" if rules else ""


def with_sparsity(method: Method, sparsity: float) -> Method:
    """The same method ending at another sparsity (and starting no higher).

    >>> from sparseland.core import Cubic
    >>> with_sparsity(Method(schedule=Cubic(0.9, initial=0.6, end=10)), 0.5).schedule == Cubic(0.5, initial=0.5, end=10)
    True
    """
    if method.schedule is None:
        return method
    return method.replace(schedule=_ending_at(method.schedule, sparsity))


def _ending_at(schedule: Schedule, sparsity: float) -> Schedule:
    changes: dict[str, Any] = {}
    for f in fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, f.name)
        if f.name == "value":
            changes["value"] = sparsity
        elif f.name == "initial":
            changes["initial"] = min(value, sparsity)
        elif f.name == "values":
            changes["values"] = (*(min(v, sparsity) for v in value[:-1]), sparsity)
        elif isinstance(value, Schedule):
            changes[f.name] = _ending_at(value, sparsity)
    return schedule.replace(**changes)
