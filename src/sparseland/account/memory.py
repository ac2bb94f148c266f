"""Memory of a training: what the process really took, and formulas of what masks cost and what kernels could save."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InfeasibleBudget
from ..weights import Method
from .flops import LayerCounts, _evaluation

MASKS = 3  # bool tensors of a mask's shape that a Sparsifier keeps: alive, dead, ever alive


def peak(device: torch.device | str = "cpu") -> int:
    """Most bytes held at once since the process began, or since `reset_peak`.

    On CPU the high-water mark of resident memory (libraries and everything else in the process included); on a GPU
    what torch had allocated there.

    >>> before = peak()
    >>> block = torch.ones(20_000_000)
    >>> peak() >= before
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        # Not getrusage first: its value is inherited from whoever started the process.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _rusage()


def _rusage() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def reset_peak(device: torch.device | str = "cpu") -> bool:
    """Begin the high-water mark anew; False where the system does not let us.

    >>> reset_peak() in (True, False)
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def training_bytes(
    sizes: Mapping[str, int],
    counts: LayerCounts,
    *,
    method: Method | None = None,
    kept: int | None = None,
    slots: int = 1,
    itemsize: int = 4,
    activations: int = 0,
    copies: int = 0,
) -> dict[str, int]:
    """Bytes of a training step by formula: as masked tensors do it, and if a sparse kernel existed.

    Equation, over parameters of N weights of which k live, i = itemsize:
    as implemented, i·N (weights) + i·N (gradients) + slots·i·N (optimizer) + copies·i·N, plus 3 N for the masks, i·N
    behind masks with dense values, i·N for each running statistic, and activations;
    if sparse, the same with k for N and one bit a coordinate for the places, except where the method needs dense
    numbers: weights and optimizer of flows whose dead weights learn, all gradients and statistics of such flows and of
    momentum growth, and one layer's gradient at a time for gradient growth. Activations are dense in both.

    Parameters:
        sizes: {parameter: N}, of everything that trains. counts: {parameter: (k, N)} of the masked ones.
        kept: masked weights alive at the densest moment, where that was not the one that ``counts`` describe.
        slots: optimizer tensors per weight (SGD with momentum 1, Adam 2). activations: bytes, see `activation_bytes`.
        copies: whole copies of the weights beside the model (a moving average, the copy that is evaluated).

    Returns:
        {"as_implemented", "if_sparse", "activations"}

    Raises:
        InfeasibleBudget: counts that are negative or above their total.

    >>> from sparseland.weights.methods import SET
    >>> training_bytes({"w": 1000}, {"w": (100, 1000)}, method=SET(0.9))
    {'as_implemented': 15000, 'if_sparse': 1325, 'activations': 0}
    """
    for name, (k, total) in counts.items():
        if not 0 <= k <= total:
            raise InfeasibleBudget(f"{name!r} cannot have {k:,} non-zeros; possible: 0 to {total:,}")
    whole = sum(sizes.values())
    masked = sum(total for _, total in counts.values())
    alive = sum(k for k, _ in counts.values()) if kept is None else kept
    free = whole - masked  # parameters without a mask are dense everywhere
    latent, statistics, dense_values, dense_grads, one_layer = _needs(method)
    largest = max((total for _, total in counts.values()), default=0)
    extra = (latent + statistics) * itemsize * masked + (MASKS * masked if method is not None else 0)
    implemented = (2 + slots + copies) * itemsize * whole + extra + activations
    values = masked if dense_values else alive
    grads = masked if dense_grads else alive + (largest if one_layer else 0)
    running = statistics * (masked if dense_grads else alive)
    sparse = itemsize * ((1 + slots + copies) * (free + values) + free + grads + running)
    places = -(-masked // 8) if method is not None else 0
    return {
        "as_implemented": implemented,
        "if_sparse": sparse + places + activations,
        "activations": activations,
    }


def _needs(method: Method | None) -> tuple[int, int, bool, bool, bool]:
    """(dense copies behind the mask, running statistics, dense weights?, dense gradients?, a layer's at a time?)."""
    if method is None:
        return 0, 0, True, True, False
    flow = method.flow
    learns = not flow.zeros or flow.latent or flow.ranks_dead
    running = len(method.requires() & {"movement", "taylor", "momentum"})
    momentum, by_gradient = "momentum" in method.growth.needs, "grad" in method.growth.needs
    return int(flow.latent), running, learns, learns or momentum, by_gradient and not learns


def activation_bytes(model: nn.Module, *inputs: Any, **keywords: Any) -> int:
    """Bytes that one forward pass keeps for the backward pass, parameters left out; tensors kept twice count once.

    In evaluation mode, so that nothing in the model changes; the sum is linear in the batch.

    >>> net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    >>> activation_bytes(net, torch.zeros(2, 10))  # the input, and the output of the first layer
    240
    """
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            seen[storage._cdata] = (tensor, storage.nbytes())  # held, so that no address is used twice
        return tensor

    unpack: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    trained = [p for p in model.parameters() if p.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(_evaluation(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        for p in model.parameters():
            p.requires_grad_(True)
        try:
            output = model(*inputs, **keywords)
        finally:
            for p in model.parameters():
                p.requires_grad_(any(p is t for t in trained))
    del output
    return sum(size for _, size in seen.values())
