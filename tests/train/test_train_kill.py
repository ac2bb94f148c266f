"""kill -9 at any moment: between any two calls to the file system, and at random times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# One interpreter loads torch once; every attempt is a fork of it that dies by SIGKILL.
SCRIPT = """
import json, os, random, signal, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from sparseland.train import TrainConfig, run

place, mode = Path(sys.argv[1]), sys.argv[2]
method = {"imp": {"name": "imp", "sparsity": 0.8, "rounds": 2}}.get(mode, {"name": "rigl", "sparsity": 0.8, "every": 3})
config = TrainConfig(model="mlp-32", method=method, epochs=2, limit=400, lr=0.05, threads=1, ema=0.9,
                     checkpoint_every="3 steps")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(number):
    calls = [0]
    def watched(real, after):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] == number and not after:
                die()
            result = real(*args, **kwargs)
            if calls[0] == number and after:
                die()
            return result
        return call
    for i, name in enumerate(("replace", "rename", "fsync", "link", "unlink", "rmdir", "mkdir")):
        setattr(os, name, watched(getattr(os, name), after=bool((number + i) % 2)))

def attempt(folder, arm):
    pid = os.fork()
    if pid == 0:
        arm()
        run(config, folder, progress=False, resume="auto")
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
    return os.WIFSIGNALED(status)

def content(folder):
    result = json.loads((folder / "result.json").read_text())
    result.pop("seconds"), result.pop("resumed")
    return result, (folder / "best.safetensors").read_bytes(), (folder / "log.jsonl").read_text()

run(config, place / "whole", progress=False)  # here, so that the forks find everything imported
began = time.perf_counter()
attempt(place / "again", lambda: None)
seconds = time.perf_counter() - began
whole, kills = content(place / "whole"), 0
draw = random.Random(mode)
if mode == "times":
    points = [None] * 5
else:
    points = draw.sample(range(1, 130), 10 if mode == "calls" else 5)
for number, point in enumerate(points):
    folder = place / str(number)
    if point is None:
        delays = [draw.uniform(0.0, seconds) for _ in range(2)]
        for delay in delays:
            kills += attempt(folder, lambda: threading.Timer(delay, die).start())
    else:
        kills += attempt(folder, lambda: at_call(point))
        kills += attempt(folder, lambda: at_call(point // 2 + 1))
    while attempt(folder, lambda: None):
        pass
    assert content(folder) == whole, (mode, point)
    assert sorted(os.listdir(folder)) == ["best.safetensors", "last", "log.jsonl", "result.json"], os.listdir(folder)
print(json.dumps({"kills": kills}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("mode", ["calls", "times", "imp"])
def test_killed_and_resumed_equals_unbroken(tmp_path: Path, mode: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path), mode],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["kills"] >= 5


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """SIGINT from outside: the process saves, raises KeyboardInterrupt, and the shell sees it."""
    code = (
        "import sys; from sparseland.train import TrainConfig, run\n"
        "config = TrainConfig(model='mlp-32', epochs=100000, limit=400, threads=1, checkpoint_every=100000)\n"
        "run(config, sys.argv[1], callback=lambda entry: print(entry['step'], flush=True))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "7\n"
        process.send_signal(2)
        process.stdout.read()
        message = process.stderr.read()
    assert process.returncode == -2 or process.returncode == 130
    assert "KeyboardInterrupt: stopped at step" in message and "resume=True" in message
    told = json.loads((tmp_path / "run" / "last" / "state.json").read_text())
    assert told["position"]["step"] >= 7
