"""The promise about ranks: processes with other seeds and other data hold the same masks."""

from __future__ import annotations

import datetime
import gc
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import FileStore  # type: ignore[attr-defined]

from ..core.errors import MaskMismatch
from ..weights.method import Method
from .report import CheckFailed, expect
from .run import Case, Run, plain_step, sgd
from .tasks import Task, tasks

WAIT = datetime.timedelta(seconds=120)


def ranks_agree(case: Case) -> str:
    """Two gloo processes, each with its own seed and data, have bit-identical masks after every update.

    Starts processes (`torch.multiprocessing`, spawn): a script that calls this needs ``if __name__ == "__main__":``.
    """
    digest = check_ranks({case.method.name: case.method}, task=case.task)[case.method.name]
    return f"2 ranks, {digest[:12]}"


def check_ranks(methods: Mapping[str, Method], *, task: Task | None = None, world: int = 2) -> dict[str, str]:
    """{label: digest of the masks} after training each method on ``world`` processes under DistributedDataParallel.

    One start of processes serves all methods. Model seeds, method seeds and batches differ by rank (gradients are
    averaged); methods that score at the start do so on their rank's batches.

    Raises:
        CheckFailed: ranks disagree, or `Sparsifier.assert_agree` does not notice a mask that was tampered with.
    """
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (world, folder, dict(methods), task or tasks()[0]), nprocs=world)
        said = json.loads((Path(folder) / "said.json").read_text(encoding="utf-8"))
    broken = {label: entry["error"] for label, entry in said.items() if entry["error"]}
    if broken:
        raise CheckFailed("; ".join(f"{label}: {error}" for label, error in broken.items()))
    return {label: entry["digest"] for label, entry in said.items()}


def _rank(rank: int, world: int, folder: str, methods: dict[str, Method], task: Task) -> None:
    torch.set_num_threads(1)
    store = FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=WAIT)
    try:
        said = {label: _train(Case(method, task), rank, world) for label, method in methods.items()}
        if rank == 0:
            (Path(folder) / "said.json").write_text(json.dumps(said), encoding="utf-8")
        dist.barrier()
    finally:
        gc.collect()  # what still holds the group goes first: its threads must not outlive it
        dist.destroy_process_group()


def _train(case: Case, rank: int, world: int) -> dict[str, str]:
    """Train one method on this rank; every rank returns the same."""
    error, digest = "", ""
    try:
        run = _begin(case, rank, world)
    except Exception as reason:
        error = f"rank {rank}: {type(reason).__name__}: {reason}"
    first = next((e for e in gathered(error) if e), "")
    if first:
        return {"error": first, "digest": ""}
    try:
        digest = _agreeing(run)
        _notices(run, rank)
    except CheckFailed as reason:
        error = str(reason)
    return {"error": next((e for e in gathered(error) if e), ""), "digest": digest}


def _begin(case: Case, rank: int, world: int) -> Run:
    torch.manual_seed(100 + rank)
    mine = Task(case.task.name, case.task.model, list(case.task.batches[rank::world]), case.task.loss, case.task.steps)

    def parallel(model: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(model)  # rank 0's weights everywhere

    return Case(case.method, mine).begin(model_seed=50 + rank, seed=17 + 5 * rank, wrap=parallel, optimizer=sgd)


def _agreeing(run: Run) -> str:
    for step in range(run.task.steps + 1):
        if step:
            plain_step(run, run.task.batches[step % len(run.task.batches)])
        digests = gathered(run.sp.masks.digest())
        odd = [r for r, d in enumerate(digests) if d != digests[0]]
        expect(not odd, f"step {step}: masks of ranks {odd} differ from rank 0's")
    sums = gathered({n: float(p.detach().double().sum()) for n, p in run.model.named_parameters()})
    expect(all(s == sums[0] for s in sums), f"weights of ranks differ: sums {sums}")
    expect(run.sp.assert_agree() == digests[0], "assert_agree() returns another digest than masks.digest()")
    return str(digests[0])


def _notices(run: Run, rank: int) -> None:
    """`assert_agree` must raise on all ranks when one of them is tampered with."""
    name = list(run.sp.masks)[-1]
    mask = run.sp.masks[name]
    if rank == dist.get_world_size() - 1:
        mask.view(-1)[0].logical_not_()
    try:
        run.sp.assert_agree()
        noticed = ""
    except MaskMismatch as error:
        noticed = str(error)
    heard = gathered(noticed)
    expect(all(heard), f"rank {rank}: the mask {name!r} of the last rank was changed; assert_agree raised on {heard}")
    expect(str(dist.get_world_size() - 1) in noticed, f"assert_agree does not name the odd rank: {noticed!r}")


def gathered(value: Any) -> list[Any]:
    """Every rank's value, on every rank."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone
