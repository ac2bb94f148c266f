"""The products of `sparse_code` on GPUs, in Triton; imported only where triton is installed.

With TRITON_INTERPRET=1 the same kernels run on the CPU, which is how they are tested without a GPU. Sums are kept in
float32 whatever the inputs are; every result is written once, by one program, so that runs are repeatable.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

WIDEST = 512  # numbers of a row that one program holds


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _weighted_rows(out: Any, offsets: Any, columns: Any, values: Any, weight: Any, d: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < d
    total = tl.zeros([BLOCK], dtype=tl.float32)
    first = tl.load(offsets + row)
    last = tl.load(offsets + row + 1)
    for entry in range(first, last):
        column = tl.load(columns + entry)
        value = tl.load(values + entry).to(tl.float32)
        total += value * tl.load(weight + column * d + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * d + at, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _dots(out: Any, offsets: Any, columns: Any, x: Any, weight: Any, d: Any, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0)
    first = tl.load(offsets + row)
    last = tl.load(offsets + row + 1)
    for entry in range(first, last):
        column = tl.load(columns + entry)
        total = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, d, BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < d
            left = tl.load(x + row * d + at, mask=inside, other=0.0).to(tl.float32)
            total += left * tl.load(weight + column * d + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + entry, tl.sum(total, axis=0))


def _block(d: int) -> int:
    return min(WIDEST, int(triton.next_power_of_2(max(d, 16))))


def spmm(offsets: Tensor, columns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """S W by one program for each row and strip of columns; see `sparse_code.spmm`."""
    rows, d = offsets.numel() - 1, weight.shape[1]
    out = torch.empty(rows, d, device=weight.device, dtype=weight.dtype)
    if rows and d:
        grid = (rows, triton.cdiv(d, _block(d)))
        given = [t.detach().contiguous() for t in (offsets, columns, values, weight)]
        _weighted_rows[grid](out, *given, d, BLOCK=_block(d))
    return out


def sddmm(offsets: Tensor, columns: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The entries of x W^T at a pattern, one program for each row; see `sparse_code.sddmm`."""
    rows, d = offsets.numel() - 1, weight.shape[1]
    out = torch.empty(columns.numel(), device=weight.device, dtype=x.dtype)
    if columns.numel():
        given = [t.detach().contiguous() for t in (offsets, columns, x, weight)]
        _dots[(rows,)](out, *given, d, BLOCK=_block(d))
    return out


def spmm_t(offsets: Tensor, columns: Tensor, values: Tensor, x: Tensor, width: int) -> Tensor:
    """S^T x: entries are brought into order of columns, then it is `spmm`; see `sparse_code.spmm_t`."""
    order = columns.argsort(stable=True)
    counts = torch.bincount(columns, minlength=width)
    turned = torch.zeros(width + 1, dtype=torch.int64, device=x.device)
    turned[1:] = counts.cumsum(0)
    lengths = offsets.diff()
    rows = torch.repeat_interleave(torch.arange(lengths.numel(), device=x.device), lengths)
    return spmm(turned, rows[order], values[order], x)
