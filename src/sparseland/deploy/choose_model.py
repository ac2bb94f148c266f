"""Times without a measurement: a rate per kernel, and the lanes that a tile wastes.

Rates are fractions of the peak of multiply-adds, taken from measurements on AVX-512 with tiles of 64 lanes: 0.68 of
it where every output row has indices of its own (each multiply-add waits for a load), 0.92 and 0.95 where two and four
rows share them, 0.85 for dense products, 0.75 for dense windows; machine code reaches 0.93 and 0.8 in either case. They
say which kernel is faster, not how fast.
"""

from __future__ import annotations

import math

from ..kernels.grouping import Packed
from .lower_layers import GROUPS, LANES, Choice, Layer

PEAK = 50e9  # multiply-adds of one core in a second
BYTES = 20e9  # of dense weights read in a second, where each is used once
GATHER = 1.5e-9  # seconds of a non-zero of one vector: its input stands anywhere
SPARSE = {1: 0.68, 2: 0.92, 4: 0.95}
WINDOW = {1: 0.55, 2: 0.8, 4: 0.85}
DENSE = {"pointwise": 0.85, "conv": 0.75}
CODE = {"pointwise": 0.93, "conv": 0.8}
START = 3e-6  # of a step


def lanes(h: int, w: int, rows: int) -> int:
    """Lanes that are computed for one channel: every band in whole vectors."""
    full, rest = divmod(h, rows)
    bands = [rows] * full + [rest] * (rest > 0)
    return sum(math.ceil(r * w / LANES) * LANES for r in bands)


def candidates(layer: Layer, code: bool = False) -> list[Choice]:
    """The kernels that can compute a layer, dense first; sparse ones where at least 5 % are zeros.

    Grouped convolutions have only kernels with lists of inputs. code: machine code can be made here.
    """
    if layer.kind == "fc":
        return [Choice("fc", False), *[Choice("fc", True)] * (layer.sparsity >= 0.05)]
    name, kernel = ("gemm", "spmm") if layer.kind == "pointwise" else ("conv", "conv")
    dense = [Choice(name, False, form=form) for form in ((0, 1, 2) if code else (0, 1))]
    sparse = [Choice(kernel, True, G=G) for G in GROUPS]
    if layer.groups > 1:
        return sparse
    return dense + sparse if layer.sparsity >= 0.05 else dense


def modelled(layer: Layer, choice: Choice, threads: int = 1, code: bool = False) -> float:
    """Seconds that a kernel should take. code: as `candidates` takes it.

    >>> import numpy as np
    >>> weight = np.eye(64, dtype=np.float32)
    >>> layer = Layer("pointwise", "l", weight, np.zeros(64, np.float32), 1, 64, 28, 28, 4, (64, 28, 28, 4))
    >>> modelled(layer, Choice("spmm", True, G=1)) < modelled(layer, Choice("gemm", False))
    True
    """
    if layer.kind == "fc":
        if choice.sparse:
            return START + layer.n * layer.nonzeros * GATHER / threads
        return START + (layer.weight.size * 4 / BYTES + (layer.n - 1) * layer.weight.size / PEAK) / threads
    stored = layer.packed(choice.G).stored if choice.sparse else layer.weight.size
    return START + _products(layer, choice, float(stored), code) / PEAK / threads


def _products(layer: Layer, choice: Choice, stored: float, code: bool) -> float:
    """Multiply-adds at the peak's rate."""
    _, h, w, rows = layer.out
    by_outputs = choice.form == 1
    wide = h * w if by_outputs else lanes(h, w, rows)
    if choice.form == 2 or (code and choice.G == 1):
        rate = CODE[layer.kind]
    elif choice.sparse:
        rate = (SPARSE if layer.kind == "pointwise" else WINDOW)[choice.G]
    else:
        rate = DENSE[layer.kind] * (0.8 if by_outputs else 1.0)
    return layer.n * wide * stored / rate


def crossover(layer: Layer, threads: int = 1, code: bool = False) -> float | None:
    """The sparsity from which rows with indices of their own beat the best dense kernel; None: never."""
    if layer.groups > 1:
        return None
    dense = min(modelled(layer, one, threads, code) for one in candidates(layer, code) if not one.sparse)
    if layer.kind == "fc":
        return solved(dense, (START, 0.0), (START + layer.n * layer.weight.size * GATHER / threads, 1.0))
    sparse = Choice("spmm" if layer.kind == "pointwise" else "conv", True, G=1)
    full = START + _products(layer, sparse, layer.weight.size, code) / PEAK / threads
    return solved(dense, (START, 0.0), (full, 1.0))


def solved(dense: float, low: tuple[float, float], high: tuple[float, float]) -> float | None:
    """The sparsity at which a line through two (seconds, density) takes as long as ``dense``; None: at no sparsity.

    >>> solved(1.0, (0.0, 0.0), (2.0, 1.0)), solved(1.0, (2.0, 0.0), (4.0, 1.0))
    (0.5, None)
    """
    (t0, d0), (t1, d1) = low, high
    if dense <= t0 and t1 >= t0:
        density = d0 * dense / t0 if t0 > 0 and d0 > 0 else 0.0
    elif t1 <= t0:
        density = 1.0 if dense > t1 else 0.0
    else:
        density = d0 + (dense - t0) * (d1 - d0) / (t1 - t0)
    return 1 - min(density, 1.0) if density > 0 else None


def decided(layer: Layer, times: dict[Choice, float], cross: float | None, how: str) -> Choice:
    """The fastest of the candidates, with the reason in words."""
    from dataclasses import replace

    best = min(times, key=lambda one: times[one])
    rivals = {one.name: seconds for one, seconds in times.items() if one != best}
    dense = [one for one in times if not one.sparse]
    sparse = [one for one in times if one.sparse]
    if not dense:
        reason = "a grouped convolution: the engine computes it by lists of inputs"
    elif best.sparse:
        gain = min(times[one] for one in dense) / times[best]
        reason = f"{gain:.2f} x as fast as dense ({how})"
    elif not sparse:
        reason = f"{layer.sparsity:.0%} zeros: nothing to skip"
    else:
        slower = min(times[one] for one in sparse) / times[best] - 1
        reason = f"dense kept: at {layer.sparsity:.0%} zeros the best sparse kernel is {slower:.0%} slower ({how})"
        if cross is not None:
            reason += f"; from {cross:.0%} on it would win"
    return replace(best, reason=reason, seconds=times[best], rivals=rivals, crossover=cross)


class Modelled:
    """Chooses by the cost model.

    Parameters:
        threads: that will run.
        only: "dense" or "sparse" leaves out the others where a layer has any; None: all.
        code: machine code can be made there.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weight = (rng.standard_normal((64, 64)) * (rng.random((64, 64)) < 0.1)).astype(np.float32)
    >>> layer = Layer("pointwise", "l", weight, np.zeros(64, np.float32), 1, 64, 28, 28, 4, (64, 28, 28, 4))
    >>> Modelled()(layer).name, Modelled(only="dense")(layer).name
    ('spmm G=1', 'gemm')
    """

    def __init__(self, threads: int = 1, only: str | None = None, *, code: bool = False) -> None:
        self.threads, self.only, self.code = threads, only, code
        self.packings: dict[tuple[str, int], Packed] = {}

    def __call__(self, layer: Layer) -> Choice:
        """The kernel for a layer."""
        possible = allowed(layer, self.only, self.code)
        times = {one: modelled(layer, one, self.threads, self.code) for one in possible}
        return decided(layer, times, crossover(layer, self.threads, self.code), "cost model")


def allowed(layer: Layer, only: str | None, code: bool = False) -> list[Choice]:
    """The candidates that ``only`` leaves; all where it would leave none."""
    found = candidates(layer, code)
    kept = [one for one in found if only is None or one.sparse == (only == "sparse")]
    return kept or found
