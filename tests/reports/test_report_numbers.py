"""Aggregation and formats against hand-computed values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sparseland.reports import aggregate, layers, satisfied
from sparseland.reports.numbers import duration, percent, scaled, spread
from sparseland.reports.tables import headline


def run(label: str, seed: int, accuracy: float, **changes: Any) -> dict[str, Any]:
    config = {"epochs": 2, "batch_size": 8, "lr": 0.1}
    result = {
        "config": config, "method": {"name": label.split()[0]}, "steps": 10, "epochs": 2, "seed": seed, "kept": 10,
        "total": 100, "sparsity": 0.9, "test": {"accuracy": accuracy, "per_class": [1.0, accuracy, None]},
        "flops": {"training": 30, "training_dense": 300, "inference": 1, "inference_dense": 10},
    }  # fmt: skip
    return {"label": label, "seed": seed, "packed": 40, "nonzeros": 9, "result": {**result, **changes}}


def test_mean_and_sample_standard_deviation() -> None:
    rows = aggregate([run("rigl", s, a) for s, a in enumerate((0.9, 0.92, 0.97))])
    assert rows[0]["accuracy"]["mean"] == pytest.approx(0.93)
    assert rows[0]["accuracy"]["std"] == pytest.approx(0.0360555, abs=1e-6)
    assert rows[0]["accuracy"]["values"] == [0.9, 0.92, 0.97]
    assert rows[0]["worst_class"]["values"] == [0.9, 0.92, 0.97]
    assert rows[0]["kept"] == {"mean": 10, "std": 0, "values": [10, 10, 10]}
    assert headline(rows)[1] == [["rigl", "3", "93.00 ± 3.61 %", "9 of 10", "30 (0.1×)", "1 (0.1×)", "40"]]


def test_one_seed_has_no_spread() -> None:
    rows = aggregate([run("rigl", 0, 0.9)])
    assert rows[0]["accuracy"]["std"] is None
    assert spread([2.0]) == (2.0, None)
    assert headline(rows)[1][0][2] == "90.00 %"


def test_runs_without_a_test_split_still_have_a_row() -> None:
    rows = aggregate([run("rigl", 0, 0.9, test=None)])
    assert "accuracy" not in rows[0]
    assert headline(rows)[1][0][2] == "–"


def test_formats() -> None:
    assert percent([0.5]) == "50.00 %"
    assert [scaled(v) for v in (0, 7, 999, 1000, 123456, 9.996e5, 1e6, 2.5e12)] == [
        "0",
        "7",
        "999",
        "1 k",
        "123 k",
        "1 M",
        "1 M",
        "2.5 T",
    ]
    assert [duration(v) for v in (0.04, 59.94, 60, 3599.6, 86399)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "1 h 00 min",
        "23 h 59 min",
    ]


def test_layers_and_their_patterns() -> None:
    two_four = torch.ones(4, 16)
    two_four[:, ::4] = two_four[:, 1::4] = 0
    two_four[:, 0], two_four[:, 2] = 1, 0  # the columns differ from group to group
    rows = torch.zeros(6, 8)
    rows[1] = rows[4] = 1.5
    blocks = torch.eye(4).repeat_interleave(4, 0).repeat(1, 2)
    kernels = torch.zeros(4, 3, 3, 3)
    kernels[0, 1] = kernels[2, 0] = kernels[2, 2] = 1
    scattered = torch.ones(5, 7)
    scattered[2, 3] = 0
    found = {
        row.name: row
        for row in layers({"2:4": two_four, "rows": rows, "blocks": blocks, "kernels": kernels, "scattered": scattered,
                           "bias": torch.zeros(3), "count": torch.tensor(3)})
    }  # fmt: skip
    assert "count" not in found  # integers are no weights
    assert found["2:4"].patterns[0] == "2:4"
    assert (
        found["rows"].patterns[-1] == "row"
        and found["rows"].kept == 16
        and found["rows"].sparsity == pytest.approx(2 / 3)
    )
    assert "block 4x1" in found["blocks"].patterns and "1:4" in found["blocks"].patterns
    assert "kernel" in found["kernels"].patterns
    assert found["scattered"].patterns == found["bias"].patterns == ()
    assert found["scattered"].packed == found["scattered"].dense == 140
    assert found["rows"].packed == 16 * 4 + 6


def test_what_satisfied_says_is_true() -> None:
    from sparseland.core import pattern

    for seed in range(20):
        torch.manual_seed(seed)
        mask = (torch.rand(8, 16) < 0.1).repeat_interleave(1 + seed % 3, 0)
        for text in satisfied(mask):
            pattern(text).check(mask)
