"""What card 24's proof trains: MaskSparsity beside network slimming, the group lasso, magnitude, random and dense."""

from __future__ import annotations

from typing import Any

SYSTEM = "24 MaskSparsity (arXiv 2201.06776)"
CLAIM = {
    "value": "Penalising only the channels that will be removed: ResNet-110 on CIFAR-10 loses 63.03 % of its FLOPs "
    "and no top-1 accuracy, ResNet-50 on ImageNet 51.07 % and 0.76 points.",
    "source": "the paper's abstract",
}
DEFAULT = ("digits", "longer", "resnet")
LIMITS = (
    "full scale: ResNet-110 on CIFAR-10 and ResNet-50 on ImageNet, four trainings of 100 epochs each",
    "the share of channels is given layer by layer, as in the card's own trial; the paper's masks come from a "
    "threshold on the scales (here: an option, tested, not trained)",
    "the group lasso's strength was set once by the shrink budget, and not tuned",
)
SEEDS = (0, 1, 2, 3, 4)


def digits() -> dict[str, dict[str, Any]]:
    """Handwritten digits 8x8, four convolutions (32, 32, 64, 64) with BatchNorm, schedules of 15 epochs, tuning 3."""
    job = {
        "data": "digits", "model": "conv4", "limit": None, "epochs": 15, "tuned": 3, "lr": 0.05, "strength": 3e-2,
        "lasso": 1.5e-3, "left": [0.25, 0.125],
    }  # fmt: skip
    return {f"digits/{seed}": job | {"seed": seed} for seed in SEEDS}


def resnet() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST at 14x14, 3,000 images, ResNet-8 of width 8 (shortcuts B), schedules of 6 epochs, tuning 1."""
    job = {
        "data": "fashion-mnist", "model": "resnet-8-w8", "limit": 3000, "size": 14, "epochs": 6, "tuned": 1, "lr": 0.05,
        "strength": 3e-2, "lasso": 1.5e-3, "left": [0.5],
    }  # fmt: skip
    return {f"resnet/{seed}": job | {"seed": seed} for seed in SEEDS[:3]}


def longer() -> dict[str, dict[str, Any]]:
    """As digits, an eighth of the channels, schedules three times as long: more that the penalty can move."""
    made = {}
    for seed in SEEDS[:3]:
        made[f"longer/{seed}"] = digits()[f"digits/{seed}"] | {"epochs": 45, "left": [0.125], "everything": False}
    return made


PARTS = {"digits": digits, "longer": longer, "resnet": resnet}
FUNCTIONS = dict.fromkeys(PARTS, "slim:measure")

ACCURACY, CUT = "test accuracy (%)", "accuracy right after the cut (%)"
KEPT, REMOVED = "mean scale of kept channels", "largest scale of removed channels"
QUARTER, EIGHTH, HALF = (f"{share:.1%} of channels left" for share in (0.25, 0.125, 0.5))
Rows = list[dict[str, Any]]


def means(rows: Rows, part: str, setting: str, metric: str = ACCURACY) -> dict[str, float]:
    """{arm: mean}."""
    return {r["arm"]: r["mean"] for r in rows if (r["part"], r["setting"], r["metric"]) == (part, setting, metric)}


def judge(rows: Rows) -> tuple[str, str]:
    """The card's acceptance, word for word (see the README for when it was typed).

    Decides, with a quarter of the channels left on digits: MaskSparsity is at least 3 points above slimming after
    tuning, its kept scales have a mean of at least 0.8, its removed ones a maximum below 0.05. All of it: "in part"
    ("reproduces" would need the full scale), else "does not". Told, without turning the verdict: slimming that trains
    as long, the other baselines, an eighth of the channels, and the ResNet.
    """
    final = means(rows, "digits", QUARTER)
    if not final:
        raise ValueError("part digits decides, and it is not there")
    ours = final["MaskSparsity"]
    kept = means(rows, "digits", QUARTER, KEPT)
    removed = means(rows, "digits", QUARTER, REMOVED)
    good = ours >= final["slimming"] + 3 and kept["MaskSparsity"] >= 0.8 and removed["MaskSparsity"] < 0.05
    words = [
        f"with a quarter of the channels MaskSparsity is {ours - final['slimming']:+.1f} points from slimming, "
        f"{ours - final['slimming twice']:+.1f} from slimming trained as long, {ours - final['magnitude']:+.1f} from "
        f"magnitude, {ours - final['random']:+.1f} from random and {ours - final['dense']:+.1f} from dense",
        f"its kept scales have a mean of {kept['MaskSparsity']:.2f} (slimming {kept['slimming']:.2f}), its removed "
        f"ones at most {removed['MaskSparsity']:.3f} on average",
    ]
    words += others(rows)
    return ("in part" if good else "does not"), f"{'; '.join(words)}."


def others(rows: Rows) -> list[str]:
    """What is told beside the verdict."""
    words = []
    for part, setting, name in (
        ("digits", EIGHTH, "an eighth"), ("longer", EIGHTH, "an eighth and schedules three times as long"),
        ("resnet", HALF, "half of the channels of a ResNet-8 on Fashion-MNIST"),
    ):  # fmt: skip
        final, removed = means(rows, part, setting), means(rows, part, setting, REMOVED)
        if final:
            ours = final["MaskSparsity"]
            gaps = [
                f"{ours - final[arm]:+.1f} from {arm}"
                for arm in ("slimming", "slimming twice", "magnitude", "dense")
                if arm in final
            ]
            words.append(f"with {name} it is {', '.join(gaps)} (removed scales up to {removed['MaskSparsity']:.2f})")
    return words


def headline(rows: Rows) -> str:
    """The gap that decides, and what it costs against dense."""
    final = means(rows, "digits", QUARTER)
    ours = final["MaskSparsity"]
    return (
        f"a quarter of the channels, 6.5 % of the FLOPs (digits): {ours:.1f} %, slimming {final['slimming']:.1f} %, "
        f"dense {final['dense']:.1f} %"
    )


def figures(rows: Rows) -> dict[str, dict[str, Any]]:
    """Accuracy after tuning against the share of channels, and right after the cut."""
    charts = {}
    for metric, name, title in (
        (ACCURACY, "accuracy-digits.svg", "Digits: after the cut and tuning"),
        (CUT, "cut-digits.svg", "Digits: right after the cut"),
    ):
        lines: dict[str, dict[str, Any]] = {}
        for r in rows:
            if (r["part"], r["metric"]) == ("digits", metric) and r["setting"] and r["arm"] != "dense":
                line = lines.setdefault(r["arm"], {"label": r["arm"], "x": [], "y": [], "error": []})
                line["x"].append(float(r["setting"].partition("%")[0]))
                line["y"].append(r["mean"])
                line["error"].append(r["std"] or 0.0)
        dense = [r for r in rows if (r["part"], r["arm"], r["setting"]) == ("digits", "dense", "")]
        charts[name] = {
            "title": title, "x": "channels left (%)", "y": "test accuracy (%)", "lines": list(lines.values()),
            "levels": [{"label": "dense", "y": r["mean"], "error": r["std"] or 0.0} for r in dense],
        }  # fmt: skip
    return charts
