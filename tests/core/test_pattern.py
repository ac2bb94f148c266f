"""Patterns: grammar, hand arrays, exact counts, validity, errors that say what could."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseland.core import NM, Block, Kernel, Unstructured, pattern
from sparseland.core.errors import PatternError, RecipeError

ALL = ["unstructured", "2:4", "1:4 axis 0", "4:8", "block 4x1", "block 2x2", "row", "column", "kernel", "kernel 4x1"]
SHAPES = [(8, 16), (8, 8, 3, 3), (16, 8, 1, 1), (4, 8, 5)]


def fits(p, shape):
    try:
        p.check_shape(shape)
    except PatternError:
        return False
    return True


@pytest.mark.parametrize("text", ALL)
def test_grammar_round_trip(text):
    p = pattern(text)
    assert (
        str(p) == text
        and pattern(str(p)) == p
        and type(p).from_dict(p.to_dict()) == p
        and hash(p) == hash(pattern(text))
    )


def test_grammar_forms():
    assert (
        pattern(" 2:4 ") == NM(2, 4)
        and pattern("Kernel Group 4") == Kernel(4, 1)
        and pattern("BLOCK 4X1") == Block(4, 1)
    )


@pytest.mark.parametrize("text", ["2;4", "blok 4x1", "", "rows", "2:4 axis 2", 7, None])
def test_unknown_patterns_name_the_possible(text):
    with pytest.raises(RecipeError, match=r"possible|Possible"):
        pattern(text)


@pytest.mark.parametrize("text", ["5:4", "0:4", "block 0x1"])
def test_impossible_sizes(text):
    with pytest.raises(PatternError):
        pattern(text)


def test_hand_arrays():
    w = torch.tensor([[1.0, 2, 3, 4], [8, 7, 6, 5]])
    assert pattern("2:4").project(w, 4).int().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert pattern("2:4").project(w, 3).int().tolist() == [[0, 0, 0, 1], [1, 1, 0, 0]]
    assert pattern("1:2 axis 0").project(w, 4).int().tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert pattern("block 2x1").project(w, 4).int().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
    ]  # sums 9 9 9 9: lowest index
    assert pattern("row").project(w, 4).int().tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert pattern("column").project(w - 5 * (w > 6), 2).int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 0]]
    conv = torch.zeros(2, 2, 3, 3)
    conv[1, 0, 1, 1] = 1
    assert pattern("kernel").project(conv, 9)[1, 0].all()
    conv[0, :, 2, 2] = 3
    assert pattern("block 1x2").project(conv, 2)[0, :, 2, 2].all()


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", [False, True])
def test_every_reachable_count_is_exact_and_valid(text, shape, ties):
    p = pattern(text)
    if not fits(p, shape):
        pytest.skip("shape does not fit")
    g = torch.Generator().manual_seed(0)
    scores = torch.ones(shape) if ties else torch.rand(shape, generator=g)
    step, most = p.step(shape), p.capacity(shape)
    for k in range(0, most + 1, max(step, most // 7 // step * step)):
        mask = p.project(scores, k)
        assert int(mask.sum()) == k
        p.check(mask)
        if k + step <= most:  # growing from it keeps it
            more = p.project(torch.rand(shape, generator=g), k + step, keep=mask)
            assert int(more.sum()) == k + step and not (mask & ~more).any()
            p.check(more)
        if k >= step:
            fewer = p.project(torch.rand(shape, generator=g), k - step, among=mask)
            assert int(fewer.sum()) == k - step and not (fewer & ~mask).any()
            p.check(fewer)


def test_nm_keeps_the_best_of_each_group():
    w = torch.randn(16, 32)
    mask = NM(2, 4).project(w.abs(), 16 * 16)
    top = w.abs().view(16, 8, 4).topk(2, dim=2).indices
    assert torch.equal(mask.view(16, 8, 4), torch.zeros(16, 8, 4, dtype=torch.bool).scatter_(2, top, True))


def test_nm_on_convolutions_groups_input_channels_at_each_tap():
    w = torch.rand(4, 8, 3, 3)
    mask = NM(2, 4).project(w, w.numel() // 2)
    assert (mask.view(4, 2, 4, 3, 3).sum(2) == 2).all()
    mask = NM(1, 4, axis=0).project(w, w.numel() // 4)
    assert (mask.sum(0) == 1).all()


def test_relaxed_counts_lead_to_the_pattern():
    w = torch.rand(4, 8)
    final = NM(2, 4).project(w, 16)
    for k in (32, 28, 20, 17):
        mask = NM(2, 4).project(w, k, relaxed=True)
        assert int(mask.sum()) == k and not (final & ~mask).any()


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("2:4", (10, 30), r"divisible by 4.*'fc.weight' is \(10, 30\).*pattern=\"unstructured\""),
        ("1:8 axis 0", (10, 16), "output size divisible by 8"),
        ("block 4x1", (10, 30), "divisible by 4 and 1.*block 2x1"),
        ("2:4", (8,), "Ignore it"),
        ("row", (8,), "needs a tensor"),
    ],
)
def test_shapes_that_do_not_fit(text, shape, said):
    with pytest.raises(PatternError, match=said):
        pattern(text).project(torch.rand(shape), 0, name="fc.weight")


@pytest.mark.parametrize(
    ("text", "k", "said"),
    [("2:4", 65, "nearest: 64"), ("block 4x1", 30, "28 or 32"), ("row", 17, "16 or 32"), ("row", -1, "0")],
)
def test_counts_out_of_reach_name_the_nearest(text, k, said):
    with pytest.raises(PatternError, match=said):
        pattern(text).project(torch.rand(8, 16), k)


@pytest.mark.parametrize(
    ("text", "bad"),
    [("2:4", (0, slice(0, 3))), ("row", (0, 0)), ("column", (0, 0)), ("block 4x1", (0, 0)), ("kernel 2x1", (0, 0))],
)
def test_check_refuses_broken_masks(text, bad):
    mask = torch.zeros(8, 16, dtype=torch.bool)
    pattern(text).check(mask)
    mask[bad] = True
    with pytest.raises(PatternError):
        pattern(text).check(mask)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.sampled_from(ALL))
def test_reachable_is_the_nearest(k, text):
    p, shape = pattern(text), (8, 16)
    counts = range(0, p.capacity(shape) + 1, p.step(shape))
    assert abs(p.reachable(shape, k) - k) == min(abs(c - k) for c in counts)


def test_unstructured_works_on_any_rank():
    for shape in [(7,), (3, 4, 5, 6, 7)]:
        assert int(Unstructured().project(torch.rand(shape), 5).sum()) == 5
