"""What is to be transported: two marginals and a cost, checked once so that every solver may rely on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import SparselandError

DTYPES = (torch.float32, torch.float64)
SUMS = {torch.float32: 1e-4, torch.float64: 1e-6}  # how far the two totals may differ, relative to the larger


class TransportError(SparselandError):
    """Masses, costs or options that describe no transport problem."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Marginals ``a``, ``b`` and cost ``M`` of one problem or, with leading dimensions, of a batch.

        T >= 0,  T 1 = a,  T^T 1 = b;  cost <T, M>

    Args:
        a: [..., n] masses of the sources, finite, >= 0.
        b: [..., m] masses of the targets, finite, >= 0, with the same total as ``a`` (relative 1e-6 in float64, 1e-4
            in float32; what difference remains is taken away by scaling ``b``).
        M: [..., n, m] cost of moving one unit, finite, any sign.

    The three share dtype (float32 or float64) and device; leading dimensions are broadcast against each other.

    Raises:
        TypeError: not tensors, or of another dtype. TransportError: shapes, devices, values or totals do not fit.

    >>> p = Problem(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]), torch.zeros(8, 2, 2))
    >>> p.n, p.m, tuple(p.batch), tuple(p.a.shape)
    (2, 2, (8,), (8, 2))
    >>> Problem(torch.ones(2), torch.ones(3), torch.zeros(2, 3))
    Traceback (most recent call last):
    sparseland.transport.problem.TransportError: a sums to 2 and b to 3; balanced transport needs equal totals
    """

    a: Tensor
    b: Tensor
    M: Tensor

    def __post_init__(self) -> None:
        _types(self.a, self.b, self.M)
        _shapes(self.a, self.b, self.M)
        for name, masses in (("a", self.a), ("b", self.b)):
            _finite(name, masses)
            if bool((masses.detach() < 0).any()):
                raise TransportError(f"{name} holds negative mass (lowest {float(masses.min()):g}); masses are >= 0")
        _finite("M", self.M)
        scale = _scale(self.a.detach(), self.b.detach())
        batch = torch.broadcast_shapes(self.a.shape[:-1], self.b.shape[:-1], self.M.shape[:-2])
        set_ = object.__setattr__  # frozen for others
        set_(self, "a", self.a.expand(*batch, self.a.shape[-1]))
        set_(self, "b", (self.b * scale).expand(*batch, self.b.shape[-1]))
        set_(self, "M", self.M.expand(*batch, *self.M.shape[-2:]))

    @classmethod
    def make(cls, a: Any, b: Any, M: Any) -> Problem:
        """From tensors, arrays or lists; ``None`` for a marginal is the uniform one. Integers become float64.

        >>> Problem.make(None, [0.5, 0.5], [[0, 1], [1, 0]]).a.tolist()
        [0.5, 0.5]
        """
        cost = _tensor("M", M)
        if cost.ndim < 2:
            raise TransportError(f"M is [..., n, m], a cost for every pair; got shape {tuple(cost.shape)}")
        n, m = cost.shape[-2:]
        return cls(_marginal("a", a, n, cost), _marginal("b", b, m, cost), cost)

    @property
    def n(self) -> int:
        """Number of sources."""
        return int(self.M.shape[-2])

    @property
    def m(self) -> int:
        """Number of targets."""
        return int(self.M.shape[-1])

    @property
    def batch(self) -> torch.Size:
        """Leading dimensions; empty for one problem."""
        return self.M.shape[:-2]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self.M.dtype

    @property
    def device(self) -> torch.device:
        """Where all three tensors are."""
        return self.M.device

    def flat(self) -> Problem:
        """The same problems with exactly one leading dimension: a [B, n], b [B, m], M [B, n, m]."""
        return self._like(self.a.reshape(-1, self.n), self.b.reshape(-1, self.m), self.M.reshape(-1, self.n, self.m))

    def swapped(self) -> Problem:
        """Sources and targets exchanged: a' = b, b' = a, M' = M^T (views)."""
        return self._like(self.b, self.a, self.M.mT)

    def detach(self) -> Problem:
        """Without autograd history."""
        return self._like(self.a.detach(), self.b.detach(), self.M.detach())

    def require_positive(self) -> Problem:
        """Return the problem if every mass is > 0.

        Raises:
            TransportError: some masses are zero; says how many and what to do.

        >>> Problem.make([0, 1], [1], [[0], [0]]).require_positive()
        Traceback (most recent call last):
        sparseland.transport.problem.TransportError: a holds 1 zero mass of 2; leave it out, or pass drop_zero=True
        """
        for name, masses in (("a", self.a), ("b", self.b)):
            if zeros := int((masses == 0).sum()):
                raise TransportError(
                    f"{name} holds {zeros} zero mass{'es' if zeros > 1 else ''} of {masses.numel()}; "
                    f"leave {'them' if zeros > 1 else 'it'} out, or pass drop_zero=True"
                )
        return self

    @staticmethod
    def _like(a: Tensor, b: Tensor, M: Tensor) -> Problem:
        """A problem of tensors that are known to be right: not checked again."""
        made = object.__new__(Problem)
        for name, value in (("a", a), ("b", b), ("M", M)):
            object.__setattr__(made, name, value)
        return made


def _tensor(name: str, value: Any) -> Tensor:
    try:
        made = value if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is a tensor, an array or a list of numbers; got {type(value).__name__}") from error
    if isinstance(value, list | tuple) and made.is_floating_point():
        made = torch.as_tensor(value, dtype=torch.float64)  # Python's numbers are doubles
    return made if made.is_floating_point() or made.is_complex() or made.dtype == torch.bool else made.double()


def _marginal(name: str, value: Any, count: int, cost: Tensor) -> Tensor:
    if value is None:
        return torch.full((count,), 1.0 / count, dtype=cost.dtype, device=cost.device)
    made = _tensor(name, value)
    return made if isinstance(value, Tensor) else made.to(cost.device, cost.dtype)


def _types(a: Tensor, b: Tensor, M: Tensor) -> None:
    for name, value in (("a", a), ("b", b), ("M", M)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a tensor; got {type(value).__name__} (Problem.make takes arrays and lists)")
        if value.dtype not in DTYPES:
            raise TypeError(f"{name} is float32 or float64; got {value.dtype}")
    if not a.dtype == b.dtype == M.dtype:
        raise TypeError(f"a, b and M share one dtype; got {a.dtype}, {b.dtype} and {M.dtype}")
    if not a.device == b.device == M.device:
        raise TransportError(f"a, b and M are on one device; got {a.device}, {b.device} and {M.device}")


def _shapes(a: Tensor, b: Tensor, M: Tensor) -> None:
    shapes = f"a {tuple(a.shape)}, b {tuple(b.shape)}, M {tuple(M.shape)}"
    if a.ndim < 1 or b.ndim < 1 or M.ndim < 2 or M.shape[-2:] != (a.shape[-1], b.shape[-1]):
        raise TransportError(f"M is [..., n, m] for a [..., n] and b [..., m]; got {shapes}")
    if M.numel() == 0:
        raise TransportError(f"nothing to transport: {shapes}")
    try:
        torch.broadcast_shapes(a.shape[:-1], b.shape[:-1], M.shape[:-2])
    except RuntimeError as error:
        raise TransportError(f"leading (batch) dimensions do not fit each other: {shapes}") from error


def _finite(name: str, value: Tensor) -> None:
    value = value.detach()
    if not bool(torch.isfinite(value).all()):
        nan, inf = int(value.isnan().sum()), int(value.isinf().sum())
        raise TransportError(
            f"{name} {tuple(value.shape)} holds {nan} NaN and {inf} infinite values; all must be finite"
        )


def _scale(a: Tensor, b: Tensor) -> Tensor:
    """Factor [..., 1] that gives b exactly a's total; the totals must already be almost equal."""
    left, right = a.double().sum(-1), b.double().sum(-1)
    apart = (left - right).abs() > SUMS[a.dtype] * torch.maximum(left, right)
    if bool(apart.any()):
        at = apart.broadcast_to(apart.shape).flatten().nonzero()[0, 0]
        one, other = (t.broadcast_to(apart.shape).flatten()[at].item() for t in (left, right))
        raise TransportError(f"a sums to {one:.8g} and b to {other:.8g}; balanced transport needs equal totals")
    if bool((left <= 0).any()) or bool((right <= 0).any()):
        raise TransportError("a and b hold no mass at all")
    return (left / right).to(a.dtype)[..., None]
