"""From the parts of a form back to the tensor: first all that a part can say wrong is checked, then it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import SparselandError
from ..kernels import available, native
from .container import WIDTH
from .forms import (
    CHUNK,
    EXPANSION,
    GROUPS,
    Layout,
    Words,
    bitmask,
    code_bits,
    codes_are_masks,
    csr,
    dense,
    fits,
    gaps,
    mask_bits,
    nm,
    ones,
    row_shape,
)

STEPS = 1 << 14  # distances walked at a time; what they reach at 90 % zeros stays in the cache


def rebuild(entry: Mapping[str, Any], shape: Sequence[int], dtype: str, stored: int) -> Layout:
    """The layout that a file's entry must have, given the type and number of its values.

    Raises:
        SparselandError: no such form, or numbers outside what it allows.
    """
    total, form = math.prod(shape), entry.get("form")
    if form == "dense":
        return dense(dtype, shape)
    if form == "bitmask":
        return bitmask(dtype, total, stored)
    if form == "nm":
        keep, of, axis = (entry[key] for key in ("keep", "of", "axis"))
        whole = all(type(number) is int for number in (keep, of, axis))
        if not whole or of not in GROUPS or not 0 < keep < of:
            raise SparselandError(f"{keep}:{of} along axis {axis} is no N:M; groups: {GROUPS}")
        if not 0 <= axis < len(shape) or shape[axis] % of:
            raise SparselandError(f"{keep}:{of} along axis {axis} does not fit shape {tuple(shape)}")
        return nm(dtype, total, keep, of, axis)
    columns = entry.get("columns")
    if form != "csr" or columns not in ("absolute", "gaps"):
        raise SparselandError(f"unknown form {form!r} (columns {columns!r}); possible: dense, bitmask, nm, csr")
    if columns == "gaps":
        made = gaps(dtype, stored)
    else:
        rows, width = row_shape(shape)
        if width > 1 << 32:
            raise SparselandError(f"shape {tuple(shape)} is too big for row pointers")
        made = csr(dtype, rows, width, stored)
    if not fits(made, total, WIDTH[dtype]):
        raise SparselandError(
            f"shape {tuple(shape)} is more than {EXPANSION} times what {made.nbytes:,} bytes may hold"
        )
    return made


def check(layout: Layout, shape: Sequence[int], parts: Sequence[Words]) -> None:
    """Refuse parts that contradict each other or the shape; afterwards `decode` cannot fail.

    Raises:
        SparselandError: it says what contradicts what.
    """
    total = math.prod(shape)
    if layout.form == "dense":
        if layout.parts[0].dtype == "BOOL" and parts[0].size and int(parts[0].max()) > 1:
            raise SparselandError(f"a boolean is stored as {int(parts[0].max())}")
    elif layout.form == "bitmask":
        _check_bits(parts[0], total, parts[1].size)
    elif layout.form == "nm":
        _check_codes(layout, total, parts[0])
    elif layout.fields["columns"] == "gaps":
        _check_gaps(parts[0], total)
    else:
        _check_csr(shape, parts[0], parts[1])
    if layout.form != "dense" and layout.parts[-1].dtype == "BOOL" and parts[-1].size and int(parts[-1].max()) > 1:
        raise SparselandError(f"a boolean is stored as {int(parts[-1].max())}")


def _check_bits(bits: Words, total: int, kept: int) -> None:
    body = bits[: bits.size // 8 * 8].view("<u8")
    count = getattr(np, "bitwise_count", ones)  # NumPy 2
    found = int(count(body).sum(dtype=np.int64)) + int(ones(bits[bits.size // 8 * 8 :]).sum(dtype=np.int64))
    if found != kept:
        raise SparselandError(f"{found} bits are set for {kept} values")
    if total % 8 and int(bits[-1]) >> (total % 8):
        raise SparselandError(f"a bit is set beyond the {total} entries")


def _check_codes(layout: Layout, total: int, packed: Words) -> None:
    keep, of = layout.fields["keep"], layout.fields["of"]
    used = total // of * code_bits(keep, of)
    if not codes_are_masks(packed, keep, of, total // of):
        raise SparselandError(f"a group has a code that stands for no mask; {keep}:{of} has {math.comb(of, keep)}")
    if used % 8 and int(packed[-1]) >> (used % 8):
        raise SparselandError("a bit is set beyond the last group's code")


def _check_gaps(steps: Words, total: int) -> None:
    if available():
        try:
            native().check_gaps(steps, total)
        except ValueError as error:
            raise SparselandError(str(error)) from None
        return
    reach = int(steps.sum(dtype=np.int64))
    if steps.size and (reach >= total or (steps.size > 1 and int(steps[1:].min()) == 0)):
        raise SparselandError(f"the columns' distances lead to entry {reach} of {total}, or stand still")


def _check_csr(shape: Sequence[int], pointers: Words, columns: Words) -> None:
    _, width = row_shape(shape)
    if int(pointers[0]) != 0 or int(pointers[-1]) != columns.size or int(pointers.max()) > columns.size:
        raise SparselandError(f"row pointers from {pointers[0]} to {pointers[-1]} for {columns.size} values")
    counts = np.diff(pointers.astype(np.int64))
    if counts.size and int(counts.min()) < 0:
        raise SparselandError("row pointers go down")
    if columns.size and int(columns.max()) >= width:
        raise SparselandError(f"column {int(columns.max())} of a tensor with {width} columns")
    if columns.size and bool((np.diff(_places(counts, columns, width)) <= 0).any()):
        raise SparselandError("columns within a row do not go up")


def _places(counts: Words, columns: Words, width: int) -> Words:
    return np.repeat(np.arange(counts.size, dtype=np.int64) * width, counts) + columns


def decode(layout: Layout, shape: Sequence[int], parts: Sequence[Words], out: Words, *, zeroed: bool = False) -> None:
    """Write a checked tensor into ``out``, its entries in row-major order as words of their width.

    Parameters:
        out: 1-D and contiguous; zeroed: it holds zeros already.
    """
    if layout.form == "dense":
        out[:] = parts[0]
        return
    if layout.form == "nm":
        _decode_nm(layout, shape, parts, out, zeroed)
        return
    if layout.form == "bitmask":
        _scatter(parts[0], parts[1], out, zeroed)
    elif layout.fields["columns"] == "gaps":
        _walk(parts[0], parts[1], out, zeroed)
    else:
        if not zeroed:
            out.fill(0)
        counts = np.diff(parts[0].astype(np.int64))
        out[_places(counts, parts[1], row_shape(shape)[1])] = parts[2]


def _scatter(bits: Words, values: Words, out: Words, zeroed: bool, *, twin: bool = False) -> None:
    if available() and not twin:
        native().unpack_bits(bits, _bytes(values), out.itemsize, _bytes(out), zeroed)
        return
    done = 0
    for start in range(0, out.size, CHUNK):
        piece = out[start : start + CHUNK]
        alive = np.unpackbits(bits[start // 8 : (start + CHUNK) // 8], count=piece.size, bitorder="little")
        at = np.flatnonzero(alive.view(bool))
        if not zeroed:  # here, not all at once before: the piece stays in the cache for what is written next
            piece.fill(0)
        piece[at] = values[done : done + at.size]
        done += at.size


def _walk(steps: Words, values: Words, out: Words, zeroed: bool, *, twin: bool = False) -> None:
    if available() and not twin:
        native().unpack_gaps(steps, _bytes(values), out.itemsize, _bytes(out), zeroed)
        return
    filled, base, buffer = 0, 0, np.empty(STEPS, np.int64)
    for start in range(0, steps.size, STEPS):
        piece = steps[start : start + STEPS]
        at = buffer[: piece.size]
        at[:] = piece
        at[0] += base
        np.add.accumulate(at, out=at)
        base = int(at[-1])
        if not zeroed:
            out[filled : base + 1].fill(0)
            filled = base + 1
        out[at] = values[start : start + STEPS]
    if not zeroed:
        out[filled:].fill(0)


def _bytes(words: Words) -> Words:
    return words.view(np.uint8)


def _decode_nm(layout: Layout, shape: Sequence[int], parts: Sequence[Words], out: Words, zeroed: bool) -> None:
    axis = layout.fields["axis"]
    bits = mask_bits(parts[0], layout.fields["keep"], layout.fields["of"], out.size // layout.fields["of"])
    if axis == len(shape) - 1:
        _scatter(bits, parts[1], out, zeroed)
        return
    moved = np.zeros(out.size, out.dtype)
    _scatter(bits, parts[1], moved, True)
    order = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
    out.reshape(shape)[...] = np.moveaxis(moved.reshape(order), -1, axis)
