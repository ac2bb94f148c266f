"""Tiny runs on digits: a second each, one thread."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparseland.train import TrainConfig

RIGL = {"name": "rigl", "sparsity": 0.8, "every": 3}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Callable[..., TrainConfig]:
    """A configuration of 4 epochs of 7 steps."""

    def make(**changes: Any) -> TrainConfig:
        settings = {"model": "mlp-32", "method": dict(RIGL), "epochs": 4, "limit": 400, "lr": 0.05, "threads": 1}
        return TrainConfig(**{**settings, **changes})

    return make


@pytest.fixture
def comparable() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A result without what two runs of the same configuration may differ in."""

    def strip(result: dict[str, Any]) -> dict[str, Any]:
        return {k: copy.deepcopy(v) for k, v in result.items() if k not in ("seconds", "resumed", "memory")}

    return strip
