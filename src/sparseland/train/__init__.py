"""Training: one configuration in, one folder with checkpoints and a result out; callbacks for other loops.

The loop stands on Hugging Face Accelerate. Everything is loaded when it is asked for, so that a recipe can read
`TrainConfig` without starting torch's distributed machinery.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "TrainConfig": "config",
    "Trainer": "loop",
    "Diverged": "loop",
    "run": "session",
    "compose": "plans",
    "trace": "..account",
    "evaluate": "evaluation",
    "lr_at": "optim",
}

__all__ = ["Diverged", "TrainConfig", "Trainer", "compose", "evaluate", "lr_at", "run", "trace"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    home = _HOME[name]
    return getattr(importlib.import_module(home if home.startswith(".") else f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
