"""What card 30's proof trains: a small ViT with and without penalties on its attention, pruned without retraining."""

from __future__ import annotations

from typing import Any

SYSTEM = "30 Sparse then Prune (ViT) (arXiv 2307.11988)"
CLAIM = {
    "value": "A sparsity penalty on attention while a ViT is fine-tuned (up to +0.12 points by itself) makes one-shot "
    "global magnitude pruning without retraining better: on average over the ratios +0.568 points on CIFAR-10, +1.764 "
    "on CIFAR-100, +0.256 on ImageNet-100.",
    "source": "the paper's abstract; method and hyperparameters as recalled in the system's card from the paper's code",
}
DEFAULT = ("fashion", "transfer")
LIMITS = (
    "full scale: ViT-B/16 pre-trained on ImageNet-21k, 384 pixels, CIFAR-10, CIFAR-100 and ImageNet-100, 20 epochs",
    "17 tokens instead of 577: the paper's penalty, an average over the entries of a map, is larger here than there",
    "one strength for each of the two penalties that are not the paper's; no other was tried",
)
SEEDS = (0, 1, 2, 3, 4)
COMMON = {"batch_size": 64, "lr": 1e-3, "warmup": 0.1, "ratios": [0.1, 0.3, 0.5, 0.7]}


def fashion() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST, 10,000 training images, ViT (17 tokens, width 48, 3 blocks, 4 heads), from scratch, 4 epochs."""
    own = {"data": "fashion-mnist", "limit": 10_000, "validation": 0.02, "epochs": 4, "source": None}
    return {f"fashion/{seed}": COMMON | own | {"seed": seed} for seed in SEEDS}


def transfer() -> dict[str, dict[str, Any]]:
    """The nets of part fashion (without a penalty) with a new classifier, fine-tuned on MNIST digits, 2 epochs."""
    own = {"data": "mnist-test", "limit": None, "validation": 0.02, "epochs": 2, "source": "fashion-mnist"}
    return {f"transfer/{seed}": COMMON | own | {"seed": seed} for seed in SEEDS}


PARTS = {"fashion": fashion, "transfer": transfer}
FUNCTIONS = dict.fromkeys(PARTS, "vit:measure")
NEEDS = {"transfer": ("fashion",)}

ACCURACY, MEAN = "test accuracy (%)", "mean test accuracy over the ratios (%)"
ENTROPY = "entropy of a row, last block (nats)"
LOST, GAINED = "paired difference: accuracy before pruning (points)", "paired difference: mean over the ratios (points)"
PAPER = "log, paper - none"
TITLES = {"fashion": "Fashion-MNIST", "transfer": "Fashion-MNIST to digits"}
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # two-sided, by the number of seeds
Rows = list[dict[str, Any]]


def half(row: dict[str, Any]) -> float:
    """Half of the 95 % t-interval of a mean."""
    return T_95[row["seeds"]] * row["std"] / row["seeds"] ** 0.5


def judge(rows: Rows) -> tuple[str, str]:
    """Fixed before any number of the parts had been looked at.

    The claim holds in a part if the 95 % t-interval of the paired difference (the paper's penalty - none), in accuracy
    averaged over the pruning ratios, lies above 0. In both parts: "reproduces" would need the full scale, so "in part";
    in one: "in part"; in none: "does not". The other penalties, the difference before pruning, the entropy, and the
    baselines are told and turn nothing.
    """
    found = {(r["part"], r["arm"]): r for r in rows if r["metric"] == GAINED}
    parts = [part for part in TITLES if (part, PAPER) in found]
    if not parts:
        raise ValueError("parts fashion or transfer decide, and neither is there")
    holds = [found[part, PAPER]["mean"] - half(found[part, PAPER]) > 0 for part in parts]
    told = []
    for part in parts:
        gains = [
            f"{arm.removesuffix(' - none')} {r['mean']:+.2f} ± {half(r):.2f}"
            for (p, arm), r in found.items()
            if p == part
        ]
        alone = next(r for r in rows if (r["part"], r["arm"], r["metric"]) == (part, PAPER, LOST))
        entropy = {r["arm"]: r["mean"] for r in rows if (r["part"], r["metric"]) == (part, ENTROPY)}
        told.append(
            f"{TITLES[part]}: {', '.join(gains)} points over the ratios, the paper's penalty alone "
            f"{alone['mean']:+.2f}, entropy of a row {', '.join(f'{v:.2f} ({k})' for k, v in entropy.items())}"
        )
    start = "It holds in " + ", ".join(TITLES[p] for p, is_so in zip(parts, holds, strict=True) if is_so)
    start = start if any(holds) else "The penalty gains nothing that can be told from zero"
    return ("in part" if any(holds) else "does not"), f"{start}; {'; '.join(told)}."


def headline(rows: Rows) -> str:
    """What the paper's penalty gains, part by part."""
    found = {r["part"]: r for r in rows if (r["arm"], r["metric"]) == (PAPER, GAINED)}
    words = ", ".join(f"{r['mean']:+.2f} ± {half(r):.2f} ({TITLES[part]})" for part, r in found.items())
    return f"the paper's penalty, points over the pruning ratios: {words}"


def figures(rows: Rows) -> dict[str, dict[str, Any]]:
    """Accuracy right after pruning against what is left, one line per penalty or rule."""
    charts = {}
    for part, title in TITLES.items():
        mine = [r for r in rows if (r["part"], r["metric"]) == (part, ACCURACY)]
        lines: dict[str, dict[str, Any]] = {}
        for r in mine:
            if r["setting"].startswith("pruned"):
                line = lines.setdefault(r["arm"], {"label": r["arm"], "x": [], "y": [], "error": []})
                line["x"].append(100 - float(r["setting"].removeprefix("pruned ").rstrip("%")))
                line["y"].append(r["mean"])
                line["error"].append(r["std"] or 0.0)
        dense = [r for r in mine if (r["setting"], r["arm"]) == ("dense", "none")]
        if lines:
            charts[f"accuracy-{part}.svg"] = {
                "title": f"Pruned once, not retrained: {title}",
                "x": "left (%)",
                "y": ACCURACY,
                "lines": list(lines.values()),
                "levels": [{"label": "dense", "y": r["mean"], "error": r["std"] or 0.0} for r in dense],
            }
    return charts
