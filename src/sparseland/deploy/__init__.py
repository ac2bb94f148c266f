"""Making it real: the packed checkpoint, a file that is as small as its zeros allow, and the way back."""

from .checkpoint import (
    Info,
    TensorInfo,
    dense_bytes,
    describe,
    is_packed,
    load,
    load_into,
    load_shards,
    packed_bytes,
    save,
    tensor_bytes,
)
from .export import export_dense, export_packed

__all__ = [
    "Info",
    "TensorInfo",
    "dense_bytes",
    "describe",
    "export_dense",
    "export_packed",
    "is_packed",
    "load",
    "load_into",
    "load_shards",
    "packed_bytes",
    "save",
    "tensor_bytes",
]
