"""No sparsity: the baseline that every table needs."""

from __future__ import annotations

from ..method import Method
from ._registry import register


@register("dense")
def Dense() -> Method:
    """The method that keeps everything.

    >>> Dense().target_sparsity
    0.0
    """
    return Method(name="dense")
