"""What is in a set of weights: per tensor how many are zero, which patterns the zeros satisfy, and the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import PatternError
from ..core.pattern import NM, Block, Column, Kernel, Pattern, Row
from ..deploy import tensor_bytes

GROUPS = (4, 8, 16)
BLOCKS = ((16, 16), (8, 8), (4, 4), (2, 2), (16, 1), (8, 1), (4, 1), (2, 1), (1, 16), (1, 8), (1, 4), (1, 2))


@dataclass(frozen=True)
class Layer:
    """One tensor: its name, shape, entries, non-zero entries, patterns of its zeros, and bytes dense and packed."""

    name: str
    shape: tuple[int, ...]
    total: int
    kept: int
    patterns: tuple[str, ...]
    dense: int
    packed: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return 1 - self.kept / self.total if self.total else 0.0


def layers(state: Mapping[str, Tensor]) -> list[Layer]:
    """One `Layer` per floating-point tensor of a state dict, in its order.

    >>> import torch
    >>> weight = torch.ones(4, 8)
    >>> weight[:, ::2] = 0
    >>> found = layers({"w": weight})[0]
    >>> found.kept, found.sparsity, found.patterns
    (16, 0.5, ('2:4', 'column'))
    """
    out = []
    for name, tensor in state.items():
        if tensor.is_floating_point():
            alive = tensor != 0
            dense = tensor.numel() * tensor.element_size()
            shape, kept = tuple(tensor.shape), int(alive.sum())
            out.append(Layer(name, shape, tensor.numel(), kept, satisfied(alive), dense, tensor_bytes(tensor)))
    return out


def satisfied(mask: Tensor) -> tuple[str, ...]:
    """The tightest patterns that a bool mask (True = alive) satisfies, in the pattern grammar; () without any.

    N:M is asked for groups of 4, 8 and 16 with at most half of each kept; a pattern that another one implies is
    left out (rows imply blocks within a row).

    >>> import torch
    >>> satisfied(torch.eye(8, dtype=torch.bool).repeat_interleave(4, 0))
    ('1:8', '4:16 axis 0', 'block 4x1')
    """
    kept = int(mask.sum())
    if mask.ndim < 2 or kept in (0, mask.numel()):
        return ()
    groups = [p for axis in (1, 0) for p in _groups(mask, axis)]
    return tuple(str(p) for p in [*groups, *_atoms(mask)])


def _groups(mask: Tensor, axis: int) -> list[Pattern]:
    found: list[NM] = []
    for of in GROUPS:
        if mask.shape[axis] % of == 0:
            most = int(mask.movedim(axis, -1).reshape(-1, of).sum(1).max())
            loose = [p for p in found if p.keep * of // p.of <= most]  # these say as much already
            if 0 < most <= of // 2 and not loose:
                found = [p for p in found if p.keep < most] + [NM(most, of, axis)]
    return list(found)


def _atoms(mask: Tensor) -> list[Pattern]:
    found: list[Pattern] = []
    whole = [Row(), Column(), *([Kernel(4, 1), Kernel()] if mask.ndim > 2 else [])]
    for pattern in [*whole, *(Block(a, b) for a, b in BLOCKS)]:
        if not any(_implies(other, pattern) for other in found) and _fits(pattern, mask):
            found.append(pattern)
    return found


def _fits(pattern: Pattern, mask: Tensor) -> bool:
    try:
        pattern.check(mask)
    except PatternError:
        return False
    return True


def _implies(one: Pattern, other: Pattern) -> bool:
    """Whether masks of ``one`` are always masks of ``other`` (where its blocks divide the shape)."""
    if isinstance(one, Row):
        return (isinstance(other, Kernel) and other.out == 1) or (isinstance(other, Block) and other.out == 1)
    if isinstance(one, Column):
        return isinstance(other, Kernel) or (isinstance(other, Block) and other.inp == 1)
    if isinstance(one, (Kernel, Block)) and isinstance(other, (Kernel, Block)):
        return one.out % other.out == 0 and one.inp % other.inp == 0
    return False
