"""The command line: ``sparseland train | prune | compare | inspect | papers | recipe``, one file per verb."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its status: 0 done, 1 a run failed, 2 wrong input, 130 interrupted.

    Parameters:
        arguments: without the program's name; None: those of this process.
    """
    from .app import app

    app(args=None if arguments is None else list(arguments), prog_name="sparseland")
