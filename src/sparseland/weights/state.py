"""The sparsifier's saved form: versioned plain data and tensors, masks at one bit a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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


def read_state(state: Any, method: Method, shapes: dict[str, tuple[int, ...]], latent: bool) -> dict[str, Any]:
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
        seen.check_same(masks)
        generator = torch.Generator()
        generator.set_state(state["generator"])
        stats = {n: dict(values) for n, values in state["stats"].items()}
        history = [dict(entry) for entry in state["history"]]
    except (SparselandError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ResumeError(f"the saved state is damaged: {error}") from None
    saved = {n: tuple(m.shape) for n, m in masks.items()}
    difference = first_difference(saved, shapes)
    if difference:
        raise ResumeError(f"the state was saved from another model: {difference}")
    _check_tensors("statistics", stats, shapes, set(shapes))
    _check_tensors(
        "dense values", {n: {"": v} for n, v in state["latent"].items()}, shapes, set(shapes) if latent else set()
    )
    return state | {"masks": masks, "seen": seen, "history": history, "stats": stats}


def _check_tensors(
    what: str, found: dict[str, dict[str, Tensor]], shapes: dict[str, tuple[int, ...]], names: set[str]
) -> None:
    if set(found) != names:
        odd = sorted(set(found) ^ names)[0]
        raise ResumeError(f"the saved state is damaged: {what} of {odd!r} are {'there' if odd in found else 'missing'}")
    for n, values in found.items():
        for value in values.values():
            if not isinstance(value, Tensor) or tuple(value.shape) != shapes[n]:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ResumeError(f"the saved state is damaged: {what} of {n!r} are {shape}, expected {shapes[n]}")


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
