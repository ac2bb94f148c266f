"""Running a saved engine without torch: NumPy arrays in, NumPy arrays out.

    from sparseland.deploy import runtime
    engine = runtime.load("m.sland")
    logits = engine(images)

Only NumPy, the standard library and the native extension are loaded. The file is mapped, not read: processes that
run the same file share its weights.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataNotFound, SparselandError
from ..kernels import native
from .lower_ports import Port
from .lower_view import Array

FORMAT = 1  # of what Python keeps beside the program
POLICIES = ("pass", "error")


class Engine:
    """A network that is ready to run; may be called from any number of threads at once.

    Parameters:
        data: the bytes of a ``.sland`` file, or a mapped file.
        threads: that work on one call; None: all that the process may use.
        isa: instruction set, one of ``sparseland.kernels.native().isas()``; "": the best of this machine.
        nan: "pass" lets NaN and infinity in inputs through; "error" refuses them.

    Raises:
        SparselandError: no such file, a damaged one, one of a later version, or the extension is not built.
    """

    def __init__(self, data: Any, *, threads: int | None = None, isa: str = "", nan: str = "pass") -> None:
        if nan not in POLICIES:
            raise SparselandError(f"nan={nan!r}; possible: {', '.join(POLICIES)}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise SparselandError(f"threads must be at least 1, or None for all; got {threads!r}")
        from .program import read_meta

        self._native = _made(data, threads or 0, isa)
        self.nan = nan
        self.meta = read_meta(data)
        if self.meta.get("format", 0) > FORMAT:
            raise SparselandError(f"written by a later sparseland (form {self.meta['format']}, known: {FORMAT})")
        self.inputs = [Port.read(one) for one in _list(self.meta, "inputs")]
        self.outputs = [Port.read(one) for one in _list(self.meta, "outputs")]
        _check_ends(self.inputs, self._native.inputs, "input")
        _check_ends(self.outputs, self._native.outputs, "output")

    @property
    def threads(self) -> int:
        """Threads that work on one call."""
        return int(self._native.threads)

    @property
    def isa(self) -> str:
        """The instruction set of its kernels."""
        return str(self._native.isa)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """For every op of the program: node, kernel, sparsity, reason, as it was converted."""
        return _list(self.meta, "layers")

    def __call__(self, *arrays: Array) -> Any:
        """Run: one array per input, in order; one array, or a tuple where there are several outputs.

        Raises:
            SparselandError: another number of arrays, a wrong shape or type, NaN where ``nan="error"``, a token id
                beyond the table.
        """
        made = self.run(arrays)
        return made[0] if len(made) == 1 else tuple(made)

    @property
    def joined(self) -> list[bool]:
        """Of every op: whether the engine does it together with the next one."""
        return list(self._native.joined)

    def run(self, arrays: Sequence[Array], after: Callable[[int, float], object] | None = None) -> list[Array]:
        """The same with lists. ``after(op, seconds)`` is called when an op is done; what it raises ends the call."""
        made = self._told(lambda given: self._native.run(given, after), self._given(arrays))
        return [port.leave(made[port.place]) for port in self.outputs]

    def profile(self, *arrays: Array) -> list[float]:
        """Seconds of every op in one run, in the order of `layers`."""
        return list(self._told(self._native.profile, self._given(arrays)))

    def _given(self, arrays: Sequence[Array]) -> list[Array]:
        if len(arrays) != len(self.inputs):
            names = ", ".join(port.name for port in self.inputs)
            raise SparselandError(f"the engine takes {len(self.inputs)} inputs ({names}); got {len(arrays)}")
        given = []
        for port, array in zip(self.inputs, arrays, strict=True):
            port.check(array)
            if self.nan == "error" and port.dtype == "float32" and not np.isfinite(array).all():
                count = int(array.size - np.count_nonzero(np.isfinite(array)))
                raise SparselandError(f"input {port.name!r} holds {count} entries that are NaN or infinite")
            given.append(port.enter(array))
        return given

    @staticmethod
    def _told(call: Callable[[list[Array]], Any], given: list[Array]) -> Any:
        try:
            return call(given)
        except native().EngineError as error:
            raise SparselandError(str(error)) from None


def load(path: str | os.PathLike[str], *, threads: int | None = None, isa: str = "", nan: str = "pass") -> Engine:
    """Map a ``.sland`` file and make it ready.

    Parameters:
        path, threads, isa, nan: see `Engine`.

    Raises:
        DataNotFound: there is no such file.
        SparselandError: see `Engine`.
    """
    place = Path(path).expanduser()
    try:
        with open(place, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise DataNotFound(f"no engine file {place}") from None
    except (OSError, ValueError) as error:  # a folder, an empty file
        raise SparselandError(f"cannot read {place}: {error}") from None
    try:
        return Engine(data, threads=threads, isa=isa, nan=nan)
    except SparselandError as error:
        raise SparselandError(f"{place}: {error}") from None


def _made(data: Any, threads: int, isa: str) -> Any:
    module = native()
    if isa and isa not in module.isas():
        raise SparselandError(f"this machine has no {isa!r}; possible: {', '.join(module.isas())}")
    try:
        return module.Engine(data, threads, isa)
    except module.EngineError as error:
        raise SparselandError(str(error)) from None
    except UnicodeDecodeError:  # the error quotes the file
        raise SparselandError("not a sparseland engine file: it names what is no text") from None


def _list(meta: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = meta.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise SparselandError(f"an engine file without {name}: it was not written by sparseland.deploy")
    return found


def _check_ends(ports: list[Port], ends: list[tuple[Any, ...]], what: str) -> None:
    for i, port in enumerate(ports):
        if port.place >= len(ends) or (what == "input" and port.place != i):
            raise SparselandError(f"not a sparseland engine file: its {what} {port.name!r} has no place")
        layout, *size = ends[port.place]
        if tuple(size) != port.size or (layout == "ids") != (port.dtype == "int64" and not port.mask):
            raise SparselandError(f"not a sparseland engine file: its {what} {port.name!r} does not fit the program")
    if what == "input" and len(ports) != len(ends):
        raise SparselandError(f"not a sparseland engine file: {len(ends)} inputs, {len(ports)} described")
