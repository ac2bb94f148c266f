"""Why an advice says what it says."""

from __future__ import annotations

from dataclasses import dataclass

UNMEASURED = "not measured here"


@dataclass(frozen=True)
class Reason:
    """One sentence, and the measured table that it rests on.

    Parameters:
        text: the sentence.
        table: the folder of the table; None where nothing was measured (the text then says so).
        link: the table's file below the repository's root.

    >>> Reason("not measured here: speed on a GPU").table is None
    True
    """

    text: str
    table: str | None = None
    link: str | None = None
