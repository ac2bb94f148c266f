"""The native kernels, loaded when they are first asked for; the library works without them, on torch."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

from sparseland.core.errors import SparselandError

MISSING = (
    "the native extension of sparseland is not built, so the engine cannot run ({why}). "
    "Install a C++20 compiler and cmake, then `pip install .` again (in the repository: `make native`)"
)


@lru_cache(maxsize=1)
def native() -> ModuleType:
    """The extension module.

    Raises:
        SparselandError: it is not built, or not for this Python; one line says what to do.

    >>> from sparseland.kernels import available, native
    >>> not available() or "plain" in native().isas()
    True
    """
    try:
        from sparseland.kernels import _native  # type: ignore[attr-defined,unused-ignore]
    except ImportError as error:
        raise SparselandError(MISSING.format(why=error)) from error
    return _native  # type: ignore[no-any-return,unused-ignore]


def available() -> bool:
    """Whether `native` would return.

    >>> from sparseland.kernels import available
    >>> available() in (True, False)
    True
    """
    try:
        native()
    except SparselandError:
        return False
    return True


__all__ = ["available", "native"]
