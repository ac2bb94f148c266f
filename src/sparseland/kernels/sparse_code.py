"""Products with a few chosen entries: what the decoder of a sparse code costs when only active features are touched.

A pattern is CSR: row n owns entries offsets[n] … offsets[n+1] of ``columns`` and ``values``. Three products and their
gradients close under each other: `spmm` (S W), `sddmm` (the entries of X W^T that S has), `spmm_t` (S^T X).
Every function has two bodies: torch, which any device and dtype runs, and the native one for float32 on the CPU; the
products have a third, in Triton, on GPUs where triton is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparseland.core.errors import SparselandError

from . import available, native

CHUNK = 1 << 22  # numbers that the torch bodies hold at once beside the result


def _fast(*tensors: Tensor | None) -> bool:
    """Whether the native body takes these: float32 (or int64) on the CPU, and the extension is built with it."""
    given = [t for t in tensors if t is not None]
    return (
        all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64) for t in given)
        and available()
        and hasattr(native(), "sparse_code_spmm")
    )


@lru_cache(maxsize=1)
def _triton() -> ModuleType | None:
    """The kernels for GPUs, where triton is installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module(".sparse_code_triton", __package__)


def _gpu(*tensors: Tensor) -> ModuleType | None:
    """The Triton kernels, if all tensors lie on a GPU in a type they take."""
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64)
    return _triton() if all(t.is_cuda and t.dtype in kinds for t in tensors) else None


def rows_of(offsets: Tensor) -> Tensor:
    """Row of every entry.

    >>> rows_of(torch.tensor([0, 2, 2, 3])).tolist()
    [0, 0, 2]
    """
    counts = offsets.diff()
    return torch.repeat_interleave(torch.arange(counts.numel(), device=offsets.device), counts)


def check_pattern(offsets: Tensor, columns: Tensor, width: int) -> None:
    """Raise SparselandError unless offsets and columns describe rows of a matrix ``width`` wide.

    >>> check_pattern(torch.tensor([0, 1]), torch.tensor([4]), 5)
    """
    if offsets.ndim != 1 or offsets.numel() < 1 or int(offsets[0]) != 0 or int(offsets[-1]) != columns.numel():
        raise SparselandError(
            f"offsets run from 0 to the number of entries ({columns.numel()}); got {offsets.tolist()[:8]}"
        )
    if offsets.numel() > 1 and bool((offsets.diff() < 0).any()):
        raise SparselandError("offsets never fall")
    if columns.numel() and (int(columns.min()) < 0 or int(columns.max()) >= width):
        raise SparselandError(f"columns lie in 0 … {width - 1}; got {int(columns.min())} … {int(columns.max())}")


def spmm(offsets: Tensor, columns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Rows that are sums of few weighted rows of ``weight``: y_n = sum_j values_j weight[columns_j], shape (N, d).

    >>> one = torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.tensor([2.0, 3.0])
    >>> spmm(*one, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.0, 2.0], [3.0, 0.0]]
    """
    if _fast(offsets, columns, values, weight):
        out = torch.empty(offsets.numel() - 1, weight.shape[1])
        native().sparse_code_spmm(*_arrays(offsets, columns, values, weight), out.numpy(), torch.get_num_threads())
        return out
    if (kernels := _gpu(offsets, columns, values, weight)) is not None:
        return kernels.spmm(offsets, columns, values, weight)  # type: ignore[no-any-return]
    return spmm_torch(offsets, columns, values, weight)


def spmm_torch(offsets: Tensor, columns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """The readable twin of `spmm`: gather, scale, add up; in pieces, so that (entries, d) is never held whole.

    >>> spmm_torch(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.zeros(0), torch.ones(3, 2)).tolist()
    [[0.0, 0.0]]
    """
    rows = rows_of(offsets)
    out = values.new_zeros(offsets.numel() - 1, weight.shape[1])
    for part in _pieces(columns.numel(), weight.shape[1]):
        out.index_add_(0, rows[part], values[part, None] * weight[columns[part]])
    return out


def sddmm(offsets: Tensor, columns: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The entries of x weight^T at a pattern: v_j = <x[row_j], weight[columns_j]>, shape (entries,).

    >>> sddmm(torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([[1.0, 2.0]]), torch.eye(2)).tolist()
    [2.0]
    """
    if _fast(offsets, columns, x, weight):
        out = torch.empty(columns.numel())
        native().sparse_code_sddmm(*_arrays(offsets, columns, x, weight), out.numpy(), torch.get_num_threads())
        return out
    if (kernels := _gpu(offsets, columns, x, weight)) is not None:
        return kernels.sddmm(offsets, columns, x, weight)  # type: ignore[no-any-return]
    return sddmm_torch(offsets, columns, x, weight)


def sddmm_torch(offsets: Tensor, columns: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The readable twin of `sddmm`.

    >>> sddmm_torch(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.ones(1, 2), torch.ones(3, 2)).shape
    torch.Size([0])
    """
    rows = rows_of(offsets)
    out = x.new_empty(columns.numel())
    for part in _pieces(columns.numel(), weight.shape[1]):
        out[part] = (x[rows[part]] * weight[columns[part]]).sum(1)
    return out


def spmm_t(offsets: Tensor, columns: Tensor, values: Tensor, x: Tensor, width: int) -> Tensor:
    """S^T x: g_f = sum of values_j x[row_j] over the entries j of column f, shape (width, d).

    >>> spmm_t(torch.tensor([0, 1, 2]), torch.tensor([1, 1]), torch.ones(2), torch.tensor([[1.0], [5.0]]), 2).tolist()
    [[0.0], [6.0]]
    """
    if _fast(offsets, columns, values, x):
        out = torch.empty(width, x.shape[1])
        native().sparse_code_spmm_t(*_arrays(offsets, columns, values, x), out.numpy(), torch.get_num_threads())
        return out
    if (kernels := _gpu(offsets, columns, values, x)) is not None:
        return kernels.spmm_t(offsets, columns, values, x, width)  # type: ignore[no-any-return]
    return spmm_t_torch(offsets, columns, values, x, width)


def spmm_t_torch(offsets: Tensor, columns: Tensor, values: Tensor, x: Tensor, width: int) -> Tensor:
    """The readable twin of `spmm_t`.

    >>> spmm_t_torch(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), torch.tensor([[4.0]]), 2).tolist()
    [[4.0], [0.0]]
    """
    rows = rows_of(offsets)
    out = x.new_zeros(width, x.shape[1])
    for part in _pieces(columns.numel(), x.shape[1]):
        out.index_add_(0, columns[part], values[part, None] * x[rows[part]])
    return out


def _pieces(entries: int, width: int) -> list[slice]:
    step = max(CHUNK // max(width, 1), 1)
    return [slice(start, start + step) for start in range(0, entries, step)]


def _arrays(*tensors: Tensor) -> list[Any]:
    return [t.detach().contiguous().numpy() for t in tensors]


class Decode(torch.autograd.Function):
    """y = S W with gradients for the values of S and for W, both by the entries of S alone."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, offsets: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(values, weight, offsets, columns)
        return spmm(offsets, columns, values, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """dvalues = the entries of grad W^T; dW = S^T grad."""
        values, weight, offsets, columns = ctx.saved_tensors
        to_values = sddmm(offsets, columns, grad, weight) if ctx.needs_input_grad[0] else None
        to_weight = spmm_t(offsets, columns, values, grad, weight.shape[0]) if ctx.needs_input_grad[1] else None
        return to_values, to_weight, None, None


class Encode(torch.autograd.Function):
    """Entries of (x - shift) W^T + b at a pattern, with their gradients; ``known``: those values, if they are there."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor,
        offsets: Tensor,
        columns: Tensor,
        known: Tensor | None,
    ) -> Tensor:
        centred = x - shift
        ctx.save_for_backward(centred, weight, offsets, columns)
        return sddmm(offsets, columns, centred, weight) + bias[columns] if known is None else known.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """dW = S^T (x - shift) with S = grad at the pattern; db = its column sums; dx = S W; dshift = -W^T db."""
        centred, weight, offsets, columns = ctx.saved_tensors
        to_bias = grad.new_zeros(weight.shape[0]).index_add_(0, columns, grad)
        to_x = spmm(offsets, columns, grad, weight) if ctx.needs_input_grad[0] else None
        to_shift = -(to_bias @ weight) if ctx.needs_input_grad[1] else None  # the sum of dx, without dx
        to_weight = spmm_t(offsets, columns, grad, centred, weight.shape[0]) if ctx.needs_input_grad[2] else None
        return to_x, to_shift, to_weight, to_bias, None, None, None


def top_rows(scores: Tensor, k: int | Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The k highest positive entries of every row of scores + bias: (offsets, columns ascending, values).

    Ties go to the lowest column. Rows with fewer than k positive entries hold those they have.

    Args:
        scores: (N, F). k: one number, or (N,) int64 in 0 … F. bias: (F,) or None.

    >>> offsets, columns, values = top_rows(torch.tensor([[1.0, 3.0, 2.0], [-1.0, -2.0, 5.0]]), 2)
    >>> offsets.tolist(), columns.tolist(), values.tolist()
    ([0, 2, 3], [1, 2, 2], [3.0, 2.0, 5.0])
    """
    if _fast(scores, bias, k if isinstance(k, Tensor) else None) and scores.stride(-1) == 1:
        counts = k if isinstance(k, Tensor) else torch.full((scores.shape[0],), k)
        room = int(counts.sum())
        found, columns = torch.empty(scores.shape[0], dtype=torch.int64), torch.empty(room, dtype=torch.int64)
        values, plus = torch.empty(room), torch.zeros(0) if bias is None else bias
        native().sparse_code_top_rows(
            *_arrays(scores, plus, counts), found.numpy(), columns.numpy(), values.numpy(), torch.get_num_threads()
        )
        return _packed(counts, found, columns, values)
    return top_rows_torch(scores, k, bias)


def _packed(room: Tensor, found: Tensor, columns: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Close the gaps of rows that found less than they had room for."""
    offsets = torch.zeros(found.numel() + 1, dtype=torch.int64)
    torch.cumsum(found, 0, out=offsets[1:])
    if int(offsets[-1]) == columns.numel():
        return offsets, columns, values
    starts = room.cumsum(0) - room
    rows = rows_of(offsets)
    kept = starts[rows] + torch.arange(rows.numel()) - offsets[rows]
    return offsets, columns[kept], values[kept]


def top_rows_torch(scores: Tensor, k: int | Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The readable twin of `top_rows`, by the exact selection of `core`'s rule: a stable sort where ties decide.

    >>> top_rows_torch(torch.tensor([[2.0, 2.0, 2.0]]), 2)[1].tolist()
    [0, 1]
    """
    scores = scores if bias is None else scores + bias
    counts = k if isinstance(k, Tensor) else torch.full((scores.shape[0],), k, device=scores.device)
    most = int(counts.max()) if counts.numel() else 0
    ranked = scores.clamp(min=0)
    if most < scores.shape[1]:  # the value after the last chosen one tells whether a tie decides
        top = torch.topk(ranked, most + 1, dim=1)
        edge = top.values.gather(1, counts[:, None])
        last = top.values.gather(1, (counts - 1).clamp(min=0)[:, None])
        if bool(((edge == last) & (edge > 0)).any()):
            order = ranked.sort(dim=1, descending=True, stable=True).indices
        else:
            order = top.indices
    else:
        order = ranked.sort(dim=1, descending=True, stable=True).indices
    order = order[:, :most]
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask.scatter_(1, order, torch.arange(most, device=scores.device) < counts[:, None])
    rows, columns = (mask & (scores > 0)).nonzero().unbind(1)
    offsets = counts.new_zeros(scores.shape[0] + 1)
    offsets[1:] = torch.bincount(rows, minlength=scores.shape[0]).cumsum(0)
    return offsets, columns, scores[rows, columns]


def above(scores: Tensor, bound: float, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of scores + bias above ``bound`` in row order: (rows, columns, values).

    >>> [t.tolist() for t in above(torch.tensor([[1.0, 3.0], [4.0, 0.0]]), 2.0)]
    [[0, 1], [1, 0], [3.0, 4.0]]
    """
    if _fast(scores, bias) and scores.stride(-1) == 1:
        plus = torch.zeros(0) if bias is None else bias
        places, values = native().sparse_code_above(*_arrays(scores, plus), float(bound), torch.get_num_threads())
        found = torch.from_numpy(places)
        return found // scores.shape[1], found % scores.shape[1], torch.from_numpy(values)
    scores = scores if bias is None else scores + bias
    rows, columns = (scores > bound).nonzero().unbind(1)
    return rows, columns, scores[rows, columns]


def adam_rows_(
    weight: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    step: int,
    unit: bool,
) -> None:
    """One step of Adam in place on a table; ``unit``: rows of norm 1 stay there (the gradient along them is dropped).

    Parameters:
        weight, grad, first, second: (rows, d). step: from 1, of this update.

    >>> w, m, v = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.zeros(1, 2)
    >>> adam_rows_(w, torch.tensor([[5.0, 0.0]]), m, v, 0.1, (0.9, 0.999), 1e-8, 1, unit=True)
    >>> w.tolist()  # a gradient along the row does nothing
    [[1.0, 0.0]]
    """
    if _fast(weight, grad, first, second) and weight.is_contiguous() and first.is_contiguous():
        arrays = weight.numpy(), grad.detach().contiguous().numpy(), first.numpy(), second.numpy()
        native().sparse_code_adam(*arrays, lr, *betas, eps, step, unit, torch.get_num_threads())
    else:
        adam_rows_torch_(weight, grad, first, second, lr, betas, eps, step, unit)


def adam_rows_torch_(
    weight: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    step: int,
    unit: bool,
) -> None:
    """The readable twin of `adam_rows_`.

    >>> w = torch.ones(1, 1)
    >>> adam_rows_torch_(w, torch.ones(1, 1), w * 0, w * 0, 0.1, (0.9, 0.999), 0.0, 1, unit=False)
    >>> round(w.item(), 6)
    0.9
    """
    if unit:
        grad = grad - weight * ((weight * grad).sum(1, keepdim=True) / weight.square().sum(1, keepdim=True))
    first.lerp_(grad, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    hat = (second / (1 - betas[1] ** step)).sqrt_().add_(eps)
    weight.addcdiv_(first, hat, value=-lr / (1 - betas[0] ** step))
    if unit:
        weight.div_(weight.norm(dim=1, keepdim=True).clamp(min=1e-12))
