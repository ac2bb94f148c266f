"""Activations read from a model: which layer, which places, the same after a stop; and training on them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparseland.core.errors import SparselandError, TargetError
from sparseland.features import SAEConfig, SparseAutoencoder, train
from sparseland.features.activations import (
    ActivationStream,
    ModelActivations,
    layer,
    replaced,
    store,
    tapped,
)
from sparseland.features.activations.inputs import Batches, last_places


class Block(nn.Module):
    """Hands on a tuple, as blocks of transformers do."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d, d)

    def forward(self, hidden_states: Tensor, cache: None = None) -> tuple[Tensor, None]:
        return hidden_states + self.linear(hidden_states), cache


class Tiny(nn.Module):
    """Embedding, two blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.blocks, self.head = nn.Embedding(20, 6), nn.ModuleList([Block(6), Block(6)]), nn.Linear(6, 20)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        h = self.embed(input_ids)
        h = self.blocks[0](h)[0]
        h = self.blocks[1](hidden_states=h)[0]
        out: Tensor = self.head(h)
        return out


@pytest.fixture
def tiny() -> Tiny:
    return Tiny().eval()


IDS = torch.arange(24).view(4, 6) % 20


def test_reads_what_the_layer_hands_on(tiny: Tiny) -> None:
    seen = tapped(tiny, "blocks.0", lambda: tiny(IDS))
    assert torch.equal(seen, tiny.blocks[0](tiny.embed(IDS))[0])
    assert torch.equal(tapped(tiny, "blocks.1", lambda: tiny(IDS), at="input"), seen)
    source = ModelActivations(tiny, "blocks.0", IDS, batch=3, shuffle=False)
    assert torch.allclose(torch.cat(list(source.blocks(0, 0))), seen.detach().reshape(-1, 6), atol=1e-6)


def test_layers_behind_do_not_run(tiny: Tiny) -> None:
    ran = []
    tiny.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    list(ModelActivations(tiny, "blocks.0", IDS).blocks(0, 0))
    assert not ran


def test_a_name_that_matches_no_layer_lists_close_ones(tiny: Tiny) -> None:
    with pytest.raises(TargetError, match=r"no layer 'block.0'.*'blocks.0'"):
        ModelActivations(tiny, "block.0", IDS)
    with pytest.raises(TargetError, match=r"'blocks.1.linear'"):
        layer(tiny, "linear")
    with pytest.raises(TypeError):
        layer(tiny, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        layer("model", "x")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="did not run"):
        tapped(tiny, "blocks", lambda: tiny(IDS))


def test_hooks_leave_the_model_as_it_was(tiny: Tiny) -> None:
    clean = tiny(IDS)
    for at in ("output", "input"):
        with replaced(tiny, "blocks.1", lambda x: 0 * x, at=at):
            assert not torch.equal(tiny(IDS), clean)
        with pytest.raises(RuntimeError, match="boom"), replaced(tiny, "blocks.1", lambda x: x, at=at):
            raise RuntimeError("boom")
        assert torch.equal(tiny(IDS), clean)
    with pytest.raises(SparselandError, match="not the same"), replaced(tiny, "blocks.0", lambda x: x[:1]):
        tiny(IDS)
    with pytest.raises(SparselandError, match="at is one of"), replaced(tiny, "blocks.0", lambda x: x, at="side"):
        pass


def test_padding_and_special_tokens_are_left_out(tiny: Tiny) -> None:
    mask = torch.ones_like(IDS)
    mask[0, 4:] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask}
    source = ModelActivations(tiny, "embed", inputs, shuffle=False, special=[7], skip_first=1)
    got = torch.cat(list(source.blocks(0, 0)))
    kept = mask.bool() & (IDS != 7)
    kept[:, 0] = False
    assert torch.equal(got, tiny.embed(IDS)[kept].detach())
    paired = ModelActivations(tiny, "embed", inputs, shuffle=False, gradient="next_token")
    x, g = next(paired.blocks(0, 0))
    assert len(x) == int(mask.sum()) - 4 and (g.abs().sum(1) > 0).all()  # the last place of each is not there
    with pytest.raises(SparselandError, match="attention_mask is"):
        list(ModelActivations(tiny, "embed", {"input_ids": IDS, "attention_mask": mask[:, :2]}).blocks(0, 0))


def test_the_first_places_are_those_of_the_text(tiny: Tiny) -> None:
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0  # padding on the left
    kept = ModelActivations(tiny, "embed", IDS, skip_first=2).kept(
        {"input_ids": IDS, "attention_mask": mask}, IDS.shape
    )
    assert kept[0].tolist() == [False] * 2 + [True] * 4 and kept[1].tolist() == [False] * 5 + [True]


def test_last_places_with_padding_on_either_side() -> None:
    real = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    assert last_places(real).tolist() == [[False, False, True, False], [False, False, False, True]]


def test_a_model_stream_resumes(tiny: Tiny) -> None:
    def make() -> ActivationStream:
        return ActivationStream(ModelActivations(tiny, "blocks.0", IDS, batch=2, seed=5), batch=4, buffer=8)

    stream = make()
    expected = [next(stream) for _ in range(9)]
    stopped = make()
    for _ in range(5):
        next(stopped)
    again = make()
    again.load_state_dict(stopped.state_dict())
    for one in expected[5:]:
        assert torch.equal(next(again), one)  # type: ignore[arg-type]


def test_inputs_of_every_kind(tiny: Tiny) -> None:
    expected = tiny.embed(IDS).detach().reshape(-1, 6)
    for data in (IDS, {"input_ids": IDS}, [IDS[:2], IDS[2:]], [{"input_ids": IDS}], lambda: iter([IDS])):
        source = ModelActivations(tiny, "embed", data, shuffle=False)
        assert torch.equal(torch.cat(list(source.blocks(0, 0))), expected) and source.repeats
    assert not ModelActivations(tiny, "embed", iter([IDS])).repeats
    with pytest.raises(SparselandError, match="differ in their number of rows"):
        Batches({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(SparselandError, match="no rows"):
        Batches(torch.zeros(0, 3))
    with pytest.raises(TypeError):
        Batches(3)
    with pytest.raises(TypeError, match="batch 0"):
        list(Batches(["text"]).read(0, 0))


def test_options_are_checked_before_anything_runs(tiny: Tiny) -> None:
    for options in ({"at": "side"}, {"gradient": "ce"}, {"skip_first": -1}, {"batch": 0}):
        with pytest.raises(SparselandError):
            ModelActivations(tiny, "embed", IDS, **options)  # type: ignore[arg-type]


def test_pictures_are_refused_and_vectors_are_read() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(18, 3))
    images = torch.randn(5, 1, 3, 3)
    with pytest.raises(SparselandError, match="channels last"):
        list(ModelActivations(net, "0", images).blocks(0, 0))
    assert next(ModelActivations(net, "2", images).blocks(0, 0)).shape == (5, 3)  # type: ignore[union-attr]


def test_a_transformers_model() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        expected = model(IDS, output_hidden_states=True).hidden_states[1]
    source = ModelActivations(model, "transformer.h.0", IDS, shuffle=False)
    assert torch.allclose(torch.cat(list(source.blocks(0, 0))), expected.reshape(-1, 8), atol=1e-6)
    with tempfile.TemporaryDirectory() as place:
        assert store(source, place).rows == 24


# ------------------------------------------------------------------------------------------------- through the training
@pytest.mark.parametrize("gradient", [None, "next_token"])
def test_training_goes_on_from_its_checkpoint_as_if_never_stopped(
    tiny: Tiny, tmp_path: Path, gradient: str | None
) -> None:
    options = {} if gradient is None else {"select": "gradient", "beta": 1.0, "grad_norm": "token_l2"}

    def run(folder: str, stop: int | None) -> dict[str, Tensor]:
        source = ModelActivations(tiny, "blocks.0", IDS, batch=2, seed=1, gradient=gradient)
        stream = ActivationStream(source, batch=4, buffer=12)
        sae = SparseAutoencoder(SAEConfig(6, 24, k=3, **options))  # type: ignore[arg-type]

        def watch(step: int, *_: Any) -> None:
            if stop is not None and step >= stop:
                raise KeyboardInterrupt

        where = {"out": tmp_path / folder, "checkpoint_every": 4, "log_every": 3}
        train(sae, stream, steps=15, lr=1e-2, progress=False, callback=watch, **where)  # type: ignore[arg-type]
        return dict(sae.state_dict())

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", 9)
    again = run("stopped", None)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
