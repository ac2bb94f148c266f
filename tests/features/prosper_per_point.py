"""Truncated EM as it is usually written: NumPy, one data point at a time. An oracle, and the peer of the speed claim.

For every point: score the latents, take the candidates, a vector of log joints over the point's states (null, all
singletons, several causes among the candidates), and add its expectations to sums of the size of the parameters.
Vectorised over states and pixels, as NumPy should be; what it cannot do is to serve many points in one product.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from math import comb, factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Params = dict[str, Any]


@lru_cache
def several_causes(values: tuple[float, ...], candidates: int, gamma: int, least: int = 2) -> Array:
    """States over the candidates with `least` to gamma non-zeros: (n_s, candidates)."""
    others = [v for v in values if v != 0]
    rows = []
    for g in range(least, gamma + 1):
        for support in itertools.combinations(range(candidates), g):
            for filled in itertools.product(others, repeat=g):
                row = np.zeros(candidates)
                row[list(support)] = filled
                rows.append(row)
    return np.array(rows).reshape(-1, candidates)


def mass(pi: float, h: int, gamma: int) -> tuple[float, float]:
    """A and B: prior mass inside the truncation, and its mean number of causes."""
    terms = [comb(h, g) * pi**g * (1 - pi) ** (h - g) for g in range(gamma + 1)]
    return sum(terms), sum(g * term for g, term in enumerate(terms))


def mass_of_values(pi: Array, zero: int, h: int, gamma: int) -> float:
    """DSC's A: over the counts of each value, at most gamma causes."""
    others = [p for i, p in enumerate(pi) if i != zero]
    total = 0.0
    for counts in itertools.product(range(gamma + 1), repeat=len(others)):
        if sum(counts) <= gamma:
            ways = factorial(h) // factorial(h - sum(counts))
            term = float(pi[zero]) ** (h - sum(counts))
            for count, p in zip(counts, others, strict=True):
                ways //= factorial(count)
                term *= p**count
            total += ways * term
    return total


def chosen(scores: Array, share: float) -> NDArray[np.intp]:
    """The points kept by the data cut: int(N share) of the largest, ties at the threshold included."""
    count = int(len(scores) * share)
    threshold = np.sort(scores)[len(scores) - count]
    return np.flatnonzero(scores >= threshold)


# ------------------------------------------------------------------------------------------------- linear superposition
def linear_point(
    y: Array, params: Params, values: tuple[float, ...], kind: str, states: Array, beta: float, on_both: bool
) -> tuple[NDArray[np.intp], Array, Array]:
    """A point's candidates, its log joint over null, singletons and several causes (TSC: its list), |y - W s|²."""
    w, pi = params["W"], params["pi"]
    k = -0.5 / params["sigma"] ** 2
    others = np.array([v for v in values if v != 0])
    if kind == "dsc":
        odds = np.log(pi[[i for i, v in enumerate(values) if v != 0]] / pi[values.index(0)])
    else:
        odds = np.full(len(others), np.log((pi / 2 if kind == "tsc" else pi) / (1 - pi)))
    a, b = (beta, beta) if on_both else (1.0, beta)
    alone = ((y - others[:, None, None] * w) ** 2).sum(-1)  # (K - 1, H)
    single = a * odds[:, None] + b * k * alone
    if kind == "bsc":
        cosine = w @ y / (np.linalg.norm(w, axis=1) * np.linalg.norm(y))
        found = np.argsort(cosine)[::-1][: states.shape[1]]
    else:
        plain = odds[:, None] + k * alone  # candidates know no temperature
        best = plain.max(0)  # the first place at which a latent appears in the ranking is that of its best value
        found = np.argsort(best)[::-1][: states.shape[1]]
    prior = np.zeros(len(states))
    for value, odd in zip(others, odds, strict=True):
        prior += odd * (states == value).sum(1)
    together = ((y - states @ w[found]) ** 2).sum(-1)
    many = a * prior + b * k * together
    if kind == "tsc":
        return found, many, together
    nothing = (y**2).sum()
    squares = np.concatenate([[nothing], alone.ravel(), together])
    return found, np.concatenate([[b * k * nothing], single.ravel(), many]), squares


def linear_step(
    params: Params, y: Array, values: tuple[float, ...], kind: str, candidates: int, gamma: int,
    t: float = 1.0, on_both: bool = False, cut: float = 0.0,
) -> tuple[Params, Array]:  # fmt: skip
    """BSC, TSC and DSC: one step, and log sum exp of the joint (relative to the null prior) of every point."""
    d, h = y.shape[1], len(params["W"])
    states = several_causes(values, candidates, gamma, 0 if kind == "tsc" else 2)
    tables = [linear_point(row, params, values, kind, states, 1 / t, on_both) for row in y]
    evidence = np.array([_lse(table) for _, table, _ in tables])
    a = mass_of_values(params["pi"], values.index(0), h, gamma) if kind == "dsc" else mass(params["pi"], h, gamma)[0]
    kept = chosen(evidence, 1 - (1 - a) * cut)
    others = [v for v in values if v != 0]
    first, second, noise = np.zeros((h, d)), np.zeros((h, h)), 0.0
    counts = np.zeros(len(values))
    for m in kept:
        found, table, squares = tables[m]
        q = np.exp(table - evidence[m])
        rows = np.zeros((len(table), h))  # the point's states over all h
        if kind == "tsc":
            rows[:, found] = states
        else:
            for i, value in enumerate(others):
                rows[1 + i * h : 1 + (i + 1) * h] = value * np.eye(h)
            rows[1 + len(others) * h :, found] = states
        first += np.outer(q @ rows, y[m])
        second += (rows * q[:, None]).T @ rows
        noise += q @ squares
        counts += [q @ (rows == value).sum(-1) for value in values]
    new: Params = {"W": np.linalg.solve(second, first), "sigma": float(np.sqrt(noise / (len(kept) * d)))}
    if kind == "dsc":
        new["pi"] = counts / counts.sum()
    else:
        inside, mean = mass(params["pi"], h, gamma)
        causes = sum(c for c, value in zip(counts, values, strict=True) if value != 0)
        new["pi"] = float(params["pi"] * inside / mean * causes / len(kept))
    return new, evidence


# ----------------------------------------------------------------------------------------------------- maximum and MMCA
def maximum_step(
    params: Params, y: Array, kind: str, candidates: int, gamma: int, t: float = 1.0, cut: float = 0.0
) -> tuple[Params, Array]:
    """MCA and MMCA: one step, and the points' log sum exp of the annealed joint."""
    w, pi, (n, d), h = params["W"], params["pi"], y.shape, len(params["W"])
    k, odds, beta = -0.5 / params["sigma"] ** 2, np.log(pi / (1 - pi)), 1 / t
    rho = 1 / (1 - 1 / max(t, 1.05 if kind == "mca" else 1.2))
    rho = rho if kind == "mca" else min(max(rho, 1.0), 35.0)
    states = several_causes((0.0, 1.0), candidates, gamma)
    powers = np.sign(w) * np.abs(w) ** rho
    tables, evidence = [], np.zeros(n)
    for m, row in enumerate(y):
        score = np.maximum(w - row, 0).sum(1) if kind == "mca" else ((row - w) ** 2).sum(1)
        found = np.argsort(score)[:candidates]
        u = states @ powers[found]
        mean = np.sign(u) * np.abs(u) ** (1 / rho)
        many = states.sum(1) * odds + k * ((row - mean) ** 2).sum(-1)
        single = odds + k * ((row - w) ** 2).sum(-1)
        table = beta * np.concatenate([[k * (row**2).sum()], single, many])
        tables.append((found, table, mean))
        evidence[m] = _lse(table)
    inside, average = mass(pi, h, gamma)
    kept = chosen(evidence, 1 - (1 - inside) * cut)
    above, below, noise, causes = np.zeros((h, d)), np.zeros((h, d)), 0.0, 0.0
    for m in kept:
        found, table, mean = tables[m]
        q = np.exp(table - evidence[m])
        below += q[1 : 1 + h, None]
        above += q[1 : 1 + h, None] * y[m]
        shares = (np.abs(w[found])[None] / np.maximum(np.abs(mean), 1e-300)[:, None]) ** (rho - 1)  # (n_s, H', D)
        shares = shares if kind == "mca" else np.minimum(shares, 1)
        weight = np.einsum("i,ih,ihd->hd", q[1 + h :], states, shares)
        below[found] += weight
        above[found] += weight * y[m]
        noise += q[0] * (y[m] ** 2).sum() + q[1 : 1 + h] @ ((y[m] - w) ** 2).sum(-1)
        noise += q[1 + h :] @ ((y[m] - mean) ** 2).sum(-1)
        causes += q[1 : 1 + h].sum() + q[1 + h :] @ states.sum(1)
    if kind == "mca":
        new_w = np.maximum(np.where(below > 0, above / np.where(below > 0, below, 1), 0), 1e-4)
    else:
        below = np.maximum(below, 1e-4)
        inertia = np.maximum(1 - np.exp(-below / 2.5), 0.2)
        new_w = inertia * above / below + (1 - inertia) * w
        new_w = np.where(np.abs(new_w) < 1e-4, np.where(new_w < 0, -1e-4, 1e-4), new_w)
    sigma = float(np.sqrt(noise / (len(kept) * d)))
    return {"W": new_w, "sigma": sigma, "pi": float(pi * inside / average * causes / len(kept))}, evidence


# ------------------------------------------------------------------------------------------------------- spike and slab
def slab_step(params: Params, y: Array, candidates: int, gamma: int, t: float = 1.0) -> tuple[Params, Array]:
    """GSC with scalar noise and diagonal slab, exact form: one step, and the points' log sum exp."""
    w, pi, mu, psi = params["W"], params["pi"], params["mu"], params["psi"]
    variance, (n, d), h = params["noise"], y.shape, len(params["W"])
    psi = np.diag(psi) if np.ndim(psi) == 2 else psi
    odds = np.log(pi / (1 - pi))
    states = several_causes((0.0, 1.0), candidates, gamma)
    first, s_sum, szsz, evidence = np.zeros((h, d)), np.zeros(h), np.zeros((h, h)), np.zeros(n)
    sz_sum = np.zeros(h)

    by_size = [states[states.sum(1) == g].nonzero()[1].reshape(-1, g) for g in range(2, gamma + 1)]

    def many(row: Array, sets: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        """Log likelihood, mean and covariance of the slab for a point's states of one size, sets (m, g)."""
        wa, mean, spread = w[sets], mu[sets], psi[sets]
        lam = wa @ wa.transpose(0, 2, 1) / variance + np.eye(sets.shape[1]) / spread[:, :, None]
        cov = np.linalg.inv(lam)
        r = row - np.einsum("mg,mgd->md", mean, wa)
        b = np.einsum("mgd,md->mg", wa, r) / variance
        up = np.einsum("mgk,mk->mg", cov, b)
        log = np.log(spread).sum(1) + np.linalg.slogdet(lam)[1] + (r**2).sum(1) / variance - (b * up).sum(1)
        return -0.5 * log, mean + up, cov

    alone = np.arange(h)[:, None]
    for m, row in enumerate(y):
        parts = [(alone, *many(row, alone))]
        found = np.argsort(parts[0][1])[::-1][:candidates]
        parts += [(found[places], *many(row, found[places])) for places in by_size if len(places)]
        null = np.array([-0.5 * row @ row / variance])
        table = np.concatenate([null, *(log + odds[sets].sum(1) for sets, log, _, _ in parts)]) / t
        evidence[m] = _lse(table)
        q, start, sz = np.exp(table - evidence[m]), 1, np.zeros(h)
        for sets, _, mean, cov in parts:
            p = q[start : start + len(sets)]
            start += len(sets)
            np.add.at(s_sum, sets, p[:, None])
            np.add.at(sz, sets, p[:, None] * mean)
            square = p[:, None, None] * (cov + mean[:, :, None] * mean[:, None, :])
            np.add.at(szsz, (sets[:, :, None], sets[:, None, :]), square)
        first += np.outer(sz, row)
        sz_sum += sz
    new: Params = {"W": np.linalg.solve(szsz, first), "pi": np.clip(s_sum / n, 5e-5, 1 - 5e-5), "mu": sz_sum / s_sum}
    new["psi"] = np.maximum(np.diag(szsz) / s_sum - new["mu"] ** 2, 1e-5)
    new["noise"] = float(((y**2).sum() - np.trace(new["W"].T @ szsz @ new["W"])) / (n * d))
    return new, evidence


def _lse(table: Array) -> float:
    top = table.max()
    return float(top + np.log(np.exp(table - top).sum()))


STEPS: dict[str, Callable[..., tuple[Params, Array]]] = {
    "BSC": lambda p, y, **k: linear_step(p, y, (0.0, 1.0), "bsc", **k),
    "TSC": lambda p, y, **k: linear_step(p, y, (-1.0, 0.0, 1.0), "tsc", **k),
    "DSC": lambda p, y, **k: linear_step(p, y, (-1.0, 0.0, 1.0), "dsc", **k),
    "MCA": lambda p, y, **k: maximum_step(p, y, "mca", **k),
    "MMCA": lambda p, y, **k: maximum_step(p, y, "mmca", **k),
    "GSC": slab_step,
}
