"""``sparseland export`` and what ``sparseland inspect`` says of packed weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sparseland import deploy
from sparseland.cli import export, inspect
from sparseland.cli.app import Verbs


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The two verbs in a program of their own."""
    monkeypatch.setenv("COLUMNS", "240")
    app = typer.Typer(cls=Verbs, rich_markup_mode="rich")
    export.add(app)
    inspect.add(app)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A plain file, nine tenths zeros."""
    torch.manual_seed(0)
    weight = torch.randn(80, 100).masked_fill(torch.rand(80, 100) > 0.1, 0)
    save_file({"w": weight, "b": torch.randn(80)}, tmp_path / "plain.safetensors")
    return tmp_path / "plain.safetensors"


def test_to_packed_and_back(call: Any, plain: Path, tmp_path: Path) -> None:
    said = call("export", plain, "--to", "packed", "--out", tmp_path / "small.safetensors")
    assert said.exit_code == 0, said.output
    assert "packed (0.1" in said.stdout and deploy.is_packed(tmp_path / "small.safetensors")
    said = call("export", tmp_path / "small.safetensors", "--to", "dense", "--out", tmp_path / "again.safetensors")
    assert said.exit_code == 0, said.output
    one, two = load_file(plain), load_file(tmp_path / "again.safetensors")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_shards_and_overwriting(call: Any, plain: Path, tmp_path: Path) -> None:
    words = ("export", plain, "--to", "packed", "--shard-bytes", "4KB", "--out", tmp_path / "small")
    assert call(*words).exit_code == 0
    assert len(list((tmp_path / "small").glob("packed-*.safetensors"))) == 2
    said = call(*words)
    assert said.exit_code == 2 and "exists" in said.output and "--overwrite" in said.output
    assert call(*words, "--overwrite").exit_code == 0


def test_what_export_refuses(call: Any, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for words, says in (
        ((plain, "--to", "zip", "--out", out), "cannot export to 'zip'; possible: dense, engine, onnx, packed"),
        ((tmp_path / "absent.safetensors", "--to", "dense", "--out", out), "no weights at"),
        ((plain, "--to", "packed", "--shard-bytes", "2XB", "--out", out), "is no number of bytes"),
        ((plain, "--to", "packed", "--out", plain), "where the weights are read from"),
    ):
        said = call("export", *words)
        assert said.exit_code == 2 and says in said.output, said.output
    assert not out.exists()


@pytest.mark.parametrize("shards", [(), ("--shard-bytes", "4KB")])
def test_inspect_says_how_each_tensor_is_stored(
    shards: tuple[str, ...], call: Any, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("small" if shards else "small.safetensors")
    call("export", plain, "--to", "packed", "--out", out, *shards)
    said = call("inspect", out)
    assert said.exit_code == 0, said.output
    assert "stored as" in said.stdout and "csr" in said.stdout and "dense" in said.stdout
    assert f"version 2 of the format: {deploy.describe(out).bytes:,} bytes in {2 if shards else 1} file" in said.stdout
    rows = {row["name"]: row for row in json.loads(call("inspect", out, "--json").stdout)}
    assert rows["w"]["form"] == "csr" and rows["b"]["form"] == "dense" and rows["b"]["stored"] == 320
    assert "stored as" not in call("inspect", plain).stdout


def test_inspect_reads_version_one(call: Any) -> None:
    golden = Path(__file__).parents[1] / "deploy" / "golden" / "version1.safetensors"
    said = call("inspect", golden)
    assert said.exit_code == 0 and "bitmask" in said.stdout and "version 1 of the format" in said.stdout
