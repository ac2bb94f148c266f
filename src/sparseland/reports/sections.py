"""The parts of the page that are tables and pictures: plain values in, values for the template out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from .numbers import count
from .pictures import heat_map, picture, signed_map

SHADE = 0.62  # of the strongest cell: the text on it stays readable
MANY_CLASSES = 30  # more than this are no table any more


def notes(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    said = []
    for row in rows:
        if "nonzeros" in row and row["nonzeros"]["mean"] < row["kept"]["mean"]:
            kept = count(row["kept"]["mean"])
            missing = count(row["kept"]["mean"] - row["nonzeros"]["mean"])
            said.append(
                f"{row['label']}: its mask keeps {kept} weights; {missing} of them (mean over seeds) are still exactly "
                f"zero in the file, because they came back last or never received a gradient."
            )
    data = result.get("data") or {}
    if data:
        images = ", ".join(f"{count(n)} {split}" for split, n in data["images"].items())
        said.append(f"Data: {data['name']}, {images} images. {data.get('note') or ''}".strip())
    return said


def class_table(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], names: Sequence[str] | None
) -> dict[str, Any] | None:
    """Accuracy per class and method, and the confusion matrices; None without test results or with many classes."""
    tests = {
        row["label"]: [
            r["result"]["test"] for r in runs if r["label"] == row["label"] and _whole(r["result"].get("test"))
        ]
        for row in rows
    }
    some = next((found[0] for found in tests.values() if found), None)
    if some is None or len(some["per_class"]) > MANY_CLASSES:
        return None
    lines, matrices = [], []
    for label, found in tests.items():
        if not found:
            continue
        values = [_mean([test["per_class"][c] for test in found]) for c in range(len(some["per_class"]))]
        worst = min((v for v in values if v is not None), default=None)
        lines.append({"label": label, "cells": [_class_cell(value, worst) for value in values]})
        total = [
            [sum(test["confusion"][i][j] for test in found) for j in range(len(values))] for i in range(len(values))
        ]
        mistake = _mistake(total, _names(names, len(values)))
        matrices.append({"label": label, "rows": _matrix(total, names), "mistake": mistake})
    return {"names": _names(names, len(some["per_class"])), "rows": lines, "matrices": matrices}


def _whole(test: Any) -> bool:
    """Whether a test result has what the tables of classes need."""
    return bool(test and test.get("per_class") and test.get("confusion"))


def _mistake(total: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The most frequent mistake, in words."""
    wrong = [(n, i, j) for i, row in enumerate(total) for j, n in enumerate(row) if i != j and n]
    if not wrong:
        return "no mistakes"
    n, i, j = max(wrong, key=lambda one: (one[0], -one[1], -one[2]))
    return f"most often, {names[i]} is taken for {names[j]}: {n} of {sum(total[i])}"


def _names(names: Sequence[str] | None, classes: int) -> list[str]:
    return [str(name) for name in names] if names else [str(i) for i in range(classes)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _class_cell(value: float | None, worst: float | None) -> dict[str, Any]:
    if value is None:
        return {"text": "–", "shade": 0, "worst": False}
    missing = min(1.0, 4 * (1 - value))  # a quarter wrong is as dark as it gets
    return {"text": f"{100 * value:.1f}", "shade": round(SHADE * missing, 3), "worst": value == worst and value < 1}


def _matrix(total: Sequence[Sequence[int]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    most = max((n for i, row in enumerate(total) for j, n in enumerate(row) if i != j), default=0) or 1
    labels = _names(names, len(total))
    return [
        {
            "name": labels[i],
            "cells": [
                {"text": str(n) if n else "", "shade": 0.12 if i == j else round(SHADE * min(1, n / most), 3)}
                for j, n in enumerate(row)
            ],
        }
        for i, row in enumerate(total)
    ]


def first_layer(shown: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Heat maps of the living connections of each input, and single units, per method."""
    if not shown:
        return None
    channels, height, width = shown["shape"]
    size = height * width
    per_method = {
        label: [sum(values[c * size + i] for c in range(channels)) for i in range(size)]
        for label, values in shown["connections"].items()
    }
    sparse = [values for values in per_method.values() if len(set(values)) > 1] or list(per_method.values())
    most = max(max(values) for values in sparse) or 1
    maps = [
        {
            "label": label,
            "image": heat_map([min(value, most) for value in values], height, width, most),
            "alt": f"{label}: living connections of {shown['name']} for each of {height} by {width} inputs, "
                   f"from {min(values):g} to {max(values):g}",
            "range": _short(min(values)) + (f" to {_short(max(values))}" if max(values) > min(values) else ""),
            "units": [signed_map(unit[:size], height, width) for unit in shown["units"][label]],
        }
        for label, values in per_method.items()
    ]  # fmt: skip
    pixel = "pixel" if size > 49 else "tap"
    return {
        "title": f"Where the first layer looks ({shown['name']})",
        "text": f"Living connections from each {pixel} to the {shown['outputs']} units of the layer, mean over seeds.",
        "most": _short(most),
        "input": pixel,
        "maps": maps,
    }


def _short(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def picture_wall(shown: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Test pictures with what each net says they are."""
    if not shown:
        return None
    names = shown["names"]
    pictures = []
    for i, (data, truth) in enumerate(zip(shown["images"], shown["labels"], strict=True)):
        guesses = [
            {"label": label, "name": names[said[i]], "right": said[i] == truth}
            for label, said in shown["predictions"].items()
        ]
        wrong = [f"{guess['label']} says {guess['name']}" for guess in guesses if not guess["right"]]
        alt = f"Test picture of class {names[truth]}; {'; '.join(wrong) if wrong else 'every net is right'}"
        pictures.append({"image": picture(data, shown["shape"]), "truth": names[truth], "guesses": guesses, "alt": alt})
    text = (
        f"Pictures of the test split and what the nets of seed {shown['seed']} say. The first {shown['hard']} are "
        f"those that most nets get wrong (of {shown['examined']} looked at), the others are taken at equal distances."
    )
    return {"text": text, "shown": pictures}
