"""Who is active: the rules of `core.matching` against brute force, and the autoencoder's choice against those rules."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sparseland.core.errors import InfeasibleBudget, ScoreError
from sparseland.core.matching import allocate, shares, triplets
from sparseland.features import SAEConfig, SparseAutoencoder
from sparseland.features.sae import choose


def feasible(mask: Tensor, rule: str, k: int, counts: list[int]) -> bool:
    """Whether a mask keeps to a rule's budgets."""
    rows, columns = mask.shape
    if rule == "token":
        return bool((mask.sum(1) <= k).all())
    if rule == "feature":
        return all(int(n) <= c for n, c in zip(mask.sum(0), counts, strict=True))
    if rule == "mutual":
        return int(mask.sum()) <= k * rows
    return bool((mask.view(rows, k, columns // k).sum(2) <= 1).all())


@pytest.mark.parametrize("rule", ["token", "feature", "mutual", "groupmax"])
@pytest.mark.parametrize("seed", range(2))
def test_no_mask_within_the_budget_scores_higher(rule: str, seed: int) -> None:
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    counts, k = [3, 0, 2, 1], 2
    mask = allocate(scores, rule, k, counts=torch.tensor(counts))
    assert feasible(mask, rule, k, counts)
    best = max(
        float((scores * m).sum())
        for bits in itertools.product([False, True], repeat=12)
        if feasible(m := torch.tensor(bits).view(3, 4), rule, k, counts)
    )
    assert float((scores * mask).sum()) == pytest.approx(best, abs=1e-6)


def test_zero_scores_are_never_chosen_and_ties_go_to_the_lowest_index() -> None:
    scores = torch.tensor([[0.0, 0.0, 1.0], [2.0, 2.0, 2.0]])
    assert allocate(scores, "token", 2).tolist() == [[False, False, True], [True, True, False]]
    assert allocate(scores, "mutual", 2).int().tolist() == [[0, 0, 1], [1, 1, 1]]
    assert allocate(scores, "token", 2, positive=False).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"k": 0}, "k=0 a row were asked of 4 columns; possible: 1 … 4"),
        ({"k": 5}, "k=5 a row"),
        ({"rule": "tokens"}, "did you mean 'token'"),
        ({"rule": "groupmax", "k": 3}, "4 is not divisible by 3"),
        ({"rule": "feature", "counts": torch.tensor([3, 3, 1, 0])}, "add up to 7; the budget k \\* rows is 6"),
        ({"rule": "feature", "counts": torch.tensor([4, 1, 1, 0])}, "lie in 0 … 3"),
        ({"rule": "feature", "counts": torch.tensor([3, 3])}, "4 whole numbers"),
    ],
)
def test_budgets_that_do_not_fit_are_refused(given: dict[str, object], text: str) -> None:
    asked = {"rule": "token", "k": 2} | given
    with pytest.raises(InfeasibleBudget, match=text):
        allocate(torch.ones(3, 4), **asked)  # type: ignore[arg-type]


def test_scores_that_are_no_table_are_refused() -> None:
    with pytest.raises(ScoreError, match=r"got shape \(3,\)"):
        allocate(torch.ones(3), "token", 1)
    with pytest.raises(ScoreError, match="1 NaN"):
        allocate(torch.tensor([[float("nan"), 1.0]]), "mutual", 1)


@pytest.mark.parametrize("seed", range(5))
def test_shares_add_up_and_stay_inside(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(50, generator=g).pow(6)
    for total in (50, 51, 137, 400, 50 * 20 - 3, 50 * 20):
        found = shares(weights, total, high=20)
        assert int(found.sum()) == total and int(found.min()) >= 1 and int(found.max()) <= 20
        heavy, light = weights.argmax(), weights.argmin()
        assert found[heavy] >= found[light]
    assert shares(weights, 20, high=20).sum() == 20  # fewer than one each: the heaviest get one
    assert shares(weights, 20, high=20)[weights.topk(20).indices].tolist() == [1] * 20


def test_shares_keep_proportions_where_no_bound_is_met() -> None:
    assert shares(torch.tensor([5.0, 3.0, 2.0]), 100, high=100).tolist() == [50, 30, 20]


@pytest.mark.parametrize("weights", [[0.0, 0.0], [-1.0, 1.0], [float("inf"), 1.0]])
def test_shares_refuse_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(InfeasibleBudget, match="finite, at least 0, and not all 0"):
        shares(torch.tensor(weights), 3, high=5)


def test_triplets_keep_the_gradient() -> None:
    scores = torch.tensor([[1.0, 5.0], [4.0, 2.0]], requires_grad=True)
    rows, columns, values = triplets(allocate(scores, "mutual", 1), scores)
    values.sum().backward()
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
    assert scores.grad is not None and scores.grad.tolist() == [[0.0, 1.0], [1.0, 0.0]]


# --------------------------------------------------------------------------------------- the choice without the table
KINDS = {"topk": "token", "batchtopk": "mutual", "feature": "feature", "groupmax": "groupmax"}


def made(activation: str, **more: object) -> SparseAutoencoder:
    """A small autoencoder with biases that matter."""
    sae = SparseAutoencoder(SAEConfig(12, 40, activation=activation, k=4, seed=3, **more))  # type: ignore[arg-type]
    with torch.no_grad():
        sae.b_enc.normal_(std=0.3)
        sae.b_dec.normal_(std=0.3)
    return sae


@pytest.mark.parametrize("small", [False, True], ids=["one piece", "many pieces"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", KINDS)
def test_codes_are_the_allocation_of_the_whole_table(
    activation: str, dtype: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        monkeypatch.setattr(choose, "PIECE", 130)  # three tokens, or four features, at a time
    sae, x = made(activation, dtype=dtype), torch.randn(33, 12)
    z = torch.relu(sae.pre_activations(x)).detach()
    counts = sae.counts(33) if activation == "feature" else None
    mask = allocate(z, KINDS[activation], 4, counts=counts)
    found = sae.encode(x)
    assert (found != 0).tolist() == mask.tolist()
    torch.testing.assert_close(found, z * mask, rtol=1e-5, atol=1e-6)
    if activation in ("topk", "batchtopk"):
        assert int(mask.sum()) == 4 * 33


@pytest.mark.parametrize("small", [False, True], ids=["one piece", "many pieces"])
def test_equal_scores_over_a_batch_go_to_the_first(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        monkeypatch.setattr(choose, "PIECE", 9)
    x = torch.ones(30, 2)
    scores = choose.Scores(x, torch.ones(3, 2), torch.tensor([0.0, 0.0, -1.0]))
    codes = choose.over_batch(scores, 17)
    assert codes.tokens.tolist() == [i // 2 for i in range(17)] and codes.features.tolist() == ([0, 1] * 9)[:17]


def test_a_guess_that_is_too_high_is_taken_back() -> None:
    """The first tokens are strong and the rest weak: a bound from the first ones leaves too few."""
    x = torch.cat([torch.full((64, 4), 9.0), torch.full((640, 4), 0.01)])
    x *= torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    scores = choose.Scores(x, torch.randn(50, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(50))
    codes = choose.over_batch(scores, 9_000)
    z = torch.relu(x @ scores.weight.t())
    mask = torch.zeros_like(z, dtype=torch.bool)
    mask.view(-1)[z.view(-1).sort(descending=True, stable=True).indices[:9_000]] = True
    assert ((codes.dense() > 0) == mask).all()


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "feature", "groupmax"])
def test_gradient_selection_ranks_by_the_weighted_score(activation: str) -> None:
    sae, x, g = made(activation, select="gradient", beta=3.0), torch.randn(20, 12), torch.randn(20, 12)
    z = torch.relu(sae.pre_activations(x)).detach()
    score = z * (1 + 3.0 * (g @ sae.W_dec.detach().t()).abs())
    counts = sae.counts(20) if activation == "feature" else None
    mask = allocate(score, KINDS[activation], 4, counts=counts)
    found = sae.encode(x, gradient=g)
    assert ((found != 0) == mask).all()
    torch.testing.assert_close(found, z * mask, rtol=1e-5, atol=1e-6)  # values are codes, not scores
    assert not ((sae.encode(x) != 0) == mask).all()


@pytest.mark.parametrize("kind", ["batch_rms", "token_l2"])
def test_gradients_are_brought_to_scale(kind: str) -> None:
    x, g = torch.randn(20, 12), 1e-6 * torch.randn(20, 12)
    sae = made("topk", select="gradient", beta=2.0, grad_norm=kind)
    assert torch.equal(sae.encode(x, gradient=g), sae.encode(x, gradient=1e5 * g))
    raw = made("topk", select="gradient", beta=2.0)
    assert torch.equal(raw.encode(x, gradient=g), raw.encode(x))  # too small to matter
    assert not torch.equal(sae.encode(x, gradient=g), sae.encode(x))
