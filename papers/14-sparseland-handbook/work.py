"""What one job of the handbook does, in a process of its own: train, prune a trained net, or measure one again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sparseland.core import MaskSet

NOISE = 0.3  # standard deviation, in units where a pixel runs from 0 to 1
SHIFT = 2  # pixels


def train(config: dict[str, Any], out: str) -> dict[str, Any]:
    """One run from scratch (or the finished one that ``out`` holds), and the numbers of it that the tables need."""
    from sparseland.train import TrainConfig, run

    result = run(TrainConfig.from_dict(config), out, resume="auto", progress=False)
    return digest(result)


def digest(result: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of a result file; works on those of other folders too."""
    test, flops = result["test"], result["flops"]
    return {
        "accuracy": test["accuracy"],
        "worst_class": min(a for a in test["per_class"] if a is not None),
        "ece": test["ece"],
        "explored": result["explored"],
        "kept": result["kept"],
        "total": result["total"],
        "training": flops["training"],
        "training_dense": flops["training_dense"],
        "inference": flops["inference"],
        "inference_dense": flops["inference_dense"],
        "steps": result["steps"],
        "seconds": result["seconds"],
        "machine": result["machine"],
        "versions": result["versions"],
    }


def shuffle_within_layer(masks: MaskSet, seed: int) -> MaskSet:
    """Masks with as many living weights in every layer, at random places.

    >>> import torch
    >>> from sparseland.core import MaskSet
    >>> mask = MaskSet({"w": torch.arange(100) < 7})
    >>> shuffled = shuffle_within_layer(mask, 0)
    >>> shuffled.counts() == mask.counts(), shuffled == mask
    (True, False)
    """
    import torch

    from sparseland.core import MaskSet

    draw = torch.Generator().manual_seed(seed)
    out = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=draw)
        out[name] = mask.reshape(-1).cpu()[order].view(mask.shape)
    return MaskSet(out)


def from_dense(
    config: dict[str, Any], source: str, sparsity: float, weights: str, shuffled: bool, train: bool
) -> dict[str, Any]:
    """Prune the trained dense run in ``source`` by magnitude; train its living weights for one more whole schedule.

    weights: "trained" goes on from the trained values (learning-rate rewinding), "initial" from those of step 0 (a
    lottery ticket). shuffled: the mask is shuffled within each layer first. train: False leaves it as it is pruned.
    The checkpoint is the best on validation, as in every other run; the dense run's FLOPs are counted.
    """
    import json
    import time

    from safetensors.torch import load_file

    from sparseland import prune_
    from sparseland.train import TrainConfig, Trainer
    from sparseland.train.randomness import seeded
    from sparseland.weights import Method, methods

    began = time.monotonic()
    made = TrainConfig.from_dict(config)
    before = json.loads((Path(source) / "result.json").read_text(encoding="utf-8"))
    best: dict[str, Any] = {"accuracy": -1.0}

    def keep_best(entry: dict[str, Any]) -> None:
        if entry["validation_accuracy"] > best["accuracy"]:
            state = {name: value.clone() for name, value in trainer.shadow.state_dict().items()}
            best.update(accuracy=entry["validation_accuracy"], state=state)

    with seeded(made.seed, 1):
        trainer = Trainer(made, callback=keep_best)
        initial = trainer.state()
        trainer.load(load_file(Path(source) / "best.safetensors"))
        masks = prune_(trainer.model, methods.Magnitude(sparsity), seed=made.seed)
        masks = shuffle_within_layer(masks, made.seed) if shuffled else masks
        if weights == "initial":
            trainer.load(initial)
        if train:
            trainer.fit(Method(name="keep"), masks)
            trainer.load(best["state"])
        test = trainer.evaluate("test")
    own = trainer.record.meter
    return {
        "accuracy": test["accuracy"],
        "worst_class": min(a for a in test["per_class"] if a is not None),
        "ece": test["ece"],
        "explored": 1.0,  # the first training was dense
        "kept": masks.kept(),
        "total": masks.numel(),
        "training": own.training + before["flops"]["training"],
        "training_dense": before["flops"]["training_dense"],  # of one dense run: both phases are paid by this arm
        "inference": own.cost.sparse(masks.counts()),
        "inference_dense": own.cost.dense(),
        "steps": before["steps"] + trainer.record.steps,
        "seconds": time.monotonic() - began,
        "machine": before["machine"],
        "versions": before["versions"],
    }


def measure(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Question 10: what the weights in ``source`` do on inputs that are strange, noisy or shifted."""
    import torch
    from safetensors.torch import load_file

    from sparseland.data import load
    from sparseland.train import TrainConfig, evaluate
    from sparseland.train.supply import build_model, load_data

    made = TrainConfig.from_dict(config)
    data = load_data(made)
    model = build_model(made, data).eval()
    model.load_state_dict(load_file(Path(source) / "best.safetensors"))
    images = data.test.images.float() / 255
    strange = load("mnist-test", folder=made.folder).test.images.float() / 255
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))

    @torch.no_grad()
    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([model((part - mean) / std).softmax(1) for part in x.split(1000)])

    def accuracy(x: torch.Tensor) -> float:
        return float((probabilities(x).argmax(1) == data.test.labels).float().mean())

    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    numbers = {"classes": data.classes, "mean": data.mean, "std": data.std}
    test = evaluate(model, data.test, **numbers)
    known, unknown = probabilities(images).max(1).values, probabilities(strange).max(1).values
    clean = accuracy(images)
    return {
        "worst_class": min(test["per_class"]),
        "ece": test["ece"],
        "ood_auroc": auroc(known, unknown),
        "noise_drop": clean - accuracy((images + NOISE * noise).clamp(0, 1)),
        "shift_drop": clean - accuracy(shifted(images, SHIFT)),
    }


def shifted(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Images moved right and down, black where nothing comes in.

    >>> import torch
    >>> shifted(torch.ones(1, 1, 2, 2), 1).tolist()
    [[[[0.0, 0.0], [0.0, 1.0]]]]
    """
    from torch.nn import functional as F

    height, width = images.shape[-2:]
    return F.pad(images, (pixels, 0, pixels, 0))[..., :height, :width]


def auroc(known: torch.Tensor, unknown: torch.Tensor) -> float:
    """Share of (known, unknown) pairs in which the known input has the greater confidence; ties count half.

    >>> import torch
    >>> auroc(torch.tensor([0.9, 0.5]), torch.tensor([0.5, 0.1]))
    0.875
    """
    import torch

    ordered = unknown.sort().values
    below = torch.searchsorted(ordered, known, right=False)
    below_or_equal = torch.searchsorted(ordered, known, right=True)
    return float((below + below_or_equal).double().mean() / 2 / len(unknown))
