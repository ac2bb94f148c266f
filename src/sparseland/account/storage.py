"""Bytes of a tensor in each form, in closed form, and the sparsity from which a form is smaller than the dense one.

These are the bytes of the data alone; `sparseland.deploy.packed_bytes` says what a whole file takes.
"""

from __future__ import annotations

from ..core.errors import InfeasibleBudget, PatternError, RecipeError, nearest

FORMS = ("bitmask", "csr", "n:m")


def dense_bytes(total: int, itemsize: int = 4) -> int:
    """itemsize · N.

    >>> dense_bytes(25_530_472)  # ResNet-50 as RigL's table counts it: without the scales of its norms
    102121888
    """
    _check(total, total, itemsize)
    return itemsize * total


def bitmask_bytes(total: int, nonzeros: int, itemsize: int = 4) -> int:
    """itemsize · nnz + ⌈N / 8⌉: one bit a weight, and the values.

    >>> bitmask_bytes(800, 80)
    420

    Raises:
        InfeasibleBudget: negative counts, or more non-zeros than weights.
    """
    _check(total, nonzeros, itemsize)
    return itemsize * nonzeros + -(-total // 8)


def csr_bytes(rows: int, nonzeros: int, itemsize: int = 4, index: int = 4) -> int:
    """(itemsize + index) · nnz + index · (rows + 1): values, column numbers, and where each row begins.

    Parameters:
        index: bytes of an index; 4 (int32), or 8 (int64) as PyTorch makes them.

    >>> csr_bytes(10, 80), csr_bytes(10, 80, index=8)
    (684, 1048)
    """
    _check(nonzeros, nonzeros, itemsize)
    if rows < 0 or index < 1:
        raise InfeasibleBudget(f"rows {rows}, bytes of an index {index}; possible: 0 or more, 1 or more")
    return (itemsize + index) * nonzeros + index * (rows + 1)


def nm_bytes(total: int, keep: int, of: int, itemsize: int = 4) -> int:
    """itemsize · N·keep/of values, and ⌈log2 of⌉ bits for the place of each: at 2:4 in 16 bits, 9/16 of dense.

    That is the layout of sparse tensor cores. Files of `sparseland.deploy` number the possible masks of a group instead
    and take a little less, ⌈log2 C(of, keep)⌉ bits a group.

    Parameters:
        total: weights, a multiple of ``of``. keep, of: N:M keeps ``keep`` of every ``of``.

    >>> nm_bytes(1600, 2, 4, itemsize=2), dense_bytes(1600, itemsize=2)
    (1800, 3200)
    """
    _check(total, total, itemsize)
    _check_nm(keep, of)
    if total % of:
        raise PatternError(f"{keep}:{of} needs a number of weights divisible by {of}; given {total:,}")
    values = total // of * keep
    return itemsize * values + -(-values * place_bits(of) // 8)


def place_bits(of: int) -> int:
    """⌈log2 of⌉, the bits that name a place in a group.

    >>> place_bits(4), place_bits(5), place_bits(16)
    (2, 3, 4)
    """
    return (of - 1).bit_length()


def break_even(form: str, itemsize: int = 4, *, index: int = 4, of: int = 4) -> float:
    """The sparsity above which a form is smaller than dense (row pointers of CSR left out).

    Equation, with i = 8 · itemsize bits: 1/i (bitmask); index/(itemsize + index) (csr); b/(i + b), b = ⌈log2 of⌉ (n:m).

    Parameters:
        form: "bitmask", "csr" or "n:m". index: bytes of CSR's indices. of: the M of N:M.

    >>> break_even("bitmask"), break_even("csr"), round(break_even("csr", index=8), 2)
    (0.03125, 0.5, 0.67)
    """
    _check(0, 0, itemsize)
    if form == "bitmask":
        return 1 / (8 * itemsize)
    if form == "csr":
        return index / (itemsize + index)
    if form == "n:m":
        return place_bits(of) / (8 * itemsize + place_bits(of))
    raise RecipeError(f"unknown form {form!r}: {nearest(form, FORMS)}")


def smallest(total: int, nonzeros: int, *, rows: int = 1, itemsize: int = 4, index: int = 4) -> tuple[str, int]:
    """The form with the fewest bytes, and these bytes; without an N:M pattern.

    >>> smallest(10_000, 9_900), smallest(10_000, 1_000), smallest(1_000_000, 1_000)
    (('dense', 40000), ('bitmask', 5250), ('csr', 8008))
    """
    sizes = {
        "dense": dense_bytes(total, itemsize),
        "bitmask": bitmask_bytes(total, nonzeros, itemsize),
        "csr": csr_bytes(rows, nonzeros, itemsize, index),
    }
    best = min(sizes, key=lambda form: sizes[form])
    return best, sizes[best]


def _check(total: int, nonzeros: int, itemsize: int) -> None:
    if not 0 <= nonzeros <= total:
        raise InfeasibleBudget(f"{nonzeros:,} non-zeros of {total:,} weights; possible: 0 to {max(total, 0):,}")
    if itemsize < 1:
        raise InfeasibleBudget(f"itemsize is {itemsize} bytes; possible: 1 or more")


def _check_nm(keep: int, of: int) -> None:
    if not 0 < keep <= of:
        raise PatternError(f"N:M needs 0 < N <= M; got {keep}:{of}")
