"""The word *mask*: the answer itself. Named boolean tensors (True = alive), packed, hashed and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import MaskMismatch, nearest
from .selection import count


class MaskSet(Mapping[str, Tensor]):
    """Named boolean masks, True = alive, in a fixed order.

    >>> m = MaskSet({"w": torch.tensor([True, False, True, False])})
    >>> m.kept(), m.numel(), m.sparsity()
    (2, 4, 0.5)
    >>> MaskSet.unpack(m.pack()) == m
    True
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise MaskMismatch(f"mask {name!r} has dtype {mask.dtype}; masks are torch.bool (True = alive)")
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._masks:
            raise KeyError(f"no mask {name!r}; {nearest(name, self._masks)}")
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskSet) or list(self) != list(other):
            return False
        return all(self[n].shape == other[n].shape and torch.equal(self[n].cpu(), other[n].cpu()) for n in self)

    __hash__ = None  # type: ignore[assignment]  # tensors inside are mutable; see `digest`

    def __repr__(self) -> str:
        return f"MaskSet({len(self)} tensors, {self.kept():,} of {self.numel():,} alive, {self.sparsity():.4%} zeros)"

    def kept(self) -> int:
        """Number of living coordinates."""
        return sum(count(mask) for mask in self.values())

    def numel(self) -> int:
        """Number of coordinates."""
        return sum(mask.numel() for mask in self.values())

    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]."""
        return 1 - self.kept() / self.numel() if self.numel() else 0.0

    def counts(self) -> dict[str, tuple[int, int]]:
        """Per tensor (kept, total)."""
        return {name: (count(mask), mask.numel()) for name, mask in self.items()}

    def check_same(self, other: Mapping[str, Tensor]) -> None:
        """Raise MaskMismatch unless names and shapes are equal."""
        for name in [*self, *other]:
            mine = tuple(self._masks[name].shape) if name in self._masks else "absent"
            theirs = tuple(other[name].shape) if name in other else "absent"
            if mine != theirs:
                raise MaskMismatch(f"masks differ at {name!r}: {mine} against {theirs}")

    def overlap(self, other: Mapping[str, Tensor]) -> float:
        """|A and B| / |A or B| over all tensors, in [0, 1] (1 = equal)."""
        self.check_same(other)
        both = sum(count(self[n] & other[n]) for n in self)
        either = sum(count(self[n] | other[n]) for n in self)
        return both / either if either else 1.0

    def churn(self, other: Mapping[str, Tensor]) -> float:
        """Share of coordinates whose state differs, in [0, 1]."""
        self.check_same(other)
        return sum(count(self[n] ^ other[n]) for n in self) / self.numel() if self.numel() else 0.0

    def union(self, other: Mapping[str, Tensor]) -> MaskSet:
        """Alive in either."""
        self.check_same(other)
        return MaskSet({n: self[n] | other[n] for n in self})

    def to(self, device: torch.device | str) -> MaskSet:
        """The same masks on another device."""
        return MaskSet({n: m.to(device) for n, m in self.items()})

    def clone(self) -> MaskSet:
        """An independent copy."""
        return MaskSet({n: m.clone() for n, m in self.items()})

    def digest(self) -> str:
        """SHA-256 over names, shapes and bits: equal on every rank and machine exactly when the masks are."""
        sha = hashlib.sha256()
        for name, mask in self.items():
            sha.update(f"{name}{tuple(mask.shape)}".encode())
            sha.update(pack_bits(mask).numpy().tobytes() if mask.numel() else b"")
        return sha.hexdigest()

    def pack(self) -> dict[str, Any]:
        """Tensors at one bit a coordinate and plain shapes; data only."""
        return {name: {"shape": list(mask.shape), "bits": pack_bits(mask)} for name, mask in self.items()}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> MaskSet:
        """Inverse of `pack`; MaskMismatch if the bits do not fit the shape."""
        return cls({name: unpack_bits(entry["bits"], entry["shape"], name) for name, entry in packed.items()})


def pack_bits(mask: Tensor) -> Tensor:
    """Bool tensor -> uint8 tensor of ceil(n / 8) bytes on CPU; coordinate 0 is the lowest bit of byte 0.

    >>> pack_bits(torch.tensor([True, False, True])).tolist()
    [5]
    """
    flat = mask.detach().reshape(-1).to("cpu", torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    out = torch.zeros(flat.shape[0], dtype=torch.uint8)
    for bit in range(8):
        out |= flat[:, bit] << bit
    return out


def unpack_bits(bits: Tensor, shape: list[int] | tuple[int, ...], name: str = "mask") -> Tensor:
    """Inverse of `pack_bits`."""
    total = 1
    for side in shape:
        total *= side
    if bits.dtype != torch.uint8 or bits.numel() != (total + 7) // 8:
        raise MaskMismatch(f"{name!r}: {bits.numel()} bytes of {bits.dtype} do not hold a mask of shape {tuple(shape)}")
    flat = torch.stack([(bits >> bit) & 1 for bit in range(8)], dim=1).view(-1)[:total]
    return flat.to(torch.bool).view(tuple(shape))
