"""The taxonomy record: where a method stands among sparse methods, for those who judge comparisons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..core.errors import RecipeError, nearest
from ..core.pattern import NM, Block, Column, Kernel, Pattern, Row
from ..core.schedule import OneShot
from ..weights import Method
from .training import step_parts

DENSE = ("weights", "gradients", "optimizer")
LONG = 10**9  # steps of a run whose length is unknown: fractions of it are resolved, and no end lies beyond it
UNTRAINED = ("precropping", "random_search")  # procedures that train the sparse net only


@dataclass(frozen=True)
class SparsityCard:
    """What a method is and what it needs, in words that two methods can be compared by.

    Parameters:
        pattern: in the grammar of `sparseland.core.pattern`; family: "unstructured", "N:M", "block", "kernel" or
            "channel".
        when: "never" (dense), "before", "during" or "after" training, where the final mask is chosen.
        route: "dense", "dense→sparse" (training begins dense) or "sparse→sparse".
        mask: "none", "static", "gradual" (it only shrinks) or "dynamic (growth)".
        every: ΔT, steps between updates of a dynamic mask (None: not dynamic, or it never repeats).
        needs_dense: which of "weights", "gradients", "optimizer", "teacher", "data" the algorithm needs dense or
            before training ("data": batches from which the first mask is chosen).
        forward_sparse, backward_sparse, update_sparse: which passes of most steps touch living weights only.
        kernel: what the speed of this implementation is: "none (masked)": masked tensors cost as much as dense ones.
        train_steps: of the whole run, all rounds; None: unknown.
        scope: parameters that are masked. dense_layers: weights that stay dense.
    """

    method: str
    pattern: str
    family: str
    when: str
    route: str
    mask: str
    every: int | None
    needs_dense: tuple[str, ...]
    forward_sparse: bool
    backward_sparse: bool
    update_sparse: bool
    kernel: str = "none (masked)"
    train_steps: int | None = None
    scope: tuple[str, ...] = ()
    dense_layers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data: tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SparsityCard:
        """Inverse of `to_dict`; RecipeError for a key that no card has."""
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise RecipeError(f"a card has no {key!r}: {nearest(key, known)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**plain)


def card_of(
    method: Method | None,
    targets: Iterable[str] = (),
    *,
    dense_layers: Iterable[str] = (),
    train_steps: int | None = None,
    procedure: str | None = None,
    teacher: bool = False,
) -> SparsityCard:
    """The card of a method, read off its words.

    Parameters:
        method: None or one without schedule: dense. targets: names of the masked parameters.
        dense_layers: names of weights that stay dense. train_steps: of the whole run.
        procedure: name of the function of several fits the method belongs to (such as "imp"): it trains densely,
            prunes, and trains again; those in UNTRAINED choose on the untrained net. teacher: whether a dense teacher
            is run beside it.

    >>> from sparseland.weights.methods import SET, GMP, IMP, SNIP, RigL
    >>> [card_of(m).route for m in (None, SET(0.9), GMP(0.9))]
    ['dense', 'sparse→sparse', 'dense→sparse']
    >>> card_of(RigL(0.9, every=50)).needs_dense, card_of(SNIP(0.9)).needs_dense
    (('gradients',), ('weights', 'gradients', 'data'))
    >>> card_of(IMP(0.9), procedure="imp").when
    'after'
    """
    dense = method is None or method.schedule is None
    parts = step_parts(None if dense else method)
    return SparsityCard(
        method="dense" if method is None else method.name,
        pattern="unstructured" if method is None else str(method.pattern),
        family="unstructured" if method is None else family(method.pattern),
        when="never" if method is None or dense else _when(method, procedure),
        route="dense" if method is None or dense else _route(method, procedure),
        mask="none" if method is None or dense else _mask(method, procedure),
        every=getattr(method.exchange, "every", None) if method is not None and method.exchange is not None else None,
        needs_dense=DENSE if method is None or dense else _needs(method, procedure, teacher),
        forward_sparse=parts["forward"] == "sparse",
        backward_sparse=parts["backward"] == "sparse",
        update_sparse=parts["update"] == "sparse",
        train_steps=train_steps,
        scope=tuple(targets),
        dense_layers=tuple(dense_layers),
    )


def family(pattern: Pattern) -> str:
    """The kind of hardware a pattern is for.

    >>> from sparseland.core import pattern
    >>> [family(pattern(text)) for text in ("unstructured", "2:4", "block 4x1", "row")]
    ['unstructured', 'N:M', 'block', 'channel']
    """
    kinds = {NM: "N:M", Block: "block", Kernel: "kernel", Row: "channel", Column: "channel"}
    return kinds.get(type(pattern), "unstructured")


def _from_start(method: Method) -> bool:
    """Whether the first optimizer step already sees zeros (a penalty pulls towards them only)."""
    sparse = step_parts(method)["forward"] == "sparse"
    return sparse and method.schedule is not None and bool(method.schedule.resolve(LONG)(0))


def _when(method: Method, procedure: str | None) -> str:
    if procedure is not None:
        return "before" if procedure in UNTRAINED else "after"
    once = isinstance(method.schedule, OneShot) and method.exchange is None and not _learns(method)
    return "before" if once and _from_start(method) else "during"


def _route(method: Method, procedure: str | None) -> str:
    if procedure is not None:
        return "sparse→sparse" if procedure in UNTRAINED else "dense→sparse"
    return "sparse→sparse" if _from_start(method) else "dense→sparse"


def _mask(method: Method, procedure: str | None) -> str:
    if method.exchange is not None:
        return f"dynamic ({method.growth})"
    if procedure is not None or isinstance(method.schedule, OneShot):
        return "static"
    return "gradual" if not _learns(method) else "dynamic (dead weights learn)"


def _learns(method: Method) -> bool:
    """Whether dead weights change, and may come back by themselves."""
    flow = method.flow
    return not flow.zeros or flow.latent or flow.ranks_dead


def _needs(method: Method, procedure: str | None, teacher: bool) -> tuple[str, ...]:
    learns, dense_start = _learns(method), _route(method, procedure) == "dense→sparse"
    grows = bool(method.growth.needs & {"grad", "momentum"}) and method.exchange is not None
    data = method.needs_data
    needs = {
        "weights": dense_start or learns or data,  # a mask chosen on data is chosen on the dense net
        "gradients": dense_start or learns or grows or data,
        "optimizer": dense_start or learns or "momentum" in method.growth.needs,
        "teacher": teacher,
        "data": data,
    }
    return tuple(name for name, needed in needs.items() if needed)
