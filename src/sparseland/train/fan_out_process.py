"""A worker process of `fan_out`, as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

from sparseland.train import fan_out_worker
from sparseland.train.fan_out_worker import POOLS, REUSE, Call, Outcome, kill_group

MARGIN = 0.5  # seconds between a worker's report of where it hangs and its end
TAIL = 4000  # bytes of a dead job's output that go into its error
START = (
    "import json, sys; asked = json.loads(sys.stdin.readline()); sys.path[:] = asked['call']['path']; "
    f"from {fan_out_worker.__name__} import serve; serve(**asked)"
)


class Worker:
    """A process (and session) of its own for one attempt; after a good end it may `take` another call.

    >>> import sys
    >>> worker = Worker(Call("a", "statistics:fmean", {"data": [1, 3]}, path=tuple(sys.path), reuse=REUSE))
    >>> while (outcome := worker.poll()) is None:
    ...     time.sleep(0.01)
    >>> outcome.value, worker.idle == REUSE
    (2.0, True)
    >>> worker.kill()
    """

    def __init__(self, call: Call) -> None:
        self.call, self.since, self.idle = call, time.monotonic(), False
        self.answer: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`; has no name to be left over
        self.answer_start = 0
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._open_log()
        ours, theirs = os.pipe() if call.reuse and REUSE else (None, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            stdout=self.answer,
            stderr=self.log,
            env=os.environ | dict.fromkeys(POOLS, str(call.threads)),
            cwd=call.cwd if os.path.isdir(call.cwd) else None,
            pass_fds=() if ours is None else (ours,),
            start_new_session=True,  # Ctrl-C comes to the parent only; the job's own children are found by the group
        )
        self.more = None if theirs is None else os.fdopen(theirs, "wb")
        if ours is not None:
            os.close(ours)
        asked = self.process.stdin
        assert asked is not None
        with contextlib.suppress(BrokenPipeError):  # it died already: `poll` says of what
            asked.write(self._asked({"more": ours}))
            asked.flush()

    def take(self, call: Call) -> bool:
        """Another call for an idle worker; False if it has died in the meantime."""
        if not self.idle or self.more is None or self.process.poll() is not None:
            return False
        self.call, self.since, self.idle = call, time.monotonic(), False
        self._open_log()
        with contextlib.suppress(BrokenPipeError):
            self.more.write(self._asked({}))
            self.more.flush()
        return True

    def _asked(self, also: dict[str, Any]) -> bytes:
        return json.dumps({"call": asdict(self.call), "since": self.since} | also).encode() + b"\n"

    def _open_log(self) -> None:
        if self.call.log:
            self.log.close()
            self.log = open(self.call.log, "ab+")  # noqa: SIM115
        self.log_start = self.log.seek(0, os.SEEK_END)

    def poll(self) -> Outcome | None:
        """How it ended; None while it runs. Too late is an end."""
        if (outcome := self._answered()) is not None:
            return outcome
        code, seconds = self.process.poll(), time.monotonic() - self.since
        limit = self.call.timeout
        if code is None and (limit is None or seconds < limit + MARGIN):
            return None
        self.answer.seek(self.answer_start)
        said, tail = self.answer.read(), self._tail()
        self.kill()
        if code is None:
            return Outcome(None, f"{tail}timeout: it took more than {limit:g} s", seconds=seconds)
        if code != 0:
            return Outcome(None, f"{tail}the process {_ending(code)}", seconds=seconds)
        try:
            return _outcome(said, seconds)[0]
        except ValueError:
            return Outcome(None, f"{tail}the process ended without an answer", seconds=seconds)

    def _answered(self) -> Outcome | None:
        """The answer of a worker that may stay; others have answered when they have ended."""
        if self.more is None:
            return None
        handle = self.answer.fileno()  # the worker writes where this file stands: read without moving it
        said = os.pread(handle, os.fstat(handle).st_size - self.answer_start, self.answer_start)
        if not said.endswith(b"\n"):
            return None
        outcome, self.idle = _outcome(said, time.monotonic() - self.since)
        self.answer_start += len(said)
        if not self.idle:
            self.kill()
        return outcome

    def interrupt(self) -> None:
        """Ctrl-C for the job alone: a run of ours writes its checkpoint."""
        with contextlib.suppress(OSError, ValueError):
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, and everything that it has started."""
        if self.answer.closed:
            return
        kill_group(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.more):
            with contextlib.suppress(BrokenPipeError):
                pipe.close() if pipe is not None else None
        self.answer.close()
        self.log.close()

    def _tail(self) -> str:
        end = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(self.log_start, end - TAIL))
        text = self.log.read().decode(errors="replace").strip()
        return f"its last output:\n{text}\n\n" if text else ""


def _outcome(said: bytes, seconds: float) -> tuple[Outcome, bool]:
    """From a worker's answer: how the attempt ended, and whether the worker waits for another."""
    answer = json.loads(said)
    stays = answer.pop("stays")
    return Outcome(**answer | {"seconds": seconds}), stays


def end(workers: Sequence[Worker]) -> None:
    """End workers: first as Ctrl-C does, then for good; another Ctrl-C does not wait."""
    try:
        for worker in workers:
            worker.interrupt()
        limit = time.monotonic() + max((worker.call.grace for worker in workers), default=0.0)
        while any(worker.process.poll() is None for worker in workers) and time.monotonic() < limit:
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"number {-code}"
    why = " (from outside; often the system, out of memory)" if -code == 9 else ""
    return f"was ended by signal {name}{why}"
