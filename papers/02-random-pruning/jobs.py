"""What card 02's proof trains: nets of three widths, dense and with random masks of several layer ratios."""

from __future__ import annotations

from typing import Any

SYSTEM = "02 Random pruning for sparse training (arXiv 2202.02643)"
CLAIM = {
    "value": "The gap of a randomly pruned net to the dense one vanishes as nets grow; only the layer ratios matter.",
    "source": "the paper's abstract (its tables could not be read)",
}
DEFAULT = ("fashion",)
MISSING = ("CIFAR-10 (JPEG), ResNet-20 of three widths (part cifar)", "calibration, OoD and robustness", "full scale")
SEEDS = (0, 1, 2)
SGD = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "lr_schedule": "cosine",
    "evaluate_every": 1,
    "threads": 1,
}


def fashion() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST, 10,000 training images, MLP 784-H-H-10, 8 epochs."""
    common = SGD | {
        "data": "fashion-mnist",
        "limit": 10_000,
        "epochs": 8,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 5e-4,
    }
    jobs = {}
    for width in (32, 128, 512):
        arms: dict[str, dict[str, Any]] = {"dense": {"name": "dense"}}
        for density in (0.05, 0.02):
            for ratios in ("er", "uniform"):
                arms[f"{ratios} {density:.0%}"] = {"name": "random", "sparsity": 1 - density, "ratios": ratios}
        for ratios in ("snip", "grasp"):
            arms[f"{ratios}-ratio 5%"] = {"name": "random", "sparsity": 0.95, "ratios": ratios}
        for arm, method in arms.items():
            for seed in SEEDS:
                jobs[f"fashion/H={width}/{arm}/{seed}"] = common | {
                    "model": f"mlp-{width}-{width}",
                    "method": method,
                    "seed": seed,
                }
    return jobs


def cifar() -> dict[str, dict[str, Any]]:
    """CIFAR-10 (JPEG), 10,000 training images, ResNet-20 of width W with 1x1 shortcuts, 10 epochs, density 0.1."""
    common = SGD | {
        "data": "cifar10-jpeg",
        "limit": 10_000,
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "augment": "crop+flip",
        "model_options": {"shortcut": "B"},
    }
    jobs = {}
    for width in (4, 8, 16):
        arms: dict[str, dict[str, Any]] = {"dense": {"name": "dense"}}
        for ratios in ("erk", "uniform") + (("snip",) if width == 8 else ()):
            name = f"{ratios}-ratio" if ratios == "snip" else ratios
            arms[f"{name} 10%"] = {"name": "random", "sparsity": 0.9, "ratios": ratios}
        for arm, method in arms.items():
            for seed in SEEDS:
                jobs[f"cifar/W={width}/{arm}/{seed}"] = common | {
                    "model": f"resnet-20-w{width}",
                    "method": method,
                    "seed": seed,
                }
    return jobs


PARTS = {"fashion": fashion, "cifar": cifar}


def judge(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The card's assertions: the gap to dense falls from the narrowest net to the next; ER is never over 0.5 points
    below uniform, and 3 above it at (H=32, 5 %) and (H=128, 2 %)."""
    mean = {(r["part"], r["setting"], r["arm"]): r["mean"] for r in rows}
    gaps: dict[tuple[str, str], list[float]] = {}
    for part, setting, arm in mean:
        if arm != "dense":
            gaps.setdefault((part, arm), []).append(mean[part, setting, "dense"] - mean[part, setting, arm])
    several = {key: gap for key, gap in gaps.items() if len(gap) > 1}
    falls = all(gap[1] < gap[0] for gap in several.values())
    flat = [arm for (_, arm), gap in several.items() if gap[-1] >= gap[0]]
    pairs = [(p, s, arm) for p, s, arm in mean if arm.startswith(("er ", "erk "))]
    lead = {key: mean[key] - mean[key[0], key[1], "uniform " + key[2].split()[1]] for key in pairs}
    wins = all(lead.get(("fashion", s, arm), 3.0) >= 3 for s, arm in (("H=32", "er 5%"), ("H=128", "er 2%")))
    ratios = min(lead.values()) >= -0.5 and wins
    told = (
        f"the gap to dense {'falls' if falls else 'does not always fall'} from the narrowest net to the next: "
        f"{min(g[-1] for g in several.values()):.1f} to {max(g[-1] for g in several.values()):.1f} points at the widest"
        f"{' (' + ', '.join(flat) + ': no smaller than at the narrowest)' if flat else ''}; ER against uniform: "
        f"{min(lead.values()):+.1f} to {max(lead.values()):+.1f} points. Runs this short do not show 'matches dense'"
    )
    return ("in part" if falls and ratios else "does not"), f"On small nets {told}."
