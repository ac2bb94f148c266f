"""The advisor's guards at the door of ``sparseland compare``: refused unless allowed by name, or said as a warning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..advisor import Finding


def known(allow: Iterable[str]) -> list[str]:
    """The names given with ``--allow``, once each.

    Raises:
        RecipeError: no guard of that name; the nearest is named.

    >>> known(["OneSeed", "OneSeed"])
    ['OneSeed']
    """
    from ..advisor import GUARDS
    from ..core.errors import RecipeError, nearest

    for name in allow:
        if name not in GUARDS:
            raise RecipeError(f"--allow {name!r}: no guard of that name; {nearest(name, GUARDS)}")
    return list(dict.fromkeys(allow))


def examine(runs: Sequence[Mapping[str, Any]], allow: Sequence[str]) -> list[Finding]:
    """What is to be said about runs that nobody has trained yet: the flags, and the refusals that are allowed.

    Parameters:
        runs: as `advisor.preflight` takes them.
        allow: names of guards that may refuse and are not listened to.

    Raises:
        SparselandError: a guard refuses; all that do are listed with what would put it right.
    """
    from ..advisor import preflight
    from ..core.errors import SparselandError

    findings = preflight(runs)
    refused = [finding for finding in findings if finding.level == "refuse" and finding.guard not in allow]
    if refused:
        listed = " ".join(f"({i}) {finding}" for i, finding in enumerate(refused, 1))
        names = " ".join(f"--allow {name}" for name in dict.fromkeys(finding.guard for finding in refused))
        raise SparselandError(
            f"this comparison would be unfair: {listed} To compare all the same, marked in red: {names}"
        )
    return findings


def say(findings: Iterable[Mapping[str, Any]], allow: Sequence[str], said: set[str]) -> int:
    """Print findings as warnings, each once; returns how many refuse and are not allowed.

    Parameters:
        findings: `Finding.to_dict`.
        allow: names of guards that were waved through.
        said: texts that were printed already; grows.
    """
    from .screen import errors

    refused = 0
    for finding in findings:
        refuses = finding["level"] == "refuse"
        refused += refuses and finding["guard"] not in allow
        text = f"{finding['says']} ({finding['guard']}{', allowed' if refuses and finding['guard'] in allow else ''})"
        if text not in said:
            said.add(text)
            word, style = ("unfair", "red") if refuses else ("warning", "yellow")
            errors().print(f"{word}: {text}", style=style, soft_wrap=True)
    return refused
