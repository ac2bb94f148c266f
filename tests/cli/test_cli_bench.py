"""``sparseland bench``, ``export --to engine|onnx`` and ``inspect m.sland``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparseland import deploy, zoo
from sparseland.cli.bench import zeroed
from sparseland.kernels import available

pytestmark = pytest.mark.skipif(not available(), reason="the native extension is not built")
Call = Callable[..., Any]
LENET = ("--shape", "1x12x12", "--classes", "4", "--threads", "1", "--no-measure")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Packed weights of a small network with zeros."""
    model = zoo.build("lenet-5", in_shape=(1, 12, 12), classes=4, seed=0)
    zeroed(model, 0.5)
    deploy.save(model, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_bench_of_a_name(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "bench.json"
    done = call(
        "bench", "resnet-20-w4", "--shape", "3x16x16", "--classes", 10, "--threads", 1, "--no-measure", "--rounds", 3,
        "--sparsity", 0.8, "--batch", 2, "--layers", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for words in (
        "80% zeros",
        "batch 2",
        "torch eager",
        "engine, dense",
        "engine, sparse",
        "x as fast",
        "layer1.0.conv1",
    ):
        assert words in done.output
    found = json.loads(out.read_text())
    assert set(found["times"]) == {"torch eager", "engine, dense", "engine, sparse"}
    assert found["rounds"] == 3 and len(found["seconds"]["engine, sparse"]) == 3
    sparsities = [layer["sparsity"] for layer in found["engine"]["layers"] if layer["name"] == "layer2.1.conv1"]
    assert sparsities == [pytest.approx(0.8, abs=0.01)]


def test_bench_of_text(call: Call) -> None:
    pytest.importorskip("transformers")
    settings = (
        "hidden_size=16",
        "num_hidden_layers=1",
        "num_attention_heads=2",
        "intermediate_size=32",
        "vocab_size=20",
    )
    options = [word for entry in settings for word in ("--set", entry)]
    done = call("bench", "hf:config:bert", *options, "--tokens", 8, "--classes", 2, "--rounds", 2, "--no-measure")
    assert done.exit_code == 0 and "engine, sparse" in done.output


def test_engine_file_there_and_back(call: Call, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.sland"
    done = call("export", weights, "--to", "engine", "--model", "lenet-5", *LENET, "--batch", 2, "--out", out)
    assert done.exit_code == 0 and "engine" in done.output, done.output
    again = call("export", weights, "--to", "engine", "--model", "lenet-5", *LENET, "--out", out)
    assert again.exit_code == 2 and "--overwrite replaces it" in again.output
    model = zoo.build("lenet-5", in_shape=(1, 12, 12), classes=4, seed=0)
    deploy.load_into(model, weights)
    x = torch.randn(2, 1, 12, 12)
    assert torch.allclose(deploy.load(out)(x), model.eval()(x), atol=1e-5)

    shown = call("inspect", out)
    assert shown.exit_code == 0
    for words in ("LeNet5 for the engine", "2 × 1 × 12 × 12", "conv1", "ops;", "sparse kernels", "1 threads"):
        assert words in shown.output, words
    facts = json.loads(call("inspect", out, "--json").output)
    assert facts["bytes"] == out.stat().st_size and facts["layers"] and facts["facts"]["threads"] == 1
    timed = call("bench", out, "--rounds", 2, "--layers")
    assert timed.exit_code == 0 and "torch eager" not in timed.output and "engine" in timed.output


def test_onnx(call: Call, weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    out, engine = tmp_path / "m.onnx", tmp_path / "m.sland"
    done = call("export", weights, "--to", "onnx", "--model", "lenet-5", *LENET, "--out", out)
    assert done.exit_code == 0 and out.is_file(), done.output
    done = call("export", out, "--to", "engine", "--no-measure", "--out", engine)
    assert done.exit_code == 0 and deploy.is_engine(engine), done.output
    timed = call("bench", out, "--rounds", 2, "--no-measure")
    assert timed.exit_code == 0, timed.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("bench", "resnet-21"), "depth"),
        (("bench", "nothing.sland"), "no file nothing.sland"),
        (("bench", "lenet-5", "--sparsity", "1"), "fraction in [0, 1)"),
        (("bench", "lenet-5", "--batch", "0"), "at least 1"),
        (("bench", "lenet-5", "--shape", "big"), "--shape CxHxW"),
        (("bench", "lenet-5", "--set", "deep"), "NAME=VALUE"),
        (("export", "w.safetensors", "--to", "engine", "--out", "x.sland"), "no weights at"),
    ],
)
def test_what_is_refused(call: Call, words: tuple[str, ...], says: str) -> None:
    done = call(*words)
    assert done.exit_code == 2 and says in " ".join(done.output.split()), done.output


def test_export_needs_a_model_and_inspect_a_whole_file(call: Call, weights: Path, tmp_path: Path) -> None:
    done = call("export", weights, "--to", "engine", "--out", tmp_path / "m.sland")
    assert done.exit_code == 2 and "give --model" in done.output
    done = call("export", weights, "--to", "tflite", "--out", tmp_path / "m.sland")
    assert done.exit_code == 2 and "dense, engine, onnx, packed" in done.output
    (tmp_path / "bad.sland").write_bytes(b"SLENGINE" + b"\x63" + bytes(100))
    done = call("inspect", tmp_path / "bad.sland")
    assert done.exit_code == 2 and "version 99" in done.output
