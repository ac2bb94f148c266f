"""Any model of Hugging Face `transformers` by name, by local folder, or from a configuration without any download.

The only file of this folder that imports `transformers`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import nn

from sparseland.core.errors import DataNotFound, SparselandError, nearest


def hugging_face(
    description: str, in_shape: tuple[int, ...] | None, classes: int | None, **overrides: Any
) -> nn.Module:
    """Build a transformers model: an image classifier, else a sequence classifier, else the bare model.

    The module is the library's own (``save_pretrained`` and its Trainer work); `zoo.logits` turns its output into the
    tensor that a loss wants. Code that comes with a model is never executed.

    Parameters:
        description: ``"google/vit-base-patch16-224"`` or ``"/path/to/folder"`` (pretrained weights), or
            ``"config:vit"`` (that model type with random weights; nothing is downloaded).
        in_shape: (C, H, W); sets ``num_channels`` and ``image_size`` of a configuration that has them. None for text.
        classes: number of labels; None keeps what the configuration says.
        overrides: entries of the configuration, for example ``hidden_size=32``.

    Raises:
        DataNotFound: `transformers` is not installed, or the model is neither on the hub nor on this disk.
        SparselandError: an unknown model type or entry, or an image shape that the model does not take.
    """
    try:
        import transformers
    except ImportError as error:
        raise DataNotFound(
            f"'hf:{description}' needs the package `transformers`, which is not installed: pip install 'sparseland[hf]'"
        ) from error

    if not description:
        raise SparselandError("'hf:' needs a name, a folder, or 'config:<model type>', for example 'hf:config:vit'")
    if description.startswith("config:"):
        config = _config(transformers, description.removeprefix("config:"), in_shape, classes, overrides)
        fresh: nn.Module = _auto_class(transformers, config).from_config(config)
        return fresh

    config = _download(description, transformers.AutoConfig.from_pretrained)
    _override(description, config, overrides)
    if classes is not None:
        config.num_labels = classes
    channels = getattr(config, "num_channels", None)
    if in_shape is not None and channels is not None and channels != in_shape[0]:
        raise SparselandError(f"'hf:{description}' takes images of {channels} channel(s); in_shape is {in_shape}")
    auto = _auto_class(transformers, config)
    # A head with another number of labels starts anew; everything else is loaded.
    loaded: nn.Module = _download(description, auto.from_pretrained, config=config, ignore_mismatched_sizes=True)
    return loaded


def _config(
    transformers: Any, kind: str, in_shape: tuple[int, ...] | None, classes: int | None, overrides: dict[str, Any]
) -> Any:
    kinds = list(transformers.CONFIG_MAPPING.keys())
    if kind not in kinds:
        close = difflib.get_close_matches(kind, kinds, n=8, cutoff=0.3) or ["vit", "bert", "resnet"]
        raise SparselandError(f"unknown model type 'hf:config:{kind}': {nearest(kind, close)}, … ({len(kinds)} in all)")
    config = transformers.AutoConfig.for_model(kind)
    if in_shape is not None:
        channels, height, width = in_shape
        shape = {"num_channels": channels, "image_size": height if height == width else (height, width)}
        _override(kind, config, {key: value for key, value in shape.items() if hasattr(config, key)})
    _override(kind, config, overrides)
    if classes is not None:
        config.num_labels = classes
    patch = getattr(config, "patch_size", None)
    if in_shape is not None and isinstance(patch, int) and (in_shape[1] % patch or in_shape[2] % patch):
        raise SparselandError(
            f"'hf:config:{kind}' cuts images into patches of {patch}×{patch}, which do not tile "
            f"{in_shape[1]}×{in_shape[2]}; give patch_size=, for example patch_size=4"
        )
    return config


def _override(name: str, config: Any, entries: dict[str, Any]) -> None:
    for key, value in entries.items():
        if not hasattr(config, key):
            possible = [entry for entry in config.to_dict() if not entry.startswith("_")]
            raise SparselandError(f"the configuration of 'hf:{name}' has no {key!r}: {nearest(key, possible)}")
        setattr(config, key, value)


def _auto_class(transformers: Any, config: Any) -> Any:
    for auto, mapping in (
        (transformers.AutoModelForImageClassification, transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING),
        (transformers.AutoModelForSequenceClassification, transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    ):
        if type(config) in mapping:
            return auto
    return transformers.AutoModel


def _download(name: str, load: Any, **arguments: Any) -> Any:
    local = name.startswith(("/", ".", "~"))
    place = Path(name).expanduser()
    if local and not (place / "config.json").is_file():
        raise DataNotFound(
            f"'hf:{name}': looked for a model saved with save_pretrained in {place}; no config.json there"
        )
    try:
        return load(str(place) if local else name, trust_remote_code=False, **arguments)
    except Exception as error:  # the hub fails in many ways: no network, no such name, no weights, a model with code
        raise DataNotFound(
            f"'hf:{name}' could not be loaded from the hub or its local cache ({type(error).__name__}: {error}). Check "
            f"the name and the network, or save it once with save_pretrained and give that folder: 'hf:/path'."
        ) from error
