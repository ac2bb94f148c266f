"""One door for files: engines and packed checkpoints are told apart by their first bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checkpoint
from .program import MAGIC


def is_engine(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a ``.sland`` file does.

    >>> is_engine("no such file")
    False
    """
    try:
        with open(Path(path).expanduser(), "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


if TYPE_CHECKING:
    # Of an engine file it is `Loaded`; readers of checkpoints see their own type.
    from .checkpoint import load as load
else:

    def load(path: str | os.PathLike[str], **options: Any) -> Any:
        """A saved engine (`conversion.load_engine`, with its options), or the state dict of a packed checkpoint.

        Raises:
            DataNotFound, SparselandError: as `sparseland.deploy.runtime.load` and `sparseland.deploy.checkpoint.load`.
        """
        if is_engine(path) or str(path).endswith(".sland"):
            from .conversion import load_engine

            return load_engine(path, **options)
        return checkpoint.load(path, **options)
