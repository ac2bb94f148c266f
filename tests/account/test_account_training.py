"""What models and trainings cost: closed forms, torch's counter on the zoo, published ratios, what a run adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sparseland import methods
from sparseland.account import Cost, Meter, printed_agrees, route_flops, step_flops, trace, training_ratio
from sparseland.core import Frozen, Shrinking
from sparseland.core.errors import InfeasibleBudget, RecipeError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.zoo import build


def _torch_flops(model: nn.Module, *inputs: Any, **keywords: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs, **keywords)
    return counter.get_total_flops()


def test_lenet_300_100_in_closed_form() -> None:
    cost = trace(build("lenet-300-100", in_shape=(1, 28, 28), classes=10), torch.zeros(1, 1, 28, 28))
    assert cost.dense() == 2 * (784 * 300 + 300 * 100 + 100 * 10) == 532_400
    kept = {"fc1.weight": (100, 784 * 300), "fc2.weight": (10, 30_000), "fc3.weight": (1, 1000)}
    assert cost.sparse(kept) == 2 * 111


def test_resnet_20_in_closed_form() -> None:
    """40.8 million multiply-adds are quoted with the 1×1 shortcuts' and the last layer's; option A has 40.55."""
    first, one, two, three = 3 * 16 * 9 * 32**2, 16 * 16 * 9 * 32**2, 32 * 32 * 9 * 16**2, 64 * 64 * 9 * 8**2
    enter = 16 * 32 * 9 * 16**2, 32 * 64 * 9 * 8**2
    macs = first + 6 * one + 5 * two + 5 * three + sum(enter) + 640
    cost = trace(build("resnet-20", in_shape=(3, 32, 32), classes=10), torch.zeros(1, 3, 32, 32))
    assert cost.dense() == 2 * macs
    assert macs == pytest.approx(40.8e6, rel=0.01)


def test_mobilenet_v1_at_its_published_count() -> None:
    cost = trace(build("mobilenet-v1", in_shape=(3, 224, 224), classes=1000), torch.zeros(1, 3, 224, 224))
    assert cost.dense() / 2 == pytest.approx(569e6, rel=0.002)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet-5", (1, 28, 28)), ("resnet-20", (3, 32, 32)), ("wrn-16-2", (3, 32, 32)), ("vgg-d", (3, 32, 32)),
     ("mobilenet-v1", (3, 32, 32))],
)  # fmt: skip
def test_equals_torch_on_the_zoo(name: str, shape: tuple[int, int, int]) -> None:
    model, sample = build(name, in_shape=shape, classes=10), torch.zeros(1, *shape)
    cost = trace(model, sample)
    assert cost.dense() == _torch_flops(model, sample)
    assert cost.uncounted == ()


def test_transposed_and_grouped_convolutions_equal_torch() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 6, 3, stride=2), nn.Conv2d(6, 6, 1, groups=6)
    )
    assert trace(model, torch.zeros(1, 4, 7, 7)).dense() == _torch_flops(model, torch.zeros(1, 4, 7, 7))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers(kind: str, attention: str) -> None:
    """Equal to torch's counter where attention is written out; it misses the CPU's fused kernel, we do not."""
    import transformers

    common = {"attn_implementation": attention, "num_labels": 3}
    if kind == "bert":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = transformers.BertConfig(vocab_size=50, **sizes, **common)
        model, sample = transformers.BertForSequenceClassification(config), torch.zeros(1, 7, dtype=torch.long)
    elif kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
        config = transformers.GPT2Config(vocab_size=50, **sizes, **common)
        model, sample = transformers.GPT2LMHeadModel(config), torch.zeros(1, 7, dtype=torch.long)
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = transformers.ViTConfig(image_size=16, patch_size=4, **sizes, **common)
        model, sample = transformers.ViTForImageClassification(config), torch.zeros(1, 3, 16, 16)
    cost = trace(model, sample)
    tokens = 17 if kind == "vit" else 7
    assert cost.fixed == 2 * 4 * tokens**2 * 32  # layers · 4·T²·D
    missing = cost.fixed if attention == "sdpa" else 0
    assert cost.dense() - missing == _torch_flops(model, sample)


def test_torch_attention_and_recurrence_in_closed_form() -> None:
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 5, 16)
    cost = trace(attention, x, x, x)
    assert cost.fixed == 2 * 4 * 5**2 * 16
    assert cost.dense() == 2 * 10 * (3 * 16 * 16 + 16 * 16) + cost.fixed
    assert trace(nn.LSTM(8, 16), torch.randn(5, 1, 8)).dense() == 2 * 5 * 4 * (8 * 16 + 16 * 16)


def test_shared_layers_count_each_use_and_unknown_ones_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.table = nn.Linear(4, 4), nn.Embedding(10, 4)
            self.free = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.twice(self.twice(self.table(x))) @ self.free

    cost = trace(Odd(), torch.zeros(3, dtype=torch.long))
    assert cost.positions == {"twice.weight": 6}
    assert cost.dense() == 2 * 16 * 6
    assert cost.uncounted == ("free",)


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, torch.randn(1, 1, 5, 5))
    assert model.training and not model[0]._forward_hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_published_ratio_of_rigl() -> None:
    """ResNet-50, ERK, 80 %: f_S = .42 f_D, an update every 100 steps: .42 of dense training (rigl's readme)."""
    assert route_flops("rigl", 1, 0.42, every=100) / route_flops("dense", 1) == pytest.approx(0.422, abs=5e-4)
    assert route_flops("static", 1, 0.42) == route_flops("set", 1, 0.42) == pytest.approx(1.26)
    assert route_flops("snfs", 1, 0.42) == pytest.approx(1.84)
    with pytest.raises(RecipeError, match="rigl"):
        route_flops("rigel", 1, 1)


def test_rules_per_word() -> None:
    hard = methods.RigL(0.8)
    assert step_flops(hard, 100, 20) == 60
    assert step_flops(hard, 100, 20, moved=True) == 140
    assert step_flops(methods.SET(0.8), 100, 20, moved=True) == 60
    assert step_flops(methods.Movement(0.8), 100, 20) == 140  # dense values behind the mask
    assert step_flops(hard.replace(growth="momentum"), 100, 20) == 140
    assert step_flops(hard.replace(flow=Frozen()), 100, 20) == 220
    assert step_flops(hard.replace(flow=Shrinking()), 100, 20) == 300
    assert step_flops(None, 100, 20) == 300


@pytest.mark.parametrize(
    ("name", "options"),
    [("dense", {}), ("random", {"sparsity": 0.8}), ("set", {"sparsity": 0.8, "every": 5}),
     ("rigl", {"sparsity": 0.8, "every": 5, "end": 1.0}), ("gmp", {"sparsity": 0.8, "every": 5})],
)  # fmt: skip
def test_a_run_counts_what_the_formula_says(name: str, options: dict[str, Any]) -> None:
    config = TrainConfig(model="mlp-32", method={"name": name, **options}, epochs=3, limit=640, lr=0.05)
    trainer = Trainer(config)
    method = methods.build(name, **options)
    trainer.fit(method)
    meter, steps, samples = trainer.record.meter, trainer.steps, 3 * 640
    assert meter.training_dense == samples * 3 * trainer.cost.dense()
    moves = trainer.record.moves
    expected = 0
    for step in range(1, steps + 1):  # step number t starts with the masks after the last move before it
        kept = [m["kept"] for m in moves if m["step"] < step][-1]
        moved = any(m["step"] == step for m in moves)
        f_sparse, f_dense = 2 * kept, trainer.cost.dense()  # an MLP: every weight is used once
        if name == "rigl" and moved:
            expected += 64 * (2 * f_sparse + f_dense)
        else:
            expected += 64 * 3 * f_sparse
    assert meter.training == expected
    closed = {"dense": "dense", "random": "static", "set": "set"}.get(name)
    if closed:
        f_sparse = 2 * moves[-1]["kept"]
        assert meter.training == samples * route_flops(closed, trainer.cost.dense(), f_sparse)


def test_choosing_the_first_mask_with_data_costs_too() -> None:
    cost = Cost({"w": 1}, {"w": 100})
    meter = Meter(cost)
    meter.measured(methods.SNIP(0.9), samples=128)
    assert meter.training == 128 * 3 * 200
    meter.measured(methods.GraSP(0.9), samples=1)
    assert meter.training == 128 * 3 * 200 + 12 * 200
    assert meter.phases == {"choosing masks": meter.training}


def test_closed_forms_of_the_other_routes() -> None:
    assert route_flops("gradient mask", 1, 0.2, gradient=0.3) == pytest.approx(2 * 0.2 + 0.3)
    sparsities = [0.0, 0.5, 0.9, 0.9]
    mean = sum(1 - s for s in sparsities) / 4
    assert route_flops("gmp", 1, mean) == pytest.approx(sum(3 * (1 - s) for s in sparsities) / 4)
    with pytest.raises(RecipeError, match="gradient=f_W"):
        route_flops("gradient mask", 1, 0.2)
    for wrong in ({"dense": -1}, {"dense": 1, "sparse": -0.1}, {"dense": 1, "sparse": 1, "every": 0}):
        with pytest.raises(InfeasibleBudget, match="FLOPs are ≥ 0"):
            route_flops("rigl", **wrong)
    for inference in (0, 1.01, -0.5):
        with pytest.raises(InfeasibleBudget, match="above 0, up to 1"):
            training_ratio("rigl", inference)


def test_extended_training_costs_more_than_dense() -> None:
    """RigL at 80 % with ERK for 5 times the steps: 2.09 dense trainings (its readme), more than the dense net had."""
    assert training_ratio("rigl", 0.415, length=5) == pytest.approx(2.09, abs=0.01)
    assert training_ratio("dense", 1.0, length=1) == 1


@pytest.mark.parametrize(
    ("printed", "computed", "agrees"),
    [(".25", 1.23, False), ("1.23×", 1.2277, True), ("42%", 0.416, True), ("42 %", 0.43, True), ("0.42x", 0.44, False),
     ("2", 2.4, True), ("2.0", 2.4, False)],
)  # fmt: skip
def test_printed_numbers_are_read_to_their_digits(printed: str, computed: float, agrees: bool) -> None:
    assert printed_agrees(printed, computed) is agrees


def test_a_printed_word_is_no_number() -> None:
    with pytest.raises(RecipeError, match="'about half' is no number"):
        printed_agrees("about half", 0.5)


def test_a_meter_adds_teachers_and_searches() -> None:
    meter = Meter(Cost({"w": 1}, {"w": 100}))
    meter.step(None, {}, samples=4)
    meter.add(4 * meter.cost.dense(), "teacher")
    meter.step(methods.SET(0.9), {"w": (10, 100)}, samples=4)
    meter.add(0, "search")
    assert meter.phases == {"dense steps": 4 * 600, "teacher": 800, "sparse steps": 4 * 60}
    assert meter.training == sum(meter.phases.values()) and meter.training_dense == 8 * 600
    with pytest.raises(InfeasibleBudget, match="'search' cannot cost -1"):
        meter.add(-1, "search")
    other = Meter(meter.cost)
    other.load_state_dict(meter.state_dict())
    assert other == meter
    other.load_state_dict([7, 9])  # as earlier checkpoints say it
    assert (other.training, other.training_dense, other.phases) == (7, 9, {})


def test_every_round_of_a_procedure_counts(tmp_path: Path) -> None:
    """Iterative pruning: the dense training it starts with, and each round at the density it had."""
    method = {"name": "imp", "sparsity": 0.75, "rounds": 2}
    config = TrainConfig(model="mlp-32", method=method, epochs=1, limit=256, lr=0.05)
    flops = run(config, tmp_path, progress=False)["flops"]
    once = 3 * 256 * flops["inference_dense"]
    assert flops["rounds"] == [once, once // 2, once // 4]
    assert sum(flops["rounds"]) == flops["training"] == sum(flops["phases"].values())
    assert flops["phases"] == {"dense steps": once, "sparse steps": once // 2 + once // 4}


def test_masks_that_are_measured_again_cost_again() -> None:
    meter = Meter(Cost({"w": 1}, {"w": 100}))
    late = methods.GraSP(0.5).replace(schedule={"kind": "one-shot", "value": 0.5, "at": 20})
    meter.measured(late, samples=10, at_start=False)
    assert meter.training == 10 * 12 * 200
    meter.measured(methods.RigL(0.5), samples=10, at_start=False)  # its gradient is the training step's own
    assert meter.training == 10 * 12 * 200


def test_a_run_counts_what_it_measures_late() -> None:
    """SynFlow at step 2 measures when its masks move, not at the start; one sample is enough for it."""
    trainer = Trainer(TrainConfig(model="mlp-16", method={"name": "dense"}, epochs=1, limit=256, lr=0.05))
    trainer.fit(methods.SynFlow(0.5).replace(schedule={"kind": "one-shot", "value": 0.5, "at": 2}))
    assert trainer.record.meter.phases["choosing masks"] == 3 * trainer.cost.dense()
