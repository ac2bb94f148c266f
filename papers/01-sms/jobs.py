"""What card 01's proof trains: one dense net per seed, and from it soups, their ingredients and every baseline."""

from __future__ import annotations

from typing import Any

SYSTEM = "01 SMS, sparse model soups (arXiv 2306.16788)"
CLAIM = {
    "value": "The average of several retrained copies of one pruned net keeps the sparsity and is better than each of "
    "them, than iterative magnitude pruning, and than IMP that retrains as long as all copies together (IMP m x).",
    "source": "the system's card, after a summary of the paper (its tables could not be read)",
}
DEFAULT = ("fashion", "schedules")
LIMITS = (
    "full scale: CIFAR-100 with WRN-22-10 and 200 epochs, ImageNet with ResNet-50, m = 5 and 10",
    "12 dense and 6 retraining epochs a cycle on 4,000 images (the card's trial: 15 and 10); augmented by flips only",
    "five seeds at 90 % were planned; for want of time two were not run (decided before any number was looked at)",
    "dense training with equal steps is measured for IMP's, not for the three times longer ones",
)
SEEDS = {"90%": (0, 1, 2), "95%": (0, 1, 2)}
COMMON = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "lr_schedule": "cosine",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "batch_size": 64,
    "evaluate_every": 1000,
}


def fashion() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST at 14x14, 4,000 training images, three convolutions with batch norm, K = 3 cycles, m = 3."""
    config = COMMON | {
        "data": "fashion-mnist",
        "data_options": {"size": [14, 14]},
        "limit": 4000,
        "validation": 0.05,
        "epochs": 12,
        "augment": "flip",
        "retrain": 0.5,
    }
    order = sorted((seed, setting) for setting, seeds in SEEDS.items() for seed in seeds)
    return {
        f"fashion/{setting}/{seed}": config | {"sparsity": float(setting[:-1]) / 100, "seed": seed}
        for seed, setting in order
    }


def schedules() -> dict[str, dict[str, Any]]:
    """Digits 8x8, MLP 64-128-10 without batch norm at 95 %, K = 1: six retrain schedules, four kinds of ingredients."""
    config = COMMON | {"data": "digits", "model": "mlp-128", "epochs": 20, "sparsity": 0.95, "ingredients": 3}
    return {f"schedules/95%/{seed}": config | {"seed": seed} for seed in range(5)}


PARTS = {"fashion": fashion, "schedules": schedules}
FUNCTIONS = {"fashion": "soups:measure", "schedules": "soups:small"}

ACCURACY = "test accuracy (%)"
NOISE = "accuracy under gaussian_noise 3 (%)"
SLACK = 0.3  # points by which a soup may be below its mean ingredient (the card's)


def judge(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The card's assertions; "reproduces" would need the full scale, which is not run.

    Fixed before any run of these parts. *In part*: at 90 % the soup is no more than 0.3 points below its mean
    ingredient, above IMP-RePrune by more than the larger standard deviation, and not below the soup with averaged
    statistics. *Does not*: one of these fails. What the paper says beyond that (better than the best ingredient, than
    IMP and than IMP 3x, also under noise) is told, by the means, and cannot raise the verdict on a toy.
    """
    found = {(r["setting"], r["arm"], r["metric"]): r for r in rows if r["part"] == "fashion"}
    if not found:
        raise ValueError("the part fashion is not there")

    def mean(arm: str, setting: str = "90%", metric: str = ACCURACY) -> float:
        return float(found[setting, arm, metric]["mean"])

    def spread(*arms: str) -> float:
        return max(float(found["90%", arm, ACCURACY]["std"] or 0) for arm in arms)

    soup = mean("SMS")
    checks = {
        f"{soup - mean('mean ingredient'):+.2f} to its mean ingredient": soup >= mean("mean ingredient") - SLACK,
        f"{soup - mean('IMP-RePrune'):+.2f} to IMP-RePrune": soup > mean("IMP-RePrune") + spread("SMS", "IMP-RePrune"),
        f"{soup - mean('SMS, averaged BN statistics'):+.2f} by recalibrated batch norms": soup
        >= mean("SMS, averaged BN statistics"),
    }
    failed = [text for text, good in checks.items() if not good]
    why = f"At 90 % the soup is {', '.join(checks)}"
    why += f" (not as the card asserts: {', '.join(failed)})" if failed else ""
    for setting in sorted({key[0] for key in found}):
        rivals = ("best ingredient (by validation)", "IMP", "IMP 3x")
        gaps = [f"{mean('SMS', setting) - mean(arm, setting):+.2f} to {arm}" for arm in rivals]
        noise = mean("SMS", setting, NOISE) - mean("IMP 3x", setting, NOISE)
        why += f"; at {setting[:-1]} % it is {', '.join(gaps)}, and under noise {noise:+.2f} to IMP 3x"
    beaten = all(mean("SMS", s) > mean(arm, s) for s in {k[0] for k in found} for arm in ("IMP", "IMP 3x"))
    why += (
        "; so the paper's order (soup above IMP and IMP 3x) holds here, on a toy."
        if beaten
        else "; so the paper's order (soup above IMP and IMP 3x) is not shown at this scale."
    )
    return ("does not" if failed else "in part"), why


def headline(rows: list[dict[str, Any]]) -> str:
    """For the README."""
    found = {r["arm"]: r for r in rows if (r["part"], r["setting"], r["metric"]) == ("fashion", "90%", ACCURACY)}
    arms = ("SMS", "IMP", "IMP 3x", "IMP-RePrune")
    return "90 % zeros: " + ", ".join(f"{arm} {found[arm]['mean']:.1f}" for arm in arms if arm in found) + " %"


def figures(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Accuracy against density, one line per arm, on clean and on noisy images."""
    charts = {}
    for name, metric in (("accuracy", ACCURACY), ("noise", NOISE)):
        mine = [r for r in rows if r["part"] == "fashion" and r["metric"] == metric]
        lines: dict[str, dict[str, Any]] = {}
        for arm in ("random", "IMP", "IMP 3x", "IMP-RePrune", "mean ingredient", "SMS", "prediction ensemble"):
            for r in (r for r in mine if r["arm"] == arm):
                line = lines.setdefault(arm, {"label": arm, "x": [], "y": [], "error": []})
                line["x"].append(100 - float(r["setting"][:-1]))
                line["y"].append(r["mean"])
                line["error"].append(r["std"] or 0)
        if lines:
            dense = [r for r in mine if r["arm"] == "dense" and r["setting"] == "90%"]
            levels = [{"label": "dense", "y": r["mean"], "error": r["std"] or 0} for r in dense]
            title = f"Fashion-MNIST 14x14, {'clean' if name == 'accuracy' else 'noisy'} images"
            shown = {"title": title, "x": "density (%)", "y": metric, "lines": list(lines.values()), "levels": levels}
            charts[f"{name}.svg"] = shown
    return charts
