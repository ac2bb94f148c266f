"""Every form gives back every bit, takes the bytes that its formula says, and the smallest is the one that is taken."""

from __future__ import annotations

import math
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseland import deploy, kernels
from sparseland.deploy import decoding, forms, planning
from sparseland.deploy.checksum import tensor_sum
from sparseland.deploy.container import NAME_OF, WIDTH

SHAPES = [(8, 16), (4, 8, 3), (32,), (5, 7), (16, 2), (3, 16, 2, 2), (1,), (4, 4, 4), (300, 400)]


def random(shape: tuple[int, ...], share: float, width: int, seed: int) -> np.ndarray:
    """Words with a share of non-zeros."""
    source = np.random.default_rng(seed)
    words = source.integers(1, 1 << (8 * width - 1), math.prod(shape), dtype=f"u{width}")
    words[source.random(words.size) > share] = 0
    return words


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E4M3", "I64"])
def test_every_form_there_and_back(shape: tuple[int, ...], dtype: str) -> None:
    seen = set()
    for seed, share in enumerate((0, 0.002, 0.02, 0.1, 0.4, 1)):
        words = random(shape, share, WIDTH[dtype], seed)
        for layout in forms.layouts(words, shape, dtype):
            seen.add(layout.form)
            parts = forms.encode(layout, words, shape)
            assert [part.nbytes for part in parts] == [part.nbytes for part in layout.parts]
            again = decoding.rebuild({"form": layout.form, **layout.fields}, shape, dtype, parts[-1].size)
            assert again == layout
            decoding.check(layout, shape, parts)
            for zeroed in (True, False):
                out = np.full(words.size, 0 if zeroed else 77, words.dtype)
                decoding.decode(layout, shape, parts, out, zeroed=zeroed)
                assert (out == words).all(), (layout, share)
    assert {"dense", "bitmask", "csr"} <= seen


def formulas(words: np.ndarray, shape: tuple[int, ...]) -> dict[str, int]:
    """The table in the docstring of `forms`, counted the slow way."""
    places, b = [i for i, word in enumerate(words.tolist()) if word], words.itemsize
    n, z = words.size, len(places)
    rows = shape[0] if len(shape) > 1 else 1
    steps = [after - before for before, after in zip([0, *places], places, strict=False)]
    small = {True: 1, False: 2}
    found = {
        "dense": b * n,
        "bitmask": b * z + -(-n // 8),
        "absolute": b * z + small[z < 256] * (rows + 1) + small[n // rows <= 256] * z,
        "gaps": (b + 1) * (z + sum(max(step - 1, 0) // 255 for step in steps)),
    }
    for axis in {len(shape) - 1, 1} if len(shape) > 1 else {0}:
        moved = np.moveaxis(words.reshape(shape), axis, -1)
        for of in (2, 4, 8, 16):
            if shape[axis] % of == 0:
                keep = int((moved.reshape(-1, of) != 0).sum(1).max())
                if 0 < keep < of:
                    width = math.ceil(math.log2(math.comb(of, keep)))
                    found[f"{keep}:{of} {axis}"] = b * keep * n // of + -(-n // of * width // 8)
    return found


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_bytes_are_those_of_the_formulas(width: int) -> None:
    dtype = {1: "I8", 2: "F16", 4: "F32", 8: "F64"}[width]
    for seed in range(60):
        shape = [(8, 16), (4, 8, 4), (6, 100), (64,), (10, 300)][seed % 5]
        words = random(shape, [0.003, 0.02, 0.1, 0.3, 0.9][seed // 5 % 5], width, seed)
        expected = formulas(words, shape)
        for layout in forms.layouts(words, shape, dtype):
            fields = layout.fields
            key = f"{fields['keep']}:{fields['of']} {fields['axis']}" if layout.form == "nm" else layout.form
            assert layout.nbytes == expected[fields.get("columns", key)], (layout, shape)
        assert deploy.tensor_bytes(torch.from_numpy(words.view(f"i{width}")).reshape(shape)) == min(
            size for key, size in expected.items()
            if key not in ("absolute", "gaps") or 8 * int((words != 0).sum()) <= words.size + 1024
        )  # fmt: skip


def test_the_smallest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against files written with every other form forced; up to the seven spaces that align the data."""
    whole = forms.layouts
    taken = set()
    for seed in range(60):
        shape = [(8, 32), (6, 100), (40, 50), (2, 3000), (16, 16, 2)][seed % 5]
        words = random(shape, [0.0005, 0.01, 0.1, 0.5, 1][seed // 5 % 5], 4, seed)
        if seed > 30:
            words = np.where(np.arange(words.size) % 4 < 2, words | 1, 0).astype(words.dtype)  # 2:4, every group full
        state = {"w": torch.from_numpy(words.view(np.int32)).reshape(shape)}
        chosen = deploy.save(state, tmp_path / "m.safetensors")
        assert chosen == (tmp_path / "m.safetensors").stat().st_size == deploy.packed_bytes(state)
        taken.add(deploy.describe(tmp_path / "m.safetensors").tensors[0].form)
        for i in range(len(whole(words, shape, "I32"))):
            monkeypatch.setattr(planning, "layouts", lambda *given, i=i: whole(*given)[i : i + 1])
            assert chosen <= deploy.packed_bytes(state) + 7
            monkeypatch.undo()
    assert {"dense", "bitmask", "csr", "nm 2:4"} <= taken


def test_what_no_csr_is_used_for_is_never_smaller() -> None:
    """Above N / 8 non-zeros an index costs at least what the bitmask does, so the search leaves CSR out."""
    words = random((100, 300), 0.2, 4, 0)
    kept = int((words != 0).sum())
    assert 8 * kept > words.size + 1024
    assert all(layout.form != "csr" for layout in forms.layouts(words, (100, 300), "F32"))
    assert forms.gaps("F32", kept).nbytes > forms.bitmask("F32", words.size, kept).nbytes


@pytest.mark.parametrize(("keep", "of"), [(1, 2), (1, 4), (2, 4), (3, 4), (2, 8), (4, 8), (7, 8), (1, 16), (8, 16)])
def test_codes_number_the_masks(keep: int, of: int) -> None:
    """All masks of one N:M in order, one per group: code i is the i-th."""
    masks = sorted(sum(1 << place for place in places) for places in combinations(range(of), keep))
    alive = np.array([[mask >> place & 1 for place in range(of)] for mask in masks], np.uint32)
    words, shape = alive.ravel() * np.arange(1, alive.size + 1, dtype=np.uint32), (len(masks), of)
    layout = forms.nm("F32", words.size, keep, of, 1)
    codes, values = forms.encode(layout, words, shape)
    width = forms.code_bits(keep, of)
    number = int.from_bytes(codes.tobytes(), "little")
    assert [number >> (i * width) & ((1 << width) - 1) for i in range(len(masks))] == list(range(len(masks)))
    assert values.tolist() == [word for word in words.tolist() if word]
    assert forms.codes_are_masks(codes, keep, of, len(masks))
    wrong = np.full_like(codes, 255)
    assert forms.codes_are_masks(wrong, keep, of, len(masks)) == (math.comb(of, keep) == 1 << width)


def test_conv_kernels_are_grouped_along_their_inputs(tmp_path: Path) -> None:
    weight = torch.randn(8, 16, 3, 3, dtype=torch.float32)
    weight[:, [0, 1, 4, 6, 8, 11, 14, 15]] = 0  # 2:4 along the inputs, different columns in each group
    deploy.save({"w": weight}, tmp_path / "m.safetensors")
    assert deploy.describe(tmp_path / "m.safetensors").tensors[0].form.startswith("nm")
    assert torch.equal(deploy.load(tmp_path / "m.safetensors")["w"], weight)


def test_fuller_groups_choose_the_number_of_values(tmp_path: Path) -> None:
    """Groups with fewer than N are filled up: 1 of 50 groups is empty, and 2:4 in bfloat16 still pays."""
    weight = torch.randn(64, 200).to(torch.bfloat16)
    weight[:, 2::4], weight[:, 3::4] = 0, 0
    weight[0, :4] = 0
    deploy.save({"w": weight}, tmp_path / "m.safetensors")
    assert deploy.describe(tmp_path / "m.safetensors").tensors[0].form == "nm 2:4"
    assert torch.equal(deploy.load(tmp_path / "m.safetensors")["w"], weight)


def test_no_form_expands_beyond_the_limit() -> None:
    for shape in [(1 << 22,), (1 << 11, 1 << 11), (1, 1 << 22)]:
        words = np.zeros(math.prod(shape), np.uint8)
        for layout in forms.layouts(words, shape, "U8"):
            assert layout.form != "csr" or forms.fits(layout, words.size, 1)
    assert not forms.fits(forms.gaps("F32", 0), 1 << 22, 4) and forms.fits(forms.gaps("F32", 0), 1 << 17, 4)
    assert NAME_OF[torch.uint8] == "U8"


@pytest.mark.skipif(not kernels.available(), reason="the native extension is not built")
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_native_decoding_equals_its_twin(data: st.DataObject) -> None:
    size, width = data.draw(st.integers(1, 700)), data.draw(st.sampled_from((1, 2, 4, 8)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    alive = rng.random(size) < data.draw(st.sampled_from((0.0, 0.02, 0.3, 1.0)))
    values = rng.integers(1, 255, int(alive.sum()), np.uint8).astype(f"<u{width}")
    steps = np.diff(np.flatnonzero(alive), prepend=0)
    for zeroed in (True, False):
        made = [np.full(size, 0 if zeroed else 7, f"<u{width}") for _ in range(2)]
        for out, twin in zip(made, (False, True), strict=True):
            decoding._scatter(np.packbits(alive, bitorder="little"), values, out, zeroed, twin=twin)
        assert np.array_equal(made[0], made[1]) and np.array_equal(made[0] != 0, alive)
        if steps.max(initial=0) < 256:
            for out, twin in zip(made, (False, True), strict=True):
                out.fill(0 if zeroed else 7)
                decoding._walk(steps.astype(np.uint8), values, out, zeroed, twin=twin)
            assert np.array_equal(made[0], made[1]) and np.array_equal(made[0] != 0, alive)


@pytest.mark.skipif(not kernels.available(), reason="the native extension is not built")
def test_native_decoding_checks_before_it_writes() -> None:
    native = kernels.native()
    ones, out = np.full(2, 255, np.uint8), np.zeros(64, np.uint8)
    for bits, values, width, size, says in (
        (ones, np.zeros(15 * 4, np.uint8), 4, 64, "16 bits are set for 15 values"),
        (ones[:1], np.zeros(8 * 4, np.uint8), 4, 64, "1 bytes of bits"),
        (ones, np.zeros(15 * 4, np.uint8), 4, 60, "a bit is set beyond the 15 entries"),
        (ones, np.zeros(64, np.uint8), 3, 63, "a width of 3 bytes"),
    ):
        with pytest.raises(ValueError, match=says):
            native.unpack_bits(bits, values, width, out[:size], True)
    for steps, values, says in (
        (np.array([3, 13], np.uint8), np.zeros(8, np.uint8), "lead to entry 16 of 16"),
        (np.array([3, 0], np.uint8), np.zeros(8, np.uint8), "stand still"),
        (np.array([3, 1], np.uint8), np.zeros(4, np.uint8), "2 distances, 4 bytes"),
    ):
        with pytest.raises(ValueError, match=says):
            native.unpack_gaps(steps, values, 4, out, True)
    table = np.zeros(8, np.uint32)
    with pytest.raises(ValueError, match="runs of 3 bits"):
        native.unpack_masks(np.zeros(9, np.uint8), 3, table, 2, np.zeros(7, np.uint8))
    with pytest.raises(ValueError, match="runs of 4 bits"):
        native.unpack_masks(np.zeros(9, np.uint8), 4, table, 2, np.zeros(8, np.uint8))
    assert not out.any()


@pytest.mark.parametrize("keep, of", [(1, 2), (2, 4), (1, 4), (4, 8), (3, 16)])
def test_codes_are_read_alike_with_and_without_the_extension(
    keep: int, of: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for groups in (1, 2, 3, 5, 17, 100):
        width = forms.code_bits(keep, of)
        codes = forms._pack_codes(rng.integers(0, math.comb(of, keep), groups), width)
        with monkeypatch.context() as patch:
            patch.setattr(forms, "available", lambda: False)
            slow = forms.mask_bits(codes, keep, of, groups)
        bits = [
            np.unpackbits(one, count=groups * of, bitorder="little")
            for one in (slow, forms.mask_bits(codes, keep, of, groups))
        ]
        assert np.array_equal(bits[0], bits[1]) and bits[0].sum() == groups * keep


@pytest.mark.skipif(not kernels.available(), reason="the native extension is not built")
@pytest.mark.parametrize("size", [0, 1, 7, 15, 16, 63, 64, 65, 79, 80, 127, 128, 200, 4097])
def test_sums_are_those_of_zlib(size: int) -> None:
    """On pieces of any length, and going on from any sum."""
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    for before in (0, 1, 0x12345678, 0xFFFFFFFF):
        assert kernels.native().crc32(data, before) == zlib.crc32(data, before)
    assert tensor_sum([data, data]) == tensor_sum([data.tobytes() * 2])
