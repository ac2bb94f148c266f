"""Reading and writing weights for the verbs: plain safetensors or packed, by what is in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, unpacked if it is a packed one; of a folder, those of its packed shards.

    Raises:
        DataNotFound: no such file.
        SparselandError: damaged, or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .. import deploy
    from ..core.errors import SparselandError

    if deploy.is_packed(path):
        return deploy.load(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise SparselandError(f"{path} is damaged, cut short or no safetensors file: {error}") from error


def fill(model: nn.Module, path: Path) -> None:
    """Load a file into a model; names and shapes must agree.

    Raises:
        SparselandError: they do not; nothing is changed then.
    """
    from .. import deploy, zoo

    if not deploy.is_packed(path):
        zoo.load_weights(model, path)
        return
    deploy.load_into(model, path)


def write(path: Path, state: Mapping[str, Tensor], packed: bool) -> None:
    """Write a state dict as plain or packed safetensors, in one step; the folder is made if need be."""
    from .. import deploy
    from ..core.errors import OutputError
    from ..train.checkpoint import write_weights

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    if packed:
        deploy.save(state, path)
    else:
        write_weights(path, state)
