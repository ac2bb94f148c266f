"""What may go in: data, settings and parameters, refused before any work with what was given and what was possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import SparselandError
from .em import Parameters, Truncation

DTYPES = {"float64": torch.float64, "float32": torch.float32}
CANDIDATES, GAMMA = 8, 4  # where the user names none
Wrap = Callable[[Tensor], Any]


def as_tensor(X: Any, dtype: str) -> tuple[Tensor, Wrap]:
    """A checked (N, D) tensor of ``X``, and what turns answers back into the kind of array that ``X`` is.

    A tensor stays on its device; everything else goes through NumPy. Raises TypeError for what is no table of numbers
    and SparselandError for NaN, infinity, complex numbers, wrong dimensions or nothing at all.
    """
    if dtype not in DTYPES:
        raise SparselandError(f"dtype={dtype!r}; possible: {', '.join(DTYPES)}")
    if isinstance(X, Tensor):
        if X.layout != torch.strided:
            raise TypeError(f"X is a sparse tensor ({X.layout}); possible: a dense one, X.to_dense()")
        raw, wrap = X.detach(), _same
    else:
        raw, wrap = _from_numpy(X), _to_numpy
    if raw.is_complex():
        raise SparselandError(f"Complex data not supported: X is {raw.dtype}; possible: real numbers")
    _check_shape(tuple(raw.shape))
    table = raw.to(DTYPES[dtype]).contiguous()
    if not bool(torch.isfinite(table).all()):
        row, column = (~torch.isfinite(table)).nonzero()[0].tolist()
        raise SparselandError(
            f"Input X contains NaN or infinity: X[{row}, {column}] is {float(table[row, column])}; remove or "
            "replace such points (a point that is not known has no posterior)"
        )
    return table, wrap


def _from_numpy(X: Any) -> Tensor:
    if hasattr(X, "tocsr") or type(X).__module__.startswith("scipy.sparse"):
        raise TypeError(f"X is a sparse matrix ({type(X).__name__}); possible: a dense array, X.toarray()")
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise SparselandError(f"Complex data not supported: X is {array.dtype}; possible: real numbers")
    if array.dtype.kind not in "biuf":
        try:
            array = array.astype(np.float64)
        except TypeError as error:
            raise TypeError(
                f"argument must be a string or a real number: X of dtype {array.dtype} ({error})"
            ) from error
        except ValueError as error:
            raise SparselandError(f"X of dtype {array.dtype} holds no numbers: {error}") from error
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _to_numpy(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise SparselandError(
            f"Expected 2D array, got {len(shape)}D: X is {shape}; possible: (points, features). Reshape your data "
            "either using X.reshape(-1, 1) for one feature or X.reshape(1, -1) for one point"
        )
    for number, what in zip(shape, ("sample", "feature"), strict=True):
        if number < 1:
            raise SparselandError(f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required.")


def whole(name: str, value: Any, least: int) -> int:
    """``value`` as an integer that is at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; possible: an integer from {least}")
    if value < least:
        raise SparselandError(f"{name}={value}; possible: an integer from {least}")
    return int(value)


def truncation(n_components: Any, candidates: Any, gamma: Any) -> Truncation:
    """Sizes with γ ≤ H' ≤ H; what is None becomes H' = min(H, 8) and γ = min(H', 4).

    >>> truncation(10, None, None)
    Truncation(components=10, candidates=8, gamma=4)
    >>> truncation(10, 4, 5)
    Traceback (most recent call last):
    sparseland.core.errors.SparselandError: gamma=5 causes cannot be chosen from candidates=4; possible: gamma 1 … 4
    """
    H = whole("n_components", n_components, 1)
    chosen = min(H, CANDIDATES) if candidates is None else whole("candidates", candidates, 1)
    if chosen > H:
        raise SparselandError(f"candidates={chosen} of n_components={H} latents; possible: 1 … {H}")
    causes = min(chosen, GAMMA) if gamma is None else whole("gamma", gamma, 1)
    if causes > chosen:
        raise SparselandError(
            f"gamma={causes} causes cannot be chosen from candidates={chosen}; possible: gamma 1 … {chosen}"
        )
    return Truncation(H, chosen, causes)


def parameters(given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], like: Tensor) -> Parameters:
    """``given`` as finite tensors of ``shapes`` with the dtype and on the device of ``like``."""
    missing, strange = sorted(set(shapes) - set(given)), sorted(set(given) - set(shapes))
    if missing or strange:
        wrong = f"lack {', '.join(missing)}" if missing else f"hold {', '.join(strange)}"
        raise SparselandError(f"the parameters {wrong}; this model has {', '.join(shapes)}")
    return {name: _one(name, given[name], shape, like) for name, shape in shapes.items()}


def _one(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value.detach())
    tensor = tensor.to(like)
    if tuple(tensor.shape) != shape:
        raise SparselandError(f"parameter {name!r} is {tuple(tensor.shape)}; possible: {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise SparselandError(f"parameter {name!r} holds NaN or infinity")
    if name in ("sigma", "noise", "psi") and tensor.ndim < 2 and bool((tensor <= 0).any()):
        raise SparselandError(f"parameter {name!r} is {tensor.min().item():g}; possible: above 0")
    if name == "pi" and bool(((tensor <= 0) | (tensor >= 1)).any()):
        raise SparselandError(f"parameter 'pi' holds {_odd(tensor):g}; possible: between 0 and 1, without the ends")
    return tensor


def _odd(pi: Tensor) -> float:
    return float(pi[(pi <= 0) | (pi >= 1)].reshape(-1)[0])
