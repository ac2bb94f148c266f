"""Bars: pictures made of a few whole rows and columns, whose causes are known. The acceptance test of sparse coding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import SparselandError, nearest

Array = NDArray[np.float64]
MIXINGS = ("linear", "max", "magnitude", "slab")


@dataclass(frozen=True)
class Bars:
    """Pictures and what they are made of: X (N, D), states (N, H), components (H, D).

    >>> data = sample_bars(3, size=2, noise=0.0, seed=1)
    >>> bool((data.X == data.states @ data.components).all())
    True
    """

    X: Array
    states: Array
    components: Array


@dataclass(frozen=True)
class Match:
    """Which learned component answers to which true one.

    order (H_true,): index of the learned component, -1 where none was left. errors (H_true,): mean absolute error per
    entry (infinite where none was left). components (H_true, D): those components, signed and scaled as asked.

    >>> match([[0.0, 9.0], [8.0, 0.0]], [[10.0, 0.0], [0.0, 10.0]]).errors.tolist()
    [1.0, 0.5]
    """

    order: NDArray[np.intp]
    errors: Array
    components: Array

    def recovered(self, tolerance: float = 2.0) -> int:
        """How many true components have an error below ``tolerance`` (the card's bars: 2 on a scale of 0 to 10)."""
        return int((self.errors < tolerance).sum())


def bar_components(size: int = 5, *, height: float = 10.0, signed: bool = False, seed: int = 0) -> Array:
    """W (2 size, size²): every row and every column of a picture as one component of ``height``.

    W[i] is row i, W[size + i] is column i. signed: half of the bars, drawn at random, are negative.
    Raises SparselandError where size < 1 or height is not a positive number.

    >>> bar_components(2, height=1.0).tolist()
    [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SparselandError(f"bars need a size of 1 pixel or more as a whole number; it is {size!r}")
    if not 0 < height < np.inf:
        raise SparselandError(f"bars need a positive, finite height; it is {height!r}")
    pictures = np.zeros((2 * size, size, size))
    for i in range(size):
        pictures[i, i, :] = pictures[size + i, :, i] = height
    made = pictures.reshape(2 * size, size * size)
    if signed:
        flips = np.ones(2 * size)
        flips[np.random.default_rng(seed).permutation(2 * size)[:size]] = -1
        made = made * flips[:, None]
    return made


def sample_bars(
    n: int,
    size: int = 5,
    *,
    mixing: str = "linear",
    values: Sequence[float] = (0.0, 1.0),
    probabilities: Sequence[float] | None = None,
    height: float = 10.0,
    noise: float = 2.0,
    signed: bool = False,
    slab_mean: float = 1.0,
    slab_std: float = 1.0,
    seed: int = 0,
) -> Bars:
    """N pictures: y = mix_h(s_h W_h) + N(0, noise²), with s_h drawn from ``values`` with ``probabilities``.

    mixing: "linear" sums (BSC, TSC, DSC), "max" takes the largest (MCA), "magnitude" the value of largest magnitude
    (MMCA), "slab" sums s_h z_h W_h with z ~ N(slab_mean, slab_std²) (GSC; `states` then holds s_h z_h). probabilities:
    one per value, adding up to 1; None: two causes a picture (1/size each non-zero, shared evenly). noise: standard
    deviation. Raises SparselandError where these do not fit together.

    >>> data = sample_bars(1000, size=5, seed=0)
    >>> data.X.shape, bool(abs(data.states.sum(1).mean() - 2) < 0.15)
    ((1000, 25), True)
    >>> float(sample_bars(50, size=3, mixing="max", noise=0.0, seed=0).X.max())
    10.0
    """
    values, chances = _distribution(values, probabilities, size)
    if mixing not in MIXINGS:
        raise SparselandError(f"no mixing {mixing!r}: {nearest(mixing, MIXINGS)}")
    if n < 1 or noise < 0 or slab_std < 0:
        raise SparselandError(f"n >= 1, noise >= 0 and slab_std >= 0 are needed; got {n}, {noise} and {slab_std}")
    rng = np.random.default_rng(seed)
    components = bar_components(size, height=height, signed=signed, seed=seed)
    states = rng.choice(np.asarray(values, dtype=np.float64), size=(n, 2 * size), p=chances)
    if mixing == "slab":
        states = states * rng.normal(slab_mean, slab_std, size=states.shape)
    if mixing in ("max", "magnitude"):
        parts = states[:, :, None] * components[None]
        top = np.abs(parts).argmax(1) if mixing == "magnitude" else parts.argmax(1)
        clean = np.take_along_axis(parts, top[:, None], 1)[:, 0]
    else:
        clean = states @ components
    return Bars(clean + rng.normal(0.0, noise, size=clean.shape), states, components)


def _distribution(
    values: Sequence[float], probabilities: Sequence[float] | None, size: int
) -> tuple[list[float], list[float]]:
    kinds = [float(v) for v in values]
    if 0.0 not in kinds or len(set(kinds)) != len(kinds) or len(kinds) < 2:
        raise SparselandError(f"values need 0 and at least one other, each once; they are {kinds}")
    if probabilities is None:
        active = 1 / size if size > 1 else 0.5
        return kinds, [1 - active if v == 0 else active / (len(kinds) - 1) for v in kinds]
    chances = [float(p) for p in probabilities]
    if len(chances) != len(kinds) or min(chances) < 0 or abs(sum(chances) - 1) > 1e-9:
        raise SparselandError(f"one probability per value that add up to 1 are needed; values {kinds}, given {chances}")
    return kinds, chances


def match(learned: object, truth: object, *, signs: bool = False, scale: bool = False) -> Match:
    """Pair learned with true components, greedily by the smallest mean absolute error per entry.

    error(i, j) = mean_d |a W_jd - W*_id|, a = 1; with ``signs`` a = ±1 (TSC, DSC and GSC fix no sign), with ``scale``
    the least-squares factor of the pair (GSC: W is known up to the slab's scale), positive unless ``signs``. Learned
    (H, D) may be more or fewer than true ones (H_true, D). Raises SparselandError for other shapes or NaN.

    >>> found = match([[0.0, -5.0], [8.0, 1.0]], [[10.0, 0.0], [0.0, 10.0]], signs=True, scale=True)
    >>> found.order.tolist(), bool(found.errors[1] < 1e-9), found.recovered(1.0)
    ([1, 0], True, 2)
    """
    w, target = (np.asarray(x, dtype=np.float64) for x in (learned, truth))
    if w.ndim != 2 or target.ndim != 2 or w.shape[1] != target.shape[1]:
        raise SparselandError(
            f"components are matched as (H, D) tables of one D; learned {w.shape}, true {target.shape}"
        )
    if not (np.isfinite(w).all() and np.isfinite(target).all()):
        raise SparselandError("components hold NaN or infinity")
    factors = np.ones((len(target), len(w)))
    if scale:
        factors = (target @ w.T) / np.maximum((w**2).sum(1), 1e-300)
        factors = factors if signs else np.maximum(factors, 0)
    errors = np.abs(factors[:, :, None] * w[None] - target[:, None]).mean(2)  # (H_true, H)
    if signs and not scale:
        turned = np.abs(w[None] + target[:, None]).mean(2)
        factors, errors = np.where(turned < errors, -1.0, 1.0), np.minimum(errors, turned)
    order, best = np.full(len(target), -1), np.full(len(target), np.inf)
    found = np.full(target.shape, np.nan)
    left = errors.copy()
    for _ in range(min(errors.shape)):
        i, j = np.unravel_index(int(left.argmin()), left.shape)
        order[i], best[i], found[i] = j, errors[i, j], factors[i, j] * w[j]
        left[i], left[:, j] = np.inf, np.inf
    return Match(order, best, found)
