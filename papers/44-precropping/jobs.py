"""What card 44's proof trains: nets cropped before training beside the masks their widths come from, at equal size."""

from __future__ import annotations

from typing import Any

SYSTEM = "44 PreCropping (arXiv 2203.02549)"
CLAIM = {
    "value": "A dense net with the layer densities of a pruning-at-initialisation method as its widths is as accurate "
    "as the sparse net, and really faster (ResNet, ShuffleNet, MobileNet on CIFAR-10 and ImageNet).",
    "source": "the paper's abstract; its body was not read",
}
DEFAULT = ("mlp", "cifar", "speed")
LIMITS = (
    "full scale: ResNet-20/56, MobileNetV2 and ShuffleNetV2 on CIFAR-10, ResNet-50 and MobileNetV2 on ImageNet",
    "the rule from densities to widths is ours: the paper's body was not read",
    "small scale: 2,000 training images of CIFAR-10 (JPEG) at 16 pixels a side, 4,000 of Fashion-MNIST (card: 10,000)",
)
SEEDS = (0, 1, 2)
MASKED = ("SynFlow mask", "SynFlow, shuffled")


def mlp() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST, 4,000 training images, MLP 784-512-512-512-10 without BatchNorm, 6 epochs."""
    arms: list[list[Any]] = [["dense", 1.0]]
    for p in (0.1, 0.03):
        arms += [[arm, p] for arm in (*MASKED, "crop", "crop, chain rule", "uniform width")]
    arms += [[arm, 0.1] for arm in ("magnitude", "random", "crop, least squares", "crop, equal counts")]
    job = {"data": "fashion-mnist", "net": "mlp-512-512-512", "limit": 4000, "epochs": 6, "lr": 0.05, "arms": arms}
    return {f"mlp/{seed}": job | {"seed": seed} for seed in SEEDS}


def cifar() -> dict[str, dict[str, Any]]:
    """CIFAR-10 (JPEG) at 16x16, 2,000 training images, ResNet-8 of width 16 (shortcuts B) with BatchNorm, 10 epochs."""
    arms: list[list[Any]] = [["dense", 1.0]]
    for p in (0.5, 0.25, 0.1):
        arms += [[arm, p] for arm in (*MASKED, "crop", "uniform width")]
    arms += [[arm, 0.1] for arm in ("magnitude", "random", "crop, equal counts")]
    job = {
        "data": "cifar10-jpeg", "net": "resnet-8-w16", "limit": 2000, "size": 16, "epochs": 10, "lr": 0.1, "arms": arms,
    }  # fmt: skip
    return {f"cifar/{seed}": job | {"seed": seed} for seed in SEEDS}


def speed() -> dict[str, dict[str, Any]]:
    """A training step of ResNet-20 (32x32, 32 images, one thread): dense, with SynFlow's mask and cropped, in turns."""
    job = {"net": "resnet-20-w16", "shape": [3, 32, 32], "p": 0.25, "batch": 32, "rounds": 11}
    return {f"speed/{seed}": job | {"seed": seed} for seed in SEEDS}


PARTS = {"mlp": mlp, "cifar": cifar, "speed": speed}
FUNCTIONS = {"mlp": "crop:measure", "cifar": "crop:measure", "speed": "crop:step_time"}

ACCURACY, FLOPS = "test accuracy (%)", "FLOPs left (%)"
WIDEST, NARROWEST = "widest layer (% of its channels)", "narrowest layer (% of its channels)"
STEP = "a training step, dense / this (times)"
TITLES = {"mlp": "MLP, Fashion-MNIST", "cifar": "ResNet-8, CIFAR-10 (JPEG)"}
SLACK = 0.5  # points by which the cropped net may be below the mask
Rows = list[dict[str, Any]]


def means(rows: Rows, part: str, metric: str = ACCURACY) -> dict[tuple[str, str], float]:
    """{(setting, arm): mean}."""
    return {(r["setting"], r["arm"]): r["mean"] for r in rows if (r["part"], r["metric"]) == (part, metric)}


def gaps(rows: Rows, part: str, other: str, arm: str = "crop") -> dict[str, float]:
    """{setting: points by which ``arm`` is above ``other``}."""
    mean = means(rows, part)
    return {s: v - mean[s, other] for (s, a), v in mean.items() if a == arm and (s, other) in mean}


def judge(rows: Rows) -> tuple[str, str]:
    """Fixed before any number of the parts had been looked at; from the card's acceptance.

    Decides: on CIFAR-10 and on the MLP the cropped net is at most `SLACK` points below SynFlow's mask at every density,
    and a training step of the cropped ResNet-20 at p = 0.25 is at least 1.5 times as fast as a dense one. All of it:
    "in part" ("reproduces" would need the full scale), else "does not". Told: whether cropping beats a net that is
    uniformly narrower, what shuffling the masks does, and what a mask does to the step.
    """
    found = {part: gaps(rows, part, "SynFlow mask") for part in TITLES}
    found = {part: gap for part, gap in found.items() if gap}
    if not found:
        raise ValueError("parts mlp or cifar decide, and neither is there")
    good = [min(gap.values()) >= -SLACK for gap in found.values()]
    words = []
    for part, gap in found.items():
        told = ", ".join(f"{value:+.1f} at {setting.split('%')[0]} %" for setting, value in gap.items())
        words.append(f"{TITLES[part]}: the cropped net against SynFlow's mask of as many weights {told}")
        for arm, name in (("uniform width", "a uniformly narrower one"), ("SynFlow, shuffled", "the shuffled mask")):
            versus = gaps(rows, part, arm)
            words.append(f"against {name} {min(versus.values()):+.1f} to {max(versus.values()):+.1f}")
    times = means(rows, "speed", STEP)
    if times:
        by_arm = {arm: value for (_, arm), value in times.items()}
        good.append(by_arm["crop"] >= 1.5)
        words.append(
            f"a training step of ResNet-20 at 25 % of the parameters is {by_arm['crop']:.2f} times as fast cropped and "
            f"{by_arm['SynFlow mask']:.2f} times masked"
        )
    else:
        words.append("the speed of a step is not measured yet")
    return ("in part" if all(good) else "does not"), f"{'; '.join(words)}."


def headline(rows: Rows) -> str:
    """Cropped against masked at a tenth, and the step."""
    words = []
    for part, title in TITLES.items():
        gap = gaps(rows, part, "SynFlow mask")
        if gap:
            words.append(f"{title} {gap['10% of parameters']:+.1f} points")
    times = {arm: value for (_, arm), value in means(rows, "speed", STEP).items()}
    fast = f"; a step at 25 % {times['crop']:.1f} times as fast" if times else ""
    return f"cropped against SynFlow's mask at 10 % of the parameters: {', '.join(words)}{fast}"


def figures(rows: Rows) -> dict[str, dict[str, Any]]:
    """Accuracy against parameters."""
    charts = {}
    for part, title in TITLES.items():
        lines: dict[str, dict[str, Any]] = {}
        mine = [r for r in rows if (r["part"], r["metric"]) == (part, ACCURACY)]
        for r in mine:
            if r["setting"]:
                line = lines.setdefault(r["arm"], {"label": r["arm"], "x": [], "y": [], "error": []})
                line["x"].append(float(r["setting"].partition("%")[0]))
                line["y"].append(r["mean"])
                line["error"].append(r["std"] or 0.0)
        if lines:
            dense = [r for r in mine if not r["setting"]]
            charts[f"accuracy-{part}.svg"] = {
                "title": f"Pruned or cropped before training: {title}", "x": "parameters left (%)",
                "y": "test accuracy (%)", "lines": list(lines.values()),
                "levels": [{"label": "dense", "y": r["mean"], "error": r["std"] or 0.0} for r in dense],
            }  # fmt: skip
    return charts
