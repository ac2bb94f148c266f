"""What card 08's proof trains: searched and random sub-networks of one parent, in pairs, over twenty seeds."""

from __future__ import annotations

from typing import Any

SYSTEM = "08 Random search over node space (arXiv 2403.08265)"
CLAIM = {
    "value": "Of many random sparse sub-networks of an initialised net, chosen in node space, the one that starts best "
    "keeps a large part of the accuracy even at very high sparsity, but is neither better after training nor faster to "
    "converge than one random sub-network.",
    "source": "the paper's abstract; its body could not be read, so data, widths, candidates and sparsities are ours",
}
DEFAULT = ("fashion",)
LIMITS = (
    "the paper's own nets, data and budgets are not known here",
    "convolutions with channel masks, 10 and 1,000 candidates, a loss after some training steps as the objective",
)
SEEDS = tuple(range(20))
SPARSITIES = [0.5, 0.8, 0.9, 0.95, 0.98]
MARGIN = 0.5  # points within which two accuracies are the same, from the card


def fashion() -> dict[str, dict[str, Any]]:
    """Fashion-MNIST, 10,000 training images, parent MLP 784-256-256-10, 6 epochs, 100 candidates on 1,000 images."""
    common = {
        "data": "fashion-mnist",
        "hidden": [256, 256],
        "limit": 10_000,
        "validation": 1 / 6,
        "epochs": 6,
        "batch_size": 128,
        "lr": 0.05,
        "images": 1000,
        "candidates": 100,
        "sparsities": SPARSITIES,
        "arms": ["search", "random", "redrawn", "magnitude"],
    }
    return {f"fashion/{seed}": common | {"seed": seed} for seed in SEEDS}


PARTS = {"fashion": fashion}
FUNCTIONS = {"fashion": "arms:measure"}

TEST, FIRST, AREA = "test accuracy (%)", "validation accuracy after epoch 1 (%)", "mean validation accuracy (%)"
LOSS = "loss before training (thousandths of a nat)"
# Student's t, one-sided 5 % (for a 90 % interval) and 2.5 %, by degrees of freedom.
T_90 = {2: 2.920, 3: 2.353, 4: 2.132, 9: 1.833, 19: 1.729}
T_95 = {2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 19: 2.093}
Rows = list[dict[str, Any]]


def difference(rows: Rows, metric: str, arm: str = "search - random") -> dict[str, dict[str, Any]]:
    """{setting: row} of the paired difference of a measure."""
    name = f"paired difference: {metric.replace('(%)', '(points)')}"
    return {r["setting"]: r for r in rows if (r["arm"], r["metric"]) == (arm, name)}


def interval(row: dict[str, Any], table: dict[int, float]) -> tuple[float, float]:
    """Mean -+ t s / sqrt(n).

    >>> interval({"mean": 1.0, "std": 2.0, "seeds": 4}, {3: 3.0})
    (-2.0, 4.0)
    """
    half = table[row["seeds"] - 1] * row["std"] / row["seeds"] ** 0.5
    return row["mean"] - half, row["mean"] + half


def effect(row: dict[str, Any]) -> float:
    """Cohen's d of paired samples: mean difference / its standard deviation (0 if nothing differs)."""
    return row["mean"] / row["std"] if row["std"] else 0.0


def judge(rows: Rows) -> tuple[str, str]:
    """Fixed before any of the twenty seeds had been run.

    (a) at 90 % of the nodes the searched net is within 3 points of dense (the card's bound). (b) after training: at
    every sparsity the 90 % t-interval of the paired difference search - random in test accuracy lies within `MARGIN`
    (two one-sided tests at 5 %); where it does not, the card's weaker rule (|mean| at most the larger of `MARGIN` and
    two standard errors) is told. (c) convergence: at every sparsity the 95 % t-interval of the difference in the mean
    validation accuracy over all epochs reaches down to 0 or below. All three: "reproduces"; (a) and (b): "in part";
    else "does not".
    """
    final, area, first = (difference(rows, metric) for metric in (TEST, AREA, FIRST))
    if not final:
        raise ValueError("part fashion decides, and it is not there")
    mean = {(r["setting"], r["arm"]): r["mean"] for r in rows if r["metric"] == TEST}
    drop = mean["0%", "dense"] - mean["90%", "search"]
    ends = {s: interval(r, T_90) for s, r in final.items()}
    same = {s: low > -MARGIN and high < MARGIN for s, (low, high) in ends.items()}
    weak = [abs(r["mean"]) <= max(MARGIN, 2 * r["std"] / r["seeds"] ** 0.5) for r in final.values()]
    faster = [s for s, r in area.items() if interval(r, T_95)[0] > 0]
    seeds = next(iter(final.values()))["seeds"]
    words = ", ".join(f"{r['mean']:+.2f} (d {effect(r):+.2f}) at {s}" for s, r in final.items())
    equal = "everywhere" if all(same.values()) else f"not at {', '.join(s for s, is_so in same.items() if not is_so)}"
    early = ", ".join(f"{r['mean']:+.2f} (d {effect(r):+.2f}) at {s}" for s, r in first.items())
    slow = f"ahead on average over the epochs at {', '.join(faster)}" if faster else "nowhere ahead over the epochs"
    told = (
        f"the searched net is {drop:.1f} points below dense at 90 % of the nodes; after training it is {words} points "
        f"from a random one over {seeds} pairs, equal within {MARGIN} points {equal} "
        f"(by the weaker rule {'everywhere' if all(weak) else 'not everywhere'}); it is {slow} (after the first epoch "
        f"{early} points)"
    )
    if drop <= 3 and all(same.values()):
        verdict = "in part" if faster else "reproduces"
        return verdict, f"{'It starts faster but ends equal' if faster else 'All of it holds'}: {told}."
    return "does not", f"Not all of it holds: {told}."


def headline(rows: Rows) -> str:
    """The largest difference after training and after the first epoch."""
    final, first = difference(rows, TEST), difference(rows, FIRST)
    setting = max(final, key=lambda s: abs(final[s]["mean"]))
    early = max(first, key=lambda s: abs(first[s]["mean"]))
    return (
        f"searched - random, largest of {len(final)} sparsities: {final[setting]['mean']:+.2f} points after training "
        f"({setting}), {first[early]['mean']:+.2f} after one epoch ({early})"
    )


def figures(rows: Rows) -> dict[str, dict[str, Any]]:
    """Accuracy after training and after one epoch against the nodes that are left, and the paired differences."""
    charts = {}
    for name, metric, title in (
        ("accuracy", TEST, "After training"),
        ("first-epoch", FIRST, "After the first epoch"),
    ):
        lines: dict[str, dict[str, Any]] = {}
        level = []
        for r in (r for r in rows if r["metric"] == metric):
            if r["arm"] == "dense":
                level = [{"label": "dense", "y": r["mean"], "error": r["std"] or 0.0}]
            else:
                add(lines, r["arm"], r)
        charts[f"{name}.svg"] = {
            "title": f"{title}: Fashion-MNIST",
            "x": "nodes left (%)",
            "y": metric,
            "lines": list(lines.values()),
            "levels": level,
        }
    lines = {}
    for label, metric in (("after training", TEST), ("mean over the epochs", AREA), ("after one epoch", FIRST)):
        for r in difference(rows, metric).values():
            low, high = interval(r, T_95)
            add(lines, label, r | {"std": (high - low) / 2})
    charts["difference.svg"] = {
        "title": "Searched - random, pairs of one seed, 95 % intervals",
        "x": "nodes left (%)",
        "y": "accuracy (points)",
        "lines": list(lines.values()),
        "levels": [{"label": "no difference", "y": 0.0, "error": MARGIN}],
    }
    return charts


def add(lines: dict[str, dict[str, Any]], label: str, row: dict[str, Any]) -> None:
    """One more point of a line."""
    line = lines.setdefault(label, {"label": label, "x": [], "y": [], "error": []})
    line["x"].append(round(100 - float(row["setting"].rstrip("%")), 4))
    line["y"].append(row["mean"])
    line["error"].append(row["std"] or 0.0)
