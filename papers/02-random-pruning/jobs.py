"""What card 02's proof trains: nets of three widths, dense and with random masks of several layer ratios."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

SYSTEM = "02 Random pruning for sparse training (arXiv 2202.02643)"
CLAIM = {
    "value": "The gap of a randomly pruned net to the dense one vanishes as nets grow; only the layer ratios matter; "
    "such nets are also better than dense at telling unknown data, at calibration and against FGSM.",
    "source": "the paper's abstract (its tables could not be read)",
}
DEFAULT = ("fashion", "cifar", "robustness")
LIMITS = (
    "full scale: CIFAR-10/100 with ResNet-20 to 110 and 160 epochs, ImageNet with Wide-ResNet-50",
    "the part cifar trains on 10,000 images, the card asks for 20,000",
)
SEEDS = (0, 1, 2)
WIDTHS = (32, 128, 512)
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
    for width in WIDTHS:
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
    """CIFAR-10 (JPEG), 10,000 training images, ResNet-20 of width W with 1x1 shortcuts, 10 epochs, density 0.1.

    The widest net computes in bfloat16 (autocast), dense and sparse alike: half the hours.
    """
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
        for ratios in ("erk", "uniform"):
            arms[f"{ratios} 10%"] = {"name": "random", "sparsity": 0.9, "ratios": ratios}
        for arm, method in arms.items():
            for seed in SEEDS:
                jobs[f"cifar/W={width}/{arm}/{seed}"] = (
                    common
                    | {
                        "model": f"resnet-20-w{width}",
                        "method": method,
                        "seed": seed,
                    }
                    | ({"precision": "bf16"} if width == 16 else {})
                )
    return jobs


def robustness() -> dict[str, dict[str, Any]]:
    """The nets of part fashion, evaluated only: calibration error, MNIST digits as unknown data, FGSM."""
    arms = list(dict.fromkeys(key.split("/")[2] for key in fashion()))
    return {
        f"robustness/H={width}/{seed}": {"runs": {arm: f"fashion/H={width}/{arm}/{seed}" for arm in arms}}
        for width in WIDTHS
        for seed in SEEDS
    }


PARTS = {"fashion": fashion, "cifar": cifar, "robustness": robustness}
FUNCTIONS = {"robustness": "robustness:measure"}
NEEDS = {"robustness": ("fashion",)}

ACCURACY = "test accuracy (%)"
BETTER = {"ECE (%)": -1, "AUROC against MNIST digits (%)": 1, "accuracy under FGSM 4/255 (%)": 1}
JUDGED = ("H=512", "er 5%")  # the widest net, the paper's own layer ratios


def judge(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The card's assertions, part by part; "reproduces" would need the full scale, which is not run.

    fashion: the gap to dense falls from the narrowest net to the next; ER is never over 0.5 points below uniform, and 3
    above it at (H=32, 5 %) and (H=128, 2 %). cifar (fixed before its numbers were looked at): the same, with ERK for
    ER, and the gap falls from each width to the next. Both must hold where they were run, else "does not".

    robustness (fixed before its numbers were looked at): a measure is better than dense if, at the widest net with ER
    ratios at 5 %, the means differ in its favour by more than the larger of the two standard deviations. It is told,
    and cannot turn the verdict.
    """
    mean = {(r["part"], r["setting"], r["arm"]): r["mean"] for r in rows if r["part"] in ("fashion", "cifar")}
    if not mean:
        raise ValueError("parts fashion or cifar decide, and neither is there")
    gaps: dict[tuple[str, str], list[float]] = {}
    for part, setting, arm in mean:
        if arm != "dense":
            gaps.setdefault((part, arm), []).append(mean[part, setting, "dense"] - mean[part, setting, arm])
    several = {key: gap for key, gap in gaps.items() if len(gap) > 1}
    falls = all(gap[1] < gap[0] for gap in several.values())
    rises = [a for (p, a), g in several.items() if p == "cifar" and any(y >= x for x, y in pairwise(g))]
    flat = [arm for (_, arm), gap in several.items() if gap[-1] >= gap[0]]
    pairs = [(p, s, arm) for p, s, arm in mean if arm.startswith(("er ", "erk "))]
    lead = {key: mean[key] - mean[key[0], key[1], "uniform " + key[2].split()[1]] for key in pairs}
    wins = all(lead.get(("fashion", s, arm), 3.0) >= 3 for s, arm in (("H=32", "er 5%"), ("H=128", "er 2%")))
    ratios = min(lead.values()) >= -0.5 and wins
    told = (
        f"the gap to dense {'falls' if falls else 'does not always fall'} from the narrowest net to the next: "
        f"{min(g[-1] for g in several.values()):.1f} to {max(g[-1] for g in several.values()):.1f} points at the widest"
        f"{' (' + ', '.join(flat) + ': no smaller than at the narrowest)' if flat else ''}"
        f"{' (cifar, ' + ', '.join(rises) + ': not falling at every step)' if rises else ''}; ER against uniform: "
        f"{min(lead.values()):+.1f} to {max(lead.values()):+.1f} points{robust(rows)}; runs this short do not show "
        f"'matches dense'"
    )
    return ("in part" if falls and ratios and not rises else "does not"), f"On small nets {told}."


def robust(rows: list[dict[str, Any]]) -> str:
    """What the part robustness says, in words; nothing where it was not run."""
    setting, arm = JUDGED
    found = {(r["metric"], r["arm"]): r for r in rows if r["part"] == "robustness" and r["setting"] == setting}
    told = []
    for metric, sign in BETTER.items():
        if (metric, arm) in found:
            sparse, dense = found[metric, arm], found[metric, "dense"]
            margin = sign * (sparse["mean"] - dense["mean"])
            spread = max(sparse["std"] or 0.0, dense["std"] or 0.0)
            word = "better" if margin > spread else "worse" if -margin > spread else "no different"
            told.append(f"{metric.removesuffix(' (%)')} {word} ({sparse['mean']:.1f} against {dense['mean']:.1f} %)")
    return f"; at {setting} with {arm.upper()} against dense: {', '.join(told)}" if told else ""


def headline(rows: list[dict[str, Any]]) -> str:
    """The gap to dense at the narrowest and the widest net, with the paper's ratios."""
    words = []
    for part, arm, says in (("fashion", "er 5%", "Fashion-MNIST, ER"), ("cifar", "erk 10%", "CIFAR-10 (JPEG), ERK")):
        mean = {(r["setting"], r["arm"]): r["mean"] for r in rows if r["part"] == part}
        gaps = {setting: mean[setting, "dense"] - mean[setting, arm] for setting, name in mean if name == arm}
        if gaps:
            told = " → ".join(f"{gap:.1f} ({setting})" for setting, gap in gaps.items())
            words.append(f"{says} {arm.split()[1]}: {told} points below dense")
    return "; ".join(words)


def figures(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The gap to dense against width, one line per layer ratio."""
    charts = {}
    for part, letter in (("fashion", "H"), ("cifar", "W")):
        mine = [r for r in rows if r["part"] == part]
        dense = {r["setting"]: r for r in mine if r["arm"] == "dense"}
        lines: dict[str, dict[str, Any]] = {}
        for r in mine:
            if r["arm"] != "dense":
                base = dense[r["setting"]]
                line = lines.setdefault(r["arm"], {"label": r["arm"], "x": [], "y": [], "error": []})
                line["x"].append(int(r["setting"].partition("=")[2]))
                line["y"].append(base["mean"] - r["mean"])
                line["error"].append(((r["std"] or 0) ** 2 + (base["std"] or 0) ** 2) ** 0.5)
        if lines:
            charts[f"gap-{part}.svg"] = {
                "title": f"Gap to dense against width: {part}",
                "x": f"width {letter}",
                "y": "accuracy below dense (points)",
                "lines": list(lines.values()),
                "zoom": [0, 10] if part == "fashion" else None,
            }
    return charts
