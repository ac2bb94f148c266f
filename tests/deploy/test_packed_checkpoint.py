"""The packed checkpoint gives back every bit, is as small as it says, and refuses what it cannot trust."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparseland import deploy
from sparseland.core.errors import DataNotFound, OutputError, SparselandError

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool,
         torch.complex64, torch.float8_e4m3fn]  # fmt: skip


def sparse(dtype: torch.dtype, shape: tuple[int, ...] = (37, 29)) -> torch.Tensor:
    """A tenth of the entries alive."""
    return torch.randn(shape).masked_fill(torch.rand(shape) > 0.1, 0).to(dtype)  # a product would make -0.0


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(INTEGERS[tensor.element_size()]).tolist()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_keeps_its_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"w": sparse(dtype), "scalar": torch.ones((), dtype=dtype), "empty": torch.zeros((0, 3), dtype=dtype)}
    size = deploy.save(state, tmp_path / "m.safetensors")
    back = deploy.load(tmp_path / "m.safetensors")
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].dtype == dtype and back[name].shape == tensor.shape
        assert bits(back[name]) == bits(tensor)
    assert size == (tmp_path / "m.safetensors").stat().st_size == deploy.packed_bytes(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_minus_zero_and_nan_payloads_survive(dtype: torch.dtype, tmp_path: Path) -> None:
    width = torch.zeros((), dtype=dtype).element_size()
    raw = torch.zeros(512, dtype=INTEGERS[width])
    minus_zero = torch.tensor(-0.0, dtype=dtype).view(INTEGERS[width])
    nan = torch.tensor(float("nan"), dtype=dtype).view(INTEGERS[width])
    raw[3], raw[70], raw[500], raw[501] = minus_zero, nan, nan + 1, torch.tensor(1, dtype=INTEGERS[width])
    deploy.save({"w": raw.view(dtype)}, tmp_path / "m.safetensors")
    stored = load_file(tmp_path / "m.safetensors")
    assert stored["w.values"].numel() == 5  # +0 alone is left out; one is stored to bridge the gap from 70 to 500
    assert bits(deploy.load(tmp_path / "m.safetensors")["w"]) == raw.tolist()


def test_each_tensor_takes_the_smaller_form(tmp_path: Path) -> None:
    half = torch.randn(100, 100).masked_fill(torch.rand(100, 100) > 0.5, 0)
    state = {"half": half, "tenth": sparse(torch.float32, (100, 100)), "dense": torch.randn(50, 50)}
    size = deploy.save({**state, "bias": torch.zeros(4)}, tmp_path / "m.safetensors")
    stored = load_file(tmp_path / "m.safetensors")
    assert set(stored) == {"half.bitmask", "half.values", "tenth.gaps", "tenth.values", "dense", "bias"}
    kept = int((half != 0).sum())
    data = 4 * kept + 10_000 // 8 + 5 * stored["tenth.gaps"].numel() + 4 * 2500 + 16
    assert data < size < data + 1500  # the rest is the header
    assert deploy.dense_bytes(state) == 4 * (10_000 + 10_000 + 2500)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.15), (torch.bfloat16, 0.165), (torch.float16, 0.165),
                                             (torch.float8_e4m3fn, 0.23), (torch.int8, 0.23)], ids=str)  # fmt: skip
def test_ninety_per_cent_zeros_make_small_files(dtype: torch.dtype, most: float) -> None:
    """Bytes over dense bytes: b Z + Z for the distances, b N dense; a little header."""
    weight = torch.randint(1, 100, (256, 1024)).masked_fill(torch.rand(256, 1024) < 0.9, 0)
    state = {"w": weight.to(dtype)}
    assert deploy.packed_bytes(state) <= most * deploy.dense_bytes(state)


def test_half_zeros_pay_and_no_zeros_do_not() -> None:
    dense = torch.ones(10_000)
    half = dense.clone()
    half[::2] = 0
    assert deploy.packed_bytes({"w": half}) < 0.55 * deploy.packed_bytes({"w": dense})
    assert deploy.packed_bytes({"w": dense}) < deploy.dense_bytes({"w": dense}) + 400


def test_a_model_comes_back(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    with torch.no_grad():
        model[0].weight[1:] = 0
    deploy.save(model, tmp_path / "m.safetensors")
    back = deploy.load(tmp_path / "m.safetensors")
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    model.load_state_dict(back)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    weight = torch.randn(64, 64)
    size = deploy.save({"a": weight, "b": weight, "c": weight.clone()}, tmp_path / "m.safetensors")
    back = deploy.load(tmp_path / "m.safetensors")
    assert back["a"] is back["b"] and back["c"] is not back["a"]
    assert all(torch.equal(value, weight) for value in back.values())
    assert deploy.dense_bytes({"a": weight, "b": weight}) == weight.numel() * 4
    assert size < 2.2 * 64 * 64 * 4


def test_views_and_transposed_tensors(tmp_path: Path) -> None:
    base = sparse(torch.float32, (40, 60))
    state = {"t": base.t(), "part": base[3:5], "whole": base}
    deploy.save(state, tmp_path / "m.safetensors")
    back = deploy.load(tmp_path / "m.safetensors")
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_names_that_look_like_parts(tmp_path: Path) -> None:
    state = {"w": sparse(torch.float32), "w.values": torch.randn(3), "v": sparse(torch.float32)}
    deploy.save(state, tmp_path / "m.safetensors")
    back = deploy.load(tmp_path / "m.safetensors")
    assert {name: value.shape for name, value in back.items()} == {name: value.shape for name, value in state.items()}
    assert all(torch.equal(back[name], value) for name, value in state.items())


def write(path: Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata)
    return path


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    deploy.save({"w": sparse(torch.float32), "b": torch.ones(7)}, path)
    whole = path.read_bytes()
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(SparselandError, match=r"m\.safetensors is damaged, cut short or no safetensors file"):
            deploy.load(path)
    for at, sum_ in ((-1, "CRC-32"), (-30, "CRC-32"), (-200, "CRC-32"), (whole.index(b"sum") + 9, "SHA-256")):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(SparselandError, match=sum_):
            deploy.load(path)


def test_a_later_version_is_refused_with_advice(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"format": "sparseland.packed", "version": "9"}, {"w": torch.ones(2)})
    with pytest.raises(SparselandError, match=r"version '9'.*reads versions 1 to 2: update"):
        deploy.load(path)
    assert deploy.is_packed(path)


def test_a_plain_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file({"w": torch.ones(2)}, path)
    assert not deploy.is_packed(path)
    with pytest.raises(SparselandError, match="plain safetensors file"):
        deploy.load(path)
    with pytest.raises(DataNotFound, match="no file"):
        deploy.load(tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SparselandError, match="no safetensors file"):
        deploy.is_packed(tmp_path / "text")


GOLDEN = Path(__file__).parent / "golden" / "version1.safetensors"  # written by the library's version 0.1


def test_version_one_is_still_read(tmp_path: Path) -> None:
    back = deploy.load(GOLDEN)
    assert list(back) == ["layer.weight", "small", "half", "bias", "count", "tied", "empty"]
    assert back["tied"] is back["layer.weight"] and back["empty"].shape == (0, 3) and back["count"].item() == 7
    expected = torch.zeros(30, 40)
    expected.view(-1)[::11] = torch.arange(110.0)
    assert bits(back["layer.weight"]) == bits(expected)
    assert back["half"].dtype == torch.bfloat16 and back["half"].nonzero().view(-1).tolist() == list(range(7, 800, 40))
    small = torch.zeros(6, 20)
    small[1, 3], small[5, 19], small[0, 0] = 1.5, -2.0, -0.0
    assert bits(back["small"]) == bits(small)
    info = deploy.describe(GOLDEN)
    assert info.version == 1 and info.bytes == GOLDEN.stat().st_size
    assert [one.form for one in info.tensors if one.name in ("layer.weight", "bias", "tied")] == [
        "bitmask", "dense", "tied"
    ]  # fmt: skip
    deploy.save(back, tmp_path / "m.safetensors")
    assert deploy.describe(tmp_path / "m.safetensors").version == 2


def test_a_model_is_filled_in_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, two = (torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.BatchNorm2d(8)) for _ in range(2))
    with torch.no_grad():
        one[0].weight[torch.rand(one[0].weight.shape) < 0.9] = 0
    deploy.save(one, tmp_path / "m.safetensors")
    memory = two[0].weight.data_ptr()
    assert deploy.load_into(two, tmp_path / "m.safetensors") is two
    assert two[0].weight.data_ptr() == memory and two[0].weight.requires_grad
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in two.state_dict().items())
    half = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.BatchNorm2d(8)).to(torch.bfloat16)
    deploy.load_into(half.to(memory_format=torch.channels_last), tmp_path / "m.safetensors")
    assert torch.equal(half[0].weight, one[0].weight.to(torch.bfloat16))


@pytest.mark.parametrize("change", ["shape", "missing", "extra", "nothing in common", "damaged"])
def test_a_model_is_not_touched_by_what_does_not_fit(change: str, tmp_path: Path) -> None:
    model = torch.nn.Linear(30, 30)
    state = {"weight": torch.zeros(30, 30), "bias": torch.ones(30)}
    if change == "shape":
        state["weight"] = torch.zeros(30, 31)
    if change == "missing":
        del state["bias"]
    if change == "extra":
        state["biases"] = torch.ones(3)
    if change == "nothing in common":
        state = {"v": torch.ones(3)}
    path = tmp_path / "m.safetensors"
    deploy.save(state, path)
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SparselandError, match="damaged" if change == "damaged" else "does not fit Linear"):
        deploy.load_into(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if change in ("missing", "extra"):
        deploy.load_into(model, path, strict=False)
        assert int(model.weight.count_nonzero()) == 0


def test_tied_parameters_of_a_model(tmp_path: Path) -> None:
    def tied() -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False))
        model[1].weight = model[0].weight
        return model

    one, two = tied(), tied()
    deploy.save(one, tmp_path / "m.safetensors")
    assert [info.form for info in deploy.describe(tmp_path / "m.safetensors").tensors] == ["dense", "tied"]
    deploy.load_into(two, tmp_path / "m.safetensors")
    assert two[1].weight is two[0].weight and torch.equal(one[0].weight, two[1].weight)
    apart = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False))
    deploy.load_into(apart, tmp_path / "m.safetensors")
    assert torch.equal(apart[0].weight, one[0].weight) and torch.equal(apart[1].weight, one[0].weight)


def test_a_type_to_store_in(tmp_path: Path) -> None:
    state = {"w": torch.randn(40, 40), "steps": torch.arange(9)}
    size = deploy.save(state, tmp_path / "m.safetensors", dtype=torch.bfloat16)
    assert size == deploy.packed_bytes(state, dtype=torch.bfloat16) == (tmp_path / "m.safetensors").stat().st_size
    back = deploy.load(tmp_path / "m.safetensors")
    assert torch.equal(back["w"], state["w"].to(torch.bfloat16)) and torch.equal(back["steps"], state["steps"])
    with pytest.raises(SparselandError, match="floating-point"):
        deploy.save(state, tmp_path / "m.safetensors", dtype=torch.int8)


def test_odd_tensors_and_odd_names(tmp_path: Path) -> None:
    base = sparse(torch.float32, (24, 40))
    state = {
        "": torch.ones(2), "__metadata__": torch.ones(3), "a\"b\\c\n\u00e9\U0001f600 \t/": sparse(torch.float32),
        "sha256": torch.ones(1), '"sha256":"' + "0" * 64 + '"': torch.ones(1), "w": base, "w.gaps": sparse(torch.int8),
        "w.values": base[:, ::2], "w~": base.t(), "w~.gaps": torch.ones(1), "expanded": torch.ones(1).expand(70, 9),
        "conj": torch.randn(40, dtype=torch.complex64).conj(), "scalar": torch.tensor(-0.0), "none": torch.zeros(0),
        "no rows": torch.zeros(0, 1 << 40), "deep": torch.zeros([1] * 20 + [64]), "true": torch.rand(99) > 0.9,
        "inf": torch.tensor([0.0, float("inf"), -float("inf"), float("nan")]).repeat(50), "big": torch.zeros(1 << 21),
    }  # fmt: skip
    size = deploy.save(state, tmp_path / "m.safetensors")
    assert size == deploy.packed_bytes(state) == (tmp_path / "m.safetensors").stat().st_size
    back = deploy.load(tmp_path / "m.safetensors")
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].shape == tensor.shape and back[name].dtype == tensor.dtype
        assert bits(back[name]) == bits(tensor.resolve_conj()), name
    assert deploy.describe(tmp_path / "m.safetensors").tensors[-1].form == "bitmask"  # a CSR would expand too much
    load_file(tmp_path / "m.safetensors")  # and any reader of safetensors can open it


def test_big_tensors_go_through_several_chunks(tmp_path: Path) -> None:
    for share in (0.02, 0.3):
        big = torch.randn(300, 1000).masked_fill(torch.rand(300, 1000) > share, 0)
        deploy.save({"w": big}, tmp_path / "m.safetensors")
        assert torch.equal(deploy.load(tmp_path / "m.safetensors")["w"], big)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(SparselandError, match="'extra' is dict"):
        deploy.save({"w": torch.ones(1), "extra": {}}, tmp_path / "m.safetensors")
    with pytest.raises(SparselandError, match="layout"):
        deploy.save({"w": torch.ones(2, 2).to_sparse()}, tmp_path / "m.safetensors")
    with pytest.raises(SparselandError, match="meta device"):
        deploy.save({"w": torch.ones(2, device="meta")}, tmp_path / "m.safetensors")
    with pytest.raises(SparselandError, match="no text"):
        deploy.save({"\ud800": torch.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(SparselandError, match="complex128"):
        deploy.save({"w": torch.ones(2, dtype=torch.complex128)}, tmp_path / "m.safetensors")
    with pytest.raises(OutputError, match=r"cannot write .*absent"):
        deploy.save({"w": torch.ones(2)}, tmp_path / "absent" / "m.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        deploy.save({"w": torch.ones(2)}, tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder"]  # nothing half-written


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    deploy.save({"w": torch.ones(2)}, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        deploy.save({"w": torch.zeros(9)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_header_is_plain_json(tmp_path: Path) -> None:
    """Data only: a reader needs nothing but JSON and raw bytes."""
    deploy.save({"w": sparse(torch.float32)}, tmp_path / "m.safetensors")
    raw = (tmp_path / "m.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["__metadata__"]["format"] == "sparseland.packed"
    entry = json.loads(header["__metadata__"]["tensors"])["w"]
    assert entry == {"form": "csr", "columns": "gaps", "shape": [37, 29], "sum": entry["sum"]}
    assert header["w.gaps"]["dtype"] == "U8" and header["w.values"]["dtype"] == "F32"
