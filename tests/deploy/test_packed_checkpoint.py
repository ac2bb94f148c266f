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
    assert stored["w.values"].numel() == 4  # +0 alone is left out
    assert bits(deploy.load(tmp_path / "m.safetensors")["w"]) == raw.tolist()


def test_each_tensor_takes_the_smaller_form(tmp_path: Path) -> None:
    state = {"sparse": sparse(torch.float32, (100, 100)), "dense": torch.randn(50, 50), "bias": torch.zeros(4)}
    size = deploy.save(state, tmp_path / "m.safetensors")
    stored = load_file(tmp_path / "m.safetensors")
    assert set(stored) == {"sparse.bitmask", "sparse.values", "dense", "bias"}
    kept = int((state["sparse"] != 0).sum())
    data = 4 * kept + 10_000 // 8 + 4 * 2500 + 16
    assert data < size < data + 1200  # the rest is the header
    assert deploy.dense_bytes(state) == 4 * (10_000 + 2500 + 4)


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
    for at in (-1, -30, -200):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(SparselandError, match="SHA-256"):
            deploy.load(path)


def test_a_later_version_is_refused_with_advice(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"format": "sparseland.packed", "version": "9"}, {"w": torch.ones(2)})
    with pytest.raises(SparselandError, match=r"version '9'.*reads version 1: update"):
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


def test_files_that_contradict_themselves(tmp_path: Path) -> None:
    """Well-formed, with a right checksum, and still impossible: made by hand."""
    from sparseland.deploy import checkpoint

    cases = [
        ({"w": {"shape": [8]}}, {"w.bitmask": torch.tensor([3], dtype=torch.uint8), "w.values": torch.ones(5)}),
        ({"w": {"shape": [10**12]}}, {"w.bitmask": torch.tensor([3], dtype=torch.uint8), "w.values": torch.ones(2)}),
        ({"w": {"same as": "v"}}, {"x": torch.ones(1)}),
        ({"w": {}}, {"x": torch.ones(1)}),
        ({"w": {"shape": [8]}}, {"w": torch.ones(8)}),
    ]
    for index, stored in cases:
        text = json.dumps(index)
        metadata = {"format": checkpoint.FORMAT, "version": "1", "tensors": text}
        metadata["sha256"] = checkpoint._checksum(stored, text)
        with pytest.raises(SparselandError, match="contradicts itself"):
            deploy.load(write(tmp_path / "m.safetensors", metadata, stored))


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(SparselandError, match="'extra' is dict"):
        deploy.save({"w": torch.ones(1), "extra": {}}, tmp_path / "m.safetensors")
    with pytest.raises(SparselandError, match="layout"):
        deploy.save({"w": torch.ones(2, 2).to_sparse()}, tmp_path / "m.safetensors")
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
    assert json.loads(header["__metadata__"]["tensors"]) == {"w": {"shape": [37, 29]}}
