"""Sums that find changed bits: CRC-32 of a tensor's bytes, and SHA-256 seals over the headers that carry the sums.

A *sum* is the CRC-32 of a tensor's bytes as stored: every flipped bit and every damaged stretch of up to 32 bits is
found for certain, other damage but for one case in 4 · 10⁹; it costs a quarter of a second per gigabyte, where SHA-256
with hardware support took 0.6 s and BLAKE2b 1.1 s in a trial. A *seal* is the SHA-256 of a whole text, its own place
filled with zeros, so that a text can carry its own seal; headers are short. Neither is a signature: who rewrites a file
can rewrite its sums. What a file of right sums may still say wrong is checked by `sparseland.deploy.decoding`.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..kernels import available, native

BLANK_SUM = "0" * 8
BLANK_SEAL = "0" * 64
# Quotes inside a JSON string are escaped, so a tensor's name cannot look like this.
_PLACE = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')


def tensor_sum(parts: Iterable[Any]) -> str:
    """The CRC-32 of buffers one after another, as 8 hexadecimal digits.

    >>> tensor_sum([b"ab", b"c"]) == tensor_sum([b"abc"]) != tensor_sum([b"abx"])
    True
    """
    crc = 0
    for part in parts:
        # The extension's is the same number, several times as fast.
        fast = available() and isinstance(part, np.ndarray) and part.flags.c_contiguous
        crc = native().crc32(part.reshape(-1).view(np.uint8), crc) if fast else zlib.crc32(part, crc)
    return f"{crc:08x}"


def seal(text: bytes, before: bytes = b"") -> bytes:
    """Write the seal of ``before + text`` into the blank place ``"sha256":"000…"`` of ``text``.

    >>> sealed = seal(b'{"sha256":"' + b"0" * 64 + b'"}')
    >>> is_sealed(sealed), is_sealed(sealed.replace(b"{", b"["))
    (True, False)
    """
    found = _PLACE.search(text)
    if found is None:
        raise AssertionError("a text without a place for its seal")
    whole = hashlib.sha256(before + text).hexdigest().encode()
    return text[: found.start(1)] + whole + text[found.end(1) :]


def seal_of(text: bytes) -> str:
    """The seal that a text carries, or nothing if it carries none or several."""
    found = _PLACE.findall(text)
    return found[0].decode() if len(found) == 1 else ""


def is_sealed(text: bytes, before: bytes = b"") -> bool:
    """Whether the text carries exactly one seal, and it is the right one."""
    found = list(_PLACE.finditer(text))
    if len(found) != 1:
        return False
    blank = text[: found[0].start(1)] + BLANK_SEAL.encode() + text[found[0].end(1) :]
    return hashlib.sha256(before + blank).hexdigest().encode() == found[0].group(1)
