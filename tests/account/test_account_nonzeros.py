"""Exact counts over every scope, layer by layer; patterns that zeros satisfy; shared parameters; state dicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseland import methods
from sparseland.account import SCOPES, Counts, count, dead_units, fitting, pattern_of
from sparseland.core import pattern
from sparseland.core.errors import SparselandError, TargetError
from sparseland.weights import prune_
from sparseland.zoo import build


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.Flatten(), nn.Linear(8, 5)
    )


def test_scopes_in_closed_form() -> None:
    counts = count(_net())
    assert counts.scopes() == {
        "all": [224 + 16 + 576 + 45 - 8, 224 + 16 + 576 + 45],  # a fresh norm's 8 offsets are zero
        "weights": [216 + 576 + 40, 216 + 576 + 40],
        "maskable": [832, 832],
        "without first and last": [576, 576],
    }
    roles = {row.name: row.role for row in counts.rows}
    assert roles == {
        "0.weight": "weight", "0.bias": "bias", "1.weight": "norm", "1.bias": "bias", "3.weight": "weight",
        "5.weight": "weight", "5.bias": "bias",
    }  # fmt: skip


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.99])
def test_counts_are_those_of_the_masks(sparsity: float) -> None:
    model = build("resnet-8-w4", in_shape=(3, 32, 32), classes=10)
    masks = prune_(model, methods.Magnitude(sparsity))
    counts = count(model)
    assert counts.scope("maskable") == (masks.kept(), masks.numel())
    layers = counts.layers()
    assert {name: layers[name] for name in masks} == masks.counts()
    assert counts.sparsity() == masks.sparsity()
    first, *middle, last = masks.values()
    assert counts.scope("without first and last") == (
        sum(int(m.sum()) for m in middle), sum(m.numel() for m in middle))  # fmt: skip
    zeros = sum(int((p == 0).sum()) for p in model.parameters())  # fresh biases are zeros too
    assert counts.scope("all")[1] - counts.scope("all")[0] == zeros
    assert first.numel() + last.numel() == counts.scope("maskable")[1] - counts.scope("without first and last")[1]


def test_targets_decide_what_is_maskable() -> None:
    assert count(_net(), ignore="0").scope("maskable")[1] == 576 + 40
    with pytest.raises(TargetError):
        count(_net(), targets="nothing.*")
    assert count(nn.LayerNorm(4)).scopes()["maskable"] == [0, 0]  # no maskable layer, and no error


def test_shared_parameters_count_once() -> None:
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    model = nn.Sequential(a, b)
    counts = count(model)
    assert counts.scope("all") == (16, 16)
    assert counts.notes == ("'0.weight' is also '1.weight': counted once",)
    of_state = count(model.state_dict())
    assert of_state.scope("all") == (16, 16) and of_state.notes[0] == counts.notes[0]


def test_a_state_dict_counts_like_its_model() -> None:
    model = _net()
    prune_(model, methods.Magnitude(0.7))
    ours, theirs = count(model), count(model.state_dict())
    assert theirs.scopes() == ours.scopes()  # running means and counters are no parameters
    assert "guessed" in theirs.notes[-1]
    with pytest.raises(SparselandError, match="entry 'epoch' is int"):
        count({"epoch": 3})  # type: ignore[dict-item]


@pytest.mark.parametrize("text", ["row", "column", "kernel", "block 4x4", "block 4x1", "2:4", "1:4", "4:8"])
def test_patterns_are_recognised(text: str) -> None:
    word, scores = pattern(text), torch.rand(32, 32, 3, 3)
    k = word.reachable(scores.shape, 0.25 * scores.numel())
    mask = word.project(scores, k)
    assert text in fitting(mask)
    model = nn.Conv2d(32, 32, 3)
    with torch.no_grad():
        model.weight.mul_(mask)
    assert count(model, patterns=True).rows[0].pattern == pattern_of(mask) == fitting(mask)[0]
    word.check(mask)


def test_no_pattern_and_no_zeros() -> None:
    torch.manual_seed(1)
    assert pattern_of(torch.rand(32, 32) > 0.5) == "unstructured"
    assert pattern_of(torch.ones(8, 8)) == "dense"
    assert fitting(torch.ones(8)) == ()


def test_transposed_layers_are_read_as_outputs_by_inputs() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3)  # stored (in, out, …)
    with torch.no_grad():
        layer.weight[:, 0] = 0
    row = count(layer, patterns=True).rows[0]
    assert (row.shape, row.pattern, row.dead_units) == ((6, 4, 3, 3), "row", 1)
    assert dead_units(layer) == 1


def test_the_table_is_plain_data() -> None:
    counts = count(_net(), patterns=True)
    table = counts.to_list()
    assert table[0] == {
        "name": "0.weight", "shape": (8, 3, 3, 3), "role": "weight", "maskable": True, "nonzeros": 216, "total": 216,
        "dead_units": 0, "patterns": table[0]["patterns"], "pattern": "dense", "sparsity": 0.0,
    }  # fmt: skip
    assert sum(row["total"] for row in table) == counts.scope("all")[1]


def test_an_unknown_scope_names_the_known() -> None:
    with pytest.raises(SparselandError, match=f"possible: {', '.join(SCOPES)}"):
        Counts(()).scope("most")
    assert Counts(()).sparsity() == 0.0
