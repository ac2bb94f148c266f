"""SAELens' folder format: ours comes back, theirs is read as they compute it, and SAELens itself opens ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.features import SAEConfig, SparseAutoencoder, load, save
from sparseland.features.sae.config import NotCalibrated

X = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))
ALL = ["topk", "batchtopk", "feature", "mutual_then_feature", "groupmax", "relu", "jumprelu", "gated"]


def made(activation: str, **more: object) -> SparseAutoencoder:
    """An autoencoder that has seen a few batches."""
    sae = SparseAutoencoder(SAEConfig(12, 32, activation=activation, k=4, **more))  # type: ignore[arg-type]
    with torch.no_grad():
        for p in sae.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape))
    sae.initialise_(X)
    for _ in range(3):
        sae.observe_(sae.codes(X))
    return sae.eval()


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "token_rms", "expected_l2"])
@pytest.mark.parametrize("activation", ALL)
def test_what_is_saved_comes_back(activation: str, normalize: str, tmp_path: Path) -> None:
    sae = made(activation, normalize=normalize)
    save(sae, tmp_path, {"model_name": "a model"})
    again = load(tmp_path)
    assert again.config == sae.config and not again.training
    torch.testing.assert_close(again(X).x_hat, sae(X).x_hat, rtol=1e-5, atol=1e-5)
    for name, value in sae.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["d_in"] == 12 and cfg["d_sae"] == 32 and cfg["metadata"]["model_name"] == "a model"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"]


def test_the_files_hold_what_saelens_expects(tmp_path: Path) -> None:
    save(made("batchtopk"), tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    assert {n: tuple(t.shape) for n, t in weights.items()} == {
        "W_enc": (12, 32), "b_enc": (32,), "W_dec": (32, 12), "b_dec": (12,), "threshold": (32,)
    }  # fmt: skip
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "jumprelu"
    assert load_file(tmp_path / "sparsity.safetensors")["sparsity"].shape == (32,)
    save(made("gated"), tmp_path / "gated")
    assert {"b_gate", "b_mag", "r_mag"} <= set(load_file(tmp_path / "gated" / "sae_weights.safetensors"))


def folder(place: Path, architecture: str, tensors: dict[str, torch.Tensor], **cfg: object) -> Path:
    """A folder as another tool would write it."""
    place.mkdir(exist_ok=True)
    save_file(tensors, place / "sae_weights.safetensors")
    base = {"architecture": architecture, "d_in": 12, "d_sae": 32, "dtype": "float32", "apply_b_dec_to_input": True}
    (place / "cfg.json").write_text(json.dumps(base | cfg))
    return place


def weights() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (12, 32), "b_enc": (32,), "W_dec": (32, 12), "b_dec": (12,)}
    return {name: 0.5 * torch.randn(shape, generator=g) for name, shape in shapes.items()}


def test_standard_topk_jumprelu_and_gated_compute_as_saelens_defines_them(tmp_path: Path) -> None:
    w = weights()
    z = (X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(load(folder(tmp_path / "s", "standard", w)).encode(X), torch.relu(z))
    f = torch.zeros_like(z).scatter(1, z.topk(5).indices, z.topk(5).values.relu())
    torch.testing.assert_close(load(folder(tmp_path / "t", "topk", w, k=5)).encode(X), f)
    theta = torch.rand(32) - 0.2  # some below zero
    jump = folder(tmp_path / "j", "jumprelu", w | {"threshold": theta})
    torch.testing.assert_close(load(jump).encode(X), torch.relu(z) * (z > theta), rtol=1e-5, atol=1e-5)
    gates = {"b_gate": w["b_enc"], "r_mag": torch.randn(32), "b_mag": torch.randn(32)}
    no_bias = {n: t for n, t in w.items() if n != "b_enc"}
    pre = (X - w["b_dec"]) @ w["W_enc"]
    wanted = ((pre + gates["b_gate"]) > 0) * torch.relu(pre * gates["r_mag"].exp() + gates["b_mag"])
    found = load(folder(tmp_path / "g", "gated", no_bias | gates))
    torch.testing.assert_close(found.encode(X), wanted)
    torch.testing.assert_close(found(X).x_hat, wanted @ w["W_dec"] + w["b_dec"])


def test_codes_ranked_by_decoder_norms_reconstruct_the_same(tmp_path: Path) -> None:
    w = weights()
    norms = w["W_dec"].norm(dim=1)
    z = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    f = torch.zeros_like(z).scatter(1, z.topk(5).indices, z.topk(5).values.relu())
    sae = load(folder(tmp_path / "t", "topk", w, k=5, rescale_acts_by_decoder_norm=True))
    torch.testing.assert_close(sae(X).x_hat, (f / norms) @ w["W_dec"] + w["b_dec"])


def test_folders_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no cfg.json"):
        load(tmp_path)
    place = folder(tmp_path / "a", "transcoder", weights())
    with pytest.raises(SparselandError, match="architecture 'transcoder' is not read"):
        load(place)
    with pytest.raises(SparselandError, match="did you mean 'layer_norm'"):
        load(folder(tmp_path / "a", "standard", weights(), normalize_activations="layernorm"))
    with pytest.raises(SparselandError, match="hook_z"):
        load(folder(tmp_path / "a", "standard", weights(), reshape_activations="hook_z"))
    with pytest.raises(SparselandError, match=r"W_enc is \(12, 32\) in the file; \(12, 31\) follows"):
        load(folder(tmp_path / "a", "standard", weights(), d_sae=31))
    with pytest.raises(SparselandError, match="lacks 'b_enc'"):
        load(folder(tmp_path / "a", "standard", {n: t for n, t in weights().items() if n != "b_enc"}))
    (place / "sae_weights.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(SparselandError, match="is damaged"):
        load(place)
    (place / "sae_weights.safetensors").unlink()
    with pytest.raises(DataNotFound, match=r"no sae_weights.safetensors"):
        load(place)
    (place / "cfg.json").write_text("{")
    with pytest.raises(SparselandError, match="is not JSON"):
        load(place)


def test_without_thresholds_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(NotCalibrated):
        save(SparseAutoencoder(SAEConfig(12, 32, activation="batchtopk", k=4)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


PEER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparseland/peers/saelens/bin/python"
SCRIPT = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
x = load_file(sys.argv[1])["x"]
found = {}
for place in sys.argv[3:]:
    sae = SAE.load_from_disk(place)
    with torch.no_grad():
        found[place.rpartition("/")[2]] = sae(x).contiguous()
save_file(found, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="SAELens is not there; benchmarks/sae_training makes its environment")
def test_saelens_opens_our_folders(tmp_path: Path) -> None:
    cases = {
        "topk": "none", "batchtopk": "none", "feature": "layer_norm", "relu": "token_rms", "jumprelu": "expected_l2",
        "gated": "none",
    }  # fmt: skip
    saes = {activation: made(activation, normalize=kind) for activation, kind in cases.items()}
    places = [str(save(sae, tmp_path / name)) for name, sae in saes.items()]
    save_file({"x": X}, tmp_path / "x.safetensors")
    command = [str(PEER), "-c", SCRIPT, str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors"), *places]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"WANDB_MODE": "disabled"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(tmp_path / "y.safetensors")
    for name, sae in saes.items():
        with torch.no_grad():
            mine = sae(X, mode="threshold").x_hat
        torch.testing.assert_close(
            found[name], mine, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
