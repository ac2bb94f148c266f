"""The kernels of spike and slab against the same algebra in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparseland.features.prosper.slabs import slabs
from sparseland.features.prosper.states import States, enumerate_states
from sparseland.kernels import available
from sparseland.kernels.slabs import moments, values

pytestmark = pytest.mark.skipif(not available(), reason="the extension is not built")
CLOSE = 1e-12
SIZES = [(1, 1, 1, 1), (3, 2, 2, 5), (16, 4, 3, 4), (203, 5, 5, 9), (1003, 6, 3, 20), (9, 11, 11, 11)]  # n, h, γ, H


def problem(n: int, h: int, gamma: int, H: int, full: bool) -> tuple[list[Tensor], States]:
    make = torch.Generator().manual_seed(n + h)
    W = torch.randn(H, 2 * H, generator=make, dtype=torch.float64)
    psi = torch.rand(H, generator=make, dtype=torch.float64) + 0.1
    if full:
        half = 0.3 * torch.randn(H, H, generator=make, dtype=torch.float64)
        psi = psi.diag() + half @ half.T
    mu = torch.randn(H, generator=make, dtype=torch.float64)
    b = 3 * torch.randn(n, H, generator=make, dtype=torch.float64)
    members = torch.stack([torch.randperm(H, generator=make)[:h].sort().values for _ in range(n)])
    if h <= 6:
        return [W @ W.T, psi, mu, b, members], enumerate_states(h, gamma, fewest=min(2, gamma))
    some = torch.ones(9, h, dtype=torch.float64)  # a few large supports
    for i in range(1, 9):
        some[i, torch.randperm(h, generator=make)[: i % 4]] = 0.0
    none = torch.zeros(0, dtype=torch.int64)
    return [W @ W.T, psi, mu, b, members], States(some, some.sum(1, keepdim=True), none, none, some)


def apart(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("full", [False, True])
def test_values_and_moments_are_those_of_torch(size: tuple[int, ...], full: bool, threads: int) -> None:
    given, states = problem(*size, full)
    value, kept = slabs(*given, states, native=False)
    assert apart(values(*given, states.values), value) < CLOSE
    q = value.softmax(1) * (torch.arange(len(value)) % 3 > 0)[:, None]  # points that a cut has left out, too
    wanted = kept.moments(q)
    assert all(apart(a, b) < CLOSE for a, b in zip(moments(*given, states.values, q), wanted, strict=True) if b.any())
    native, anew = slabs(*given, states)
    assert (apart(native, value) < CLOSE and apart(anew.means(q), kept.means(q)) < CLOSE) or not q.any()


def test_the_number_of_threads_changes_nothing() -> None:
    given, states = problem(*SIZES[4], False)
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        value = values(*given, states.values)
        found.append((value, *moments(*given, states.values, value.softmax(1))))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_products_of_many_pivots_do_not_overflow() -> None:
    """Eleven pivots of 1e30 each are 1e330."""
    (gram, psi, *rest), states = problem(*SIZES[5], False)
    value, _ = slabs(1e30 * gram, psi, *rest, states, native=False)
    assert value.isfinite().all() and apart(values(1e30 * gram, psi, *rest, states.values), value) < CLOSE


@pytest.mark.parametrize("full", [False, True])
def test_no_covariance_no_value(full: bool) -> None:
    (gram, psi, *rest), states = problem(16, 4, 3, 4, full)
    broken = psi.clone()
    broken.view(-1)[0] = -1.0  # the first latent's variance
    found = values(gram * 1e-3, broken, *rest, states.values)
    with_first = states.values[:, 0] != 0  # H' = H: the first candidate is the first latent
    assert found[:, with_first].isnan().all() and found[:, ~with_first].isfinite().all()


def test_states_of_no_weight_are_passed_over() -> None:
    (gram, psi, *rest), states = problem(16, 4, 3, 4, False)
    q = torch.zeros(16, len(states)).double()
    assert not any(t.any() for t in moments(gram, psi, *rest, states.values, q))


def test_sizes_are_checked() -> None:
    (gram, psi, mu, b, members), states = problem(16, 4, 3, 9, False)
    s, q = states.values, torch.ones(16, len(states)).double()
    for bad, text in (
        ((gram[:, :8], psi, mu, b, members, s), "gram is"),
        ((gram, psi[:8], mu, b, members, s), "psi is"),
        ((gram, torch.eye(8).double(), mu, b, members, s), "psi is"),
        ((gram, psi, mu[:8], b, members, s), "gram is"),
        ((gram, psi, mu, b[:, :8], members, s), "b is"),
        ((gram, psi, mu, b[:15], members, s), "b is"),
        ((gram, psi, mu, b, members + 5, s), "a member lies outside"),
        ((gram, psi, mu, b, members - 5, s), "a member lies outside"),
        ((gram, psi, mu, b, members, s[:, :3]), "one column for each member"),
        ((gram, psi, mu, b, members, 2 * s), "zeros and ones"),
    ):
        with pytest.raises(ValueError, match=text):
            values(*bad)
        with pytest.raises(ValueError, match=text):
            moments(*bad, q)
    with pytest.raises(ValueError, match="q is"):
        moments(gram, psi, mu, b, members, s, q[:, 1:])
    none = (gram, psi, mu, b[:0], members[:0], s)
    assert values(*none).shape == (0, len(s)) and moments(*none, q[:0])[0].shape == (0, 4)
