"""Prune a trained net in one shot, to different patterns, and see what each costs and saves.

python examples/one_shot.py
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import sparseland as sl
from sparseland.train import TrainConfig, Trainer


def main() -> dict[str, tuple[float, int]]:
    """Train a dense net, prune copies of it; returns {pattern: (test accuracy, bytes of the packed file)}."""
    trainer = Trainer(TrainConfig(model="mlp-128-128", lr=0.05, epochs=8, validation=None))
    trainer.fit()
    dense = copy.deepcopy(trainer.model)
    found = {}
    for pattern in ("unstructured", "2:4", "block 4x1", "row"):
        trainer.model.load_state_dict(dense.state_dict())
        # The classifier has ten rows, one for each class: it stays dense.
        masks = sl.prune_(trainer.model, sl.methods.Magnitude(0.5, pattern=pattern), ignore="fc3.weight")
        with tempfile.TemporaryDirectory() as place:
            size = sl.deploy.save(trainer.model, Path(place) / "packed.safetensors")
        found[pattern] = (trainer.evaluate("test")["accuracy"], size)
        print(f"{pattern:<14} {masks.sparsity():.2%} zeros, test {found[pattern][0]:.2%}, {size:,} bytes")
    return found


if __name__ == "__main__":
    main()
