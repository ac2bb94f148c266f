"""Deaths on order: processes forked from one that has torch loaded, so that dying a hundred times is cheap."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("replace", "rename", "fsync", "link", "unlink", "rmdir", "mkdir")  # what changes the file system for good


def die() -> None:
    """kill -9, from inside."""
    os.kill(os.getpid(), signal.SIGKILL)


def after(seconds: float) -> None:
    """Die in so many seconds."""
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def at_call(number: int, late: bool = False) -> None:
    """Die at this call to the file system, from now on; before it, or ``late``: after it."""
    counted = [0]

    def before() -> None:
        counted[0] += 1
        if counted[0] == number and not late:
            die()

    def behind() -> None:
        if counted[0] == number and late:
            die()

    _watch(before, behind)


def _watch(before: Callable[[], None], behind: Callable[[], None]) -> None:
    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before()
            result = real(*args, **kwargs)
            behind()
            return result

        return call

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))


def start(act: Callable[[], Any], arm: Callable[[], Any] = lambda: None, log: Path | None = None) -> int:
    """Fork a process that calls ``arm``, then ``act``; its number. It ends with the code of SystemExit, 1 on errors."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if log is not None:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        arm()
        act()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def killed(pid: int) -> bool:
    """Wait for a process; whether kill -9 ended it (anything but that and a good end is an error)."""
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return True
    assert os.WEXITSTATUS(status) == 0, f"ended with code {os.WEXITSTATUS(status)}"
    return False


def attempt(act: Callable[[], Any], arm: Callable[[], Any] = lambda: None, log: Path | None = None) -> bool:
    """`start`, then `killed`."""
    return killed(start(act, arm, log))


def calls_of(act: Callable[[], Any], note: Path) -> int:
    """How many calls to the file system an act makes; ``note`` is a file that may be written."""
    counted = [0]

    def count() -> None:
        counted[0] += 1

    def counting() -> None:
        act()
        note.write_text(str(counted[0]))

    assert not attempt(counting, lambda: _watch(count, lambda: None))
    return int(note.read_text())


def result(folder: Path) -> dict[str, Any]:
    """A run's result without what differs between two runs of the same bits."""
    return stripped(json.loads((folder / "result.json").read_text()))


def stripped(found: dict[str, Any]) -> dict[str, Any]:
    """A result without clocks and the process's memory."""
    out = {key: value for key, value in found.items() if key not in ("seconds", "resumed")}
    if isinstance(out.get("memory"), dict):
        out["memory"] = {key: value for key, value in out["memory"].items() if key != "peak_bytes"}
    return out


def run_content(folder: Path) -> tuple[Any, ...]:
    """What a finished run left: its result, its weights, its log."""
    return result(folder), (folder / "best.safetensors").read_bytes(), (folder / "log.jsonl").read_text()


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
