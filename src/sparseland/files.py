"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .core.errors import OutputError

TEMPORARY = ".tmp"  # suffix of what is being written; `sweep` removes what a killed process left


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no fsync for folders
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn every way in which a disk refuses into one OutputError that says what, where and how much is free."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or _disk_said_no(error):
            raise OutputError(f"cannot write {path}: {_reason(error)}{_free(path)}") from error
        raise


def _disk_said_no(error: BaseException) -> bool:
    """torch and safetensors hide the operating system's error inside their own."""
    hidden: BaseException | None = error
    while hidden is not None:
        if isinstance(hidden, OSError) or "os error" in str(hidden) or "I/O error" in str(hidden):
            return True
        hidden = hidden.__cause__ or hidden.__context__
    return False


def _reason(error: BaseException) -> str:
    hidden: BaseException | None = error
    while hidden is not None:
        if isinstance(hidden, OSError):
            return hidden.strerror or str(hidden)
        hidden = hidden.__cause__ or hidden.__context__
    return str(error)


def _free(path: Path) -> str:
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    with contextlib.suppress(OSError):
        return f" ({shutil.disk_usage(place).free:,} bytes are free)"
    return ""


def write_file(path: Path, write: Callable[[Any], object]) -> None:
    """Call ``write`` on an open binary file, which then takes the place of ``path`` at once.

    Raises:
        OutputError: the disk is full or refuses; the old file, if any, is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_file(Path(place) / "a.txt", lambda file: file.write(b"whole"))
    ...     sorted(os.listdir(place)), (Path(place) / "a.txt").read_text()
    (['a.txt'], 'whole')
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with _writing(path):
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _fsync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON (no NaN), whole or not at all."""
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False)
    write_file(path, lambda file: file.write(text.encode() + b"\n"))


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Call ``fill`` on an empty folder, which then takes the place of ``path``.

    A folder cannot be replaced in one move: for a moment the old one is called ``.<name>.old``; `settle` finds it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    old = _old(path)
    with _writing(path):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            fill(temporary)
            _fsync(temporary)
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(path, old)
            os.rename(temporary, path)
            _fsync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            settle(path)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def settle(path: Path) -> Path:
    """Put the old folder back if a process died between the two moves of `write_folder`; returns ``path``."""
    old = _old(path)
    if old.is_dir() and not path.exists():
        os.rename(old, path)
    shutil.rmtree(old, ignore_errors=True)
    return path


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: the disk refuses.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     remove(Path(place) / "absent")
    """
    with _writing(path):
        path.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove what killed processes left beside ``path`` of writing it; a process that still runs keeps its own.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = (Path(place) / f".a.txt.{2**30}.tmp").write_text("half")  # no process has this number
    ...     clear(Path(place) / "a.txt")
    ...     os.listdir(place)
    []
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        writer = leftover.name.removeprefix(f".{path.name}.").removesuffix(TEMPORARY)
        if writer.isdigit() and not _runs(int(writer)):
            with contextlib.suppress(OSError):  # tidying is no reason to fail
                leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name != "posix":
        return True  # nothing there asks without disturbing
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def probe(folder: Path, needed: int = 0) -> None:
    """Find out now whether ``folder`` can be made and written, and has ``needed`` bytes.

    Raises:
        OutputError: it cannot; said before any training.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "probe", lambda file: file.write(b"0"))
        (folder / "probe").unlink()
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"the checkpoints of this run take about {needed:,} bytes")
