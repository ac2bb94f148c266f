"""Promises about doing it again: resumed, copied, pickled and compiled runs are the same run."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import torch
from torch import nn

from .report import expect
from .run import Case, Run, difference, through_file


def resume_bit_equal(case: Case) -> str:
    """Training N steps equals training k, saving through a file, rebuilding everything, and training N - k.

    Weights, optimizer state, masks, statistics, history and generator, bit for bit; k right before, at and after the
    first and the last update, at 0 and in the middle; the rebuilt run starts from other seeds. The state that was
    loaded is not changed by going on.
    """
    whole = case.begin().finish()
    wanted = whole.state()
    points = _points(case)
    for k in points:
        saved = through_file(case.begin().train(k).state())
        kept_aside = copy.deepcopy(saved)  # torch's own load_state_dict shares tensors; the sparsifier's may not
        again = case.begin(model_seed=11, seed=12, state=saved)
        said = difference(kept_aside, again.state())
        expect(not said, f"resumed at step {k}: already before the next step, {said}")
        said = difference(wanted, again.finish().state())
        expect(not said, f"resumed at step {k}, after {case.task.steps}: {said}")
        said = difference(kept_aside["sparsifier"], saved["sparsifier"])
        expect(not said, f"resumed at step {k}: going on changed the state that was loaded: {said}")
    return f"k = {', '.join(map(str, points))}"


def _points(case: Case) -> list[int]:
    """Right before, at and after the first and the last update; 0 and the middle."""
    updates = case.updates()
    some = [0, case.task.steps // 2]
    for t in {*updates[:1], *updates[-1:]}:
        some += [t - 1, t, t + 1]
    return sorted({k for k in some if 0 <= k < case.task.steps})


def copies_continue(case: Case) -> str:
    """A deepcopy, and a pickle, of (model, optimizer, sparsifier) together goes on bit-equal, and apart."""
    wanted = case.begin().finish().state()
    updates = case.updates()
    k = updates[0] if updates else case.task.steps // 2
    for how, make in (("deepcopy", copy.deepcopy), ("pickle", pickled)):
        first = case.begin().train(k)
        before = first.state()
        model, optimizer, sp = make((first.model, first.optimizer, first.sp))
        second = Run(case.task, model, model, optimizer, sp, done=k)
        expect(sp.model is model and sp.optimizer is optimizer, f"{how}: the copy works on the original's model")
        said = difference(before, second.state())
        expect(not said, f"{how} at step {k} is not equal to its original: {said}")
        said = difference(wanted, second.finish().state())
        expect(not said, f"{how} at step {k}, trained on to {case.task.steps}, differs from the original's run: {said}")
        said = difference(before, first.state())
        expect(not said, f"{how} at step {k}: training the copy changed the original: {said}")
        said = difference(wanted, first.finish().state())
        expect(not said, f"the original, trained on after a {how} at step {k}, differs from a run without: {said}")
    return f"at step {k}"


class _Unpickler(pickle.Unpickler):
    """For bytes that this process has written itself; nothing from disk comes here."""


def pickled(thing: Any) -> Any:
    """A copy of an object made by pickling it in memory.

    >>> pickled([1, "a"])
    [1, 'a']
    """
    buffer = io.BytesIO(pickle.dumps(thing))
    return _Unpickler(buffer).load()


def eager_equals_compiled(case: Case, backend: str = "aot_eager") -> str:
    """A model compiled before, or after, the method is attached gets the same masks at every update."""

    def compiled(model: nn.Module) -> nn.Module:
        return torch.compile(model, backend=backend)  # type: ignore[return-value]

    wanted, eager = _digests(case.begin())
    for when in ("before", "after"):
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            run = case.begin(wrap=compiled if when == "before" else None)
            run.net = run.net if when == "before" else compiled(run.model)
            expect(list(run.sp.masks) == list(eager.sp.masks), f"compiled {when}: masks are named {list(run.sp.masks)}")
            found, run = _digests(run)
        odd = [t for t in wanted if found[t] != wanted[t]]
        overlap = run.sp.masks.overlap(eager.sp.masks)
        expect(not odd, f"compiled {when} attach: masks differ at steps {odd[:6]}; overlap at the end {overlap:.4f}")
        pairs = zip(eager.model.state_dict().items(), run.model.state_dict().values(), strict=True)
        for (name, a), b in pairs:
            apart = float((a - b).abs().max())
            expect(
                torch.allclose(a, b, atol=1e-4, rtol=1e-3), f"compiled {when} attach: {name!r} differs by {apart:.3g}"
            )
    return backend


def _digests(run: Run) -> tuple[dict[int, str], Run]:
    found = {0: run.sp.masks.digest()}
    while run.done < run.task.steps:
        run.train(1)
        found[run.done] = run.sp.masks.digest()
    return found, run
