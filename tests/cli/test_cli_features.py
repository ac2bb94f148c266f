"""``sparseland features train`` and ``inspect`` on arrays, stored folders and a small language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sparseland.cli.app import app
from sparseland.features import load
from sparseland.features.activations import store

TEXT = "the cat sat on the mat and the dog sat on the log while a bird sang in a tree"
WORDS = TEXT.split(" ")


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["features", *map(str, words)])
    text = " ".join((result.output + str(getattr(result, "stderr", ""))).split())
    assert result.exit_code == code, f"{text} {result.exception!r}"
    return text


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    x = (draw.random((600, 20)) * (draw.random((600, 20)) < 0.1)) @ draw.standard_normal((20, 8))
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    np.savez(tmp_path / "pairs.npz", x=x.astype(np.float32), g=draw.standard_normal((600, 8)).astype(np.float32))
    return tmp_path / "x.npy"


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of 8 numbers' width with a tokenizer of whole words, and a text."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("model") / "small-gpt"
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *sorted(set(WORDS))])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "bos_token_id": None, "eos_token_id": None}
    config = transformers.GPT2Config(vocab_size=len(vocabulary), **sizes)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    (folder.parent / "text.txt").write_text(" ".join(WORDS * 40))
    return folder


SMALL = ("--steps", 5, "--batch", 32, "--buffer", 128, "--features", 32, "-k", 3)


def test_trains_on_an_array_and_says_how_good_it_is(rows: Path, tmp_path: Path) -> None:
    said = run("train", rows, "--out", tmp_path / "sae", *SMALL)
    assert "32 features of 8 activations, topk, k = 3" in said and "5 steps, 160 tokens" in said
    assert "held out: 60 tokens, batch mode" in said and "NMSE" in said
    assert load(tmp_path / "sae").config.d_sae == 32
    shown = run("inspect", tmp_path / "sae", "--source", rows, "--out", tmp_path / "numbers.json")
    assert "topk" in shown and "60 tokens" in shown
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["metrics"]["tokens"] == 60 and numbers["metrics"]["l0"] <= 3 and numbers["config"]["k"] == 3
    assert "activation" in run("inspect", tmp_path / "sae")


def test_the_same_command_goes_on_and_fresh_refuses(rows: Path, tmp_path: Path) -> None:
    run("train", rows, "--out", tmp_path / "sae", *SMALL)
    run("train", rows, "--out", tmp_path / "sae", *SMALL)
    assert "checkpoint" in run("train", rows, "--out", tmp_path / "sae", *SMALL, "--fresh", code=2)


def test_pairs_and_gradients(rows: Path, tmp_path: Path) -> None:
    pairs = rows.with_name("pairs.npz")
    run("train", pairs, "--out", tmp_path / "g", *SMALL, "--select", "gradient", "--beta", 2)
    config = load(tmp_path / "g").config
    assert (config.select, config.beta, config.grad_norm) == ("gradient", 2.0, "token_l2")
    run("train", pairs, "--out", tmp_path / "plain", *SMALL)  # its g is left alone
    said = run("train", rows, "--out", tmp_path / "no", *SMALL, "--select", "gradient", code=2)
    assert "needs pairs; x.npy has no array g" in said
    assert "--beta weighs" in run("train", rows, "--out", tmp_path / "no", *SMALL, "--beta", 2, code=2)


def test_batch_activations_are_measured_by_threshold(rows: Path, tmp_path: Path) -> None:
    said = run("train", rows, "--out", tmp_path / "sae", *SMALL, "--activation", "batchtopk")
    assert "threshold mode" in said


def test_stored_folders(rows: Path, tmp_path: Path) -> None:
    store(torch.from_numpy(np.load(rows)), tmp_path / "stored", shard=100)
    said = run("train", tmp_path / "stored", "--out", tmp_path / "sae", *SMALL, "--held-out", 0.2)
    assert "held out: 100 tokens" in said
    assert "held out" not in run("train", tmp_path / "stored", "--out", tmp_path / "b", *SMALL, "--held-out", 0)


def test_a_language_model_from_training_to_the_page(gpt: Path, tmp_path: Path) -> None:
    text = gpt.parent / "text.txt"
    what = ("--layer", "transformer.h.0", "--text", text, "--length", 12)
    run("train", gpt, *what, "--out", tmp_path / "sae", *SMALL, "--select", "gradient")
    said = run("inspect", tmp_path / "sae", "--source", gpt, *what, "--html", tmp_path / "page.html", "--features", 4)
    assert "clean" in said and "recovered" in said and "zero" in said
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article") == 4 and ">cat<" in page.replace(" ", "")


def bad(name: str) -> list[Any]:
    return {
        "no file": ["nowhere.npy", "no file or folder"],
        "another kind": ["notes.txt", "activations are read from .npy, .npz, .safetensors"],
        "damaged": ["damaged.npz", "cannot be read"],
        "integers": ["whole.npy", "activations are floating"],
        "no x": ["named.npz", "holds a, b; the activations are called x"],
        "g of another shape": ["uneven.npz", "g (3, 2)"],
        "empty folder": ["empty", "no stored activations"],
    }[name]


@pytest.mark.parametrize(
    "name", ["no file", "another kind", "damaged", "integers", "no x", "g of another shape", "empty folder"]
)
def test_sources_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "damaged.npz").write_bytes(b"PK no")
    np.save(tmp_path / "whole.npy", np.zeros((4, 2), int))
    np.savez(tmp_path / "named.npz", a=np.zeros((4, 2)), b=np.zeros((4, 2)))
    np.savez(tmp_path / "uneven.npz", x=np.zeros((4, 2)), g=np.zeros((3, 2)))
    (tmp_path / "empty").mkdir()
    file, says = bad(name)
    assert says in run("train", tmp_path / file, "--out", tmp_path / "sae", code=2)
    assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-k", 99], "k=99"),
        (["--select", "grad"], "did you mean 'gradient'"),
        (["--activation", "topkk"], "did you mean 'topk'"),
        (["--batch", 0], "--batch and --seed are at least 1 and 0"),
        (["--buffer", 8], "--buffer a batch; got 32, 0, 8"),
        (["--batch", 1024, "--buffer", 2048], "fewer than --batch 1024"),
        (["--held-out", 1.0], "--held-out is a share"),
        (["--layer", "h.0"], "--layer and --text go with a model"),
    ],
)
def test_options_that_do_not_fit(rows: Path, tmp_path: Path, options: list[Any], says: str) -> None:
    assert says in run("train", rows, "--out", tmp_path / "sae", *SMALL, *options, code=2)
    assert not (tmp_path / "sae").exists()


def test_models_that_cannot_be_read(gpt: Path, tmp_path: Path) -> None:
    text = gpt.parent / "text.txt"
    out = ("--out", tmp_path / "sae", *SMALL)
    assert "--layer NAME and --text FILE" in run("train", gpt, *out, code=2)
    assert "no text file" in run("train", gpt, "--layer", "transformer.h.0", "--text", tmp_path / "no", *out, code=2)
    said = run("train", gpt, "--layer", "transformer.h.7", "--text", text, "--length", 12, *out, code=2)
    assert "no layer 'transformer.h.7'" in said and "'transformer.h.1'" in said
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{}")
    said = run("train", tmp_path / "odd", "--layer", "a", "--text", text, *out, code=2)
    assert "cannot be opened as a model" in said
    said = run("train", gpt, "--layer", "transformer.h.0", "--text", text, "--length", 5000, *out, code=2)
    assert "too few" in said


def test_inspect_of_nothing(rows: Path, tmp_path: Path) -> None:
    assert "cfg.json" in run("inspect", tmp_path, code=2)
    run("train", rows, "--out", tmp_path / "sae", *SMALL)
    assert "go with --source" in run("inspect", tmp_path / "sae", "--html", tmp_path / "a.html", code=2)
    said = run("inspect", tmp_path / "sae", "--source", rows, "--html", tmp_path / "a.html", code=2)
    assert "needs a model's folder" in said
    np.save(tmp_path / "wide.npy", np.zeros((50, 9), np.float32))
    assert "9 wide" in run("inspect", tmp_path / "sae", "--source", tmp_path / "wide.npy", code=2)
