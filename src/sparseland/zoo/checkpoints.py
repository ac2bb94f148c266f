"""Weights from safetensors files: strict, with the differences in the error; and the trained CIFAR ResNets."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from sparseland.core.errors import DataNotFound, SparselandError, nearest
from sparseland.zoo.resnet import CifarResNet

# Name -> depth. Trained on CIFAR-10 with images normalised by these numbers (ImageNet's).
PRETRAINED = {"resnet-20": 20, "resnet-32": 32, "resnet-44": 44, "resnet-56": 56}
PRETRAINED_MEAN, PRETRAINED_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a safetensors file into ``model``, in place; all names and shapes must agree.

    BatchNorm's ``num_batches_tracked`` counters may be absent. Nothing is changed when the check fails.

    Parameters:
        model: the module; its dtypes and devices stay.
        path: a ``.safetensors`` file with the state dict.

    Returns:
        The same module.

    Raises:
        DataNotFound: no such file.
        SparselandError: not a safetensors file; names or shapes that do not agree.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> from sparseland.zoo import build, load_weights
    >>> one, two = (build("mlp-8", in_shape=(1, 2, 2), classes=2, seed=s) for s in (0, 1))
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save_file(one.state_dict(), f"{place}/model.safetensors")
    ...     _ = load_weights(two, f"{place}/model.safetensors")
    >>> torch.equal(one.fc1.weight, two.fc1.weight)
    True
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = Path(path).expanduser()
    if not place.is_file():
        raise DataNotFound(f"no weights at {place}")
    if place.suffix != ".safetensors":
        raise SparselandError(f"{place.name}: weights are read from .safetensors files only, which hold no code")
    try:
        stored = load_file(place)
    except SafetensorError as error:
        raise SparselandError(f"{place} is damaged or no safetensors file: {error}") from error
    own = model.state_dict()
    missing = [key for key in own if key not in stored and not key.endswith("num_batches_tracked")]
    extra = [key for key in stored if key not in own]
    wrong = [
        f"{key} is {list(stored[key].shape)}, the model has {list(own[key].shape)}"
        for key in own
        if key in stored and stored[key].shape != own[key].shape
    ]
    differences = [
        f"{len(keys)} {what} ({'; '.join(keys[:3])}{'; …' if len(keys) > 3 else ''})"
        for keys, what in ((missing, "missing"), (extra, "not in the model"), (wrong, "of another shape"))
        if keys
    ]
    if differences:
        raise SparselandError(f"{place.name} does not fit {type(model).__name__}: {', '.join(differences)}")
    with torch.no_grad():
        for key, value in stored.items():
            own[key].copy_(value)
    return model


def pretrained(name: str, folder: str | os.PathLike[str] | None = None) -> CifarResNet:
    """A ResNet trained on CIFAR-10 (by Yerlan Idelbayev, BSD-2), from the data folder, in evaluation mode.

    Best top-1 on the original CIFAR-10: 91.78 / 92.78 / 93.14 / 93.62 % for depths 20 / 32 / 44 / 56. Images must be
    normalised with mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225), as ``data.load("cifar10-jpeg")`` says too;
    on that JPEG copy's test images they score 81.03 / 82.56 / 82.67 / 83.20 %. With CIFAR's own statistics (mean .4914,
    .4822, .4465, std .2470, .2435, .2616) ResNet-20 loses 0.3 points.

    Parameters:
        name: "resnet-20", "resnet-32", "resnet-44" or "resnet-56".
        folder: the data folder, which holds ``cifar-resnets/``; None: the environment variable SPARSELAND_DATA.

    Raises:
        DataNotFound: the file is not there.
        SparselandError: another name.
    """
    if name not in PRETRAINED:
        raise SparselandError(f"no trained weights for {name!r}: {nearest(name, PRETRAINED)}")
    file = f"cifar-resnets/resnet{PRETRAINED[name]}.safetensors"
    given = folder if folder is not None else os.environ.get("SPARSELAND_DATA")
    place = Path(given).expanduser() / file if given else None
    if place is None or not place.is_file():
        where = f"in {given}" if given else "but no data folder was given"
        raise DataNotFound(
            f"trained {name}: looked for {file} {where}. Set the environment variable SPARSELAND_DATA to the folder "
            f"that holds cifar-resnets/, or give folder=."
        )
    model = CifarResNet((3, 32, 32), 10, PRETRAINED[name])
    load_weights(model, place)
    return model.eval()
