"""Small problems for every sparse coding model: data, start parameters, and the same for the oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.features import prosper_exhaustive, prosper_per_point

Array = NDArray[np.float64]
MODELS = ("BSC", "TSC", "DSC", "MCA", "MMCA", "GSC")
LINEAR = ("BSC", "TSC", "DSC")
EXACT = ("BSC", "TSC", "DSC", "GSC")  # the M-step of these maximises (MCA's and MMCA's is a fixed point)
VALUES = {"BSC": (0.0, 1.0), "TSC": (-1.0, 0.0, 1.0), "DSC": (-1.0, 0.0, 1.0)}


def model(name: str, h: int = 4, **more: Any) -> Any:
    """An estimator whose truncation covers every state, unless told otherwise."""
    from sparseland import features

    given = {"candidates": h, "gamma": h, "random_state": 0} | more
    return getattr(features, name)(h, **given)


def start(name: str, h: int = 4, d: int = 6, seed: int = 0) -> dict[str, Any]:
    """Parameters as arrays: W (H, D), pi, sigma; GSC: pi (H,), mu (H,), psi (H,), noise (a variance)."""
    rng = np.random.default_rng(seed)
    w = 2 * rng.normal(size=(h, d))
    if name == "MCA":
        w = np.abs(w) + 0.1
    if name == "GSC":
        return {
            "W": w,
            "pi": rng.uniform(0.2, 0.5, h),
            "mu": rng.normal(size=h),
            "psi": rng.uniform(0.5, 2, h),
            "noise": 1.5,
        }
    return {"W": w, "pi": np.array([0.15, 0.6, 0.25]) if name == "DSC" else 0.3, "sigma": 1.2}


def draw(name: str, n: int = 40, h: int = 4, d: int = 6, seed: int = 1) -> Array:
    """Points that the model itself could have made, from other parameters than `start`'s."""
    rng = np.random.default_rng(seed)
    w = start(name, h, d, seed + 100)["W"]
    s = rng.choice(VALUES.get(name, (0.0, 1.0)), size=(n, h), p=[0.25, 0.5, 0.25] if name in ("TSC", "DSC") else None)
    if name == "GSC":
        s = s * rng.normal(1.0, 1.0, size=s.shape)
    parts = s[:, :, None] * w
    y = parts.sum(1)
    if name in ("MCA", "MMCA"):
        y = np.take_along_axis(parts, np.abs(parts).argmax(1)[:, None], 1)[:, 0]
    y = y + rng.normal(size=y.shape)
    return np.abs(y) if name == "MCA" else y


def exhaustive(name: str, params: dict[str, Any], y: Array, **more: Any) -> tuple[dict[str, Any], float]:
    """One step of the oracle that knows every state; the log-likelihood is that of the parameters given."""
    if name in LINEAR:
        return prosper_exhaustive.linear_step(params, y, VALUES[name], name.lower(), **more)
    if name != "GSC":
        return prosper_exhaustive.maximum_step(params, y, name.lower(), **more)
    d = y.shape[1]
    noise, psi = np.asarray(params["noise"], dtype=float), np.asarray(params["psi"], dtype=float)
    wide = {
        "noise": noise * np.eye(d) if noise.ndim == 0 else np.diag(noise) if noise.ndim == 1 else noise,
        "psi": np.diag(psi) if psi.ndim == 1 else psi,
    }
    new, likelihood = prosper_exhaustive.slab_step(params | wide, y, **more)
    if noise.ndim < 2:
        new["noise"] = np.diag(new["noise"]) if noise.ndim else new["noise"][0, 0]
    new["psi"] = np.diag(new["psi"]) if psi.ndim == 1 else new["psi"]
    return new, likelihood


def per_point(name: str, params: dict[str, Any], y: Array, **more: Any) -> tuple[dict[str, Any], Array]:
    """One step of the truncated oracle, and log sum exp of the joint of every point."""
    return prosper_per_point.STEPS[name](params, y, **more)


def tensors(params: dict[str, Any]) -> dict[str, Tensor]:
    """The same parameters for the package."""
    return {key: torch.as_tensor(np.asarray(value), dtype=torch.float64) for key, value in params.items()}


def apart(got: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The largest difference of any parameter, relative where the parameter is above 1."""
    assert set(got) == set(wanted)
    worst = 0.0
    for key, value in wanted.items():
        one, other = np.asarray(got[key], dtype=float), np.asarray(value, dtype=float)
        assert one.shape == other.shape, (key, one.shape, other.shape)
        worst = max(worst, float((np.abs(one - other) / np.maximum(1, np.abs(other))).max()))
    return worst
