"""Which kernel for which layer, found by timing on this machine: dense stays dense where sparse is not faster.

All candidates of a layer stand in one small program that is run again and again, so they take turns by themselves and
a busy moment meets each of them. What was found is kept (`sparseland.deploy.choose_cache`); layers of the same shape
and density share it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..kernels import native
from ..kernels.grouping import Packed, pack_rows
from .choose_cache import Cache, cpu
from .choose_model import Modelled, allowed, decided, solved
from .lower_layers import GROUPS, Choice, Layer, emit
from .lower_view import Array
from .program import Program

CHUNKS = {"pointwise": (48, 96, 112), "conv": (96, 384)}  # beside the kernels' own 64 and 192
SOME = 64  # rows that show a pattern
LEAST = 9  # rounds of every candidate
PROBES = (0.5, 0.1)  # densities at which a made-up weight is timed, to say from where sparse would win


class Measured:
    """Chooses by timing.

    Parameters:
        threads: that will run; at least 1.
        isa: of the kernels; "": the best this machine has.
        cache: of earlier timings.
        budget: seconds a layer may take to be timed; the rounds are at least 9.
        only: "dense" or "sparse" leaves out the others where a layer has any; None: all.
        progress: called with the name of a layer before it is timed.
    """

    def __init__(
        self, threads: int, *, isa: str = "", cache: Cache | None = None, budget: float = 0.1, only: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.threads, self.isa = threads, isa or str(native().isas()[0])
        self.code = bool(native().makes_code(isa))
        self.cache = Cache() if cache is None else cache
        self.budget, self.only, self.progress = budget, only, progress
        self.packings: dict[tuple[str, int], Packed] = {}  # packed weights, shared by the layers of a graph

    def __call__(self, layer: Layer) -> Choice:
        """The fastest kernel for a layer, measured now or before."""
        found = self._known(layer)
        if found is None:
            if self.progress:
                self.progress(layer.name)
            found = self._timed(layer)
            self.cache[self._key(layer)] = stored(found)
        return found

    def _key(self, layer: Layer) -> str:
        density = layer.nonzeros / max(layer.weight.size, 1)
        fills = "" if density > 0.95 else "/".join(f"{some_fill(layer, G):.1f}" for G in GROUPS[1:])
        machine = f"{cpu()} {self.isa}{' code' * self.code} x{self.threads}"
        return f"{layer.shape_key()} | {density:.2f} {fills} {self.only or ''} | {machine}"

    def _known(self, layer: Layer) -> Choice | None:
        found = self.cache.get(self._key(layer))
        try:
            return None if found is None else restored(found)
        except (KeyError, TypeError, ValueError):  # written by something else
            return None

    def _timed(self, layer: Layer) -> Choice:
        possible = allowed(layer, self.only, self.code)
        probes = (
            []
            if layer.kind == "fc" or self.only or layer.groups > 1
            else [made_up(layer, density) for density in PROBES]
        )
        if len(possible) == 1 and not probes:
            return replace(possible[0], reason="the only kernel for it")
        sparse = Choice("spmm" if layer.kind == "pointwise" else "conv", True, G=1)
        turns = [(layer, one) for one in possible] + [(probe, sparse) for probe in probes]
        seconds = time_turns(turns, self.threads, self.isa, self.budget)
        times = dict(zip(possible, seconds, strict=False))
        times |= self._chunks(layer, times)
        dense = min((t for one, t in times.items() if not one.sparse), default=None)
        cross = None
        if probes and dense is not None:
            low, high = sorted(zip(seconds[len(possible) :], PROBES, strict=True), key=lambda pair: pair[1])
            cross = solved(dense, low, high)
        return decided(layer, times, cross, "measured")

    def _chunks(self, layer: Layer, times: dict[Choice, float]) -> dict[Choice, float]:
        """The best kernel, if it is sparse or has pixels as lanes, with other numbers of lanes at once."""
        best = min(times, key=lambda one: times[one])
        _, h, w, rows = layer.out
        wide = -(-min(rows, h) * w // 16) * 16 if layer.kind == "pointwise" else h * w
        others = [replace(best, chunk=chunk) for chunk in CHUNKS.get(layer.kind, ()) if chunk <= wide and wide > 64]
        if not others or best.form == 1:
            return {}
        again = time_turns([(layer, one) for one in (best, *others)], self.threads, self.isa, self.budget / 2)
        ratio = times[best] / again[0] if again[0] else 1.0  # the machine may be busier now
        return {
            one: seconds * ratio for one, seconds in zip(others, again[1:], strict=True) if seconds < 0.97 * again[0]
        }


def some_fill(layer: Layer, G: int) -> float:
    """How full blocks of G rows are, judged by the first rows: enough to tell patterns apart, and quick."""
    if layer.groups > 1:
        return layer.nonzeros / max(layer.packed(G).stored, 1)
    rows = layer.weight[:SOME]
    return float(np.count_nonzero(rows) / max(pack_rows(rows, G).stored, 1))


def made_up(layer: Layer, density: float) -> Layer:
    """The same layer with another weight, of random zeros."""
    rng = np.random.default_rng(0)
    weight: Array = np.asarray(rng.standard_normal(layer.weight.shape, dtype=np.float32))
    weight[rng.random(layer.weight.shape, dtype=np.float32) >= density] = 0
    return replace(layer, weight=weight, name=f"{layer.name} at {density}", store={})


def time_turns(turns: Sequence[tuple[Layer, Choice]], threads: int, isa: str = "", budget: float = 0.1) -> list[float]:
    """Seconds of each (layer, kernel): the fastest of at least 9 rounds in which all take turns.

    The fastest, because all that can happen to a round on a shared machine is that it takes longer.

    Raises:
        SparselandError: the extension is not built.
    """
    program, inputs = Program(), {}
    for layer, choice in turns:
        key = (layer.kind, layer.n, layer.c, layer.h, layer.w, layer.rows, layer.source)
        if key not in inputs:
            inputs[key] = _input(program, layer)
        _one(program, layer, choice, *inputs[key])
    engine = native().Engine(program.to_bytes(), threads, isa)
    taken: list[list[float]] = [[] for _ in turns]
    step = len(program.ops) // len(turns)

    def after(op: int, seconds: float) -> None:
        if op % step == 0:
            taken[op // step].append(seconds)

    engine.run([], after)  # warms up
    for times in taken:
        times.clear()
    began = time.perf_counter()
    while len(taken[0]) < LEAST or (time.perf_counter() - began < budget and len(taken[0]) < 200):
        engine.run([], after)
    return [min(times) for times in taken]


def _input(program: Program, layer: Layer) -> tuple[int, int]:
    """(x, scale) as constants."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((layer.n, layer.c, layer.h, layer.w), dtype=np.float32)
    plain = layer.kind == "fc" or layer.source != "tiles"  # of random numbers any order is as good
    layout, rows = ("plain", None) if plain else ("tiles", layer.rows)
    scale = program.constant(x[:, :, :1, :1]) if layer.scaled else -1
    return program.constant(x, layout, rows=rows), scale


def _one(program: Program, layer: Layer, choice: Choice, x: int, scale: int) -> None:
    """The op, and one that hands its output on (nothing may be an output in tiles)."""
    o, h, w, rows = layer.out
    plain = layer.kind == "fc"
    size = (layer.n, o, h, w)
    residual = -1
    if layer.residual:
        residual = program.constant(np.zeros(size, np.float32), "plain" if plain else "tiles", rows=rows)
    y = program.tensor(size, "plain" if plain else "tiles", rows=rows)
    emit(program, layer, choice, x, y, residual, scale)
    end = program.tensor((layer.n, o, 1, 1), "plain")
    if plain:
        program.op("unary", [y], [end], (0,), (0.0, 0.0, 1.0, 0.0))
    else:
        program.op("gap", [y], [end])
    program.output(end)


def stored(choice: Choice) -> dict[str, Any]:
    """A choice as JSON."""
    names = ("kernel", "sparse", "G", "form", "chunk", "reason", "seconds", "rivals", "crossover")
    return {name: getattr(choice, name) for name in names}


def restored(found: dict[str, Any]) -> Choice:
    """The way back.

    Raises:
        KeyError, TypeError, ValueError: something else was written there.
    """
    return Choice(
        str(found["kernel"]), bool(found["sparse"]), int(found["G"]), int(found["form"]), int(found["chunk"]),
        str(found["reason"]), None if found["seconds"] is None else float(found["seconds"]),
        {str(name): float(t) for name, t in found["rivals"].items()},
        None if found["crossover"] is None else float(found["crossover"]),
    )  # fmt: skip


__all__ = ["Measured", "Modelled", "time_turns"]
