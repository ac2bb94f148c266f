"""What a check can say: passed, failed with numbers, or skipped with a reason."""

from __future__ import annotations

from dataclasses import dataclass


class CheckFailed(AssertionError):
    """One promise is broken; the message holds the numbers."""


class Skipped(Exception):
    """A check does not apply to a method; the message says why."""


def expect(condition: bool, message: str) -> None:
    """Raise CheckFailed with ``message`` unless the condition holds.

    >>> expect(1 + 1 == 2, "arithmetic is broken")
    """
    if not condition:
        raise CheckFailed(message)


@dataclass(frozen=True)
class Result:
    """The outcome of one check on one task. ``status``: passed, failed or skipped; ``detail``: numbers or reason."""

    check: str
    task: str
    status: str
    detail: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        said = f": {self.detail}" if self.detail else ""
        return f"{self.status:<8} {self.check} on {self.task} ({self.seconds:.1f} s){said}"


@dataclass(frozen=True)
class Report:
    """All outcomes for one method; ``print(report)`` lists them.

    >>> report = Report("mine", (Result("exact_count", "mlp", "failed", "kept 9, expected 10"),))
    >>> report.ok, report.failed[0].detail
    (False, 'kept 9, expected 10')
    """

    method: str
    results: tuple[Result, ...]

    def _with(self, status: str) -> tuple[Result, ...]:
        return tuple(r for r in self.results if r.status == status)

    @property
    def passed(self) -> tuple[Result, ...]:
        """The promises that hold."""
        return self._with("passed")

    @property
    def failed(self) -> tuple[Result, ...]:
        """The promises that are broken."""
        return self._with("failed")

    @property
    def skipped(self) -> tuple[Result, ...]:
        """What does not apply, each with its reason."""
        return self._with("skipped")

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def __str__(self) -> str:
        head = f"{self.method}: {len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"
        return "\n".join([head, *(f"  {r}" for r in self.results)])


class ContractError(AssertionError):
    """A method breaks the contract; ``report`` holds every outcome."""

    def __init__(self, report: Report) -> None:
        lines = [f"  {r.check} on {r.task}: {r.detail}" for r in report.failed]
        super().__init__("\n".join([f"method {report.method!r} fails {len(lines)} checks:", *lines]))
        self.report = report
