"""The folder format of SAELens: cfg.json and sae_weights.safetensors, so that others' tools open ours and we theirs.

Mutual and feature choice are written as JumpReLU with the thresholds that training has calibrated, as SAELens does with
its BatchTopK; their own configuration lies in the metadata, and `load` finds it there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataNotFound, SparselandError, nearest
from ...files import write_file, write_json
from .config import SAEConfig
from .model import SparseAutoencoder

WEIGHTS, CONFIG, SPARSITY = "sae_weights.safetensors", "cfg.json", "sparsity.safetensors"
OURS = "sparseland"  # the entry of the metadata that holds a SAEConfig
ARCHITECTURE = {
    "topk": "topk",
    "batchtopk": "jumprelu",
    "feature": "jumprelu",
    "mutual_then_feature": "jumprelu",
    "relu": "standard",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "groupmax": "groupmax",  # SAELens has none: it will say so, `load` reads it
}
THEIRS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated", "batchtopk": "batchtopk"}
# ours -> theirs; expected_l2 is folded into the weights when saving
NORMALIZE = {"none": "none", "layer_norm": "layer_norm", "token_rms": "constant_norm_rescale", "expected_l2": "none"}
STATE = (
    "threshold",
    "density",
    "since_fired",
    "rank",
    "share",
    "zipf",
    "expected",
    "tokens_seen",
    "observed",
    "batch_seen",
)


def save(sae: SparseAutoencoder, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write cfg.json, sae_weights.safetensors and sparsity.safetensors (log10 of densities); each whole or not at all.

    Parameters:
        metadata: plain data for cfg.json, such as model_name and hook_name.

    Raises:
        NotCalibrated: mutual or feature choice before training has set thresholds. OutputError: the disk refuses.

    >>> import tempfile
    >>> sae = SparseAutoencoder(SAEConfig(4, 8, k=2)); x = torch.randn(5, 4)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     torch.equal(load(save(sae, place))(x).x_hat, sae(x).x_hat)
    True
    """
    from safetensors.torch import save as pack

    config, place = sae.config, Path(folder)
    tensors = {name: t.detach().cpu() for name, t in sae.named_parameters()}
    if config.activation == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    if config.activation == "jumprelu":
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    elif ARCHITECTURE[config.activation] == "jumprelu":
        tensors["threshold"] = sae.calibrated().cpu().to(config.torch_dtype).expand(config.d_sae)
    if config.normalize == "expected_l2":
        _fold(tensors, float(sae.expected))
    state = {f"{OURS}.{name}": getattr(sae, name).cpu() for name in (*STATE, "fitted", "feature_stage")}
    cfg = {
        "architecture": ARCHITECTURE[config.activation],
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": config.dtype,
        "device": "cpu",
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
        "normalize_activations": NORMALIZE[config.normalize],
        "reshape_activations": "none",
        "metadata": {**(metadata or {}), OURS: config.to_dict()},
    }
    if cfg["architecture"] in ("topk", "groupmax"):
        cfg |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    place.mkdir(parents=True, exist_ok=True)
    log_density = (sae.densities.cpu() + 1e-10).log10()
    _write(place / WEIGHTS, pack(_whole(tensors), metadata={"format": "pt"}))
    _write(place / SPARSITY, pack(_whole({"sparsity": log_density, **state}), metadata={"format": "pt"}))
    write_json(place / CONFIG, cfg)
    return place


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.contiguous().clone() for name, t in tensors.items()}


def _write(path: Path, data: bytes) -> None:
    write_file(path, lambda file: file.write(data))


def _fold(tensors: dict[str, Tensor], scale: float) -> None:
    """Weights for x / scale become weights for x; scale = 1 / s undoes it."""
    tensors["W_enc"] = tensors["W_enc"] / scale
    tensors["W_dec"] = tensors["W_dec"] * scale
    tensors["b_dec"] = tensors["b_dec"] * scale


def load(folder: str | Path) -> SparseAutoencoder:
    """Read a folder in SAELens' format, ours or another's (standard, topk, jumprelu, gated, batchtopk).

    Raises:
        DataNotFound: a file is missing. SparselandError: an architecture, a normalisation or shapes that do not fit.
    """
    place = Path(folder)
    cfg = _config(place)
    tensors = _tensors(place / WEIGHTS)
    own = (cfg.get("metadata") or {}).get(OURS)
    config = SAEConfig.from_dict(own) if own is not None else _foreign(cfg, tensors)
    if own is None and cfg.get("rescale_acts_by_decoder_norm"):
        _fold_norms(tensors)
    sae = SparseAutoencoder(config)
    state = _tensors(place / SPARSITY) if own is not None and (place / SPARSITY).is_file() else {}
    for name in (*STATE, "fitted", "feature_stage"):
        if (found := state.get(f"{OURS}.{name}")) is not None:
            _copy(getattr(sae, name), found, name)
    if own is not None and config.normalize == "expected_l2":
        _fold(tensors, 1 / float(sae.expected))
    if config.activation == "gated":
        tensors["b_enc"] = tensors.pop("b_gate")
    if config.activation == "jumprelu":
        tensors["log_threshold"] = tensors.pop("threshold").clamp(min=0).log()
    elif own is None and config.activation == "batchtopk":
        sae.threshold.copy_(tensors.pop("topk_threshold"))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name not in tensors:
                raise SparselandError(f"{place / WEIGHTS} lacks {name!r}; it holds {', '.join(sorted(tensors))}")
            _copy(parameter, tensors[name], name)
    return sae.eval()


def _copy(to: Tensor, found: Tensor, name: str) -> None:
    if to.shape != found.shape:
        raise SparselandError(f"{name} is {tuple(found.shape)} in the file; {tuple(to.shape)} follows from cfg.json")
    to.copy_(found)


def _config(place: Path) -> dict[str, Any]:
    path = place / CONFIG
    if not path.is_file():
        raise DataNotFound(f"no {CONFIG} in {place}; a SAELens folder holds {CONFIG} and {WEIGHTS}")
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SparselandError(f"{path} is not JSON: {error}") from error
    if not isinstance(cfg, dict):
        raise SparselandError(f"{path} is not the configuration of an autoencoder")
    return cfg


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataNotFound(f"no {path.name} in {path.parent}")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise SparselandError(f"{path} is damaged: {error}") from error


def _foreign(cfg: dict[str, Any], tensors: Mapping[str, Tensor]) -> SAEConfig:
    """A configuration that computes what SAELens would."""
    architecture = cfg.get("architecture", "standard")
    if architecture not in THEIRS:
        raise SparselandError(f"architecture {architecture!r} is not read: {nearest(architecture, THEIRS)}")
    normalize = {theirs: ours for ours, theirs in NORMALIZE.items() if ours != "expected_l2"}
    normalize["expected_average_only_in"] = "none"  # folded into the weights, or the caller's task, in SAELens, too
    given = cfg.get("normalize_activations", "none")
    if given not in normalize:
        raise SparselandError(f"normalize_activations {given!r} is not read: {nearest(given, normalize)}")
    if cfg.get("reshape_activations", "none") != "none":
        raise SparselandError(
            f"reshape_activations={cfg['reshape_activations']!r} is not read; flatten the heads first"
        )
    if "W_dec" not in tensors:
        raise SparselandError(f"the weights lack 'W_dec'; they hold {', '.join(sorted(tensors))}")
    dtype = str(cfg.get("dtype", "float32")).removeprefix("torch.")
    return SAEConfig(
        d_in=int(cfg.get("d_in", tensors["W_dec"].shape[1])),
        d_sae=int(cfg.get("d_sae", tensors["W_dec"].shape[0])),
        activation=THEIRS[architecture],
        k=round(float(cfg.get("k", 1))),
        normalize=normalize[given],
        apply_b_dec_to_input=bool(cfg.get("apply_b_dec_to_input", True)),
        unit_decoder=False,
        dtype=dtype,
    )


def _fold_norms(tensors: dict[str, Tensor]) -> None:
    """SAELens' rescale_acts_by_decoder_norm ranks z |d|; with the norms in the encoder that is plain top-k."""
    norms = tensors["W_dec"].norm(dim=1)
    tensors["W_dec"] = tensors["W_dec"] / norms[:, None]
    tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms, tensors["b_enc"] * norms
