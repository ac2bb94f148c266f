"""The global random states of Python, NumPy and torch: seeded for a run, saved with it, and put back after it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """All global random states as plain data and tensors (for ``torch.load(…, weights_only=True)``).

    >>> before = random_state()
    >>> one = torch.rand(2), random.random(), np.random.rand()
    >>> set_random_state(before)
    >>> two = torch.rand(2), random.random(), np.random.rand()
    >>> torch.equal(one[0], two[0]), one[1:] == two[1:]
    (True, True)
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - libraries may draw from it
    return {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


@contextlib.contextmanager
def seeded(seed: int, threads: int | None = None) -> Iterator[None]:
    """Seed every global generator and set torch's threads; afterwards both are as they were.

    >>> with seeded(3):
    ...     one = torch.rand(1)
    >>> with seeded(3):
    ...     two = torch.rand(1)
    >>> bool(one == two)
    True
    """
    before, had = random_state(), torch.get_num_threads()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        set_random_state(before)
        torch.set_num_threads(had)
