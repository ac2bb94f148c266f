"""Export gives what `save_pretrained` and `save_file` give, and refuses to overwrite."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparseland import deploy
from sparseland.core.errors import DataNotFound, OutputError, SparselandError


def state() -> dict[str, torch.Tensor]:
    """Sparse, dense, tied and small."""
    torch.manual_seed(0)
    weight = torch.randn(60, 60).masked_fill(torch.rand(60, 60) > 0.1, 0)
    return {"a.weight": weight, "a.bias": torch.randn(60), "tied": weight, "count": torch.tensor(3)}


def header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    found: dict[str, Any] = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    return found


def test_a_plain_file_without_a_trace(tmp_path: Path) -> None:
    deploy.save(state(), tmp_path / "small.safetensors")
    size = deploy.export_dense(tmp_path / "small.safetensors", tmp_path / "plain.safetensors")
    assert size == (tmp_path / "plain.safetensors").stat().st_size
    found = header(tmp_path / "plain.safetensors")
    assert found.pop("__metadata__") == {"format": "pt"} and list(found) == list(state())
    back = load_file(tmp_path / "plain.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in state().items())
    assert not deploy.is_packed(tmp_path / "plain.safetensors")


def test_there_and_back(tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in state().items()}, tmp_path / "plain.safetensors")
    deploy.export_packed(tmp_path / "plain.safetensors", tmp_path / "small.safetensors")
    deploy.export_dense(tmp_path / "small.safetensors", tmp_path / "again.safetensors")
    one, two = load_file(tmp_path / "plain.safetensors"), load_file(tmp_path / "again.safetensors")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_shards_there_and_back(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    deploy.save(state(), tmp_path / "packed", shard_bytes=2000)
    deploy.export_dense(
        tmp_path / "packed", tmp_path / "plain", shard_bytes=15_000, progress=lambda *given: seen.append(given)
    )
    assert [done for _, done, _ in seen] == [1, 2, 3, 4] and {total for *_, total in seen} == {4}
    index = json.loads((tmp_path / "plain" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 2 * 14_400 + 240 + 8}
    files = sorted(path.name for path in (tmp_path / "plain").glob("*.safetensors"))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert {name for name, _, _ in seen} == set(files)
    back = {name: load_file(tmp_path / "plain" / file)[name] for name, file in index["weight_map"].items()}
    assert all(torch.equal(back[name], tensor) for name, tensor in state().items())
    deploy.export_packed(tmp_path / "plain", tmp_path / "again", shard_bytes=2000)
    again = deploy.load(tmp_path / "again")
    assert again.keys() == state().keys() and all(torch.equal(again[name], t) for name, t in state().items())


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[torch.rand(parameter.shape) < 0.9] = 0
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("a\nb\n")
    small = deploy.export_packed(tmp_path / "model", tmp_path / "small")
    assert {path.name for path in (tmp_path / "small").iterdir()} >= {
        "config.json", "vocab.txt", "packed.safetensors"
    }  # fmt: skip
    assert not list((tmp_path / "small").glob("model*.safetensors"))
    deploy.export_dense(tmp_path / "small", tmp_path / "again")
    before, after = header(tmp_path / "model" / "model.safetensors"), header(tmp_path / "again" / "model.safetensors")
    assert after["__metadata__"] == before["__metadata__"] == {"format": "pt"} and after.keys() == before.keys()
    assert small < 0.6 * (tmp_path / "again" / "model.safetensors").stat().st_size  # tiny tensors: headers weigh
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "again", local_files_only=True).eval()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    words = torch.arange(8).view(1, 8)
    assert torch.equal(model(words).logits, again(words).logits)
    again.save_pretrained(tmp_path / "third")
    assert header(tmp_path / "third" / "model.safetensors").keys() == after.keys()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    small, plain, folder = tmp_path / "small.safetensors", tmp_path / "plain.safetensors", tmp_path / "folder"
    deploy.save(state(), small)
    plain.write_text("mine")
    with pytest.raises(SparselandError, match="exists; say overwrite"):
        deploy.export_dense(small, plain)
    assert plain.read_text() == "mine"
    deploy.export_dense(small, plain, overwrite=True)
    assert load_file(plain).keys() == state().keys()
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(SparselandError, match="something else than weights"):
        deploy.export_dense(small, folder, shard_bytes=20_000, overwrite=True)
    with pytest.raises(SparselandError, match="is a folder; give a file"):
        deploy.export_dense(small, folder)
    deploy.export_dense(small, tmp_path / "new", shard_bytes=20_000)
    with pytest.raises(SparselandError, match="exists; say overwrite"):
        deploy.export_dense(small, tmp_path / "new", shard_bytes=20_000)
    deploy.export_packed(small, tmp_path / "new", shard_bytes=20_000, overwrite=True)
    assert deploy.is_packed(tmp_path / "new") and not (tmp_path / "new" / "model.safetensors").exists()
    assert (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("where", ["itself", "inside", "around"])
def test_not_into_what_is_read(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    deploy.save(state(), folder, shard_bytes=5000)
    out = {"itself": folder, "inside": folder / "c", "around": tmp_path / "a"}[where]
    with pytest.raises(SparselandError, match="where the weights are read from"):
        deploy.export_dense(folder, out, overwrite=True)
    assert deploy.load(folder).keys() == state().keys()


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no file"):
        deploy.export_dense(tmp_path / "absent.safetensors", tmp_path / "out.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFound, match="no packed checkpoint"):
        deploy.export_packed(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}")
    with pytest.raises(SparselandError, match="no safetensors file"):
        deploy.export_packed(tmp_path / "pytorch_model.bin", tmp_path / "out.safetensors")
    deploy.save(state(), tmp_path / "small.safetensors")
    with pytest.raises(OutputError, match="there is no folder"):
        deploy.export_dense(tmp_path / "small.safetensors", tmp_path / "no" / "out.safetensors")
    whole = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "small.safetensors").write_bytes(whole[:-1] + b"!")
    with pytest.raises(SparselandError, match="CRC-32"):
        deploy.export_dense(tmp_path / "small.safetensors", tmp_path / "out.safetensors")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"empty", "pytorch_model.bin", "small.safetensors"}  # nothing half-written


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": {"w": "../small.safetensors"}}', '{"weight_map": 3}'])
def test_an_index_of_plain_shards_that_is_wrong(index: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(SparselandError, match="damaged or no index"):
        deploy.export_packed(tmp_path / "model", tmp_path / "out")
    (tmp_path / "model" / "model.safetensors.index.json").write_text('{"weight_map": {"w": "x.safetensors"}}')
    with pytest.raises(DataNotFound, match="which is missing"):
        deploy.export_packed(tmp_path / "model", tmp_path / "out")
