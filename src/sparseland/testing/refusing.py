"""Promises about bad input: it is refused before anything is touched, and the message quotes what was given."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..core.errors import OwnershipError, ResumeError, ScheduleError, ScoreError, SparselandError, TargetError
from ..core.mask import MaskSet
from .endings import hooks
from .report import CheckFailed, expect
from .run import Case, Run, difference, sgd


def bad_input(case: Case) -> str:
    """Impossible sparsities, ends, optimizers, targets, gradients, data and states raise the documented error.

    Each message quotes what was given; weights, masks, steps and hooks are as before.
    """
    parts: list[Callable[[Case], int]] = [_sparsities, _ends, _owners, _targets, _gradients, _data, _states, _live_load]
    return f"{sum(part(case) for part in parts)} refusals"


@contextmanager
def refused(what: str, kind: type[Exception], *quotes: object, run: Run | None = None) -> Iterator[None]:
    """Raise CheckFailed unless the block raises ``kind`` with every quote in its message (and leaves ``run`` alone).

    >>> with refused("a word for a number", ValueError, "'ten'"):
    ...     int("ten")
    """
    before = None if run is None else (run.state(), sorted(hooks(run.model, run.optimizer)))
    try:
        yield
    except kind as error:
        said = str(error)
    except Exception as error:
        raise CheckFailed(f"{what}: {type(error).__name__} ({error}) instead of {kind.__name__}") from error
    else:
        raise CheckFailed(f"{what} is accepted; expected {kind.__name__}")
    missing = [str(q) for q in quotes if str(q) not in said]
    expect(not missing, f"{what}: the message does not quote {missing}: {said!r}")
    if run is not None and before is not None:
        odd = difference(before[0], run.state())
        expect(not odd, f"{what}: raised {kind.__name__}, but {odd}")
        left = sorted(hooks(run.model, run.optimizer))
        expect(left == before[1], f"{what}: raised {kind.__name__}, but left {len(left) - len(before[1])} hooks behind")


def _fresh(case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = case.task.build()
    return model, sgd(model.parameters())


@contextmanager
def _attach_refused(
    case: Case, what: str, kind: type[Exception], *quotes: object
) -> Iterator[tuple[nn.Module, torch.optim.Optimizer, dict[str, Any]]]:
    """Like `refused`, for an attach to a fresh model, which must stay as it was."""
    model, optimizer = _fresh(case)
    before = copy.deepcopy(model.state_dict())
    options = {"data": case.task.scoring(), "loss": case.task.loss, "steps": case.task.steps}
    with refused(what, kind, *quotes):
        yield model, optimizer, options
    odd = difference(before, model.state_dict())
    expect(not odd, f"{what}: raised {kind.__name__} after weights were touched: {odd}")
    left = list(hooks(model, optimizer))
    expect(not left, f"{what}: raised {kind.__name__} and left {left[:3]} behind")


def _sparsities(case: Case) -> int:
    schedule = case.method.schedule
    if schedule is None or not hasattr(schedule, "value"):
        return 0
    values = (1.0, -0.1, 90, "0.9", math.nan)
    for value in values:
        with refused(f"sparsity {value!r}", SparselandError, repr(value)):
            case.method.replace(schedule=schedule.replace(value=value))
    return len(values)


def _ends(case: Case) -> int:
    tried, method = 0, case.resolved
    lasts = [w.last() for w in (method.schedule, method.exchange) if w is not None]
    last = max((t for t in lasts if t), default=0)
    if last > 1:
        with _attach_refused(case, f"{last - 1} steps, the last update is at {last}", ScheduleError, last - 1) as got:
            model, optimizer, options = got
            method.attach(model, optimizer, **options | {"steps": last - 1})
        tried += 1
    try:
        case.method.resolve(None)
    except ScheduleError:
        with _attach_refused(case, "fractions of a run of unknown length", ScheduleError, "steps") as got:
            model, optimizer, options = got
            case.method.attach(model, optimizer, **options | {"steps": None})
        tried += 1
    return tried


def _owners(case: Case) -> int:
    names = list(case.begin().sp.targets)
    with _attach_refused(case, "another model's optimizer", OwnershipError, "SGD", names[0]) as (model, _, options):
        case.method.attach(model, sgd(nn.Linear(3, 3).parameters()), **options)
    with _attach_refused(case, f"an optimizer without {names[-1]!r}", OwnershipError, names[-1]) as (model, _, options):
        held = [p for n, p in model.named_parameters() if n != names[-1]]
        case.method.attach(model, sgd(held), **options)
    with _attach_refused(case, "an optimizer that is a dict", OwnershipError, "dict") as (model, _, options):
        case.method.attach(model, {}, **options)
    return 3


def _targets(case: Case) -> int:
    bare = nn.Sequential(nn.LayerNorm(4), nn.Embedding(3, 4))
    with refused("a model without eligible layers", TargetError, "LayerNorm", "Embedding"):
        case.method.attach(bare, sgd(bare.parameters()), steps=case.task.steps, data=case.task.scoring())
    for option in ("targets", "ignore"):
        with _attach_refused(case, f"{option} that match nothing", TargetError, "'no.such*'") as (model, made, options):
            case.method.attach(model, made, **options | {option: "no.such*"})
    with _attach_refused(case, "ignoring everything", TargetError) as (model, made, options):
        case.method.attach(model, made, **options | {"ignore": "*"})
    return 4


def _gradients(case: Case) -> int:
    """A NaN gradient where masks would move: refused before the optimizer acts, and the step can be done again."""
    updates = case.updates()
    if not updates:
        return 0
    at = updates[len(updates) // 2]
    run = case.begin().train(at - 1)
    name = list(run.sp.targets)[-1]
    run.optimizer.zero_grad()
    run.task.loss(run.net, run.task.batches[run.done % len(run.task.batches)]).backward()
    grad = run.sp.targets[name].param.grad
    assert grad is not None
    grad.view(-1)[1] = math.nan
    with refused(f"a NaN gradient at step {at}, an update", ScoreError, repr(name), "NaN", run=run):
        run.optimizer.step()
    buffers = {n for n, _ in run.model.named_buffers()}  # the extra forward pass counts for these
    odd = difference(_without(case.begin().finish().state(), buffers), _without(run.finish().state(), buffers))
    expect(not odd, f"after a refused NaN gradient at step {at}, doing the step again gives another run: {odd}")
    return 1


def _without(state: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return state | {"model": {n: v for n, v in state["model"].items() if n not in names}}


def _data(case: Case) -> int:
    """NaN and no data at all, for methods that measure at the start."""
    needs = case.method.requires(at_start=True) & {"grad", "taylor", "hessian_grad"}
    if not case.method.needs_data:
        return 0
    with _attach_refused(case, "no batches", ScoreError, "[]") as (model, made, options):
        case.method.attach(model, made, **options | {"data": []})
    batch = case.task.batches[0]
    if not needs or not (isinstance(batch, tuple) and isinstance(batch[0], torch.Tensor)):
        return 1
    spoilt = [(torch.full_like(batch[0], math.nan), *batch[1:])]
    with _attach_refused(case, "a batch of NaN", ScoreError, "NaN", ".weight") as (model, made, options):
        case.method.attach(model, made, **options | {"data": spoilt})
    return 2


def _bad_states(case: Case) -> dict[str, tuple[dict[str, Any], tuple[object, ...]]]:
    """{what is wrong: (state, quotes)}."""
    good = case.begin().train(3).sp.state_dict()
    name = next(iter(good["masks"]))
    other = Case(case.method.replace(name="somebody-else"), case.task).begin().sp.state_dict()
    shapes = {n: torch.ones(3, 5) == 1 if n == name else m for n, m in MaskSet.unpack(good["masks"]).items()}
    shorter = good["masks"][name] | {"bits": good["masks"][name]["bits"][:-1]}
    fewer = {n: m for n, m in good["masks"].items() if n != name}
    renamed = {f"trunk.{n}": m for n, m in good["masks"].items()}
    return {
        "the state of another method": (other, ("somebody-else", case.method.name)),
        "the state of another model (shapes)": (
            good | dict.fromkeys(("masks", "seen"), MaskSet(shapes).pack()),
            (name,),
        ),
        "the state of another model (names)": (good | dict.fromkeys(("masks", "seen"), renamed), (f"trunk.{name}",)),
        "a state with fewer masks": (good | dict.fromkeys(("masks", "seen"), fewer), (name,)),
        "masks cut short": (good | {"masks": good["masks"] | {name: shorter}}, (name,)),
        "a union of masks that is not there": (good | {"seen": fewer}, (name,)),
        "a state of version 99": (good | {"version": 99}, ("99",)),
        "a state without 'step'": ({k: v for k, v in good.items() if k != "step"}, ("step",)),
        "an empty dict": ({}, ("[]",)),
        "statistics of another model": (good | {"stats": {"trunk": {}}}, ("statistics",)),
        "dense values of another model": (good | {"latent": {"trunk": torch.ones(2)}}, ("dense values",)),
        "a generator that is text": (good | {"generator": "seed"}, ("str",)),
    }


def _states(case: Case) -> int:
    states = _bad_states(case)
    for what, (state, quotes) in states.items():
        with _attach_refused(case, what, ResumeError, *quotes) as (model, made, options):
            case.method.attach(model, made, **options, state=state)
    return len(states)


def _live_load(case: Case) -> int:
    """A load that fails on a sparsifier at work leaves it as it was."""
    states = _bad_states(case)
    run = case.begin().train(case.task.steps // 2)
    for what, (state, quotes) in states.items():
        with refused(f"load_state_dict with {what}", ResumeError, *quotes, run=run):
            run.sp.load_state_dict(state)
    return len(states)
