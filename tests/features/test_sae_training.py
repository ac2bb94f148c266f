"""Training: it learns, it is Adam, it goes on bit for bit, and it says what is wrong before anything is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparseland.core.errors import OutputError, ResumeError, ScheduleError, ScoreError, SparselandError
from sparseland.features import SAEConfig, SparseAutoencoder, load, train
from sparseland.features.sae.adam import Adam
from sparseland.features.sae.schedules import k_at, lr_factor
from sparseland.features.sae.supply import Supply, Table


def dictionary(tokens: int = 2048, d: int = 16, features: int = 24, active: int = 2, seed: int = 0) -> Tensor:
    """Sums of few directions of a hidden dictionary."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.nn.functional.normalize(torch.randn(features, d, generator=g), dim=1)
    mask = torch.rand(tokens, features, generator=g).argsort(1) < active
    return (mask * (0.5 + torch.rand(tokens, features, generator=g))) @ basis


X = dictionary()


def made(activation: str = "topk", **more: object) -> SparseAutoencoder:
    """As many features as three dictionaries."""
    return SparseAutoencoder(SAEConfig(16, 64, activation=activation, **({"k": 2} | more)))  # type: ignore[arg-type]


SETTINGS = {
    "topk": ({}, 0.12),
    "batchtopk": ({}, 0.12),
    "mutual_then_feature": ({}, 0.3),
    "feature": ({"zipf": (0.0, 0.0)}, 0.3),
    "groupmax": ({"k": 4}, 0.15),
    "relu": ({}, 0.3),
    "jumprelu": ({"l0_coefficient": 0.01, "threshold_init": 0.05}, 0.3),
    "gated": ({"l1_coefficient": 0.15}, 0.4),
}


@pytest.mark.parametrize("activation", SETTINGS)
def test_every_activation_learns_a_sparse_dictionary(activation: str) -> None:
    more, enough = SETTINGS[activation]
    sae = made(activation, **more)
    result = train(sae, X, steps=250, batch=256, lr=1e-2, progress=False)
    first, last = result.history[0], result.history[-1]
    assert last["reconstruction"] < min(enough, first["reconstruction"] / 2), last
    assert last["l0"] < 12 and last["loss"] < first["loss"]
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    assert result.tokens == 250 * 256 and not sae.training
    if activation == "mutual_then_feature":
        assert sae.current_rule == "feature" and float(sae.threshold.max()) > 0


def test_mutual_choice_beats_topk_where_tokens_differ_in_need() -> None:
    """Half of the tokens are sums of one direction, half of five; k = 3 for all wastes codes on the first."""
    x = torch.cat([dictionary(2048, active=1), dictionary(2048, active=5, seed=0)])
    found = {}
    for activation in ("topk", "batchtopk"):
        sae = made(activation, k=3)
        found[activation] = train(sae, x, steps=200, batch=256, lr=1e-2, progress=False).history[-1]["reconstruction"]
    assert found["batchtopk"] < 0.7 * found["topk"]


def test_k_falls_from_its_start() -> None:
    seen: list[float] = []
    train(
        made(), X, steps=10, batch=64, k_start=12, k_anneal=5, log_every=1, progress=False,
        callback=lambda step, sae, record: seen.append(record["l0"]),
    )  # fmt: skip
    assert seen == [12, 10, 8, 6, 4, 2, 2, 2, 2, 2]


def test_schedules_have_their_corners() -> None:
    assert [round(lr_factor(s, 100, 10, 0.2), 3) for s in (0, 9, 50, 80, 90, 99)] == [0.1, 1.0, 1.0, 1.0, 0.5, 0.05]
    assert lr_factor(5, 10, 0, 0.0) == 1.0
    assert [k_at(s, 2, None, 5) for s in (0, 9)] == [2, 2]
    with pytest.raises(ScheduleError, match="k_start=1 below k=2"):
        k_at(0, 2, 1, 5)


@pytest.mark.parametrize("native", [False, True])
def test_the_optimizer_is_adam(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseland.kernels import sparse_code as sc

    if not native:
        monkeypatch.setattr(sc, "_fast", lambda *tensors: False)
    ours, theirs = made(unit_decoder=False), made(unit_decoder=False)
    mine = Adam(ours, (0.8, 0.95), 1e-7)
    peer = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.8, 0.95), eps=1e-7)
    for step in range(5):
        for sae in (ours, theirs):
            sae.zero_grad()
            generator = torch.Generator().manual_seed(step)
            for p in sae.parameters():
                p.grad = (
                    torch.randn(p.shape, generator=generator).t().contiguous().t() if p.ndim == 2 else p.detach() + 1
                )
        mine.step(1e-2)
        peer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("native", [False, True])
def test_the_decoder_stays_on_the_sphere_and_moves_along_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseland.kernels import sparse_code as sc

    if not native:
        monkeypatch.setattr(sc, "_fast", lambda *tensors: False)
    sae = made()
    optimizer = Adam(sae)
    before, grad = sae.W_dec.detach().clone(), torch.randn(64, 16)
    sae.W_dec.grad = grad + 3 * before  # the part along the rows is dropped
    optimizer.step(1e-3)
    tangent = grad - (grad * before).sum(1, keepdim=True) * before
    torch.testing.assert_close(optimizer.moments["W_dec"][0], 0.1 * tangent, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


# ------------------------------------------------------------------------------------------------------- go on
class Endless:
    """A stream that only iterates."""

    def __init__(self, size: int = 64) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(3)
        while True:
            yield X[torch.randint(0, X.shape[0], (self.size,), generator=generator)]


@pytest.mark.parametrize("kind", ["table", "stream", "cut stream"])
@pytest.mark.parametrize("activation", ["topk", "mutual_then_feature"])
def test_an_interrupted_run_goes_on_bit_for_bit(kind: str, activation: str, tmp_path: Path) -> None:
    stream = {"table": X, "stream": Endless(), "cut stream": Endless(50)}[kind]
    size = {"table": 64, "stream": None, "cut stream": 64}[kind]
    more = {"steps": 40, "batch": size, "lr": 1e-2, "checkpoint_every": 7, "progress": False}

    def fresh() -> SparseAutoencoder:
        return made(activation, aux="aux_zipf", refit_every=10, dead_window=300)

    whole = fresh()
    train(whole, stream, out=tmp_path / "whole", **more)

    def stop(step: int, sae: SparseAutoencoder, record: dict[str, float]) -> None:
        if step == 33:
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="the power is gone"):
        train(fresh(), stream, out=tmp_path / "parts", log_every=1, callback=stop, **more)
    again = fresh()
    result = train(again, stream, out=tmp_path / "parts", **more)
    assert result.trained == (40 - 28) * 64  # from the checkpoint after step 28
    for (name, a), (_, b) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(load(tmp_path / "parts")(X).x_hat, whole.eval()(X).x_hat)


def test_a_finished_run_trains_nothing_more(tmp_path: Path) -> None:
    first = train(made(), X, steps=5, batch=64, out=tmp_path, progress=False)
    second = train(made(), X, steps=5, batch=64, out=tmp_path, progress=False)
    assert (first.trained, second.trained, second.steps) == (320, 0, 5)


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    train(made(), X, steps=5, batch=64, out=tmp_path, progress=False)
    common = {"steps": 5, "batch": 64, "out": tmp_path, "progress": False}
    with pytest.raises(ResumeError, match="belongs to another autoencoder: k differ"):
        train(made(k=3), X, **common)
    with pytest.raises(ResumeError, match="belongs to another run"):
        train(made(), X, **(common | {"steps": 6}))
    with pytest.raises(ResumeError, match="is there already"):
        train(made(), X, resume=False, **common)
    with pytest.raises(ResumeError, match="nothing to resume"):
        train(made(), X, resume=True, **(common | {"out": tmp_path / "new"}))
    with pytest.raises(SparselandError, match="resume is 'auto', True or False"):
        train(made(), X, resume="yes", **common)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ResumeError, match="is damaged or no checkpoint"):
        train(made(), X, **common)


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    calls: list[int] = []
    with pytest.raises(OutputError, match="cannot write"):
        train(made(), X, steps=5, out=tmp_path / "file" / "run", progress=False, callback=lambda s, *_: calls.append(s))
    assert calls == []


# ------------------------------------------------------------------------------------------------------- what is read
def test_a_table_gives_every_token_once_an_epoch_in_changing_order() -> None:
    table = Table(torch.arange(12.0)[:, None], batch=4, seed=0)
    epochs = [torch.cat([next(table) for _ in range(3)]).squeeze(1).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12)) and epochs[0] != epochs[1]


def test_a_stream_is_cut_into_batches_without_losing_a_token() -> None:
    parts = [torch.arange(float(n)) + 100 * i for i, n in enumerate((5, 1, 9, 3, 6))]
    supply = Supply([p[:, None] for p in parts], d_in=1, batch=4, seed=0)
    supply.ahead(8)
    found = torch.cat([supply.next()[0] for _ in range(6)]).squeeze(1)
    assert torch.equal(found, torch.cat(parts))


def test_pairs_stay_together() -> None:
    x = torch.randn(40, 3)
    supply = Supply((x, 2 * x), d_in=3, batch=8, seed=1)
    for _ in range(12):
        a, g = supply.next()
        assert g is not None and torch.equal(g, 2 * a)


def test_training_on_pairs_uses_the_gradient() -> None:
    g = torch.randn_like(X)
    runs = []
    for beta in (0.0, 5.0):
        sae = made(select="gradient", beta=beta)
        runs.append(train(sae, (X, g), steps=20, batch=128, lr=1e-2, progress=False).history[-1]["loss"])
    plain = train(made(), X, steps=20, batch=128, lr=1e-2, progress=False).history[-1]["loss"]
    assert runs[0] == plain and runs[1] > plain


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        ([torch.randn(8, 16), torch.randn(8, 17)], r"batch 2 of the stream is \(8, 17\); activations of width 16"),
        ([torch.randn(8, 16)], "the stream ended after 1 batches"),
        ([(torch.randn(8, 16), torch.randn(8, 15))], r"x is \(8, 16\) and g is \(8, 15\)"),
        (torch.randn(8, 5), "width 16"),
    ],
)
def test_streams_that_change_or_end_are_refused(stream: object, text: str) -> None:
    with pytest.raises(SparselandError, match=text):
        train(made(), stream, steps=3, progress=False)


def test_what_is_no_stream_is_refused() -> None:
    with pytest.raises(TypeError, match="a stream is a tensor"):
        train(made(), 3, steps=3, progress=False)
    with pytest.raises(TypeError, match="not str"):
        train(made(), ["abc"], steps=3, progress=False)
    with pytest.raises(TypeError, match="train takes a SparseAutoencoder"):
        train(torch.nn.Linear(2, 2), X, steps=3, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, SparselandError, "steps or tokens, one of them"),
        ({"steps": 3, "tokens": 3}, SparselandError, "one of them"),
        ({"steps": 0}, SparselandError, "at least one step"),
        ({"steps": 3, "k_start": 1}, ScheduleError, "k_start lies in k … d_sae, 2 … 64; got 1"),
        ({"steps": 3, "decay": 2.0}, ScheduleError, "decay is a share"),
    ],
)
def test_plans_that_cannot_be_are_refused(given: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        train(made(), X, progress=False, **given)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    sae = made()
    with torch.no_grad():
        sae.W_enc.fill_(1e30)
        sae.W_dec.fill_(1e30)
    with pytest.raises(ScoreError, match="at step 0; lower lr"):
        train(sae, X, steps=3, batch=64, progress=False)


def test_tokens_are_turned_into_steps() -> None:
    assert train(made(), X, tokens=1000, batch=256, progress=False).steps == 4
