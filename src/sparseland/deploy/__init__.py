"""Making it real: the packed checkpoint, a file that is as small as its zeros allow."""

from .checkpoint import dense_bytes, is_packed, load, packed_bytes, save, tensor_bytes

__all__ = ["dense_bytes", "is_packed", "load", "packed_bytes", "save", "tensor_bytes"]
