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

from sparseland import account
from sparseland.train.optim import optimizer_slots
from sparseland.train.plans import Plan
from sparseland.weights import eligible

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
        "selection", "kept", "total", "sparsity", "counts", "dead_units", "parameters", "layers", "history", "masks",
        "explored", "flops", "bytes", "memory", "card", "seconds", "resumed", "versions", "machine"}. Accuracies are
        fractions, losses nats, FLOPs per sample (inference) and in all (training), sizes bytes. "kept" counts living
        weights, "counts" the non-zeros of the tested weights by scope: a weight that just came back is alive and 0.
    """
    config, record, journal, model = trainer.config, trainer.record, trainer.journal, trainer.model
    layers: Mapping[str, tuple[int, int]] = about["layers"]
    counts = account.count(trainer.shadow, config.targets, config.ignore, patterns=True)
    living = layers if plan.method.flow.zeros else {}
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
        "selection": {
            "split": "last" if chosen == "last" or about["accuracy"] is None else "validation",
            "tuned_on": None,
        },
        "kept": about["kept"],
        "total": about["total"] + trainer.removed,
        "sparsity": 1 - about["kept"] / (about["total"] + trainer.removed) if trainer.removed else about["sparsity"],
        "counts": counts.scopes(),
        "dead_units": counts.dead_units(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": _layers(trainer.cost, layers, living, counts),
        "history": record.history,
        "masks": account.with_overlap(record.moves),
        "explored": record.explored,
        "flops": _flops(trainer, plan, living, counts),
        "bytes": sizes(model, layers),
        "memory": _memory(trainer, plan, layers),
        "card": _card(trainer, plan, layers),
        "seconds": round(journal.seconds, 3),
        "resumed": journal.resumed,
        "versions": versions(),
        "machine": machine(trainer.processes.device, trainer.processes.world),
    }


def _layers(cost: Any, layers: Any, living: Any, counts: account.Counts) -> list[dict[str, Any]]:
    """One row per masked parameter: what lives, what it costs, and what its zeros look like."""
    rows, flops = {row.name: row for row in counts.rows}, cost.by_layer(living)
    return [
        {
            "name": name,
            "shape": list(rows[name].shape),
            "kept": kept,
            "total": total,
            "operator": flops[name]["operator"] if name in flops else None,
            "flops": flops[name]["sparse"] if name in flops else None,
            "flops_dense": flops[name]["dense"] if name in flops else None,
            "pattern": rows[name].pattern,
            "dead_units": rows[name].dead_units,
        }
        for name, (kept, total) in layers.items()
    ]


def _flops(trainer: Any, plan: Plan, living: Any, counts: account.Counts) -> dict[str, Any]:
    """Inference per sample, and the whole training: every dense phase, every round, and what chose the masks."""
    cost, meter = trainer.cost, trainer.record.meter
    return {
        "inference_dense": cost.dense() if meter.whole is None else meter.whole,
        "inference": cost.sparse(living),
        "by_operator": cost.by_operator(living),
        "by_pattern": cost.by_pattern(living, counts.patterns()),
        "training_dense": meter.training_dense,
        "training": meter.training,
        "phases": dict(meter.phases),
        **({"rounds": list(meter.rounds)} if plan.procedure is not None else {}),
        "uncounted": list(cost.uncounted),
        "notes": list(cost.notes),
    }


def _memory(trainer: Any, plan: Plan, layers: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """What the process took at most, and the formulas, at the densest moment of the run."""
    config, model, device = trainer.config, trainer.model, trainer.processes.device
    sample = torch.zeros(1, *trainer.supply.dataset.shape, device=device)
    with trainer.processes.precision(config.precision):
        activations = account.activation_bytes(model, sample) * config.batch_size
    formulas = account.training_bytes(
        {name: p.numel() for name, p in model.named_parameters()},
        layers,
        method=plan.method,
        kept=max((move["kept"] for move in trainer.record.moves), default=None),
        slots=optimizer_slots(config),
        activations=activations,
        copies=1 if config.ema is None else 2,  # what is evaluated, and the average
    )
    return {"peak_bytes": account.peak(device), **formulas}


def _card(trainer: Any, plan: Plan, layers: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    dense = [name for name in eligible(trainer.model) if name not in layers or layers[name][0] == layers[name][1]]
    procedure = None if plan.procedure is None else plan.procedure.__name__
    steps = trainer.record.steps
    return account.card_of(plan.method, layers, dense_layers=dense, train_steps=steps, procedure=procedure).to_dict()


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
        packed += min(whole, account.bitmask_bytes(p.numel(), kept, p.element_size()))
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
