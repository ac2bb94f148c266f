"""Which body of a kernel in double precision runs: the native one or its twin in torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseland.core.errors import SparselandError

from . import available, native


def chosen(asked: bool | None, tensor: Tensor) -> bool:
    """Whether the extension does the work: where it can (None), always (True), never (False).

    Raises:
        SparselandError: it is asked for, but is not built, or the tensor is not float64 on a CPU.

    >>> chosen(False, torch.ones(1).double()), chosen(None, torch.ones(1))
    (False, False)
    """
    fits = tensor.device.type == "cpu" and tensor.dtype == torch.float64
    if asked and not fits:
        raise SparselandError(f"the native kernel takes float64 on a CPU; got {tensor.dtype} on {tensor.device}")
    if asked:
        native()  # raises, and says why
    return fits and (available() if asked is None else asked)


def array(tensor: Tensor) -> Any:
    """The tensor as a contiguous array, without a copy where it is contiguous already.

    >>> array(torch.zeros(2, 3).T).shape
    (3, 2)
    """
    return tensor.detach().contiguous().numpy()
