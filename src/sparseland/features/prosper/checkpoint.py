"""The state of a training that was interrupted: one file of arrays, whole or absent, read without running anything."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import DataNotFound, ResumeError
from ...files import clear, probe, write_file
from .em import Parameters

FORMAT = 1


def save(path: Path, key: dict[str, Any], state: dict[str, Any], parameters: dict[str, Parameters]) -> None:
    """Write ``state`` (plain data) and groups of tensors; ``key`` says which run they belong to."""
    arrays = {
        f"{group}/{name}": tensor.detach().cpu().numpy()
        for group, tensors in parameters.items()
        for name, tensor in tensors.items()
    }
    text = json.dumps({"format": FORMAT, "key": key, "state": state})
    arrays["meta"] = np.frombuffer(text.encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_file(path, lambda file: file.write(buffer.getvalue()))


def load(path: Path, key: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Parameters]] | None:
    """The state of the run ``key``; None where there is no file.

    Raises:
        ResumeError: the file belongs to other settings or data (says which), or is no checkpoint.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(arrays.pop("meta").tobytes())
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ResumeError(
            f"{path} is no checkpoint of a sparse coding model ({error}); move it away or name another"
        ) from error
    if meta.get("format") != FORMAT:
        raise ResumeError(f"{path} has format {meta.get('format')}; possible: {FORMAT}")
    differing = [
        name for name in sorted(set(key) | set(meta["key"])) if not _same(key.get(name), meta["key"].get(name))
    ]
    if differing:
        listed = "; ".join(f"{name} was {meta['key'].get(name)}, is {key.get(name)}" for name in differing)
        raise ResumeError(f"{path} belongs to another run: {listed}. Move it away, or name another checkpoint")
    groups: dict[str, Parameters] = {}
    for name, array in arrays.items():
        group, _, short = name.partition("/")
        groups.setdefault(group, {})[short] = torch.from_numpy(np.array(array))
    return meta["state"], groups


def prepare(path: Path) -> None:
    """Find out before any work whether the file can be written; remove what a killed process left beside it."""
    if path.is_dir():
        raise DataNotFound(f"checkpoint={str(path)!r} is a folder; possible: a file in it")
    probe(path.parent)
    clear(path)


def _same(a: Any, b: Any) -> bool:
    """Equal; sums over the data may differ in the last digits when the number of processes does."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-300)
    return bool(json.dumps(a) == json.dumps(b))
