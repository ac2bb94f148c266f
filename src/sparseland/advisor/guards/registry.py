"""Where guards register themselves by name, and how all of them are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...core.errors import RecipeError, SparselandError, nearest
from ..facts import Facts
from ..finding import LEVELS, Finding

Check = Callable[[Sequence[Facts]], Finding | None]


@dataclass(frozen=True)
class Guard:
    """A named question about a set of runs.

    Parameters:
        name: as in ``--allow NAME``.
        level: the gravest level it speaks with.
        about: what it protects from, one line.
        check: runs to a finding, or None where there is nothing to say (or nothing is known).
    """

    name: str
    level: str
    about: str
    check: Check


GUARDS: dict[str, Guard] = {}


def guard(name: str, level: str) -> Callable[[Check], Check]:
    """Function decorator: register a check; its docstring's first line says what it protects from.

    Raises:
        SparselandError: a name given twice, an unknown level or no docstring.
    """

    def keep(check: Check) -> Check:
        about = (check.__doc__ or "").strip().partition("\n")[0]
        if name in GUARDS or level not in LEVELS or not about:
            raise SparselandError(f"guard {name!r}, level {level!r}: each needs its own name, a level and a docstring")
        GUARDS[name] = Guard(name, level, about, check)
        return check

    return keep


def find(runs: Sequence[Facts], only: Iterable[str] | None = None) -> list[Finding]:
    """What the guards say about the runs, the refusals first.

    Parameters:
        runs: see `facts`; only: names of guards (default: all).

    Raises:
        RecipeError: an unknown name in ``only``.
    """
    names = list(GUARDS) if only is None else list(only)
    for name in names:
        if name not in GUARDS:
            raise RecipeError(f"unknown guard {name!r}: {nearest(name, GUARDS)}")
    found = [finding for name in names if (finding := GUARDS[name].check(runs)) is not None]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))
