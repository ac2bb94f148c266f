"""Train a small MobileNetV1, dense and with 90 % zeros, and lay it beside the page and the engine for the browser.

python examples/browser/build.py && python -m http.server -d build/browser

The engine (sparseland.js, sparseland.wasm) comes from `make wasm`; `make browser-example` does both.
"""

from __future__ import annotations

import argparse
import base64
import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import sparseland as sl
from sparseland.train import evaluate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ("index.html", "page.css", "app.js")
ENGINE = ("sparseland.js", "sparseland.wasm")
SIDE, BATCH, SAMPLES = 32, 64, 12


def load(name: str | None, limit: int | None) -> sl.data.Dataset:
    """Fashion-MNIST where the data folder is known, else the digits of the package; 32×32 pixels."""
    name = name or ("fashion-mnist" if os.environ.get("SPARSELAND_DATA") else "digits")
    return sl.data.load(name, size=SIDE, limit=limit)


def train(model: torch.nn.Module, data: sl.data.Dataset, epochs: int, method: Any = None) -> None:
    """One cycle of the learning rate, in place; the 1×1 convolutions become sparse where a method is given."""
    numbers = {"mean": data.mean, "std": data.std}
    steps = epochs * len(sl.data.batches(data.train, BATCH, shuffle=True, **numbers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    sparsifier = method and method.attach(model, optimizer, steps=steps, targets="*.pointwise.weight")
    model.train()
    for epoch in range(epochs):
        for images, labels in sl.data.batches(data.train, BATCH, shuffle=True, epoch=epoch, **numbers):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    if sparsifier:
        sparsifier.finalize_()
    model.eval()


def zeros(model: torch.nn.Module) -> float:
    """Share of zeros in the 1×1 convolutions."""
    weights = [weight for name, weight in model.named_parameters() if name.endswith("pointwise.weight")]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def samples(data: sl.data.Dataset, names: list[str]) -> list[dict[str, str]]:
    """Test images of every class, as base64 of their bytes."""
    chosen = [int((data.test.labels == c).nonzero()[0]) for c in range(min(data.classes, SAMPLES))]
    images = data.test.images[chosen]
    if images.dtype != torch.uint8:
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)
    labels = data.test.labels[chosen].tolist()
    return [
        {"name": names[label], "pixels": base64.b64encode(image.numpy().tobytes()).decode()}
        for image, label in zip(images, labels, strict=True)
    ]


def build(out: Path, engine: Path, *, name: str | None = None, width: float = 0.5, epochs: int = 8,
          sparsity: float = 0.9, limit: int | None = None) -> dict[str, Any]:  # fmt: skip
    """Everything the page needs, in ``out``; what it says about the models."""
    data = load(name, limit)
    dense = sl.zoo.build(f"mobilenet-v1-{width:g}", in_shape=data.shape, classes=data.classes, seed=0)
    train(dense, data, epochs)
    sparse = copy.deepcopy(dense)
    train(sparse, data, epochs, sl.methods.GMP(sparsity, every=10))
    names = list(data.class_names) or [str(c) for c in range(data.classes)]
    models = {"dense": dense, "sparse": sparse}
    out.mkdir(parents=True, exist_ok=True)
    for kind, model in models.items():
        sl.deploy.convert(model, torch.zeros(1, *data.shape), threads=1, measure=False).save(out / f"{kind}.sland")
    about = {
        "model": f"MobileNetV1 ×{width:g}", "data": data.name, "shape": list(data.shape), "mean": list(data.mean),
        "std": list(data.std), "names": names, "sparsity": zeros(sparse), "tested": len(data.test),
        "accuracy": {
            kind: evaluate(model, data.test, classes=data.classes, mean=data.mean, std=data.std)["accuracy"]
            for kind, model in models.items()
        },
        "samples": samples(data, names),
    }  # fmt: skip
    (out / "model.json").write_text(json.dumps(about), encoding="utf-8")
    for file in [*(HERE / page for page in PAGE), *(engine / file for file in ENGINE)]:
        shutil.copy2(file, out / file.name)
    return about


def main() -> None:
    """Read the command line, build, and say where it lies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "browser")
    parser.add_argument("--engine", type=Path, default=ROOT / "build" / "wasm", help="where sparseland.wasm lies")
    parser.add_argument("--data", help="fashion-mnist, digits, …")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--limit", type=int, default=4000, help="train images at most")
    given = parser.parse_args()
    about = build(given.out, given.engine, name=given.data, width=given.width, epochs=given.epochs,
                  sparsity=given.sparsity, limit=given.limit)  # fmt: skip
    print(f"{about['model']} on {about['data']}: {about['accuracy']}, {about['sparsity']:.0%} zeros")
    print(f"serve it: python -m http.server -d {given.out}")


if __name__ == "__main__":
    main()
