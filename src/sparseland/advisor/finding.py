"""What a guard says: its name, how grave it is, what is wrong, and what would put it right."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..core.errors import SparselandError

LEVELS = ("refuse", "flag")


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a comparison from saying what it seems to say.

    Parameters:
        guard: the guard's name, as in ``--allow UnequalBudget``.
        level: "refuse" (the comparison is untrue) or "flag" (it is weaker than it looks).
        says: what was found, with the runs' labels.
        fix: what to do about it.

    Raises:
        SparselandError: another level.

    >>> Finding("OneSeed", "flag", "rigl has one seed", "give three").to_dict()["guard"]
    'OneSeed'
    """

    guard: str
    level: str
    says: str
    fix: str

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise SparselandError(f"level is {self.level!r}; possible: {', '.join(LEVELS)}")

    def to_dict(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.guard}: {self.says}. {self.fix}"
