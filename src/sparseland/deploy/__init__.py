"""Making it real: the packed checkpoint, as small as its zeros allow, and the engine, as fast as they allow.

    small = sl.deploy.save(model, "small.safetensors")
    fast = sl.deploy.convert(model, sample)     # measured on this machine; dense where sparse loses
    fast.save("m.sland")                        # sl.deploy.load("m.sland"), or deploy.runtime.load without torch

Everything is loaded on first use: `sparseland.deploy.runtime` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "Engine": "convert_engine",
    "Info": "checkpoint",
    "TensorInfo": "checkpoint",
    "convert": "conversion",
    "dense_bytes": "checkpoint",
    "describe": "checkpoint",
    "export_dense": "export",
    "export_packed": "export",
    "from_onnx": "onnx_read",
    "is_engine": "convert_files",
    "is_packed": "checkpoint",
    "load": "convert_files",
    "load_engine": "conversion",
    "load_into": "checkpoint",
    "load_shards": "checkpoint",
    "packed_bytes": "checkpoint",
    "save": "checkpoint",
    "tensor_bytes": "checkpoint",
    "to_onnx": "onnx_write",
}

if TYPE_CHECKING:
    from .checkpoint import (
        Info,
        TensorInfo,
        dense_bytes,
        describe,
        is_packed,
        load_into,
        load_shards,
        packed_bytes,
        save,
        tensor_bytes,
    )
    from .conversion import convert, load_engine
    from .convert_engine import Engine
    from .convert_files import is_engine, load
    from .export import export_dense, export_packed
    from .onnx_read import from_onnx
    from .onnx_write import to_onnx

__all__ = [
    "Engine",
    "Info",
    "TensorInfo",
    "convert",
    "dense_bytes",
    "describe",
    "export_dense",
    "export_packed",
    "from_onnx",
    "is_engine",
    "is_packed",
    "load",
    "load_engine",
    "load_into",
    "load_shards",
    "packed_bytes",
    "save",
    "tensor_bytes",
    "to_onnx",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'sparseland.deploy' has no attribute {name!r}; possible: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
