"""The autoencoder: shapes, gradients against dense algebra, activations, thresholds, memory of batches, bad input."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor

from sparseland.core.errors import InfeasibleBudget, ScoreError, SparselandError
from sparseland.core.matching import allocate
from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.sae.config import NotCalibrated
from sparseland.features.sae.density import Zipf, budgets, ranks, steadied

ALL = ["topk", "batchtopk", "feature", "mutual_then_feature", "groupmax", "relu", "jumprelu", "gated"]
X = torch.randn(24, 10, generator=torch.Generator().manual_seed(0))


def made(activation: str = "topk", **more: object) -> SparseAutoencoder:
    """A small autoencoder with biases that matter."""
    sae = SparseAutoencoder(SAEConfig(10, 32, activation=activation, **({"k": 4, "seed": 1} | more)))  # type: ignore[arg-type]
    with torch.no_grad():
        sae.b_enc.normal_(std=0.2)
        sae.b_dec.normal_(std=0.2)
    return sae


@pytest.mark.parametrize("activation", ALL)
def test_shapes_names_and_one_answer_from_every_door(activation: str) -> None:
    sae = made(activation).eval()
    assert sae.W_enc.shape == (10, 32) and sae.W_dec.shape == (32, 10)
    assert sae.b_enc.shape == (32,) and sae.b_dec.shape == (10,)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))
    assert torch.equal(sae.W_enc.t(), sae.W_dec)  # tied at the start
    output = sae(X.view(2, 12, 10))
    assert output.x_hat.shape == (2, 12, 10)
    f = sae.encode(X)
    torch.testing.assert_close(sae.decode(f), output.x_hat.view(24, 10))
    torch.testing.assert_close(sae.decode(sae.codes(X)), output.x_hat.view(24, 10))
    assert torch.equal(sae.codes(X).dense(), f)
    assert output.values.numel() == output.indices.numel() == int((f != 0).sum())
    assert output.loss.item() == pytest.approx(sum(v.item() for v in output.losses.values()))


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "expected_l2", "token_rms"])
@pytest.mark.parametrize("activation", ["topk", "batchtopk", "feature", "groupmax"])
def test_gradients_are_those_of_the_dense_computation(activation: str, normalize: str) -> None:
    """The same loss by plain torch on whole tables, with the same mask: every gradient agrees."""
    sae = made(activation, dtype="float64", normalize=normalize).train()
    x = X.double()
    sae.initialise_(x)
    sae(x).loss.backward()
    found = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
    sae.zero_grad()
    scale = {
        "none": torch.ones(1),
        "expected_l2": sae.expected,
        "token_rms": x.square().mean(1, keepdim=True).sqrt(),
        "layer_norm": x.std(1, keepdim=True),
    }[normalize].double()
    centred = x - x.mean(1, keepdim=True) if normalize == "layer_norm" else x
    xn = centred / (scale + 1e-5 if normalize == "layer_norm" else scale)
    z = torch.relu((xn - sae.b_dec) @ sae.W_enc + sae.b_enc)
    rule = {"topk": "token", "batchtopk": "mutual"}.get(activation, activation)
    mask = allocate(z.detach(), rule, 4, counts=sae.counts(24) if rule == "feature" else None)
    y = (z * mask) @ sae.W_dec + sae.b_dec
    ((xn - y).square().sum() / (xn - xn.mean(0)).square().sum()).backward()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-8, atol=1e-10)


def test_gradients_reach_the_input_when_it_asks() -> None:
    sae, x = made(dtype="float64").eval(), X.double().requires_grad_()
    sae(x).x_hat.square().sum().backward()
    step, found = 1e-6, x.grad
    assert found is not None
    direction = torch.randn_like(x)
    with torch.no_grad():
        ends = [float(sae(x + s * step * direction).x_hat.square().sum()) for s in (1, -1)]
    assert float((found * direction).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


def test_jumprelu_is_a_jump_and_its_threshold_learns() -> None:
    sae = made("jumprelu", threshold_init=0.5, bandwidth=0.4).train()
    z = torch.relu(sae.pre_activations(X)).detach()
    assert torch.equal(sae.encode(X) != 0, z > 0.5)
    output = sae(X)
    output.loss.backward()
    near = ((z - 0.5).abs() < 0.2).any(0)
    assert sae.log_threshold.grad is not None
    assert ((sae.log_threshold.grad != 0) <= near).all() and (sae.log_threshold.grad != 0).any()


def test_jump_gradient_is_the_rectangle() -> None:
    from sparseland.features.sae.losses import Jump, Step

    z, theta = torch.tensor([[0.3, 0.45, 0.55, 2.0]], requires_grad=True), torch.full((4,), 0.5, requires_grad=True)
    Jump.apply(z, theta, 0.2).sum().backward()
    assert z.grad is not None and z.grad.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad, torch.tensor([0.0, -2.5, -2.5, 0.0]))
    theta.grad = None
    Step.apply(z.detach(), theta, 0.2).sum().backward()
    torch.testing.assert_close(theta.grad, torch.tensor([0.0, -5.0, -5.0, 0.0]))


def test_gated_is_gate_times_magnitude() -> None:
    sae = made("gated").train()
    with torch.no_grad():
        sae.r_mag.normal_()
        sae.b_mag.normal_()
    pre = (X - sae.b_dec) @ sae.W_enc
    gate, magnitude = pre + sae.b_enc > 0, torch.relu(pre * sae.r_mag.exp() + sae.b_mag)
    torch.testing.assert_close(sae.encode(X), gate * magnitude)
    output = sae(X)
    output.losses["gate"].backward()
    assert (
        sae.W_dec.grad is None and sae.b_mag.grad is None and sae.b_enc.grad is not None
    )  # the decoder is frozen there


def test_relu_pays_for_the_size_of_codes_in_the_data_s_units() -> None:
    sae, double = made("relu", l1_coefficient=0.5), made("relu", l1_coefficient=0.5)
    double.load_state_dict(sae.state_dict())
    with torch.no_grad():
        double.b_enc.mul_(10), double.b_dec.mul_(10)
    first, second = sae(X), double(10 * X)
    assert first.losses["sparsity"].item() == pytest.approx(second.losses["sparsity"].item(), rel=1e-4)
    assert first.losses["reconstruction"].item() == pytest.approx(second.losses["reconstruction"].item(), rel=1e-4)


def test_multi_topk_adds_a_wider_reconstruction() -> None:
    plain, more = made("topk").train(), made("topk", multi_topk=0.125).train()
    more.load_state_dict(plain.state_dict())
    wide = made("topk", k=16).train()
    wide.load_state_dict(plain.state_dict())
    found = more(X).losses
    assert found["multi_topk"].item() == pytest.approx(wide(X).losses["reconstruction"].item() / 8, rel=1e-5)


def test_copies_and_files_keep_the_layout() -> None:
    sae = made("batchtopk")
    for twin in (copy.deepcopy(sae), pickle.loads(pickle.dumps(sae))):
        assert twin.W_enc.t().is_contiguous()
        assert torch.equal(twin(X).x_hat, sae(X).x_hat)
    other = made("batchtopk", seed=5)
    other.load_state_dict(sae.state_dict())
    assert other.W_enc.t().is_contiguous() and torch.equal(other(X).x_hat, sae(X).x_hat)


# ------------------------------------------------------------------------------------------------ thresholds and memory
@pytest.mark.parametrize("activation", ["batchtopk", "feature"])
def test_thresholds_make_tokens_independent(activation: str) -> None:
    sae = made(activation, threshold_decay=0.9)
    for _ in range(60):
        sae.observe_(sae.codes(torch.randn(200, 10)))
    sae.eval()
    x = torch.randn(200, 10)
    whole = sae.encode(x, mode="threshold")
    single = torch.cat([sae.encode(x[i : i + 1], mode="threshold") for i in range(200)])
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-6)
    z = torch.relu(sae.pre_activations(x)).detach()
    assert torch.equal(whole != 0, z > sae.calibrated())
    assert float((whole != 0).sum(1).float().mean()) == pytest.approx(4, rel=0.3)


def test_thresholds_that_were_never_set_are_refused() -> None:
    with pytest.raises(NotCalibrated, match="not calibrated") as caught:
        made("batchtopk").encode(X, mode="threshold")
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, SparselandError)


def test_the_threshold_is_the_running_smallest_choice() -> None:
    sae = made("batchtopk", threshold_decay=0.75)
    first, second = (sae.codes(torch.randn(50, 10)) for _ in range(2))
    sae.observe_(first)
    assert float(sae.threshold) == pytest.approx(first.values.min().item())
    sae.observe_(second)
    assert float(sae.threshold) == pytest.approx(0.75 * first.values.min().item() + 0.25 * second.values.min().item())


def test_memory_counts_tokens_not_batches() -> None:
    sae = made("topk", dead_window=100)
    codes = [sae.codes(torch.randn(40, 10)) for _ in range(3)]
    for c in codes:
        sae.observe_(c)
    fired = torch.stack([c.fired() for c in codes]) > 0
    since = [40 * (2 - max((i for i in range(3) if fired[i, f]), default=-1)) for f in range(32)]
    assert sae.since_fired.tolist() == since and int(sae.tokens_seen) == 120
    assert sae.dead.tolist() == [s >= 100 for s in since]
    shares = torch.stack([c.fired() / 40 for c in codes])
    weights = torch.tensor([0.99**2, 0.99, 1.0])
    torch.testing.assert_close(sae.densities, (weights[:, None] * shares).sum(0) / weights.sum(), rtol=1e-4, atol=1e-6)


def test_feature_stage_gives_every_feature_its_tokens() -> None:
    sae = made("mutual_then_feature").train()
    x = torch.randn(64, 10)
    for _ in range(5):
        sae.observe_(sae.codes(x))
    assert sae.current_rule == "mutual"
    curve = sae.begin_feature_stage_()
    assert sae.current_rule == "feature" and curve.s >= 0 and float(sae.threshold.max()) < 0
    counts = sae.counts(64)
    assert int(counts.sum()) == 4 * 64 and int(counts.min()) >= 1
    order = sae.densities.sort(descending=True, stable=True).indices
    assert (counts[order].diff() <= 0).all()  # the more frequent, the more tokens
    assert (sae.codes(x).fired() <= counts).all()
    with pytest.raises(SparselandError, match="only mutual_then_feature"):
        made("topk").begin_feature_stage_()


# ----------------------------------------------------------------------------------------------------- Zipf and budgets
@pytest.mark.parametrize(("s", "b"), [(1.0, 0.0), (0.7, 20.0), (2.0, 100.0)])
def test_the_fit_finds_the_law_it_was_given(s: float, b: float) -> None:
    density = 0.4 * (1 + b) ** s * (torch.arange(1.0, 301.0).double() + b) ** -s
    found = Zipf.fit(density[torch.randperm(300, generator=torch.Generator().manual_seed(0))])
    assert (found.b, round(found.s, 6), round(found.r2, 6)) == (b, s, 1.0)
    torch.testing.assert_close(found.density(300), density)


def test_densities_below_the_floor_do_not_bend_the_fit() -> None:
    density = 0.3 / torch.arange(1.0, 101.0)
    assert Zipf.fit(torch.cat([density, torch.full((500,), 1e-7)])).s == pytest.approx(1.0, abs=1e-6)
    assert Zipf.fit(torch.zeros(10)).s == 0.0


def test_ranks_move_only_when_they_move_far() -> None:
    old = torch.arange(100)
    new = old.clone()
    new[[10, 12]] = new[[12, 10]]
    assert torch.equal(steadied(old, new), old)
    density = torch.linspace(1, 0, 100)
    density[60] = 2.0
    assert int(steadied(old, ranks(density))[60]) <= 1  # level with the one that was first


def test_budgets_scale_with_the_batch() -> None:
    rank = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for tokens in (16, 50, 2048):
        found = budgets(Zipf(-1.0, 1.0, 2.0, 1.0), rank, 4, tokens)
        assert int(found.sum()) == 4 * tokens and 1 <= int(found.min()) <= int(found.max()) <= tokens


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"k": 33}, InfeasibleBudget, "k=33 codes a token were asked of d_sae=32"),
        ({"k": 0}, SparselandError, "k is a whole number from 1; got 0"),
        ({"activation": "topp"}, SparselandError, "did you mean 'topk'"),
        ({"beta": -1.0, "select": "gradient"}, SparselandError, "beta is at least 0; got -1.0"),
        ({"beta": 1.0}, SparselandError, "no effect with select='activation'"),
        ({"activation": "relu", "select": "gradient"}, SparselandError, "does not rank any"),
        ({"activation": "groupmax", "k": 5}, InfeasibleBudget, "32 is not divisible by 5"),
        ({"normalize": "l2"}, SparselandError, "expected_l2"),
        ({"stage_split": 1.5}, SparselandError, r"stage_split is a number in \[0, 1\]"),
        ({"multi_topk": 0.1, "activation": "gated"}, SparselandError, "goes with topk and batchtopk"),
        ({"bandwidth": 0.0}, SparselandError, "bandwidth is above 0"),
    ],
)
def test_configurations_that_cannot_be_are_refused(given: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SAEConfig(**({"d_in": 10, "d_sae": 32, "k": 4} | given))  # type: ignore[arg-type]


def test_inputs_that_do_not_fit_are_refused() -> None:
    sae = made("batchtopk")
    with pytest.raises(SparselandError, match=r"width 10 were expected \(d_in\); got shape \(24, 9\)"):
        sae(X[:, :9])
    with pytest.raises(ScoreError, match="1 NaN and 2 infinite"):
        sae(torch.cat([X[:1], torch.tensor([[float("nan"), float("inf"), float("-inf"), *[0.0] * 7]])]))
    with pytest.raises(TypeError, match="floating point"):
        sae(torch.ones(4, 10, dtype=torch.int64))
    with pytest.raises(SparselandError, match="one token was given. Use mode='threshold'"):
        sae(X[:1])
    with pytest.raises(SparselandError, match="no activations"):
        sae(X[:0])
    with pytest.raises(SparselandError, match="did you mean 'threshold'"):
        sae(X, mode="thresholds")
    with pytest.raises(SparselandError, match="codes of width 32"):
        sae.decode(torch.ones(3, 10))
    with pytest.raises(TypeError, match="config is a SAEConfig"):
        SparseAutoencoder({"d_in": 3})  # type: ignore[arg-type]


def test_gradients_that_do_not_fit_are_refused() -> None:
    sae = made(select="gradient", beta=1.0).train()
    with pytest.raises(SparselandError, match=r"none was given: hand over \(x, g\)"):
        sae(X)
    with pytest.raises(SparselandError, match="differ in shape"):
        sae(X, X[:, :5])
    with pytest.raises(ScoreError, match="holds NaN"):
        sae(X, torch.full_like(X, float("nan")))
    with pytest.warns(UserWarning, match="zero everywhere"):
        output = sae(X, torch.zeros_like(X))
    assert torch.equal(output.x_hat, sae.eval()(X).x_hat)
    with pytest.raises(SparselandError, match="in mode='batch'"):
        made("batchtopk", select="gradient", beta=1.0).encode(X, mode="threshold", gradient=X)


def test_beta_zero_is_topk_bit_for_bit() -> None:
    plain, zero = made().train(), made(select="gradient", beta=0.0).train()
    zero.load_state_dict(plain.state_dict())
    first, second = plain(X), zero(X, torch.randn_like(X))
    assert torch.equal(first.x_hat, second.x_hat) and torch.equal(first.loss, second.loss)
    first.loss.backward(), second.loss.backward()
    for a, b in zip(plain.parameters(), zero.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)


def test_small_batches_and_silence_are_said() -> None:
    sae = made("batchtopk")
    sae.observe_(sae.codes(torch.randn(100, 10)))
    sae.eval()
    with pytest.warns(UserWarning, match="24 tokens share a budget that was trained on batches of 100"):
        sae(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae(torch.randn(100, 10))
    with torch.no_grad():
        sae.b_enc.fill_(-1e3)
    with pytest.warns(UserWarning, match="no feature is active for any of 100 tokens"):
        output = sae(torch.randn(100, 10))
    torch.testing.assert_close(output.x_hat, sae.b_dec.detach().expand(100, 10))


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_other_devices_take_the_same_road(activation: str) -> None:
    """The torch bodies that a GPU would run give what the native ones give."""
    from sparseland.kernels import sparse_code as sc

    sae = made(activation).train()
    output = sae(X)
    output.loss.backward()
    fast: dict[str, Tensor] = {n: p.grad.clone() for n, p in sae.named_parameters() if p.grad is not None}
    sae.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sc, "_fast", lambda *tensors: False)
        slow = sae(X)
        slow.loss.backward()
    torch.testing.assert_close(slow.x_hat, output.x_hat, rtol=1e-4, atol=1e-5)
    for name, p in sae.named_parameters():
        torch.testing.assert_close(p.grad, fast[name], rtol=1e-3, atol=1e-6)


def test_budgets_of_own_densities_keep_what_every_token_needs() -> None:
    """One feature that all tokens use: a Zipf curve through the rest caps it, its own density does not."""
    counts = {}
    for kind in ("zipf", "density"):
        sae = made("mutual_then_feature", budget=kind)
        sae.observed.fill_(10**6)
        sae.density.copy_(torch.full((32,), 3 / 31))
        sae.density[7] = 1.0
        sae.begin_feature_stage_()
        counts[kind] = sae.counts(100)
        assert int(counts[kind].sum()) == 400
    assert int(counts["density"][7]) == 100 and int(counts["zipf"][7]) < 60
