"""What a report shows of the data and the nets themselves: pictures with predictions, and where the first layer looks.

Everything is turned into plain data here, so that the page can be made anew from ``run.json`` alone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..advisor.facts import look

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Dataset
    from ..train import TrainConfig

PICTURES = 24
EXAMINED = 600  # test images on which predictions are compared
UNITS = 8  # first-layer units shown per method


def exhibits(runs: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Pictures and first layers of the given runs.

    Parameters:
        runs: as in `make_record`; those whose folder does not hold best.safetensors any more, or whose model or data
            are not those of the first, are left out.
        folder: what ``run["folder"]`` is relative to.

    Returns:
        {"pictures": {"shape", "images" (base64, uint8), "labels", "names", "predictions": {label: [class]}},
        "first_layer": {"name", "shape", "connections": {label: [per input: mean number of living weights]},
        "units": {label: [weights −127 … 127 of single units]}}}; parts that do not apply are missing.
    """
    runs = [run for run in runs if (folder / run["folder"] / "best.safetensors").is_file()]
    runs = [run for run in runs if all(_config(run, key) == _config(runs[0], key) for key in ("model", "data"))]
    if not runs:
        return {}
    from ..train import TrainConfig
    from ..train.supply import load_data

    config = TrainConfig.from_dict(runs[0]["result"]["config"])
    dataset = load_data(config)
    weights = {(run["label"], run["seed"]): _weights(folder / run["folder"]) for run in runs}
    found = {"pictures": _pictures(runs, weights, config, dataset), "first_layer": _first_layer(runs, weights, dataset)}
    return {key: value for key, value in found.items() if value}


def _config(run: Mapping[str, Any], key: str) -> Any:
    return look(run["result"], "config", key)


def _weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "best.safetensors")


def _firsts(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first run of each label."""
    return list({run["label"]: run for run in reversed(runs)}.values())[::-1]


def _pictures(
    runs: Sequence[Mapping[str, Any]],
    weights: Mapping[Any, Mapping[str, Tensor]],
    config: TrainConfig,
    dataset: Dataset,
) -> dict[str, Any]:
    import torch

    from ..data import batches
    from ..train.supply import build_model
    from ..zoo import logits

    split = dataset.test[: min(EXAMINED, len(dataset.test))]
    if not len(split):
        return {}
    model = build_model(config, dataset).eval()
    predictions: dict[str, Tensor] = {}
    for run in _firsts(runs):
        tensors = weights[run["label"], run["seed"]]
        if any(tensors[name].shape != value.shape for name, value in model.state_dict().items()):
            continue  # the method removed units: its net is not the one that the configuration builds
        model.load_state_dict(dict(tensors))
        feed = batches(split, 200, mean=dataset.mean, std=dataset.std, shuffle=False)
        with torch.no_grad():
            predictions[run["label"]] = torch.cat([logits(model(images)).argmax(1) for images, _ in feed])
    if not predictions:
        return {}
    wrong = sum((p != split.labels).long() for p in predictions.values())
    assert isinstance(wrong, torch.Tensor)
    # Half of the pictures are the hardest ones, the other half what the test set is like.
    hard = wrong.argsort(descending=True, stable=True)[: PICTURES // 2].tolist()
    easy = [i for i in torch.linspace(0, len(split) - 1, PICTURES).long().tolist() if i not in hard]
    shown = torch.tensor([*hard, *easy][:PICTURES])
    images = split.images[shown]
    pixels = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    return {
        "shape": list(dataset.shape),
        "images": [base64.b64encode(image.numpy().tobytes()).decode() for image in pixels],
        "labels": split.labels[shown].tolist(),
        "names": list(dataset.class_names) or [str(i) for i in range(dataset.classes)],
        "predictions": {label: p[shown].tolist() for label, p in predictions.items()},
        "examined": len(split),
        "seed": _firsts(runs)[0]["seed"],
        "hard": len(hard),
    }


def _first_layer(
    runs: Sequence[Mapping[str, Any]], weights: Mapping[Any, Mapping[str, Tensor]], dataset: Dataset
) -> dict[str, Any]:
    layers = look(runs[0]["result"], "layers") or []
    name = str(layers[0]["name"]) if layers else ""
    tensor = next(iter(weights.values())).get(name)
    if tensor is None or tensor.ndim < 2:
        return {}
    channels, height, width = dataset.shape
    if tensor.ndim == 2 and tensor.shape[1] == channels * height * width:
        shape = [channels, height, width]
    elif tensor.ndim == 4:
        shape = list(tensor.shape[1:])
    else:
        return {}
    connections = {}
    units = {}
    for run in _firsts(runs):
        label = run["label"]
        mine = [weights[other["label"], other["seed"]][name] for other in runs if other["label"] == label]
        alive = sum((w != 0).sum(0).double() for w in mine) / len(mine)
        assert not isinstance(alive, float)
        connections[label] = [round(value, 3) for value in alive.reshape(-1).tolist()]
        units[label] = _units(mine[0])
    return {"name": name, "shape": shape, "outputs": tensor.shape[0], "connections": connections, "units": units}


def _units(weight: Tensor) -> list[list[int]]:
    """The incoming weights of a few units, the strongest ones, scaled to −127 … 127 each."""
    flat = weight.reshape(weight.shape[0], -1).float()
    strongest = flat.norm(dim=1).argsort(descending=True, stable=True)[:UNITS]
    chosen = flat[strongest]
    scale = chosen.abs().amax(1, keepdim=True).clamp_min(1e-12)
    signs = chosen.sign()
    levels = (chosen / scale * 127).round()
    levels = levels.where((levels != 0) | (signs == 0), signs)  # a living weight never looks dead
    return [[int(value) for value in row] for row in levels.tolist()]
