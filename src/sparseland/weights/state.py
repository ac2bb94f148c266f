"""The sparsifier's saved form: versioned plain data and tensors, masks at one bit a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.errors import ResumeError, SparselandError
from ..core.mask import MaskSet

if TYPE_CHECKING:
    from .method import Method
    from .sparsifier import Sparsifier

VERSION = 1


def pack_state(sp: Sparsifier) -> dict[str, Any]:
    """Plain data and tensors; loads with ``torch.load(…, weights_only=True)``."""
    return {
        "version": VERSION,
        "method": sp.method.to_dict(),
        "step": sp.step,
        "history": [dict(entry) for entry in sp.history],
        "masks": sp.masks.pack(),
        "seen": sp._seen.pack(),
        "generator": sp.generator.get_state(),
        "stats": {n: {k: v.clone() for k, v in values.items()} for n, values in sp._stats.items()},
        "latent": {n: v.clone() for n, v in sp._latent.items()},
    }


def read_state(state: Any, method: Method, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Check a saved state against the method and model at hand, and unpack it; ResumeError says what differs."""
    fields = ("version", "method", "step", "history", "masks", "seen", "generator", "stats", "latent")
    if not isinstance(state, dict) or any(f not in state for f in fields):
        given = sorted(state)[:8] if isinstance(state, dict) else type(state).__name__
        raise ResumeError(f"not a sparsifier state: got {given}, expected {', '.join(fields)}")
    if state["version"] != VERSION:
        raise ResumeError(f"the state has version {state['version']!r}; this release reads version {VERSION}")
    difference = first_difference(state["method"], method.to_dict())
    if difference:
        raise ResumeError(f"the state was saved by another method: {difference}")
    try:
        masks, seen = MaskSet.unpack(state["masks"]), MaskSet.unpack(state["seen"])
    except (SparselandError, KeyError, TypeError, AttributeError) as error:
        raise ResumeError(f"the saved masks are damaged: {error}") from None
    saved = {n: tuple(m.shape) for n, m in masks.items()}
    difference = first_difference(saved, shapes)
    if difference:
        raise ResumeError(f"the state was saved from another model: {difference}")
    return state | {"masks": masks, "seen": seen, "history": [dict(entry) for entry in state["history"]]}


def first_difference(saved: Any, here: Any, path: str = "") -> str:
    """Where two nested dicts first differ, in words; empty if they are equal.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b was 1, here it is 2'
    """
    if isinstance(saved, dict) and isinstance(here, dict):
        for key in [*saved, *(k for k in here if k not in saved)]:
            where = f"{path}.{key}" if path else str(key)
            if key not in here or key not in saved:
                return f"{where} exists only {'in the saved state' if key in saved else 'here'}"
            if found := first_difference(saved[key], here[key], where):
                return found
        return ""
    return "" if saved == here else f"{path} was {saved!r}, here it is {here!r}"
