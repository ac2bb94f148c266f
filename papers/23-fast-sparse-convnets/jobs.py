"""What card 23's accuracy proof trains: dense widths of MobileNetV1 beside wider ones with sparse 1x1 convolutions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SYSTEM = "23 Fast Sparse ConvNets (arXiv 1911.09723)"
CLAIM = {
    "value": "Mobile nets with sparse 1x1 convolutions (MobileNetV1 at 90 % zeros) lie above dense ones on the curve "
    "of accuracy against latency: 1.3 to 2.4 times as fast at equal accuracy, one thread, batch 1, on a phone's core.",
    "source": "the paper's abstract and its table of models as recalled in the system's card; the sections on method "
    "and experiments could not be read",
}
DEFAULT = ("cifar", "fashion", "latency", "speed")
EXTRA = ("rate", "cifar-long")
LIMITS = (
    "full scale: ImageNet with MobileNetV1 0.75, 1 and 1.4, MobileNetV2 and EfficientNet; a phone's core",
    "small scale: 8,000 or 10,000 training images and a few hundred steps, so accuracies are far from what these nets "
    "reach; the card asks for 15 epochs on CIFAR-10 (JPEG)",
    "on CIFAR-10 (JPEG) neither a random mask nor 80 % zeros, to save time",
    "images of 28 and 32 pixels leave 1 to 4 pixels to the layers that hold most weights, less than a vector",
)
SEEDS = (0, 1, 2)
LR = 0.1  # of 0.03, 0.1 and 0.2 the best on validation images (part rate)
ARMS = {
    "cifar": (
        ("dense", 0.15, 0.0),
        ("dense", 0.25, 0.0),
        ("dense", 0.375, 0.0),
        ("sparse", 0.375, 0.9),
        ("sparse", 0.5, 0.9),
    ),
    "fashion": (
        ("dense", 0.15, 0.0),
        ("dense", 0.25, 0.0),
        ("dense", 0.35, 0.0),
        ("dense", 0.5, 0.0),
        ("sparse", 0.5, 0.9),
        ("sparse", 0.5, 0.8),
        ("sparse", 0.75, 0.9),
        ("random", 0.5, 0.9),
    ),
}
LONG = "-long"  # the same nets trained for longer: their latency is that of the others
CIFAR = {
    "data": "cifar10-jpeg",
    "limit": 8_000,
    "epochs": 3,
    "batch_size": 64,
    "augment": "flip",
    "stem": 2,
    "tested": 5_000,
}
FASHION = {"data": "fashion-mnist", "limit": 10_000, "epochs": 5, "batch_size": 64, "augment": None, "stem": 2}
TRAINED = {"cifar": CIFAR, "fashion": FASHION}


def nets(part: str) -> dict[str, tuple[str, float, float]]:
    """{name in the table: (arm, width, sparsity)}."""
    return {f"{a} {w:g}" + (f" {s:.0%}" if s else ""): (a, w, s) for a, w, s in ARMS[part.removesuffix(LONG)]}


def build(part: str, common: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{key: arguments of training:measure}, seed by seed."""
    jobs = {}
    for seed in SEEDS:
        for label, (arm, width, sparsity) in nets(part).items():
            net = {"width": width, "arm": arm, "sparsity": sparsity, "seed": seed, "split": "test", "lr": LR}
            key = f"{part}/{label}/{seed}"
            jobs[key] = common | net | {"name": key}
    return jobs


def rate() -> dict[str, dict[str, Any]]:
    """The learning rate, on validation images: CIFAR-10 (JPEG), dense, width 0.25, stem stride 1, 4 epochs, 1 seed."""
    net = {
        "width": 0.25,
        "arm": "dense",
        "sparsity": 0.0,
        "seed": 0,
        "split": "validation",
        "limit": 10_000,
        "epochs": 4,
        "stem": 1,
    }
    whole = {key: value for key, value in CIFAR.items() if key != "tested"}
    return {f"rate/{lr:g}/0": whole | net | {"lr": lr, "name": f"rate/{lr:g}/0"} for lr in (0.03, 0.1, 0.2)}


def cifar() -> dict[str, dict[str, Any]]:
    """CIFAR-10 (JPEG), 8,000 training images, MobileNetV1 (stem stride 2), 3 epochs of batches of 64."""
    return build("cifar", CIFAR)


def cifar_long() -> dict[str, dict[str, Any]]:
    """The nets of part cifar on 10,000 training images, 6 epochs; all test images."""
    common = {key: value for key, value in CIFAR.items() if key != "tested"}
    return build("cifar-long", common | {"limit": 10_000, "epochs": 6})


def fashion() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST, 10,000 training images, MobileNetV1 (stem stride 2), 5 epochs of batches of 64."""
    return build("fashion", FASHION)


def latency() -> dict[str, dict[str, Any]]:
    """The nets of parts cifar and fashion in the engine, one thread, in turns; the weights of each seed."""
    jobs = {}
    for seed in SEEDS:
        for part, common in TRAINED.items():
            for batch in (1, 16):
                jobs[f"latency/{part}, batch {batch}/{seed}"] = {
                    "part": part, "stem": common["stem"], "nets": {n: w for n, (_, w, _) in nets(part).items()},
                    "batch": batch, "threads": 1, "rounds": 400 if batch == 1 else 100, "seed": seed,
                }  # fmt: skip
    return jobs


def speed() -> dict[str, dict[str, Any]]:
    """The same net with its zeros and without, 224 x 224 pixels, batch 1, one thread, random weights."""
    common = {"net": "mobilenet-v1", "sparsity": 0.9, "side": 224, "threads": 1, "rounds": 50}
    return {f"speed/{w:g}/{s}": common | {"width": w, "seed": s} for s in SEEDS for w in (0.75, 1.0, 1.4)}


PARTS = {"cifar": cifar, "fashion": fashion, "latency": latency, "speed": speed, "rate": rate, "cifar-long": cifar_long}
FUNCTIONS = {**dict.fromkeys(("cifar", "fashion", "rate", "cifar-long"), "training:measure")}
FUNCTIONS |= {"latency": "latency:measure", "speed": "latency:speed"}
NEEDS = {"latency": ("cifar", "fashion")}

ACCURACY, MACS = "test accuracy (%)", "multiply-adds (million)"
LATENCY, TIMES = "latency (ms)", "dense / sparse (times)"
TITLES = {"cifar": "CIFAR-10 (JPEG)", "fashion": "Fashion-MNIST", "cifar-long": "CIFAR-10 (JPEG), 6 epochs"}
Rows = list[dict[str, Any]]


def _curves() -> Any:
    spec = importlib.util.spec_from_file_location("curves_23", Path(__file__).with_name("curves.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def points(rows: Rows, part: str, cost: str) -> dict[str, tuple[float, float, float]]:
    """{net: (cost, accuracy, its standard deviation)}; cost: `MACS`, or a batch size for its latency."""
    accuracy = {r["arm"]: r for r in rows if (r["part"], r["metric"]) == (part, ACCURACY)}
    if cost == MACS:
        costs = {r["arm"]: r["mean"] for r in rows if (r["part"], r["metric"]) == (part, MACS)}
    else:
        costs = {
            r["arm"]: r["mean"]
            for r in rows
            if (r["part"], r["setting"], r["metric"])
            == ("latency", f"{part.removesuffix(LONG)}, batch {cost}", LATENCY)
        }
    return {n: (costs[n], r["mean"], r["std"] or 0.0) for n, r in accuracy.items() if n in costs}


def compared(rows: Rows, part: str, cost: str) -> tuple[list[float], list[float], int]:
    """Gaps of the sparse nets to the dense curve, how much dearer dense nets of their accuracy are, how many nets."""
    curves, found = _curves(), points(rows, part, cost)
    dense = [p[:2] for name, p in found.items() if name.startswith("dense")]
    sparse = [p[:2] for name, p in found.items() if name.startswith("sparse")]
    gaps = [curves.gap(dense, p) for p in sparse] if len(dense) > 1 else []
    times = [curves.cheaper(dense, p) for p in sparse] if len(dense) > 1 else []
    return [g for g in gaps if g is not None], [t for t in times if t is not None], len(sparse)


def judge(rows: Rows) -> tuple[str, str]:
    """Fixed before any test accuracy or latency had been looked at.

    The sparse curve is *above* the dense one at a cost if every sparse net that can be compared (`curves.gap`) has a
    gap above 0, and one can. Latency at batch 1 decides once it is measured, until then multiply-adds: "in part" if
    the sparse curve is above on every data set, else "does not"; "reproduces" would need the full scale. The latency
    at batch 16, the speed-up of the same net and the random mask are told, and cannot turn the verdict.
    """
    parts = [part for part in TITLES if points(rows, part, MACS)]
    if not parts:
        raise ValueError("parts cifar or fashion decide, and neither is there")
    timed = [part for part in parts if points(rows, part, "1")]
    told, good = [], []
    for part in parts:
        words = []
        for cost, says in ((MACS, "multiply-adds"), ("1", "latency, batch 1"), ("16", "latency, batch 16")):
            gaps, times, count = compared(rows, part, cost)
            if not points(rows, part, cost):
                continue
            above = bool(gaps) and min(gaps) > 0
            if cost == ("1" if part in timed else MACS):
                good.append(above)
            words.append(f"at equal {says} {places(gaps, times, count)}")
        told.append(f"{TITLES[part]}: the sparse nets are {', '.join(words)}")
    late = "" if timed else "; latency is not measured yet"
    verdict = "in part" if all(good) else "does not"
    return verdict, f"Small nets, short training; {'; '.join(told)}{chance(rows)}{same_net(rows)}{late}."


def places(gaps: list[float], times: list[float], count: int) -> str:
    """Where the sparse nets lie, in words."""
    if not gaps:
        return f"outside the range of the dense ones (0 of {count} compared)"
    word = "above" if min(gaps) > 0 else "below" if max(gaps) <= 0 else "above and below"
    far = f"{min(gaps):+.1f} to {max(gaps):+.1f}" if len(gaps) > 1 else f"{gaps[0]:+.1f}"
    dearer = f"; dense of the same accuracy costs {min(times):.2f} to {max(times):.2f} times as much" if times else ""
    return f"{word} the dense curve ({far} points, {len(gaps)} of {count} compared{dearer})"


def chance(rows: Rows) -> str:
    """The random mask beside the pruned one; nothing where it was not trained."""
    mean = {r["arm"]: r["mean"] for r in rows if (r["part"], r["metric"]) == ("fashion", ACCURACY)}
    if "random 0.5 90%" not in mean:
        return ""
    return (
        f"; a random mask at 90 % is {mean['random 0.5 90%'] - mean['sparse 0.5 90%']:+.1f} points from the pruned one"
    )


def same_net(rows: Rows) -> str:
    """How many times faster the same net runs with its zeros, in words; nothing where it was not measured."""
    found = [r["mean"] for r in rows if (r["part"], r["metric"]) == ("speed", TIMES)]
    if not found:
        return ""
    return f"; the same net at 90 % zeros and 224 pixels runs {min(found):.1f} to {max(found):.1f} times as fast"


def headline(rows: Rows) -> str:
    """Gaps to the dense curve, at the cost that decides."""
    words = []
    for part, title in TITLES.items():
        if points(rows, part, MACS):
            cost, says = ("1", "latency") if points(rows, part, "1") else (MACS, "multiply-adds")
            gaps, _, _ = compared(rows, part, cost)
            far = f"{min(gaps):+.1f} to {max(gaps):+.1f} points" if gaps else "not comparable"
            words.append(f"{title}, at equal {says}: {far}")
    return f"sparse against the dense curve, {'; '.join(words)}{same_net(rows)}"


def figures(rows: Rows) -> dict[str, dict[str, Any]]:
    """Accuracy against multiply-adds and against latency."""
    costs = (
        (MACS, "multiply-adds", MACS),
        ("1", "latency", "engine, ms, batch 1, one thread"),
        ("16", "latency-16", "engine, ms, batch 16, one thread"),
    )
    charts = {}
    for part, title in TITLES.items():
        for cost, name, label in costs:
            lines: dict[str, dict[str, Any]] = {}
            for net, (x, y, error) in points(rows, part, cost).items():
                arm, share = net.split()[0], net.split()[-1]
                kind = {"dense": "dense", "random": f"random mask, {share}"}.get(arm, f"sparse, {share}")
                line = lines.setdefault(kind, {"label": kind, "x": [], "y": [], "error": []})
                line["x"].append(float(f"{x:.3g}"))
                line["y"].append(y)
                line["error"].append(error)
            if lines:
                charts[f"accuracy-{name}-{part}.svg"] = {
                    "title": f"Accuracy against {name.removesuffix('-16')}: {title}",
                    "x": label,
                    "y": "test accuracy (%)",
                    "lines": list(lines.values()),
                }
    return charts
