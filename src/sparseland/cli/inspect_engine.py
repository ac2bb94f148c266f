"""What is in an engine file: its ends, its ops, the kernels that were chosen, its bytes. The engine is not started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

COLUMNS = ["op", "kernel", "ms", "sparsity", "sparse from", "why"]


def show_engine(path: Path, as_json: bool) -> None:
    """Print an engine file's description, as a table or as JSON.

    Raises:
        SparselandError: damaged, or of a later version.
    """
    import mmap

    from ..core.errors import SparselandError
    from ..deploy.program import read_meta

    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # an error may still look at it: not closed here
    meta, size = read_meta(data), len(data)
    layers = meta.get("layers")
    if not isinstance(layers, list):
        raise SparselandError(f"{path} holds a program without a description of its layers")
    if as_json:
        typer.echo(json.dumps({"bytes": size, **meta}, indent=1))
        return
    _say(path, size, meta, layers)


def _say(path: Path, size: int, meta: dict[str, Any], layers: list[dict[str, Any]]) -> None:
    from ..reports.numbers import scaled
    from .screen import screen, table

    facts = meta.get("facts", {})
    to = screen()
    to.print(f"{path}: {facts.get('model', 'a network')} for the engine, {scaled(size, 'B')}", style="bold")
    for what in ("inputs", "outputs"):
        for port in meta.get(what, []):
            to.print(f"{what[:-1]} {port['name']}: {port['dtype']} {' × '.join(map(str, port['shape']))}")
    to.print(table("", COLUMNS, [_cells(layer) for layer in layers], left=2))
    weighty = [layer for layer in layers if "macs" in layer]
    macs = sum(layer["macs"] for layer in weighty)
    left = sum(layer["macs"] * (1 - layer["sparsity"]) for layer in weighty)
    sparse = sum(bool(layer.get("sparse")) for layer in weighty)
    to.print(
        f"{len(layers)} ops; {len(weighty)} layers with weights, {sparse} of them with sparse kernels; "
        f"{scaled(macs, '')}multiply-adds, {scaled(left, '')}of them with a weight that is not zero"
    )
    if facts.get("threads"):
        to.print(f"converted for {facts['threads']} threads, {facts.get('isa')}, on {facts.get('cpu')}", soft_wrap=True)


def _cells(layer: dict[str, Any]) -> list[str]:
    ms, sparsity, cross = layer.get("ms"), layer.get("sparsity"), layer.get("crossover")
    return [
        str(layer["name"]),
        str(layer["kernel"]),
        "" if ms is None else f"{ms:.3f}",
        "" if sparsity is None else f"{sparsity:.4f}",
        "" if cross is None else f"{cross:.2f}",
        str(layer.get("reason") or ""),
    ]
