"""Oracle of the sparse coding models: EM over every state there is, written down term by term in NumPy.

Nothing here is fast or truncated. log p(s, y) is a table (N, states), products over it are spelled out, and no line is
shared with the package. Parameters are dicts of arrays: W (H, D), pi, sigma; GSC: W, pi (H,), mu (H,), psi (H, H),
noise (D, D).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Params = dict[str, Any]


def every_state(values: tuple[float, ...], h: int) -> Array:
    """(len(values)^h, h)."""
    return np.array(list(itertools.product(values, repeat=h)), dtype=np.float64)


def log_sum_exp(table: Array) -> Array:
    """Over the last axis."""
    top = table.max(-1, keepdims=True)
    return np.log(np.exp(table - top).sum(-1)) + top[..., 0]


def normal(y: Array, mean: Array, sigma: float) -> Array:
    """log N(y_n; mean_s, sigma^2 I) as (N, states)."""
    d = y.shape[1]
    square = np.array([[((y_n - m) ** 2).sum() for m in mean] for y_n in y])
    return -0.5 * d * np.log(2 * np.pi * sigma**2) - square / (2 * sigma**2)


def responsibilities(prior: Array, likelihood: Array, beta: float, on_both: bool) -> Array:
    """q_n(s) of the annealed posterior."""
    table = beta * (prior + likelihood) if on_both else prior + beta * likelihood
    return np.exp(table - log_sum_exp(table)[:, None])


def log_prior(states: Array, params: Params, values: tuple[float, ...], kind: str) -> Array:
    """log p(s) over all h."""
    h, pi = states.shape[1], params["pi"]
    if kind == "dsc":
        return np.array([sum(np.log(pi[values.index(v)]) for v in s) for s in states])
    active = (states != 0).sum(1)
    each = pi / 2 if kind == "tsc" else pi
    return active * np.log(each) + (h - active) * np.log(1 - pi)


# ------------------------------------------------------------------------------------------------- linear superposition
def linear_step(
    params: Params, y: Array, values: tuple[float, ...], kind: str, t: float = 1.0, on_both: bool = False
) -> tuple[Params, float]:
    """BSC, TSC and DSC: one EM step, and the log-likelihood per point of the parameters that came in."""
    w, h, (n, d) = params["W"], len(params["W"]), y.shape
    y = y - params["mu"] if "mu" in params else y
    states = every_state(values, h)
    prior = log_prior(states, params, values, kind)[None]
    likelihood = normal(y, states @ w, params["sigma"])
    q = responsibilities(prior, likelihood, 1 / t, on_both)
    second = sum(q[:, i].sum() * np.outer(s, s) for i, s in enumerate(states))
    first = sum(np.outer(s, q[:, i] @ y) for i, s in enumerate(states))
    noise = sum(q[m, i] * ((y[m] - s @ w) ** 2).sum() for m in range(n) for i, s in enumerate(states))
    new: Params = {"W": np.linalg.solve(second, first), "sigma": float(np.sqrt(noise / (n * d)))}
    if kind == "dsc":
        counts = np.array([(q * (states == v).sum(1)).sum() for v in values])
        new["pi"] = counts / counts.sum()
    else:
        new["pi"] = float((q * (states != 0).sum(1)).sum() / (n * h))
    if "mu" in params:
        new["mu"] = (y + params["mu"]).mean(0) - (q @ states).mean(0) @ new["W"]
    return new, float(log_sum_exp(prior + likelihood).mean())


# ----------------------------------------------------------------------------------------------------- maximum and MMCA
def power(t: float, least: float, most: float = np.inf) -> float:
    """The rho of a soft maximum at temperature t."""
    return float(min(max(1 / (1 - 1 / max(t, least)), 1.0), most))


def maximum_step(params: Params, y: Array, kind: str, t: float = 1.0) -> tuple[Params, float]:
    """MCA and MMCA: one EM step, and the log-likelihood per point of the parameters that came in."""
    w, h, (n, d) = params["W"], len(params["W"]), y.shape
    rho = power(t, 1.05) if kind == "mca" else power(t, 1.2, 35.0)
    states = every_state((0.0, 1.0), h)
    means, weights = np.zeros((len(states), d)), np.zeros((len(states), h, d))
    for i, s in enumerate(states):
        for j in range(d):
            u = sum(s[k] * np.sign(w[k, j]) * abs(w[k, j]) ** rho for k in range(h))
            means[i, j] = np.sign(u) * abs(u) ** (1 / rho)
            for k in range(h):
                if s[k]:
                    share = np.inf if means[i, j] == 0 else (abs(w[k, j]) / abs(means[i, j])) ** (rho - 1)
                    weights[i, k, j] = share if kind == "mca" else min(1.0, share)
    prior = log_prior(states, params, (0.0, 1.0), kind)[None]
    likelihood = normal(y, means, params["sigma"])
    q = responsibilities(prior, likelihood, 1 / t, True)
    below = np.einsum("ni,ihd->hd", q, weights)
    above = np.einsum("ni,ihd,nd->hd", q, weights, y)
    if kind == "mca":
        new_w = np.maximum(np.where(below > 0, above / np.where(below > 0, below, 1), 0.0), 1e-4)
    else:
        below = np.maximum(below, 1e-4)
        inertia = np.maximum(1 - np.exp(-below / 2.5), 0.2)
        new_w = inertia * (above / below) + (1 - inertia) * w
        new_w = np.where(np.abs(new_w) < 1e-4, np.where(new_w < 0, -1e-4, 1e-4), new_w)
    noise = sum(q[m, i] * ((y[m] - means[i]) ** 2).sum() for m in range(n) for i in range(len(states)))
    new = {
        "W": new_w,
        "sigma": float(np.sqrt(noise / (n * d))),
        "pi": float((q * states.sum(1)).sum() / (n * h)),
    }
    return new, float(log_sum_exp(prior + likelihood).mean())


# ------------------------------------------------------------------------------------------------------- spike and slab
def slab_step(
    params: Params, y: Array, noise: str = "scalar", slab: str = "diagonal", t: float = 1.0
) -> tuple[Params, float]:
    """GSC, exact: one EM step, and the log-likelihood per point of the parameters that came in.

    The likelihood of a state is that of the Gaussian N(W_a' mu_a, noise + W_a' psi_aa W_a), inverted as it stands.
    """
    w, pi, mu, psi, cov = (params[k] for k in ("W", "pi", "mu", "psi", "noise"))
    h, (n, d) = len(w), y.shape
    states = every_state((0.0, 1.0), h)
    table = np.zeros((n, len(states)))
    means, seconds = np.zeros((len(states), n, h)), np.zeros((len(states), n, h, h))
    for i, s in enumerate(states):
        a = np.flatnonzero(s)
        wide = cov + w[a].T @ psi[np.ix_(a, a)] @ w[a]
        r = y - mu[a] @ w[a]
        inverse = np.linalg.inv(wide)
        table[:, i] = -0.5 * (np.linalg.slogdet(2 * np.pi * wide)[1] + ((r @ inverse) * r).sum(1))
        table[:, i] += np.log(np.where(s == 1, pi, 1 - pi)).sum()
        if len(a):
            gain = psi[np.ix_(a, a)] @ w[a] @ inverse  # the Kalman form: (a, D)
            mean = mu[a] + r @ gain.T
            spread = psi[np.ix_(a, a)] - gain @ w[a].T @ psi[np.ix_(a, a)]
            means[i][:, a] = mean
            seconds[i][:, a[:, None], a[None]] = spread + mean[:, :, None] * mean[:, None, :]
    q = np.exp(table / t - log_sum_exp(table / t)[:, None])
    s_sum = sum(q[:, i].sum() * np.outer(s, s) for i, s in enumerate(states))
    active = np.diag(s_sum)
    sz = np.einsum("ni,inh->nh", q, means)
    szsz = np.einsum("ni,inhk->hk", q, seconds)
    new: Params = {"W": np.linalg.solve(szsz, sz.T @ y), "pi": active / n, "mu": sz.sum(0) / active}
    spread = (szsz - np.outer(new["mu"], new["mu"]) * s_sum) / s_sum
    new["psi"] = np.diag(np.maximum(np.diag(spread), 1e-5)) if slab == "diagonal" else spread
    rest = (y.T @ y - new["W"].T @ szsz @ new["W"]) / n
    if noise == "scalar":
        rest = np.eye(d) * np.trace(rest) / d
    elif noise == "diagonal":
        rest = np.diag(np.diag(rest))
    new["noise"] = rest
    return new, float(log_sum_exp(table).mean())
