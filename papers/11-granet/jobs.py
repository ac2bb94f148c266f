"""What card 11's proof trains: GraNet beside static, RigL, gradual magnitude pruning and dense, at equal budgets."""

from __future__ import annotations

from typing import Any

SYSTEM = "11 GraNet (arXiv 2106.10404)"
CLAIM = {
    "value": "Gradual pruning with zero-cost regrowth; a half-sparse start beats dense-to-sparse methods "
    "(ResNet-50, ImageNet, 90 %: GraNet 74.5, RigL-ITOP 73.8, dense 76.8).",
    "source": "the paper's abstract; its numbers as recalled in the system's card",
}
DEFAULT = ("digits", "fashion")
MISSING = ("CIFAR-10 (JPEG) at 98 % (part cifar)", "the plasticity experiment", "full scale")
SGD = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "lr_schedule": "cosine",
    "evaluate_every": 1,
    "threads": 1,
}


def arms(sparsity: float, every: int) -> dict[str, dict[str, Any]]:
    """The methods at one final sparsity; prunes end at half of the run, as in the paper's scripts."""
    gradual = {"sparsity": sparsity, "every": every, "end": 0.5}
    return {
        "static ERK": {"name": "random", "sparsity": sparsity, "ratios": "erk"},
        "SET": {"name": "set", "sparsity": sparsity, "every": every, "end": 0.75},
        "RigL": {"name": "rigl", "sparsity": sparsity, "every": every, "end": 0.75},
        "GMP": {"name": "gmp", **gradual},
        "GraNet dense start": {"name": "granet", "initial_sparsity": 0.0, **gradual},
        "GraNet half-sparse start": {"name": "granet", "initial_sparsity": 0.5, **gradual},
    }


def build(part: str, common: dict[str, Any], densities: tuple[float, ...], every: int, seeds: int) -> dict[str, Any]:
    """{key: TrainConfig as a dict} of one part."""
    jobs = {}
    table = {"dense": {"name": "dense"}}
    for density in densities:
        table |= {f"{name} {density:.0%}": method for name, method in arms(round(1 - density, 4), every).items()}
    for arm, method in table.items():
        for seed in range(seeds):
            jobs[f"{part}/{arm}/{seed}"] = common | {"method": method, "seed": seed}
    return jobs


def digits() -> dict[str, Any]:
    """Handwritten digits 8x8, MLP 64-128-128-10, 60 epochs, five seeds (the card's own proof)."""
    common = SGD | {
        "data": "digits",
        "model": "mlp-128-128",
        "epochs": 60,
        "batch_size": 64,
        "lr": 0.1,
        "weight_decay": 5e-4,
    }
    return build("digits", common, (0.05, 0.02, 0.01), 20, 5)


def fashion() -> dict[str, Any]:
    """Fashion-MNIST, 10,000 training images, LeNet-300-100, 10 epochs, three seeds."""
    common = SGD | {
        "data": "fashion-mnist",
        "model": "lenet-300-100",
        "limit": 10_000,
        "epochs": 10,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 5e-4,
    }
    return build("fashion", common, (0.05, 0.02, 0.01), 50, 3)


def cifar() -> dict[str, Any]:
    """CIFAR-10 (JPEG), 10,000 training images, ResNet-20 of width 8, 10 epochs, density 0.02, three seeds."""
    common = SGD | {
        "data": "cifar10-jpeg",
        "model": "resnet-20-w8",
        "limit": 10_000,
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "augment": "crop+flip",
        "model_options": {"shortcut": "B"},
    }
    return build("cifar", common, (0.02,), 40, 3)


PARTS = {"digits": digits, "fashion": fashion, "cifar": cifar}


def judge(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The card's assertions: from a half-sparse start GraNet is level with GMP, and above RigL and static masks."""
    mean = {(r["part"], r["arm"]): r["mean"] for r in rows}
    places = [(part, arm.removeprefix("GMP ")) for part, arm in mean if arm.startswith("GMP ")]
    half = [mean[p, f"GraNet half-sparse start {d}"] - mean[p, f"GMP {d}"] for p, d in places]
    full = [mean[p, f"GraNet dense start {d}"] - mean[p, f"GMP {d}"] for p, d in places]
    ahead = [mean[p, f"GraNet half-sparse start {d}"] - mean[p, f"RigL {d}"] for p, d in places]
    static = [mean[p, f"GraNet half-sparse start {d}"] - mean[p, f"static ERK {d}"] for p, d in places]
    told = (
        f"GraNet from a half-sparse start is {span(half)} points from gradual pruning "
        f"(from a dense start: {span(full)}), "
        f"{span(ahead)} from RigL, {span(static)} from a static random mask"
    )
    if min(half) >= -1.0 and min(ahead) > 0 and min(static) > 0:
        return "in part", f"The order holds at every density: {told}."
    return "in part" if min(static) > 0 else "does not", f"The order does not hold everywhere: {told}."


def span(values: list[float]) -> str:
    """Smallest and largest, with signs."""
    return f"{min(values):+.1f} to {max(values):+.1f}"
