"""The state of a run on disk: ``torch.save`` read with ``weights_only=True``, weights as safetensors: data only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparseland.core.errors import ResumeError
from sparseland.files import write_file


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write plain data and tensors with ``torch.save``."""
    write_file(path, lambda file: torch.save(dict(state), file))


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, the same bytes for the same tensors; shared ones are written out in full."""
    from safetensors.torch import save

    whole = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    # More than one entry here, and safetensors writes them in an order that changes from call to call.
    write_file(path, lambda file: file.write(save(whole, metadata={"format": "pt"})))


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote; tensors on the CPU.

    Raises:
        ResumeError: it is damaged, or holds more than data.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch errors, in many classes
        raise ResumeError(f"{path} is damaged or no checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise ResumeError(f"{path} holds a {type(state).__name__}, not the state of a run")
    return state


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read what `write_weights` wrote."""
    from safetensors.torch import load_file

    return load_file(path)
