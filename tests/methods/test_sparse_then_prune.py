"""Sparse then Prune on a small ViT: what is trained, what is pruned, and the card's assertions."""

from __future__ import annotations

import copy
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import sparseland as sl
from sparseland.core import kept
from sparseland.core.errors import InfeasibleBudget, RecipeError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.weights import attention, prune_
from sparseland.weights.methods import SparseThenPrune, sparse_then_prune

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:attention is computed by 'eager'")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 2, "intermediate_size": 24}
SIZES |= {"initializer_range": 0.2}  # with the default, 0.02, attention of so narrow a net stays even for epochs
CONFIG = TrainConfig(
    model="hf:config:vit", model_options=SIZES, data="digits", optimizer="adamw", lr=2e-3, weight_decay=0.01, epochs=1,
    batch_size=64, limit=256,
)  # fmt: skip
STRONG = {"strength": 1.0, "reduction": "row_sum", "layers": "all"}


def test_the_composition() -> None:
    assert all(word in str(SparseThenPrune(0.1)) for word in ("magnitude", "global", "unstructured", "0.1"))


def test_one_global_cut_after_training_and_nothing_after_it() -> None:
    trainer = Trainer(CONFIG)
    out = sparse_then_prune(trainer, SparseThenPrune(0.3))
    assert out["steps"] == trainer.steps and out["penalty"] > 0
    model, masks = trainer.model, out["masks"]
    patches, blocks = "vit.embeddings.patch_embeddings.projection.weight", ("q_proj", "k_proj", "v_proj", "o_proj")
    names = {patches, "classifier.weight"} | {f"vit.layers.{i}.attention.{b}.weight" for i in (0, 1) for b in blocks}
    assert set(masks) == names | {f"vit.layers.{i}.mlp.{fc}.weight" for i in (0, 1) for fc in ("fc1", "fc2")}
    assert masks.kept() == kept(masks.numel(), 0.3)
    found = dict(model.named_parameters())
    smallest = min(float(found[n][m].detach().abs().min()) for n, m in masks.items())
    assert all(not bool(found[n][~m].any()) for n, m in masks.items()) and smallest > 0
    for name, p in found.items():  # biases, norms, positions, the class token: untouched
        assert name in masks or bool((p != 0).any())
    assert bool((found["vit.layers.0.mlp.fc1.bias"] != 0).all())
    assert [entry["sparsity"] for entry in out["rounds"]] == [0.0, masks.sparsity()]
    assert not any(m._forward_hooks for m in model.modules())


def test_norms_are_pruned_only_if_asked_for() -> None:
    trainer = Trainer(CONFIG)
    out = sparse_then_prune(trainer, SparseThenPrune(0.5), strength=0.0, include_norms=True)
    norms = {n for n in out["masks"] if "layernorm" in n}
    assert norms == {f"vit.layers.{i}.layernorm_{side}.weight" for i in (0, 1) for side in ("before", "after")}
    assert all(bool(out["masks"][n].all()) for n in norms)  # scales near 1 are never hit at sensible ratios
    assert out["masks"].kept() == kept(out["masks"].numel(), 0.5) and out["penalty"] is None


def test_without_strength_it_is_training_and_one_shot_pruning() -> None:
    one, two = Trainer(CONFIG), Trainer(CONFIG)
    sparse_then_prune(one, SparseThenPrune(0.4), strength=0)
    two.fit(None)
    prune_(two.model, sl.methods.Magnitude(0.4))
    assert all(torch.equal(a, b) for a, b in zip(one.state().values(), two.state().values(), strict=True))


def test_a_run_of_the_registered_method() -> None:
    method = {"name": "sparse-then-prune", "sparsity": 0.2, "strength": 0.5, "layers": "all"}
    with tempfile.TemporaryDirectory() as place:
        result = run(CONFIG.replace(method=method, ignore="classifier"), place, progress=False)
    assert result["kept"] == kept(result["total"], 0.2) and result["test"]["accuracy"] > 0.05
    assert "classifier.weight" not in result["layers"]


def test_bad_input() -> None:
    for sparsity in (1.0, -0.2):
        with pytest.raises(InfeasibleBudget):
            SparseThenPrune(sparsity)
    for strength in (0.0, 0.1):
        with pytest.raises(RecipeError, match="penalty is 'l1'"):
            sparse_then_prune(Trainer(CONFIG), strength=strength, penalty="l1")
    half = Trainer(CONFIG)
    half.config = CONFIG.replace(precision="fp16")
    with pytest.raises(RecipeError, match="the penalty would miss the loss scale; possible here: no, bf16"):
        sparse_then_prune(half)


def curves(config: TrainConfig, arms: dict[str, dict[str, Any]], seeds: int) -> dict[str, list[dict[str, float]]]:
    """Per arm and seed: test accuracy in percent by pruning ratio, and the entropy of the last block's rows."""
    made: dict[str, list[dict[str, float]]] = {}
    for arm, words in arms.items():
        for seed in range(seeds):
            trainer = Trainer(config.replace(seed=seed))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sparse_then_prune(trainer, SparseThenPrune(0.0), **words)
            dense, row = trainer.model, {}
            for ratio in (0.0, 0.1, 0.3, 0.5):
                trainer.model = copy.deepcopy(dense)
                if ratio:
                    prune_(trainer.model, SparseThenPrune(ratio))
                row[str(ratio)] = 100 * trainer.evaluate("test")["accuracy"]
            images = trainer.supply.split("train").images[:100].float()
            last = list(attention.attention_maps(dense, images / images.max()).values())[-1]
            made.setdefault(arm, []).append(row | {"entropy": float(attention.row_entropy(last))})
    return made


def assert_the_card_s_rule(made: dict[str, list[dict[str, float]]], noise: float, slack: float = 2.0) -> None:
    """The faithful penalty changes nothing; the strong one evens attention out; accuracy falls along the ratios."""
    for none, paper, strong in zip(made["none"], made["paper"], made["strong"], strict=True):
        assert abs(none["0.0"] - paper["0.0"]) <= noise and abs(none["entropy"] - paper["entropy"]) < 0.05
        assert strong["entropy"] > none["entropy"]
    for rows in made.values():
        mean = [sum(row[r] for row in rows) / len(rows) for r in ("0.0", "0.1", "0.3", "0.5")]
        assert all(after <= before + slack for before, after in pairwise(mean)), mean


ARMS: dict[str, dict[str, Any]] = {"none": {"strength": 0.0}, "paper": {}, "strong": STRONG}


def test_the_penalty_evens_attention_out_short() -> None:
    made = curves(CONFIG.replace(limit=None, epochs=6, evaluate_every=6, lr=3e-3, warmup=0.1), ARMS, 1)
    assert made["none"][0]["0.0"] > 60
    assert_the_card_s_rule(made, noise=3.0, slack=4.0)  # 359 test images


@pytest.mark.slow
def test_the_penalty_evens_attention_out(data_folder: Path) -> None:
    """The card's proof: Fashion-MNIST, three seeds."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 7}
    config = CONFIG.replace(
        data="fashion-mnist", folder=str(data_folder), limit=10_000, validation=0.02, epochs=4, evaluate_every=4,
        lr=1e-3, model_options=sizes | {"intermediate_size": 96},
    )  # fmt: skip
    assert_the_card_s_rule(curves(config, ARMS, 3), noise=1.0)
