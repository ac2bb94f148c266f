"""Agreement between ranks: masks must be bit-identical though seeds and data differ.

Scores are averaged over ranks, the seed of the generator comes from rank 0, sharded tensors (DTensor) are gathered one
at a time before they are ranked, and `assert_agree` compares digests. On one process everything here is the identity.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.errors import MaskMismatch
from ..core.mask import MaskSet


def world() -> int:
    """Number of ranks (1 without torch.distributed)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor (FSDP2, tensor parallel)."""
    return hasattr(tensor, "placements") and hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """The whole tensor on every rank. Collective for sharded tensors; the identity otherwise."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """This rank's storage of a tensor (a view)."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def reshard(model: nn.Module) -> None:
    """Make FSDP2 let go of parameters it still holds gathered (after a forward pass without a backward one).

    Until then the modules show gathered copies, which neither the optimizer nor the masks know.
    """
    for module in model.modules():
        if hasattr(module, "reshard") and hasattr(module, "unshard"):
            module.reshard()  # type: ignore[operator]


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of ``whole``, laid out as ``like`` is; no communication."""
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    placed = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]
    return placed.to_local()


def mean(tensor: Tensor) -> Tensor:
    """Average over ranks (every rank gets the same bits); the identity on one process."""
    if world() == 1:
        return tensor
    tensor = tensor.detach().clone().contiguous()
    dist.all_reduce(tensor)
    return tensor / world()


def shared_seed(seed: int) -> int:
    """Rank 0's seed, on every rank."""
    if world() == 1:
        return seed
    box: list[Any] = [seed]
    dist.broadcast_object_list(box, src=0)
    return int(box[0])


def assert_agree(masks: MaskSet) -> str:
    """The digest that all ranks share; MaskMismatch names the ranks that differ."""
    digest = masks.digest()
    if world() == 1:
        return digest
    digests: list[Any] = [None] * world()
    dist.all_gather_object(digests, digest)
    odd = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if odd:
        raise MaskMismatch(
            f"masks of ranks {odd} differ from rank 0's ({digests[0][:12]}…): {[d[:12] for d in digests]}"
        )
    return digest


def on_device(mask: Tensor, like: Tensor) -> Tensor:
    """A mask on the device of a parameter's storage."""
    device = local(like).device
    return mask if mask.device == device else mask.to(device)


def anywhere(flag: bool, like: Tensor) -> bool:
    """Whether ``flag`` is true on any rank."""
    if world() == 1:
        return flag
    vote = torch.tensor(float(flag), device=local(like).device)
    dist.all_reduce(vote)
    return bool(vote)
