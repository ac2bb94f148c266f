"""A sparse net in a training loop of one's own, saved and taken up again in the middle.

python examples/own_loop.py
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

import sparseland as sl
from sparseland.train import evaluate

EPOCHS, BATCH = 6, 64


def main() -> float:
    """Train GraNet on the digits, interrupt it after half of the epochs, and go on; returns the test accuracy."""
    data = sl.data.load("digits")
    numbers = {"mean": data.mean, "std": data.std}
    steps = EPOCHS * len(sl.data.batches(data.train, BATCH, shuffle=True, **numbers))
    method = sl.methods.GraNet(sparsity=0.9, initial_sparsity=0.5, every=10)
    print(method)

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = sl.zoo.build("mlp-128-128", in_shape=data.shape, classes=data.classes, seed=0)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for epoch in range(first, last):
            for images, labels in sl.data.batches(data.train, BATCH, shuffle=True, epoch=epoch, **numbers):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()

    model, optimizer = build()
    sp = method.attach(model, optimizer, steps=steps)
    train(model, optimizer, 0, EPOCHS // 2)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sparsifier": sp.state_dict()}

    model, optimizer = build()  # as after a crash: everything is made anew, then loaded
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    sp = method.attach(model, optimizer, steps=steps, state=saved["sparsifier"])
    train(model, optimizer, EPOCHS // 2, EPOCHS)

    sp.finalize_()
    accuracy: float = evaluate(model, data.test, classes=data.classes, **numbers)["accuracy"]
    print(f"sparsity {sp.sparsity:.4f}, explored {sp.explored():.2f} of all weights, test accuracy {accuracy:.2%}")
    assert sp.masks.kept() == sl.core.kept(sp.masks.numel(), 0.9)
    return accuracy


if __name__ == "__main__":
    main()
