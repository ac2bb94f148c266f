"""A process that trains runs one after another: a line of JSON in, a line of JSON out, the end with its input's end.

Started by `fleet` as ``python -m sparseland.cli.worker``, in a session of its own, so that Ctrl-C in the terminal does
not reach it twice. Everything that the library prints goes to standard error; standard output is for the answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, TextIO

INTERRUPTED = "interrupted"  # the error of a run that Ctrl-C stopped; its checkpoint is written


def main() -> None:
    """Serve standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a print somewhere below must not break the protocol
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while idle
    serve(sys.stdin, answers)


def serve(questions: TextIO, answers: TextIO) -> None:
    """Answer each line {"config", "folder"} with {"ok": true} or {"ok": false, "error"}."""
    for line in questions:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            answer = _train(json.loads(line))
        finally:
            signal.signal(signal.SIGINT, before)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _train(question: dict[str, Any]) -> dict[str, Any]:
    from ..core.errors import SparselandError
    from ..train import TrainConfig, run

    try:
        config = TrainConfig.from_dict(question["config"])
        run(config, question["folder"], resume="auto", progress=False)
    except KeyboardInterrupt:
        return {"ok": False, "error": INTERRUPTED}
    except SparselandError as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:
        import traceback

        traceback.print_exc()
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return {"ok": True}


if __name__ == "__main__":
    main()
