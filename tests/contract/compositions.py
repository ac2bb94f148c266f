"""What the contract is checked on: every registered method, and compositions of words that no method uses yet."""

from __future__ import annotations

from typing import Any

import sparseland as sl
from sparseland.core import (
    ER,
    NM,
    SNIP,
    Bidirectional,
    Constant,
    Cosine,
    Cubic,
    ERKPlus,
    Fading,
    Frozen,
    Global,
    Gradient,
    GrowGradient,
    GrowMomentum,
    GrowRandom,
    Linear,
    Magnitude,
    MultiCycle,
    OneShot,
    Penalised,
    Random,
    Ratios,
    Reversed,
    Shrinking,
    Steps,
    StraightThrough,
    Taylor,
    Uniform,
    UniformPlus,
)
from sparseland.weights import Method

# small settings for 40 steps; a method without a line here fails test_every_method_has_a_line
SETTINGS: dict[str, dict[str, Any]] = {
    "dense": {},
    "magnitude": {"sparsity": 0.8, "at": 10},
    "gmp": {"sparsity": 0.8, "every": 5, "end": 0.5},
    "imp": {"sparsity": 0.8},
    "sms": {"sparsity": 0.8},
    "reprune": {"sparsity": 0.8},
    "snip": {"sparsity": 0.8, "rounds": 2},
    "grasp": {"sparsity": 0.8},
    "synflow": {"sparsity": 0.8, "rounds": 10},
    "set": {"sparsity": 0.8, "every": 5},
    "rigl": {"sparsity": 0.8, "every": 5},
    "granet": {"sparsity": 0.8, "every": 5},
    "random": {"sparsity": 0.8},
    "random-search": {"sparsity": 0.5},
    "sparse-then-prune": {"sparsity": 0.8},
    "lamp": {"sparsity": 0.8, "at": 0.25},
    "movement": {"sparsity": 0.8, "every": 5},
    "masksparsity": {"sparsity": 0.5},
    "slimming": {"sparsity": 0.5},
    "group-lasso": {"sparsity": 0.5},
    "precropping": {"sparsity": 0.8, "rounds": 10},
    "sr-ste": {},
    "turbo-vbi": {"sparsity": 0.8},
    "jackpots": {"sparsity": 0.8},
    "bip": {"sparsity": 0.8},
    "iss-p": {"sparsity": 0.8, "end": 0.5},
    "greg": {"sparsity": 0.8, "end": 0.5},
}


def registered() -> dict[str, Method]:
    """Every registered method with its small settings."""
    return {name: sl.methods.build(name, **SETTINGS[name]) for name in sl.methods.registry if name in SETTINGS}


CUBIC = Cubic(0.8, end=0.75, every=5)
COMPOSED: dict[str, Method] = {
    "ste": Method("ste", schedule=CUBIC, flow=StraightThrough()),
    "ste-half": Method("ste-half", schedule=CUBIC, flow=StraightThrough(dead=0.5), criterion=Gradient()),
    "fading": Method(
        "fading", pattern=NM(2, 4), allocation=Uniform(), schedule=Constant(0.5, every=4), flow=Fading(0.1)
    ),
    "fading-linear": Method(
        "fading-linear", schedule=OneShot(0.8, at=4), flow=Fading(0.05, curve="linear", start=0.1, gradient="exact")
    ),
    "shrinking": Method("shrinking", schedule=CUBIC, flow=Shrinking(0.9, until=0.8)),
    "thresholding": Method("thresholding", schedule=Constant(0.8, every=3), flow=Shrinking(0.0)),
    "penalised": Method("penalised", schedule=OneShot(0.8), flow=Penalised(0.01, norm="l1", ramp=1e-3)),
    "iss-r": sl.methods.ISSP(0.8, variant="penalty", ramp=0.01, end=0.5, every=3),
    "bidirectional": Method(
        "bidirectional",
        pattern=NM(2, 4),
        allocation=Uniform(),
        schedule=Constant(0.5, every=4),
        flow=Bidirectional(NM(2, 4, axis=0)),
    ),
    "frozen": Method("frozen", schedule=OneShot(0.8), flow=Frozen()),
    "frozen-moving": Method("frozen-moving", schedule=Constant(0.8, every=6), criterion=Gradient(), flow=Frozen()),
    "taylor": Method("taylor", criterion=Taylor(), schedule=Linear(0.8, start=5, end=30, every=5)),
    "reversed": Method("reversed", criterion=Reversed(Magnitude()), allocation=ER(), schedule=CUBIC),
    "snip-late": Method("snip-late", criterion=SNIP(), schedule=OneShot(0.8, at=15)),
    "momentum": Method(
        "momentum",
        schedule=OneShot(0.5),
        initial=Random(),
        allocation=UniformPlus(),
        growth=GrowMomentum(),
        exchange=Cosine(0.0, initial=0.3, end=0.75, every=5),
    ),
    "ratios": Method(
        "ratios",
        schedule=Cubic(0.8, initial=0.4, end=20, every=5),
        criterion=Random(),
        allocation=Ratios(Gradient()),
        growth=GrowRandom(),
        exchange=Constant(0.2, start=5, end=35, every=5),
    ),
    "there-and-back": Method(
        "there-and-back", schedule=Steps((0.5, 0.8, 0.6, 0.7), at=(0, 10, 20, 33)), growth=GrowGradient()
    ),
    "cycles": Method("cycles", schedule=MultiCycle(Cubic(0.8, initial=0.3, end=15, every=5), cycles=2, length=20)),
    "erk+": Method("erk+", schedule=OneShot(0.7), allocation=ERKPlus(density=0.5), initial=Random()),
    "global-swap": Method(
        "global-swap",
        schedule=OneShot(0.8),
        allocation=Global(),
        growth=GrowGradient(),
        exchange=Constant(1.0, start=3, every=7),
    ),
}
