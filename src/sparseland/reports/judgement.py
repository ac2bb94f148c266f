"""What the advisor made of the runs, for the page: findings, paired differences as a forest, the Pareto table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .numbers import ratio, scaled

FRONTS = {"training_flops": "training FLOPs", "inference_flops": "inference FLOPs", "bytes": "bytes packed"}
_REFERENCE = {
    "training_flops": "training_dense_flops", "inference_flops": "inference_dense_flops", "bytes": "dense_bytes",
}  # fmt: skip
LEVEL = 0.05  # of the tests
_SIGNS = {"better": "good", "worse": "bad", "indistinguishable": "even", "not comparable": "none"}


def findings(record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The guards' findings: refusals first (with whether they were waved through), and flags."""
    review = record.get("review") or {}
    allowed = set(record.get("allowed") or ())
    found = [{**item, "allowed": item["guard"] in allowed} for item in review.get("findings") or ()]
    if not review and record.get("warnings"):  # a record that nobody reviewed
        found = [
            {"guard": "", "level": "flag", "says": text, "fix": "", "allowed": False} for text in record["warnings"]
        ]
    return {level: [item for item in found if item["level"] == level] for level in ("refuse", "flag")}


def forest(rows: Sequence[Mapping[str, Any]], review: Mapping[str, Any]) -> dict[str, Any] | None:
    """Paired differences with their intervals, in groups of equal opponents; positions are percentages of the width.

    Returns:
        {"groups": [{"title", "rows": [{"a", "b", "text", "interval", "verdict", "sign", "why", "at", "low", "high",
        "cut"}]}], "limit": text, "seeds": text}, or None without pairs.
    """
    pairs = [pair for pair in review.get("paired") or () if pair.get("metric", "accuracy") == "accuracy"]
    if not pairs:
        return None
    names = {row["label"]: row["name"] for row in rows}
    limit = _limit(pairs)
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        groups.setdefault(_title(pair, names), []).append(_line(pair, limit))
    order = sorted(groups, key=lambda title: (not title.startswith("Against"), title))
    return {
        "groups": [{"title": title, "rows": groups[title]} for title in order],
        "limit": f"{100 * limit:.2g}",
        "cut": any(line["cut"] for lines in groups.values() for line in lines),
        "starred": sum("star" in line["sign"] for lines in groups.values() for line in lines),
        "pairs": len(pairs),
    }


def _title(pair: Mapping[str, Any], names: Mapping[str, str]) -> str:
    baseline = names.get(pair["b"], pair["b"])
    return f"Against {pair['b']}" if baseline in ("dense", "random") else f"{pair['a']} against the others"


def _limit(pairs: Sequence[Mapping[str, Any]]) -> float:
    """Half the width of the forest: all intervals, unless a few seeds made one so wide that the others vanish."""
    differences = [abs(pair["difference"]) for pair in pairs if pair.get("difference") is not None]
    ends = [abs(pair[end]) for pair in pairs for end in ("low", "high") if pair.get(end) is not None]
    most = max(differences, default=0.0)
    return max(most * 1.1, min(max(ends, default=0.0), 4 * most), 0.001)


def _line(pair: Mapping[str, Any], limit: float) -> dict[str, Any]:
    middle, low, high = (pair.get(key) for key in ("difference", "low", "high"))

    def place(value: float) -> float:
        return round(50 + 48 * max(-1.0, min(1.0, value / limit)), 2)

    whole = low is not None and high is not None
    return {
        "a": pair["a"], "b": pair["b"], "verdict": pair["verdict"], "why": _why(pair),
        "sign": _SIGNS.get(pair["verdict"], "none") + (" star" if _starred(pair) else ""),
        "text": "–" if middle is None else signed(middle),
        "interval": f"{signed(low)} to {signed(high)}" if low is not None and high is not None else "no interval",
        "at": None if middle is None else place(middle),
        "low": place(low) if low is not None and whole else None,
        "high": place(high) if high is not None and whole else None,
        "cut": low is not None and high is not None and max(abs(low), abs(high)) > limit,
    }  # fmt: skip


def _starred(pair: Mapping[str, Any]) -> bool:
    """Better or worse, but no longer after Holm's correction: one pair among many may be luck."""
    corrected = pair.get("p_holm")
    return pair["verdict"] in ("better", "worse") and corrected is not None and corrected > LEVEL


def _why(pair: Mapping[str, Any]) -> str:
    """What neither the interval nor the star shows by itself."""
    parts = [part for part in str(pair.get("why") or "").split("; ") if part and "Holm" not in part]
    return "; ".join(part for part in parts if part != "the interval holds 0")


def signed(value: float) -> str:
    """A difference of fractions in points, with its sign.

    >>> signed(0.0123), signed(-0.0004), signed(-0.00001)
    ('+1.23', '−0.04', '0.00')
    """
    text = f"{100 * value:+.2f}".replace("-", "−")
    return text[1:] if text[1:] == "0.00" else text


def pareto(rows: Sequence[Mapping[str, Any]], review: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracy and costs of each method, each cost marked where the method is on its front.

    Returns:
        {"columns", "rows": [[{"text", "sort", "front"}]]}, or None where less than two methods have a place.
    """
    points = {point["label"]: point for point in review.get("pareto") or ()}
    placed = [row for row in rows if row["label"] in points and points[row["label"]].get("accuracy") is not None]
    costs = [key for key in FRONTS if any(points[row["label"]].get(key) is not None for row in placed)]
    if len(placed) < 2 or not costs:
        return None
    lines = []
    for row in placed:
        point = points[row["label"]]
        cells = [
            {"text": row["label"], "sort": row["label"], "front": False},
            {"text": f"{100 * point['accuracy']:.2f} %", "sort": point["accuracy"], "front": False},
        ]
        lines.append([*cells, *(_cost(row, point, key) for key in costs)])
    return {"columns": ["method", "test accuracy", *(FRONTS[key] for key in costs)], "rows": lines}


def _cost(row: Mapping[str, Any], point: Mapping[str, Any], key: str) -> dict[str, Any]:
    value, dense = point.get(key), row.get(_REFERENCE[key], {}).get("mean")
    if value is None:
        return {"text": "–", "sort": "", "front": False}
    text = scaled(value, "B" if key == "bytes" else "")
    share = f" ({ratio(value, dense)})" if dense else ""
    return {"text": text + share, "sort": value, "front": key in (point.get("front") or ())}


def on_front(review: Mapping[str, Any], cost: str) -> list[str]:
    """Labels of the methods on the front of accuracy against a cost.

    >>> on_front({"pareto": [{"label": "gmp", "front": ["bytes"]}, {"label": "set", "front": []}]}, "bytes")
    ['gmp']
    """
    return [point["label"] for point in review.get("pareto") or () if cost in (point.get("front") or ())]
