"""Every error the library raises on purpose: it quotes what was given and what was possible."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SparselandError(ValueError):
    """Root of all deliberate errors."""


class InfeasibleBudget(SparselandError):
    """The asked number of non-zeros cannot be reached (sparsity out of range, protected layers too big)."""


class PatternError(SparselandError):
    """A shape, a count or a mask does not fit a pattern."""


class ScoreError(SparselandError):
    """Scores hold NaN or infinity, or have the wrong shape."""


class TargetError(SparselandError):
    """No parameter, or not the intended one, was selected."""


class OwnershipError(SparselandError):
    """The optimizer does not hold the parameters that should become sparse."""


class MaskMismatch(SparselandError):
    """Two sets of masks that should describe the same tensors do not."""


class ResumeError(SparselandError):
    """A saved state belongs to another method or another model."""


class ScheduleError(SparselandError):
    """A start, an end or an interval does not fit the run."""


class RecipeError(SparselandError):
    """A description (string, dict or YAML) names something unknown or ill-typed."""


class DataNotFound(SparselandError):
    """A dataset or a file is not where it was looked for."""


class OutputError(SparselandError):
    """A result cannot be written where it was asked for."""


def nearest(name: object, options: Iterable[str]) -> str:
    """Say which of ``options`` was probably meant by ``name``, and list them all.

    >>> nearest("granett", ["granet", "rigl"])
    "did you mean 'granet'? Possible: granet, rigl"
    >>> nearest("zzz", ["granet", "rigl"])
    'possible: granet, rigl'
    """
    names = sorted(str(option) for option in options)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    listed = ", ".join(names) if names else "(nothing)"
    return f"did you mean {close[0]!r}? Possible: {listed}" if close else f"possible: {listed}"
