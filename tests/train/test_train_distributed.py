"""Two real processes over gloo, as `torchrun` starts them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from sparseland.core.errors import ResumeError
from sparseland.train import TrainConfig, Trainer, run
from sparseland.train.processes import Processes

place = Path(sys.argv[1])
config = TrainConfig(model="resnet-8-w4", method={"name": "granet", "sparsity": 0.8, "every": 2, "end": 0.5},
                     epochs=3, limit=200, batch_size=32, lr=0.05, threads=1, ema=0.9)

class Stop(Exception):
    pass

def stop(entry):
    if entry["epoch"] == 2:
        raise Stop

whole = run(config, place / "whole", progress=False)
rank = dist.get_rank()
config_cut = config.replace(checkpoint_every="3 steps")
real, steps = Trainer._step, [0]
def cut(self, fit, group, images):
    steps[0] += 1
    if steps[0] == 8:
        raise Stop
    return real(self, fit, group, images)
Trainer._step = cut
try:
    run(config_cut, place / "broken", progress=False)
    sys.exit("not stopped")
except Stop:
    pass
Trainer._step = real
broken = run(config_cut, place / "broken", progress=False, resume=True)
try:
    run(config.replace(lr=0.1), place / "broken", progress=False, resume=True)
    sys.exit("not refused")
except ResumeError as error:
    refused = str(error)
for result in (whole, broken):
    for key in ("seconds", "resumed", "memory", "config"):
        result.pop(key)
everybody = [None, None]
dist.all_gather_object(everybody, (whole, broken, refused))
sums = Processes().sum(torch.tensor([1.0, rank]))
if rank == 0:
    (place / "told.json").write_text(json.dumps({"everybody": everybody, "sums": sums.tolist()}))
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_train_one_net(tmp_path: Path, tiny: Any) -> None:
    from sparseland.train import TrainConfig, run

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    (whole, broken, refused), other = told["everybody"][0], told["everybody"][1]
    assert other == [whole, broken, refused], "both ranks return the same"
    assert whole == broken, "resumed by two processes, bit for bit"
    assert "lr was 0.05, now it is 0.1" in refused
    assert told["sums"] == [2.0, 1.0]
    assert whole["machine"]["processes"] == 2
    one, two = (tmp_path / name / "best.safetensors" for name in ("whole", "broken"))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(os.listdir(tmp_path / "whole")) == ["best.safetensors", "last", "log.jsonl", "result.json"]

    # The same batches on one process, in one piece: equal up to rounding and BatchNorm's smaller batches.
    config = TrainConfig.from_dict(json.loads((tmp_path / "whole" / "result.json").read_text())["config"])
    alone = run(config.replace(batch_size=64), tmp_path / "alone", progress=False)
    assert (alone["steps"], alone["kept"]) == (whole["steps"], whole["kept"])
    assert alone["flops"]["training_dense"] == whole["flops"]["training_dense"]
    assert alone["history"][0]["loss"] == pytest.approx(whole["history"][0]["loss"], rel=0.05)


EXACT = """
import sys
from pathlib import Path
import torch.distributed as dist
from sparseland.train import TrainConfig, run
config = TrainConfig(model="mlp-32", method={"name": "rigl", "sparsity": 0.8, "every": 3}, epochs=2, limit=401,
                     batch_size=16, accumulate=2, lr=0.05, threads=1, label_smoothing=0.1, clip=1.0)
run(config, sys.argv[1], progress=False)
dist.destroy_process_group()
"""


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    + ["--rdzv-endpoint", "localhost:0"],
    # On CPU `accelerate launch` starts several processes only by its multi_gpu launcher, told to use the CPU.
    "accelerate launch": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    + ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
}


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path, launcher: str) -> None:
    """Without BatchNorm the gradient is the same mean over the same images, odd last batches included."""
    from sparseland.train import TrainConfig, run

    (tmp_path / "script.py").write_text(EXACT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], str(tmp_path / "script.py"), str(tmp_path / "two")],
        capture_output=True, text=True, timeout=300, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    config = TrainConfig.from_dict(two["config"]).replace(batch_size=32)
    one = run(config, tmp_path / "one", progress=False)
    assert (one["steps"], one["layers"], one["flops"]) == (two["steps"], two["layers"], two["flops"])
    assert [move["step"] for move in one["masks"]] == [move["step"] for move in two["masks"]]
    assert one["explored"] == pytest.approx(two["explored"], rel=0.05)  # rounding may turn a close choice
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_a_process_ends_only_when_the_threads_of_gloo_sleep() -> None:
    """A thread that still held a tensor while Python ended aborted the process, once in some hundred runs."""
    from sparseland.train.processes import let_gloo_finish

    done = threading.Event()

    def work() -> None:
        ctypes.CDLL(None).prctl(15, b"pt_gloo_test", 0, 0, 0)  # PR_SET_NAME
        started.set()
        hashlib.pbkdf2_hmac("sha256", b"busy", b"", 1_000_000)  # in C, without the interpreter's lock
        done.set()
        asleep.wait()

    started, asleep = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    let_gloo_finish(threads="pt_gloo_test")
    finished = done.is_set()
    asleep.set()
    thread.join()
    assert finished
