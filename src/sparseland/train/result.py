"""The record of a finished run: plain data, written once, read by reports and comparisons."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparseland.train.plans import Plan

SCHEMA = 1


def assemble(
    trainer: Any, plan: Plan, chosen: str, about: Mapping[str, Any], test: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The result of a run.

    Parameters:
        trainer: the `Trainer`, after training. plan: what it did.
        chosen: "best" or "last", the checkpoint that ``about`` describes and that was tested.
        test: metrics of the test split, which was evaluated this once; None where there is no test image.

    Returns:
        {"schema", "config", "method", "procedure", "steps", "epochs", "seed", "validation", "test", "checkpoints",
        "kept", "total", "sparsity", "parameters", "layers", "history", "masks", "explored", "flops", "bytes",
        "seconds", "resumed", "versions", "machine"}. Accuracies are fractions, losses nats, FLOPs per sample
        (inference) and in all (training), sizes bytes.
    """
    config, record, journal, model = trainer.config, trainer.record, trainer.journal, trainer.model
    layers: Mapping[str, tuple[int, int]] = about["layers"]
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    cost, zeros = trainer.cost, plan.method.flow.zeros
    return {
        "schema": SCHEMA,
        "config": config.to_dict(),
        "method": plan.method.to_dict(),
        "procedure": None if plan.procedure is None else {"name": plan.procedure.__name__, **plan.options},
        "steps": record.steps,
        "epochs": config.epochs,
        "seed": config.seed,
        "data": _data(trainer.supply.dataset),
        "validation": {k: about[k] for k in ("accuracy", "loss", "per_class")},
        "test": None if test is None else {**test, "checkpoint": chosen},
        "checkpoints": {"chosen": chosen, "best": _short(journal.best), "last": _short(journal.last)},
        "kept": about["kept"],
        "total": about["total"],
        "sparsity": about["sparsity"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": [
            {"name": name, "shape": shapes[name], "kept": kept, "total": total}
            for name, (kept, total) in layers.items()
        ],
        "history": record.history,
        "masks": record.moves,
        "explored": record.explored,
        "flops": {
            "inference_dense": cost.dense(),
            "inference": cost.sparse(layers) if zeros else cost.dense(),
            "training_dense": record.meter.training_dense,
            "training": record.meter.training,
            "uncounted": list(cost.uncounted),
        },
        "bytes": sizes(model, layers),
        "seconds": round(journal.seconds, 3),
        "resumed": journal.resumed,
        "versions": versions(),
        "machine": machine(trainer.processes.device, trainer.processes.world),
    }


def _data(dataset: Any) -> dict[str, Any]:
    images = {name: len(split) for name, split in dataset.splits.items()}
    return {"name": dataset.name, "images": images, "classes": dataset.classes, "note": dataset.note}


def _short(about: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if about is None else {k: about[k] for k in ("step", "epoch", "sparsity", "accuracy", "loss")}


def sizes(model: nn.Module, layers: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Bytes of the parameters as they are, and packed: one bit a weight and the living values, where that is less.

    >>> sizes(nn.Linear(80, 10), {"weight": (80, 800)})
    {'dense': 3240, 'packed': 460}
    """
    dense = packed = 0
    for name, p in model.named_parameters():
        whole = p.numel() * p.element_size()
        dense += whole
        kept = layers[name][0] if name in layers else p.numel()
        packed += min(whole, kept * p.element_size() + -(-p.numel() // 8))
    return {"dense": dense, "packed": packed}


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    found = {"python": platform.python_version()}
    for name in ("sparseland", "torch", "accelerate", "numpy", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What they were made on: no name, no path.

    >>> sorted(machine(torch.device("cpu")))
    ['cores', 'cpu', 'device', 'processes', 'system', 'threads']
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
