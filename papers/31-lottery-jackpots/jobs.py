"""What card 31's proof runs: searched masks on frozen weights, beside masks that are not, and trained weights."""

from __future__ import annotations

from typing import Any

SYSTEM = "31 Lottery Jackpots (arXiv 2104.08700)"
CLAIM = {
    "value": "Trained nets hold sparse sub-networks that work without any weight update (ResNet-32, CIFAR-10, 90 %: "
    "93.70 after 30 epochs of search; ResNet-50, ImageNet, 90 %: above 70 after 5); starting the search from the "
    "magnitude mask makes it at least 3 times as cheap.",
    "source": "the paper's abstract and the tables in its repository's README, as recalled in the system's card; the "
    "paper's own sections could not be read",
}
DEFAULT = ("fashion", "resnet")
LIMITS = (
    "full scale: the wide ResNet-32 and VGG-19 on CIFAR for 30 and 160 epochs of search, ResNet-50 on ImageNet",
    "CIFAR-10 (JPEG): the given ResNet-20 was trained on the original images; 90 steps of search where the paper has "
    "thousands; tested on the first 1,000 test images; neither random start nor IMP there, to save time",
    "IMP in 5 rounds with learning-rate rewinding only",
)
SEEDS = (0, 1, 2)
SPARSITIES = (0.95, 0.98)
LONG, SHORT, ROUNDS = 6, 2, 5
FASHION = {
    "data": "fashion-mnist",
    "data_options": {"size": [14, 14]},
    "limit": 10_000,
    "model": "mlp-128-64",
    "epochs": 8,
    "batch_size": 64,
    "lr": 0.05,
    "weight_decay": 5e-4,
}
RESNET = {
    "data": "cifar10-jpeg",
    "limit": 1_920,
    "model": "resnet-20",
    "batch_size": 64,
    "lr": 0.01,
    "weight_decay": 5e-4,
    "augment": "crop+flip",
    "ignore": ["linear.weight"],
}


def fashion() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST 14x14, 10,000 training images, MLP 196-128-64-10 trained 8 epochs, then frozen; 95, 98 %."""
    job = FASHION | {"sparsities": list(SPARSITIES), "long": LONG, "short": SHORT, "rounds": ROUNDS}
    return {f"fashion//{seed}": job | {"seed": seed} for seed in SEEDS}


def resnet() -> dict[str, dict[str, Any]]:
    """CIFAR-10 (JPEG), the given ResNet-20, all convolutions at 90 % zeros, 90 steps of 64 images."""
    job = RESNET | {"sparsity": 0.9, "epochs": 3, "tested": 1_000}
    return {f"resnet//{seed}": job | {"seed": seed} for seed in SEEDS}


PARTS = {"fashion": fashion, "resnet": resnet}
FUNCTIONS = {"fashion": "search:fashion", "resnet": "search:resnet"}

ACCURACY, FLOPS, SECONDS = "test accuracy (%)", "training FLOPs (epochs of dense training)", "CPU seconds"
JACKPOT, QUICK, SLOW = f"jackpot, {LONG} epochs", f"jackpot, {SHORT} epochs", f"random start, {LONG} epochs"
IMP = f"IMP, {ROUNDS} rounds"
Rows = list[dict[str, Any]]


def means(rows: Rows, part: str, metric: str) -> dict[tuple[str, str], float]:
    """{(setting, arm): mean}."""
    return {(r["setting"], r["arm"]): r["mean"] for r in rows if (r["part"], r["metric"]) == (part, metric)}


def judge(rows: Rows) -> tuple[str, str]:
    """Written before the parts ran, from the card.

    "In part" (*reproduces* would need the full scale) if on Fashion-MNIST at both sparsities (1) the searched mask is
    at least 15 points above the magnitude mask on the same frozen weights, (2) 2 epochs from the magnitude mask do at
    least as well as 6 epochs from random scores: three times as cheap, and (3) those 2 epochs cost at most a third of
    IMP in training FLOPs and in CPU seconds of the same run. Else "does not". Told: IMP's accuracy, the restriction's
    effect, and what is left on ResNet-20 over a magnitude mask whose BatchNorm statistics were measured anew.
    """
    accuracy = means(rows, "fashion", ACCURACY)
    if not accuracy:
        raise ValueError("part fashion decides, and is not there")
    flops, seconds = means(rows, "fashion", FLOPS), means(rows, "fashion", SECONDS)
    settings = list(dict.fromkeys(setting for setting, _ in accuracy if setting))
    gain = [accuracy[s, JACKPOT] - accuracy[s, "magnitude mask"] for s in settings]
    start = [accuracy[s, QUICK] - accuracy[s, SLOW] for s in settings]
    cheaper = [[cost[s, IMP] / cost[s, QUICK] for s in settings] for cost in (flops, seconds)]
    lost = [accuracy[s, QUICK] - accuracy[s, IMP] for s in settings]
    trained = [accuracy[s, f"magnitude, weights trained {LONG} epochs"] - accuracy[s, JACKPOT] for s in settings]
    limited = [accuracy[s, f"{JACKPOT}, restricted"] - accuracy[s, JACKPOT] for s in settings]
    told = (
        f"at {' and '.join(settings)} zeros the search gains {span(gain)} points without moving a weight; 2 epochs "
        f"from the magnitude mask are {span(start)} points from 6 epochs of random start; IMP costs at least "
        f"{min(cheaper[0]):.1f} times their training FLOPs and {min(cheaper[1]):.1f} times their seconds, and they end "
        f"{span(lost)} points from it; training the weights of the magnitude mask as long as the longer search ends "
        f"{span(trained)} points from the searched mask; restricting swaps changes {span(limited)}{deeper(rows)}"
    )
    holds = min(gain) >= 15 and min(start) >= 0 and min(*cheaper[0], *cheaper[1]) >= 3
    return ("in part", f"Jackpots are there: {told}.") if holds else ("does not", f"Not all of it holds: {told}.")


def deeper(rows: Rows) -> str:
    """ResNet-20 in words; nothing where it was not run."""
    mean = means(rows, "resnet", ACCURACY)
    if not mean:
        return ""
    setting = next(s for s, _ in mean if s)
    arms = ("magnitude mask", "magnitude mask, new statistics", "jackpot", "magnitude, weights trained")
    values = ", ".join(f"{arm} {mean[setting, arm]:.1f}" for arm in arms)
    return f"; on ResNet-20 at {setting} (dense {mean['', 'dense']:.1f}): {values}"


def span(values: list[float]) -> str:
    """Smallest and largest, with signs."""
    return f"{min(values):+.1f} to {max(values):+.1f}"


def headline(rows: Rows) -> str:
    """What the search gains over the magnitude mask."""
    accuracy = means(rows, "fashion", ACCURACY)
    settings = list(dict.fromkeys(setting for setting, _ in accuracy if setting))
    pairs = [f"{accuracy[s, 'magnitude mask']:.1f} to {accuracy[s, JACKPOT]:.1f} at {s}" for s in settings]
    return f"searched on frozen weights, from the magnitude mask: {', '.join(pairs)}"


def figures(rows: Rows) -> dict[str, dict[str, Any]]:
    """Accuracy against cost, one point per arm."""
    charts = {}
    for setting in dict.fromkeys(r["setting"] for r in rows if r["part"] == "fashion" and r["setting"]):
        cost = {arm: v for (s, arm), v in means(rows, "fashion", FLOPS).items() if s == setting}
        points = [r for r in rows if (r["part"], r["setting"], r["metric"]) == ("fashion", setting, ACCURACY)]
        lines: dict[str, dict[str, Any]] = {}
        for r in points:
            line = lines.setdefault(r["arm"].partition(",")[0], {"x": [], "y": [], "error": []})
            if "restricted" not in r["arm"]:
                line["x"].append(round(cost.get(r["arm"], 0.0), 3))
                line["y"].append(r["mean"])
                line["error"].append(r["std"] or 0.0)
        level = [r for r in rows if (r["part"], r["arm"], r["metric"]) == ("fashion", "dense", ACCURACY)]
        charts[f"cost-{setting.rstrip('%')}.svg"] = {
            "title": f"Accuracy against cost after the dense training: {setting} zeros",
            "x": "training FLOPs (epochs of dense training)",
            "y": ACCURACY,
            "lines": [{"label": label, **line} for label, line in lines.items()],
            "levels": [{"label": "dense", "y": r["mean"], "error": r["std"] or 0.0} for r in level],
        }
    return charts
