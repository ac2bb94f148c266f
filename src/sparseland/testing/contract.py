"""The contract: an ordered registry of checks, and the one call that runs them on a method."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable

from ..core.errors import nearest
from ..weights.method import Method
from ..weights.methods import build, registry
from .counting import exact_count, pattern_valid
from .endings import no_forward_hooks, plain_after_finalize
from .optimizers import ways_to_step, zeros_survive_optimizers
from .precision import zeros_survive_amp
from .ranks import ranks_agree
from .refusing import bad_input
from .repeating import copies_continue, eager_equals_compiled, resume_bit_equal
from .report import CheckFailed, ContractError, Report, Result, Skipped
from .run import Case
from .tasks import Task, tasks
from .wording import round_trip

checks: dict[str, Callable[[Case], str | None]] = {
    "round_trip": round_trip,
    "exact_count": exact_count,
    "pattern_valid": pattern_valid,
    "no_forward_hooks": no_forward_hooks,
    "plain_after_finalize": plain_after_finalize,
    "bad_input": bad_input,
    "resume_bit_equal": resume_bit_equal,
    "copies_continue": copies_continue,
    "zeros_survive_optimizers": zeros_survive_optimizers,
    "ways_to_step": ways_to_step,
    "zeros_survive_amp": zeros_survive_amp,
    "eager_equals_compiled": eager_equals_compiled,
    "ranks_agree": ranks_agree,
}
ONCE = frozenset({"round_trip", "ranks_agree"})  # the task makes no difference


def check_method(
    method: Method | str,
    *,
    checks: Iterable[str] | str | None = None,
    data: Task | Iterable[Task] | None = None,
    strict: bool = True,
) -> Report:
    """Train ``method`` on tiny models, many times, and check every promise that the library makes about methods.

    Args:
        method: a Method whose updates fit into the task's steps (40 for the built-in ones; fractions always do), or a
            registered name, built with its defaults and an update every 5 steps.
        checks: names out of `sparseland.testing.checks`, in any order; None: all. ``ranks_agree`` starts processes.
        data: what to train on; None: a small MLP and a small convolution net on random numbers.
        strict: raise if anything fails; otherwise look into the report.

    Raises:
        ContractError: something failed (after everything was tried); ``error.report`` is the report.
        KeyError: a check has another name.

    >>> from sparseland.weights.methods import RigL
    >>> report = check_method(RigL(0.8, every=5), checks=["exact_count", "no_forward_hooks"])
    >>> report.ok, [r.task for r in report.passed]
    (True, ['mlp', 'conv', 'mlp', 'conv'])
    """
    chosen = small(method) if isinstance(method, str) else method
    on = (data,) if isinstance(data, Task) else tuple(data) if data is not None else tasks()
    results = [
        outcome(name, Case(chosen, task)) for name in _names(checks) for task in (on[:1] if name in ONCE else on)
    ]
    report = Report(chosen.name, tuple(results))
    if strict and not report.ok:
        raise ContractError(report)
    return report


def _names(chosen: Iterable[str] | str | None) -> list[str]:
    names = list(checks) if chosen is None else [chosen] if isinstance(chosen, str) else list(chosen)
    for name in names:
        if name not in checks:
            raise KeyError(f"there is no check {name!r}; {nearest(name, checks)}")
    return names


def outcome(name: str, case: Case) -> Result:
    """Run one check; whatever it raises becomes part of the result."""
    began = time.perf_counter()
    try:
        status, detail = "passed", checks[name](case) or ""
    except Skipped as reason:
        status, detail = "skipped", str(reason)
    except CheckFailed as error:
        status, detail = "failed", str(error)
    except Exception as error:
        status, detail = "failed", f"{type(error).__name__}: {error} (in {_place(error)})"
    return Result(name, case.task.name, status, detail, time.perf_counter() - began)


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def small(name: str, every: int = 5) -> Method:
    """The registered method ``name`` with its default values, updated at least every ``every`` steps.

    >>> small("rigl").exchange.every
    5
    """
    known = inspect.signature(registry[name]).parameters if name in registry else {}
    usual = known["every"].default if "every" in known else 0
    return build(name, every=every) if usual > every else build(name)
