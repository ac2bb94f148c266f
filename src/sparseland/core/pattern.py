"""The word *pattern*: which shapes a mask may take.

One string grammar, read by `pattern` and written by ``str``:

    unstructured        any coordinates
    2:4                 at most 2 of every 4 consecutive input channels are kept (N:M keeps N of M)
    2:4 axis 0          the same along the output channels
    block 4x1           blocks of 4 outputs x 1 input, at each kernel tap
    kernel              whole kernels W[o, i, :, :];  ``kernel 4x1``: groups of 4 output x 1 input kernels
    row / column        whole output channels (W[o]) / whole input channels (W[:, i])

A tensor is read as (outputs, inputs, kernel taps …). Blocks, kernels, rows and columns are one algorithm: the tensor is
cut into equal *atoms*, each lives or dies as a whole, and its score is the mean of its coordinates' scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .errors import PatternError, RecipeError, nearest
from .selection import _ranked, _top_rows, check_scores, count, select
from .word import Word

Shape = Sequence[int]
GRAMMAR = ("unstructured", "N:M", "N:M axis 0", "block AxB", "kernel", "kernel AxB", "row", "column")


class Pattern(Word):
    """What masks are allowed on a tensor. ``str(p)`` is its grammar; ``pattern(str(p)) == p``."""

    def step(self, shape: Shape) -> int:
        """Coordinates that live and die together; every reachable count is a multiple of it."""
        return 1

    def capacity(self, shape: Shape) -> int:
        """The largest reachable number of non-zeros."""
        return math.prod(shape)

    def check_shape(self, shape: Shape, name: str = "tensor") -> None:
        """Raise PatternError, saying what could be done, if the pattern does not fit ``shape``."""

    def project(
        self,
        scores: Tensor,
        k: int,
        *,
        keep: Tensor | None = None,
        among: Tensor | None = None,
        relaxed: bool = False,
        name: str = "tensor",
    ) -> Tensor:
        """The valid mask with exactly ``k`` ones and the highest total score.

        Args:
            scores: finite, any real dtype, shape (out, in, taps …).
            k: number of ones; must be reachable (`capacity`, `step`).
            keep: bool mask (itself valid) that the result must contain; among: bool mask it must stay inside.
            relaxed: N:M only: allow k above capacity on the way to the pattern (the best N of each M stay, the rest
                of the budget goes to the highest of the others).

        Raises:
            PatternError: the shape or ``k`` does not fit; the message names the nearest reachable counts.

        >>> pattern("2:4").project(torch.tensor([[4., 3., 2., 1.]]), 2).tolist()
        [[True, True, False, False]]
        """
        self.check_shape(scores.shape, name)
        if not relaxed:
            self._check_count(scores.shape, k, name)
        return self._project(check_scores(scores, name), k, keep, among)

    def check(self, mask: Tensor, name: str = "mask") -> None:
        """Raise PatternError if ``mask`` (bool) breaks the pattern."""
        self.check_shape(mask.shape, name)

    def reachable(self, shape: Shape, k: float) -> int:
        """The reachable count nearest to ``k`` (the lower one when two are as near)."""
        step, most = self.step(shape), self.capacity(shape)
        return min(max(step * math.ceil(k / step - 0.5), 0), most)

    def pool(self, scores: Tensor) -> Tensor:
        """Scores of the atoms (for patterns without atoms: the scores themselves)."""
        return scores

    def candidates(self, scores: Tensor, among: Tensor | None = None) -> Tensor | None:
        """Coordinates of ``among`` (None: all) that a mask of this pattern can hold under these scores."""
        return among

    def _check_count(self, shape: Shape, k: int, name: str) -> None:
        step, most = self.step(shape), self.capacity(shape)
        if 0 <= k <= most and k % step == 0:
            return
        below = min(max(k // step * step, 0), most)
        above = min(max(-(-k // step) * step, 0), most)
        near = f"{below}" if below == above else f"{below} or {above}"
        raise PatternError(
            f"{self} cannot keep {k} of the {math.prod(shape)} entries of {name!r} {tuple(shape)}: it keeps multiples "
            f"of {step} up to {most}; nearest: {near}"
        )

    def _project(self, scores: Tensor, k: int, keep: Tensor | None, among: Tensor | None) -> Tensor:
        return select(scores, k, keep=keep, among=among)

    def plain(self) -> str:
        """A pattern inside another word is written in the grammar."""
        return str(self)

    @classmethod
    def from_dict(cls, data: Any) -> Any:
        """Read the string grammar as well as dicts."""
        return pattern(data) if isinstance(data, str) else super().from_dict(data)


@dataclass(frozen=True, repr=False)
class Unstructured(Pattern):
    """Any coordinates."""

    kind: ClassVar[str] = "unstructured"

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True, repr=False)
class NM(Pattern):
    """At most ``keep`` of every ``of`` consecutive channels along ``axis`` (1: inputs, 0: outputs) survive.

    Several repositories write n:m for *n pruned of m*; here N:M always keeps N of M.

    >>> NM(keep=2, of=4)
    NM(keep=2, of=4)
    >>> str(NM(keep=1, of=8, axis=0))
    '1:8 axis 0'
    """

    kind: ClassVar[str] = "n:m"
    keep: int
    of: int
    axis: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.keep <= self.of or self.axis not in (0, 1):
            raise PatternError(f"N:M needs 0 < N <= M and axis 0 or 1; got {self.keep}:{self.of} axis {self.axis}")

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}" + ("" if self.axis == 1 else f" axis {self.axis}")

    def capacity(self, shape: Shape) -> int:
        return math.prod(shape) // self.of * self.keep

    def check_shape(self, shape: Shape, name: str = "tensor") -> None:
        side = ("output", "input")[self.axis]
        if len(shape) < 2:
            raise PatternError(f"{self} needs a tensor (out, in, …); {name!r} is {tuple(shape)}. Ignore it")
        if shape[self.axis] % self.of:
            fits = [m for m in range(2, 33) if shape[self.axis] % m == 0]
            could = f"groups of {', '.join(map(str, fits))} fit" if fits else "no group size up to 32 fits"
            raise PatternError(
                f"{self} needs an {side} size divisible by {self.of}; {name!r} is {tuple(shape)} ({could}). "
                f'Ignore it, or use pattern="unstructured".'
            )

    def check(self, mask: Tensor, name: str = "mask") -> None:
        self.check_shape(mask.shape, name)
        most = int(self._groups(mask).sum(1).max())
        if most > self.keep:
            raise PatternError(
                f"{name!r} {tuple(mask.shape)} keeps {most} in a group of {self.of}; {self} allows {self.keep}"
            )

    def candidates(self, scores: Tensor, among: Tensor | None = None) -> Tensor:
        return self._best(scores, None, among)

    def _groups(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(self.axis, -1).reshape(-1, self.of)

    def _best(self, scores: Tensor, keep: Tensor | None, among: Tensor | None) -> Tensor:
        """The top N of each group, kept ones first and forbidden ones never."""
        groups = self._groups(_ranked(scores, among, keep) if keep is not None or among is not None else scores)
        counts = torch.full((1,), self.keep, device=scores.device).expand(groups.shape[0])
        moved = scores.movedim(self.axis, -1)
        best = _top_rows(groups, counts).view(moved.shape).movedim(-1, self.axis)
        return best if among is None else best & among

    def _project(self, scores: Tensor, k: int, keep: Tensor | None, among: Tensor | None) -> Tensor:
        best = self._best(scores, keep, among)
        total = count(best)
        if k == total:
            return best
        if k < total:
            return select(scores, k, keep=keep, among=best if keep is None else best | keep)
        if k <= self.capacity(scores.shape):
            raise PatternError(f"{self} can keep {total} here without leaving what was allowed; asked {k}")
        union = best if keep is None else best | keep  # relaxed: on the way down to N:M
        if count(union) <= k:
            return select(scores, k, keep=union, among=among)
        return select(scores, k, keep=keep, among=union)


class _Atoms(Pattern):
    """Patterns that cut (out, in, taps) into equal atoms of a outputs x b inputs (x all taps if ``whole``)."""

    def size(self, shape: Shape) -> tuple[int, int, bool]:
        """(a, b, whole) for a tensor of this shape."""
        raise TypeError(f"{type(self).__name__} must say the size of its atoms")

    def step(self, shape: Shape) -> int:
        a, b, whole = self.size(shape)
        return a * b * (math.prod(shape[2:]) if whole else 1)

    def check_shape(self, shape: Shape, name: str = "tensor") -> None:
        if len(shape) < 2:
            raise PatternError(f"{self} needs a tensor (out, in, …); {name!r} is {tuple(shape)}. Ignore it")
        a, b, _ = self.size(shape)
        if shape[0] % a or shape[1] % b:
            raise PatternError(
                f"{self} needs output and input sizes divisible by {a} and {b}; {name!r} is {tuple(shape)}. "
                f'Ignore it, or use pattern="block {math.gcd(a, shape[0])}x{math.gcd(b, shape[1])}".'
            )

    def pool(self, scores: Tensor) -> Tensor:
        a, b, whole = self.size(scores.shape)
        scores = scores if scores.is_floating_point() else scores.double()
        view = scores.reshape(scores.shape[0] // a, a, scores.shape[1] // b, b, -1)
        return view.mean(dim=(1, 3, 4), keepdim=True) if whole else view.mean(dim=(1, 3), keepdim=True)

    def _expand(self, atoms: Tensor, shape: Shape) -> Tensor:
        a, b, _ = self.size(shape)
        taps = math.prod(shape[2:])
        return atoms.expand(shape[0] // a, a, shape[1] // b, b, taps).reshape(tuple(shape))

    def _project(self, scores: Tensor, k: int, keep: Tensor | None, among: Tensor | None) -> Tensor:
        whole_keep = None if keep is None else self.pool(keep) == 1
        whole_among = None if among is None else self.pool(among) == 1
        atoms = select(self.pool(scores), k // self.step(scores.shape), keep=whole_keep, among=whole_among)
        return self._expand(atoms, scores.shape)

    def check(self, mask: Tensor, name: str = "mask") -> None:
        self.check_shape(mask.shape, name)
        share = self.pool(mask)
        broken = count((share > 0) & (share < 1))
        if broken:
            raise PatternError(
                f"{name!r} {tuple(mask.shape)} splits {broken} of {share.numel()} atoms of pattern {self}"
            )


@dataclass(frozen=True, repr=False)
class Block(_Atoms):
    """Blocks of ``out`` x ``inp`` channels at each kernel tap."""

    kind: ClassVar[str] = "block"
    out: int
    inp: int

    def __post_init__(self) -> None:
        if self.out < 1 or self.inp < 1:
            raise PatternError(f"block sizes are at least 1; got {self.out}x{self.inp}")

    def __str__(self) -> str:
        return f"block {self.out}x{self.inp}"

    def size(self, shape: Shape) -> tuple[int, int, bool]:
        return self.out, self.inp, False


@dataclass(frozen=True, repr=False)
class Kernel(_Atoms):
    """Whole kernels: ``out`` x ``inp`` channels with all their taps (1x1: single kernels)."""

    kind: ClassVar[str] = "kernel"
    out: int = 1
    inp: int = 1

    def __post_init__(self) -> None:
        if self.out < 1 or self.inp < 1:
            raise PatternError(f"kernel groups are at least 1x1; got {self.out}x{self.inp}")

    def __str__(self) -> str:
        return "kernel" if (self.out, self.inp) == (1, 1) else f"kernel {self.out}x{self.inp}"

    def size(self, shape: Shape) -> tuple[int, int, bool]:
        return self.out, self.inp, True


@dataclass(frozen=True, repr=False)
class Row(_Atoms):
    """Whole output channels W[o] (filters, neurons)."""

    kind: ClassVar[str] = "row"

    def __str__(self) -> str:
        return "row"

    def size(self, shape: Shape) -> tuple[int, int, bool]:
        return 1, shape[1], True


@dataclass(frozen=True, repr=False)
class Column(_Atoms):
    """Whole input channels W[:, i]."""

    kind: ClassVar[str] = "column"

    def __str__(self) -> str:
        return "column"

    def size(self, shape: Shape) -> tuple[int, int, bool]:
        return shape[0], 1, True


def pattern(text: str | Pattern) -> Pattern:
    """Read the grammar above; a Pattern passes through.

    >>> [str(pattern(t)) for t in ("2:4", "1:8 axis 0", "block 4x1", "kernel", "row")]
    ['2:4', '1:8 axis 0', 'block 4x1', 'kernel', 'row']
    """
    if isinstance(text, Pattern):
        return text
    if not isinstance(text, str):
        raise RecipeError(f"a pattern is a string such as '2:4', not {text!r}; possible: {', '.join(GRAMMAR)}")
    words = " ".join(text.split()).lower()
    plain = {"unstructured": Unstructured(), "row": Row(), "column": Column(), "kernel": Kernel()}
    if words in plain:
        return plain[words]
    if found := re.fullmatch(r"(\d+):(\d+)(?: axis ([01]))?", words):
        return NM(int(found[1]), int(found[2]), int(found[3] or 1))
    if found := re.fullmatch(r"(block|kernel) (\d+)x(\d+)", words):
        return (Block if found[1] == "block" else Kernel)(int(found[2]), int(found[3]))
    if found := re.fullmatch(r"kernel group (\d+)", words):
        return Kernel(int(found[1]), 1)
    raise RecipeError(f"unknown pattern {text!r}: {nearest(text, GRAMMAR)}")
