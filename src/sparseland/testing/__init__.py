"""The contract that every method keeps, published for your own: ``sl.testing.check_method(MyMethod(0.9, every=5))``.

Needs no test framework. Everything raises AssertionErrors that say which promise is broken, with numbers.
"""

from .contract import check_method, checks, small
from .ranks import check_ranks
from .report import CheckFailed, ContractError, Report, Result, Skipped, expect
from .run import Case, Run
from .tasks import Task, tasks

__all__ = [
    "Case",
    "CheckFailed",
    "ContractError",
    "Report",
    "Result",
    "Run",
    "Skipped",
    "Task",
    "check_method",
    "check_ranks",
    "checks",
    "expect",
    "small",
    "tasks",
]
