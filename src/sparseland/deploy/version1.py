"""The first version of the packed file: dense or bitmask, one SHA-256 over everything. Still read, not written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ..core.errors import SparselandError
from .container import TYPES, Reader


def entry(given: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the list of tensors as version 2 would write it."""
    return {"form": "bitmask", "shape": given["shape"]} if "shape" in given else {"form": "dense"}


def verify(reader: Reader) -> None:
    """Compare the file's SHA-256: over the list of tensors, then per key its name, type, shape and bytes.

    Raises:
        SparselandError: it is another one.
    """
    metadata = reader.header.metadata
    sha = hashlib.sha256(metadata["tensors"].encode())
    for key in sorted(reader.header.slots):
        slot = reader.header.slots[key]
        sha.update(f"{key}{TYPES[slot.dtype]}{slot.shape}".encode())
        sha.update(reader.array(slot).data)
    if sha.hexdigest() != metadata.get("sha256"):
        raise SparselandError(f"{reader.place} is damaged: its SHA-256 is not the one that was written with it")
