"""Exact non-zeros of a model, layer by layer, and over the scopes that papers count over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from ..core.errors import PatternError, SparselandError, TargetError
from ..core.pattern import pattern
from ..core.selection import count as count_true
from ..weights.targets import Rules, eligible, parameters
from .dynamics import dead_units
from .flops import shared

SCOPES = ("all", "weights", "maskable", "without first and last")
# From the most to the least structured; the first that the zeros satisfy names the layer.
PATTERNS = (
    *("row", "column", "kernel", "block 16x16", "block 8x8", "block 4x4", "block 8x1", "block 4x1", "block 1x4"),
    *("1:8", "1:4", "2:8", "1:2", "2:4", "4:8"),
)


@dataclass(frozen=True)
class LayerCount:
    """One parameter: exact integers, and what its zeros look like.

    Parameters:
        role: "weight", "embedding", "norm", "bias" or "buffer". maskable: whether methods prune it by default.
        dead_units: outputs without a living weight (0 for vectors). patterns: all of `PATTERNS` that its zeros satisfy
            (none without zeros, or if nobody asked).
    """

    name: str
    shape: tuple[int, ...]
    role: str
    maskable: bool
    nonzeros: int
    total: int
    dead_units: int = 0
    patterns: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]."""
        return 1 - self.nonzeros / self.total if self.total else 0.0

    @property
    def pattern(self) -> str:
        """The most structured pattern of the zeros; "dense" without zeros, "unstructured" if none fits."""
        if self.nonzeros == self.total:
            return "dense"
        return self.patterns[0] if self.patterns else "unstructured"


@dataclass(frozen=True)
class Counts:
    """All rows of a model, in network order, and what they add up to.

    Parameters:
        rows: one per parameter, shared ones once. notes: what was counted once, or could only be guessed.
    """

    rows: tuple[LayerCount, ...]
    notes: tuple[str, ...] = ()

    def scope(self, name: str) -> tuple[int, int]:
        """(non-zeros, total) over "all" parameters, "weights" (no norms, no biases), "maskable" ones, or these "without
        first and last".

        Raises:
            SparselandError: another scope.
        """
        rows = self._rows(name)
        return sum(row.nonzeros for row in rows), sum(row.total for row in rows)

    def sparsity(self, scope: str = "maskable") -> float:
        """Fraction of zeros over a scope, in [0, 1]."""
        nonzeros, total = self.scope(scope)
        return 1 - nonzeros / total if total else 0.0

    def scopes(self) -> dict[str, list[int]]:
        """{scope: [non-zeros, total]}, plain data."""
        return {name: list(self.scope(name)) for name in SCOPES}

    def layers(self) -> dict[str, tuple[int, int]]:
        """{name: (non-zeros, total)} of everything, as `Cost.sparse` takes it."""
        return {row.name: (row.nonzeros, row.total) for row in self.rows}

    def dead_units(self) -> int:
        """Outputs without a living weight, over the maskable layers."""
        return sum(row.dead_units for row in self.rows if row.maskable)

    def patterns(self) -> dict[str, str]:
        """{name: pattern} of every layer."""
        return {row.name: row.pattern for row in self.rows}

    def to_list(self) -> list[dict[str, Any]]:
        """The table as plain data."""
        return [{**asdict(row), "pattern": row.pattern, "sparsity": row.sparsity} for row in self.rows]

    def _rows(self, name: str) -> list[LayerCount]:
        if name not in SCOPES:
            raise SparselandError(f"unknown scope {name!r}; possible: {', '.join(SCOPES)}")
        if name == "all":
            return list(self.rows)
        if name == "weights":
            return [row for row in self.rows if row.role in ("weight", "embedding")]
        maskable = [row for row in self.rows if row.maskable]
        return maskable if name == "maskable" else maskable[1:-1]


def count(
    model: nn.Module | Mapping[str, Tensor],
    targets: Rules = None,
    ignore: Rules = None,
    *,
    patterns: bool = False,
) -> Counts:
    """Non-zeros of every parameter, exactly.

    Parameters:
        model: a module; or a state dict, in which roles are guessed from names and shapes (a note says so).
        targets, ignore: what is maskable, as in `Method.attach`; of a module only.
        patterns: also say which patterns the zeros satisfy (reads every weight a few times).

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> counts = count(net)
    >>> {name: total for name, (_, total) in counts.scopes().items()}
    {'all': 146, 'weights': 112, 'maskable': 112, 'without first and last': 64}
    >>> _ = nn.init.zeros_(net[2].weight[:2])
    >>> count(net).sparsity("without first and last"), count(net, patterns=True).patterns()["2.weight"]
    (0.25, 'row')
    """
    return _of_module(model, targets, ignore, patterns) if isinstance(model, nn.Module) else _of_state(model, patterns)


def pattern_of(weight: Tensor) -> str:
    """The most structured of `PATTERNS` that the zeros of a weight (out, in, taps …) satisfy.

    >>> import torch
    >>> pattern_of(torch.tensor([[1.0, 2, 0, 0], [0, 3, 4, 0]])), pattern_of(torch.ones(2, 2))
    ('2:4', 'dense')
    """
    if count_true(weight != 0) == weight.numel():
        return "dense"
    found = fitting(weight)
    return found[0] if found else "unstructured"


def fitting(weight: Tensor) -> tuple[str, ...]:
    """All of `PATTERNS` that the zeros of a weight (out, in, taps …) satisfy; a very sparse one fits N:M by chance.

    >>> import torch
    >>> fitting(torch.tensor([[1.0, 0], [0, 0]])), fitting(torch.tensor([[1.0, 2], [0, 0]]))
    (('1:2',), ('row',))
    """
    mask = weight != 0
    if mask.ndim < 2 or not mask.numel():
        return ()
    # Whatever holds for all outputs holds for the first few, and most patterns fail there already.
    return tuple(text for text in PATTERNS if _fits(text, mask[:16]) and (len(mask) <= 16 or _fits(text, mask)))


def _fits(text: str, mask: Tensor) -> bool:
    if text == "kernel" and mask[0, 0].numel() == 1:
        return False  # a kernel of one tap says nothing
    try:
        pattern(text).check(mask)
    except PatternError:
        return False
    return True


def _of_module(model: nn.Module, targets: Rules, ignore: Rules, patterns: bool) -> Counts:
    found = list(parameters(model))
    try:
        maskable = set(eligible(model, targets, ignore))
    except TargetError:
        if targets is not None or ignore is not None:
            raise
        maskable = set()  # a model of norms and embeddings has no maskable layer, and that is an answer
    rows = [
        _row(t.name, t.canonical(t.param.detach()), _role(t.name, t.module, t.param), t.name in maskable, patterns)
        for t in found
    ]
    return Counts(tuple(rows), shared(found))


def _of_state(state: Mapping[str, Tensor], patterns: bool) -> Counts:
    rows, seen, notes = [], dict[tuple[Any, ...], str](), []
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise SparselandError(f"a state dict holds tensors by name; entry {name!r} is {type(tensor).__name__}")
        if not tensor.is_floating_point() or name.rpartition(".")[2].startswith("running_"):
            continue  # buffers are no parameters
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and tensor.data_ptr() and seen.setdefault(key, name) != name:
            notes.append(f"{seen[key]!r} is also {name!r}: counted once")
            continue
        role = "bias" if name.endswith("bias") else "weight" if tensor.ndim >= 2 else "norm"
        rows.append(_row(name, tensor.detach(), role, role == "weight", patterns))
    notes.append("roles guessed from names and shapes: two axes or more are weights")
    return Counts(tuple(rows), tuple(notes))


def _row(name: str, weight: Tensor, role: str, maskable: bool, patterns: bool) -> LayerCount:
    dead = dead_units(weight) if weight.ndim >= 2 and weight.numel() else 0
    nonzeros = count_true(weight != 0)
    found = fitting(weight) if patterns and nonzeros < weight.numel() else ()
    return LayerCount(name, tuple(weight.shape), role, maskable, nonzeros, weight.numel(), dead, found)


def _role(name: str, module: nn.Module, param: Tensor) -> str:
    if "bias" in name.rpartition(".")[2]:
        return "bias"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    return "weight" if param.ndim >= 2 else "norm"
