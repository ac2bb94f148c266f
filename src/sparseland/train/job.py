"""A run as a job of `fan_out`: plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def train_job(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Train a run into its folder, or go on with it where it stands there; a finished one is not trained again.

    So it may be started again after it was cut anywhere, as `fan_out` asks of its jobs.

    Parameters:
        config: `TrainConfig.to_dict`.
        folder: of the run; where jobs run on several machines, one that all of them see.

    Returns:
        {"accuracy" (of the test split, None where it has no image), "seconds" (of training, all sessions together)}.

    Raises:
        SparselandError: see `run`.

    >>> import tempfile
    >>> from sparseland.train import TrainConfig
    >>> config = TrainConfig(model="mlp-16", epochs=1, limit=200).to_dict()
    >>> with tempfile.TemporaryDirectory() as place:
    ...     first, again = train_job(config, place), train_job(config, place)
    >>> first == again, sorted(first)
    (True, ['accuracy', 'seconds'])
    """
    from sparseland.train import TrainConfig, run

    result = run(TrainConfig.from_dict(config), folder, resume="auto", progress=False)
    test = result["test"]
    return {"accuracy": test["accuracy"] if test else None, "seconds": result["seconds"]}
