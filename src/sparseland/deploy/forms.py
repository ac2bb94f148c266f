"""The forms a tensor may take in a file, the bytes each takes, and the way there and back, bit by bit.

For a tensor of N entries of b bytes with Z non-zero ones (zero is the bit pattern of +0: −0.0 and NaN payloads stay):

=========  ===================================================  ========================================
form       bytes of data                                        stored
=========  ===================================================  ========================================
dense      b N                                                  the tensor
bitmask    b Z + ⌈N / 8⌉                                        values, one bit per entry, lowest first
nm         b n G + ⌈G ⌈log₂ C(m, n)⌉ / 8⌉,  G = N / m           n values and one code per group of m
csr        b Z + p (rows + 1) + c Z,  p, c ∈ {1, 2, 4, 8}       values, row pointers, columns
csr, gaps  (b + 1) S,  S = Z + Σ ⌊(gap − 1) / 255⌋              values, uint8 distances to the one before
=========  ===================================================  ========================================

*nm*: n is the largest number of non-zeros in any group of m = 2, 4, 8 or 16 along the last axis or the inputs (axis 1);
emptier groups are filled up with stored zeros. A code is the rank of the group's mask, read as a number, among those
with n bits. *csr* reads a tensor as (first axis, all others), a vector as one row; p and c are the smallest unsigned
types that hold Z and the last column. *gaps* is the CSR of the tensor laid out as one row, columns as distances to the
one before; a distance above 255 is bridged by stored zeros (as in Deep Compression, arXiv 1510.00149).

No CSR may expand more than `EXPANSION`-fold (beyond a mebibyte), so that a small file cannot ask for a huge tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from ..kernels import available, native
from .container import WIDTH

Words = np.ndarray[Any, Any]  # unsigned integers of the width of the tensor's entries, 1-D
_ONES = np.array([i.bit_count() for i in range(256)], np.uint8)
GROUPS = (2, 4, 8, 16)
EXPANSION = 4096
CHUNK = 1 << 16  # entries decoded at a time: the bits, as bytes, and their places stay in the cache
_UNSIGNED = {"U8": 1, "U16": 2, "U32": 4, "U64": 8}


@dataclass(frozen=True)
class Part:
    """One array of a form: what its key ends in, its type and shape."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * WIDTH[self.dtype]


@dataclass(frozen=True)
class Layout:
    """A form with its numbers: all that is needed to read the parts, except the tensor's shape."""

    form: str
    parts: tuple[Part, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return sum(part.nbytes for part in self.parts)


def smallest(largest: int) -> str:
    """The smallest unsigned type that holds a number."""
    return next(name for name, width in _UNSIGNED.items() if largest < 256**width)


def dense(dtype: str, shape: Sequence[int]) -> Layout:
    """The tensor as it is."""
    return Layout("dense", (Part("", dtype, tuple(shape)),))


def bitmask(dtype: str, total: int, kept: int) -> Layout:
    """One bit per entry, and the values."""
    return Layout("bitmask", (Part(".bitmask", "U8", (-(-total // 8),)), Part(".values", dtype, (kept,))))


def nm(dtype: str, total: int, keep: int, of: int, axis: int) -> Layout:
    """``keep`` values per group of ``of`` entries along ``axis``, and a code per group."""
    groups = total // of
    codes = Part(".codes", "U8", (-(-groups * code_bits(keep, of) // 8),))
    return Layout("nm", (codes, Part(".values", dtype, (groups * keep,))), {"keep": keep, "of": of, "axis": axis})


def csr(dtype: str, rows: int, columns: int, kept: int) -> Layout:
    """Row pointers, column indices and values."""
    parts = (
        Part(".rows", smallest(kept), (rows + 1,)),
        Part(".columns", smallest(max(columns - 1, 0)), (kept,)),
        Part(".values", dtype, (kept,)),
    )
    return Layout("csr", parts, {"columns": "absolute"})


def gaps(dtype: str, stored: int) -> Layout:
    """Distances and values of the tensor laid out as one row."""
    return Layout("csr", (Part(".gaps", "U8", (stored,)), Part(".values", dtype, (stored,))), {"columns": "gaps"})


def code_bits(keep: int, of: int) -> int:
    """⌈log₂ C(of, keep)⌉, the bits of one group's code.

    >>> code_bits(2, 4), code_bits(1, 4), code_bits(4, 8), code_bits(1, 2)
    (3, 2, 7, 1)
    """
    return (math.comb(of, keep) - 1).bit_length()


def row_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a tensor read as a matrix."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def fits(layout: Layout, total: int, width: int) -> bool:
    """Whether a tensor of so many entries may be made from so few bytes."""
    return total * width <= EXPANSION * (layout.nbytes + 256)


def layouts(words: Words, shape: Sequence[int], dtype: str) -> list[Layout]:
    """Every form in which this tensor can be stored; the first is dense.

    >>> [(one.form, one.nbytes) for one in layouts(np.eye(8, dtype=np.uint32).ravel(), (8, 8), "F32")]
    [('dense', 256), ('bitmask', 40), ('csr', 49), ('csr', 40), ('nm', 132), ('nm', 68), ('nm', 35)]
    """
    total, width = words.size, WIDTH[dtype]
    found = [dense(dtype, shape)]
    if total == 0:
        return found
    alive = words != 0
    kept = int(np.count_nonzero(alive))
    found.append(bitmask(dtype, total, kept))
    if 8 * kept <= total + 1024:  # above, the bitmask is smaller: an index takes a byte at least
        rows, columns = row_shape(shape)
        if columns <= 1 << 32:
            found.append(csr(dtype, rows, columns, kept))
        found.append(gaps(dtype, kept + int(_fillers(_places(alive)).sum())))
    if 0 < kept < total:
        found += [nm(dtype, total, *numbers) for numbers in _groupings(alive, shape)]
    return [one for one in found if one.form in ("dense", "bitmask", "nm") or fits(one, total, width)]


def _places(alive: Words) -> Words:
    """Where the ones are, in order (chunked: NumPy's search is several times faster within the cache)."""
    found = [np.flatnonzero(alive[i : i + CHUNK]) + i for i in range(0, alive.size, CHUNK)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _fillers(places: Words) -> Words:
    """How many stored zeros bridge the gap before each place."""
    distances = np.diff(places, prepend=0)
    made: Words = np.maximum(distances - 1, 0) // 255
    return made


def _axes(shape: Sequence[int]) -> list[int]:
    """The last axis, and the inputs where they are another one."""
    return [] if not shape else sorted({len(shape) - 1, *([1] if len(shape) > 2 else [])})


def _groupings(alive: Words, shape: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(keep, of, axis) of every N:M that the zeros satisfy, with the smallest N for each M."""
    for axis in _axes(shape):
        counts = _grouped(alive.view(np.uint8), shape, axis)
        for of in GROUPS:
            if shape[axis] % of:
                break
            counts = counts[0::2] + counts[1::2]
            if (keep := int(counts.max())) < of:
                yield keep, of, axis


def _grouped(words: Words, shape: Sequence[int], axis: int) -> Words:
    """The entries in the order in which groups along ``axis`` lie side by side."""
    return words if axis == len(shape) - 1 else np.moveaxis(words.reshape(shape), axis, -1).ravel()


def encode(layout: Layout, words: Words, shape: Sequence[int]) -> list[Words]:
    """The parts of a form, in order."""
    if layout.form == "dense":
        return [words]
    if layout.form == "nm":
        return _encode_nm(_grouped(words, shape, layout.fields["axis"]), layout.fields["keep"], layout.fields["of"])
    alive = words != 0
    if layout.form == "bitmask":
        return [np.packbits(alive, bitorder="little"), words[alive]]
    places = _places(alive)
    if layout.fields["columns"] == "gaps":
        fillers = _fillers(places)
        at = np.cumsum(fillers + 1) - 1  # where the true values go among the stored ones
        steps = np.full(layout.parts[0].shape, 255, np.uint8)
        values = np.zeros(steps.size, words.dtype)
        steps[at] = np.diff(places, prepend=0) - 255 * fillers
        values[at] = words[places]
        return [steps, values]
    rows, columns = row_shape(shape)
    kinds = [f"<u{WIDTH[part.dtype]}" for part in layout.parts]
    pointers = np.searchsorted(places, np.arange(rows + 1, dtype=np.int64) * columns)
    return [pointers.astype(kinds[0]), (places % max(columns, 1)).astype(kinds[1]), words[places]]


def ones(numbers: Words) -> Words:
    """How many bits of each number are set.

    >>> ones(np.array([0, 3, 65535], np.uint16)).tolist()
    [0, 2, 16]
    """
    per_byte: Words = _ONES[numbers.view(np.uint8)]
    return per_byte.reshape(-1, numbers.itemsize).sum(1, dtype=np.uint8) if numbers.itemsize > 1 else per_byte


@lru_cache(maxsize=64)
def _masks(keep: int, of: int) -> Words:
    """All masks of ``of`` bits with ``keep`` ones, in order: code -> mask."""
    every = np.arange(1 << of, dtype=np.uint32)
    made: Words = every[ones(every) == keep].astype(np.uint8 if of <= 8 else np.uint16)
    return made


def _encode_nm(words: Words, keep: int, of: int) -> list[Words]:
    mask = _to_masks(np.packbits(words != 0, bitorder="little"), of, words.size // of)
    for _ in range(keep):  # m | (m + 1) sets the lowest zero
        mask = np.where(ones(mask) < keep, mask | (mask + mask.dtype.type(1)), mask)
    alive = np.unpackbits(_from_masks(mask, of), count=words.size, bitorder="little").view(bool)
    return [_pack_codes(np.searchsorted(_masks(keep, of), mask), code_bits(keep, of)), words[alive]]


def _to_masks(bits: Words, of: int, groups: int) -> Words:
    """Bits -> one number per group."""
    if of == 16:
        return bits.view("<u2")
    if of == 8:
        return bits
    parts = [(bits >> shift) & ((1 << of) - 1) for shift in range(0, 8, of)]
    return np.stack(parts, axis=1).ravel()[:groups]


def _from_masks(masks: Words, of: int) -> Words:
    """Inverse of `_to_masks`."""
    if of >= 8:
        return masks.view(np.uint8)
    padded = np.concatenate([masks, np.zeros(-masks.size % (8 // of), np.uint8)]).reshape(-1, 8 // of)
    bits = padded[:, 0].copy()
    for i in range(1, 8 // of):
        bits |= padded[:, i] << (i * of)
    return bits


def _pack_codes(codes: Words, width: int) -> Words:
    """Numbers of ``width`` bits side by side, lowest bit first: eight of them take ``width`` bytes."""
    rows = np.concatenate([codes, np.zeros(-codes.size % 8, codes.dtype)]).astype(np.uint32).reshape(-1, 8)
    packed = np.zeros((rows.shape[0], width + 3), np.uint8)
    for i in range(8):
        at, shift = divmod(i * width, 8)
        for byte in range(3):  # at most 14 + 7 bits
            packed[:, at + byte] |= ((rows[:, i] << shift) >> (8 * byte)).astype(np.uint8)
    return packed[:, :width].ravel()[: -(-codes.size * width // 8)]


def unpack_codes(packed: Words, width: int, count: int) -> Words:
    """Inverse of `_pack_codes`."""
    whole = np.zeros(-(-count // 8) * width, np.uint8)
    whole[: packed.size] = packed
    rows = np.pad(whole.reshape(-1, width), ((0, 0), (0, 3))).astype(np.uint32)
    codes = np.empty((rows.shape[0], 8), np.uint16)
    for i in range(8):
        at, shift = divmod(i * width, 8)
        both = rows[:, at] | (rows[:, at + 1] << 8) | (rows[:, at + 2] << 16)
        codes[:, i] = (both >> shift) & ((1 << width) - 1)
    return codes.ravel()[:count]


@lru_cache(maxsize=32)
def _runs(keep: int, of: int) -> tuple[int, Words, Words]:
    """Several codes read at once: how many, a table run -> their masks side by side, and which runs are codes of masks.

    As many as fit into 16 bits and make at most 32 bits of mask: 16 or 32, so that one look-up serves many entries.
    """
    width, masks = code_bits(keep, of), _masks(keep, of)
    count = max(k for k in (1, 2, 4, 8, 16) if k == 1 or (k * width <= 16 and k * of <= 32))
    runs = np.arange(1 << (count * width), dtype=np.uint32)
    table, valid = np.zeros(runs.size, np.uint32), np.ones(runs.size, bool)
    for i in range(count):
        codes = (runs >> (i * width)) & ((1 << width) - 1)
        valid &= codes < masks.size
        table |= masks[np.minimum(codes, masks.size - 1)].astype(np.uint32) << (i * of)
    return count, table.astype(f"<u{count * of // 8}"), valid


def codes_are_masks(packed: Words, keep: int, of: int, groups: int) -> bool:
    """Whether every group's code stands for a mask."""
    if available():
        found = mask_bits(packed, keep, of, groups)
        return int(getattr(np, "bitwise_count", ones)(found).sum(dtype=np.int64)) == groups * keep
    count, _, valid = _runs(keep, of)
    return bool(valid.all() or valid[unpack_codes(packed, count * code_bits(keep, of), -(-groups // count))].all())


def mask_bits(packed: Words, keep: int, of: int, groups: int) -> Words:
    """The codes of an N:M form -> a bitmask of its entries (bits beyond the last group mean nothing).

    >>> bin(mask_bits(np.array([0b001_000], np.uint8), 2, 4, 2)[0])
    '0b1010011'
    """
    count, table, _ = _runs(keep, of)
    width, runs = count * code_bits(keep, of), -(-groups // count)
    if not available():
        return table[unpack_codes(packed, width, runs)].view(np.uint8)
    made = np.empty(runs * table.itemsize, np.uint8)
    native().unpack_masks(packed, width, _native_table(keep, of), table.itemsize, made)
    made[-(-groups * of // 8) :] = 0  # codes beyond the last group
    if groups * of % 8:
        made[groups * of // 8] &= (1 << groups * of % 8) - 1
    return made


@lru_cache(maxsize=32)
def _native_table(keep: int, of: int) -> Words:
    """As in `_runs`; a run with a code that stands for no mask has no bits, so that counting them tells."""
    _, table, valid = _runs(keep, of)
    return np.where(valid, table, 0).astype(np.uint32)
