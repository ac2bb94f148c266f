"""The kernels of maximal causes against their twins in torch, and against what the power of a number is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sparseland.core.errors import SparselandError
from sparseland.features.prosper.states import enumerate_states
from sparseland.kernels import available
from sparseland.kernels.causes import LEAST, maxima, shares

needs = pytest.mark.skipif(not available(), reason="the extension is not built")
CLOSE = 1e-13
SIZES = [(1, 2, 2, 3, 1), (7, 4, 4, 9, 25), (40, 6, 3, 64, 144), (130, 5, 1, 8, 50), (3, 8, 5, 10, 47)]  # U, h, γ, H, D


def problem(U: int, h: int, gamma: int, H: int, D: int, rho: float, positive: bool = False) -> dict[str, Any]:
    make = torch.Generator().manual_seed(U + D)
    W = torch.randn(H, D, generator=make, dtype=torch.float64)
    W = W.abs() if positive else W
    states = enumerate_states(h, gamma, fewest=1).values
    return {
        "powers": W.sign() * W.abs() ** rho,
        "slopes": W.abs() ** (rho - 1),
        "members": torch.stack([torch.randperm(H, generator=make)[:h].sort().values for _ in range(U)]),
        "states": states,
        "exponent": 1 / rho - 1,
        "weight": torch.rand(U, len(states), generator=make, dtype=torch.float64),
        "y": torch.randn(U, D, generator=make, dtype=torch.float64),
        "second": torch.randn(U, len(states), D, generator=make, dtype=torch.float64),
    }


def of_maxima(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in ("powers", "members", "states", "exponent", *names)}


def of_shares(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return of_maxima(given, "slopes", "weight", *names)


def apart(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    return max(float((a - b).abs().max() / (b.abs().max() + 1e-300)) for a, b in zip(got, wanted, strict=True))


@needs
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [None, "y"])
@pytest.mark.parametrize("rho", [1.0, 6.0, 21.0])
def test_maxima_are_the_twins(size: tuple[int, ...], name: str | None, rho: float, threads: int) -> None:
    given = of_maxima(problem(*size, rho), *([name] if name else []))
    assert apart(maxima(**given, native=True), maxima(**given, native=False)) < CLOSE


@needs
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["second", "y"])
@pytest.mark.parametrize("cap", [False, True])
def test_shares_are_the_twins(size: tuple[int, ...], name: str, cap: bool, threads: int) -> None:
    given = of_shares(problem(*size, 6.0 if cap else 21.0, positive=not cap), name)
    assert apart(shares(**given, cap=cap, native=True), shares(**given, cap=cap, native=False)) < CLOSE


@needs
def test_the_number_of_threads_changes_nothing() -> None:
    given, before, found = problem(*SIZES[2], 6.0), torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append((*shares(**of_shares(given, "y"), cap=True), *maxima(**of_maxima(given, "y"))))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs)])
def test_causes_that_cancel(native: bool) -> None:
    """Nothing shows of two opposite causes, and each has all of it."""
    powers = torch.tensor([[8.0, 1.0], [-8.0, 1e-320]]).double()  # 1e-320 is below the least normal number
    both, members = torch.ones(1, 2).double(), torch.tensor([[0, 1]])
    length, m = maxima(powers, members, both, -2 / 3, native=native)
    assert float(m[0, 0, 0]) == 0.0 and abs(float(m[0, 0, 1]) - 1) < 1e-14 and abs(float(length) - 1) < 1e-14
    below, above = shares(
        powers, powers.abs() ** (2 / 3), members, both, -2 / 3, both[:, :1], y=torch.full((1, 2), 3.0).double(),
        cap=True, native=native,
    )  # fmt: skip
    assert below[:, 0].tolist() == [1.0, 1.0] and above[:, 0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs)])
@pytest.mark.parametrize("exponent", [-1.0, -0.95, -0.3, -1e-6, 0.0])
def test_a_power_is_right_over_the_whole_range(native: bool, exponent: float) -> None:
    """Logarithm and power of two, through what they make: over all exponents, near 1 and next to the powers of two."""
    make = torch.Generator().manual_seed(0)
    wide = torch.rand(4000, generator=make, dtype=torch.float64) * 2044 - 1022
    near = 1 + torch.randn(4000, generator=make, dtype=torch.float64) * 10.0 ** -torch.arange(4000).remainder(16)
    two = 2.0 ** torch.arange(-1022, 1023).double()
    u = torch.cat(
        [wide.exp2(), near.abs().clamp_min(0.1), two, two * (1 + 2**-52), -two[:1000], two[1:] * (1 - 2**-53)]
    )
    m = maxima(u[None], torch.zeros(1, 1).long(), torch.ones(1, 1).double(), exponent, native=native)[1][0, 0]
    exact = torch.tensor([abs(x) ** exponent * x for x in u.tolist()], dtype=torch.float64)
    error = (m - exact).abs() / exact.abs()
    assert float(error.max()) < 1e-15 * (2 + 1024 * abs(exponent) * 0.3)  # rounding of e log2 u, up to 1022


@needs
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("members", torch.tensor([[0, 1, 2, 9]] * 7), "a member lies outside"),
        ("members", torch.tensor([[-1, 1, 2, 3]] * 7), "a member lies outside"),
        ("states", torch.ones(15, 3).double(), "one column for each member"),
        ("states", torch.full((15, 4), 0.5).double(), "zeros and ones"),
        ("exponent", 0.5, "-1 … 0"),
        ("exponent", math.nan, "-1 … 0"),
        ("y", torch.ones(7, 24).double(), r"y is \(U, D\)"),
        ("y", torch.ones(6, 25).double(), r"y is \(U, D\)"),
        ("second", torch.ones(7, 14, 25).double(), r"second \(U n_s, D\)"),
        ("weight", torch.ones(7, 14).double(), r"weight \(U, n_s\)"),
        ("slopes", torch.ones(9, 24).double(), r"slopes are \(H, D\)"),
    ],
)
def test_sizes_are_checked(name: str, value: Any, text: str) -> None:
    given = problem(*SIZES[1], 6.0) | {name: value}
    with pytest.raises(ValueError, match=text):
        shares(**of_shares(given, "second" if name == "second" else "y"))
    if name in ("members", "states", "exponent", "y"):
        with pytest.raises(ValueError, match=text):
            maxima(**of_maxima(given, "y"))


def test_what_it_cannot_do_is_refused() -> None:
    given = problem(*SIZES[0], 6.0)
    with pytest.raises(ValueError, match="give y"):
        shares(**of_shares(given))
    with pytest.raises(ValueError, match="give y"):
        shares(**of_shares(given, "y", "second"))
    single = {name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
              for name, value in of_maxima(given, "y").items()}  # fmt: skip
    with pytest.raises(SparselandError, match="float64 on a CPU"):
        maxima(**single, native=True)
    assert maxima(**single)[0].dtype == torch.float32  # the twin takes it


@needs
def test_nothing_to_do() -> None:
    given = problem(*SIZES[1], 6.0)
    none = given | {"members": given["members"][:0], "y": given["y"][:0], "weight": given["weight"][:0]}
    assert maxima(**of_maxima(none, "y"))[1].shape == (0, 15) and maxima(**of_maxima(none))[1].shape == (0, 15, 25)
    assert not any(t.any() for t in shares(**of_shares(none, "y")))
    stateless = given | {"states": given["states"][:0], "weight": given["weight"][:, :0]}
    assert maxima(**of_maxima(stateless, "y"))[1].shape == (7, 0)
    assert not any(t.any() for t in shares(**of_shares(stateless, "y")))
    assert LEAST == 2.0**-1022
