"""Saved engines: NumPy in and out, without torch, from many threads, and whatever happened to the file."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sparseland as sl
from sparseland.core.errors import DataNotFound, SparselandError
from sparseland.deploy import runtime
from tests.deploy.converting import convert, needs_engine, prepared

pytestmark = needs_engine
IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """(file, an input, what torch says to it)."""
    model = prepared(sl.zoo.build("mobilenet-v1-0.25", in_shape=IMAGE, classes=10, seed=0), 0.8)
    x = torch.randn(2, *IMAGE)
    path = tmp_path_factory.mktemp("engines") / "m.sland"
    convert(model, x).save(path)
    with torch.no_grad():
        return path, x.numpy(), model(x).numpy()


def test_arrays_in_and_out(saved: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, x, right = saved
    engine = runtime.load(path, threads=2)
    assert np.abs(engine(x) - right).max() < 1e-4 * np.abs(right).max()
    assert engine.threads == 2 and engine.isa and engine.layers[0]["name"] == "conv1"
    assert len(engine.profile(x)) == len(engine.layers)


WITHOUT_TORCH = """
import sys
import numpy as np
from sparseland.deploy import runtime
engine = runtime.load({path!r})
y = engine(np.load({x!r}))
assert "torch" not in sys.modules, [name for name in sys.modules if "torch" in name][:5]
np.save({y!r}, y)
"""


def test_without_torch(saved: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path, x, _ = saved
    np.save(tmp_path / "x.npy", x)
    words = {"path": str(path), "x": str(tmp_path / "x.npy"), "y": str(tmp_path / "y.npy")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(**words)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), runtime.load(path)(x))


def test_wrong_inputs(saved: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, x, _ = saved
    engine = runtime.load(path, nan="error")
    name = engine.inputs[0].name
    with pytest.raises(SparselandError, match=r"takes 1 inputs \(.*\); got 2"):
        engine(x, x)
    with pytest.raises(
        SparselandError, match=rf"{name!r} must be float32 \[2, 3, 32, 32\]; got float32 \[1, 3, 32, 32\]"
    ):
        engine(x[:1])
    with pytest.raises(SparselandError, match="got float64"):
        engine(x.astype(np.float64))
    with pytest.raises(SparselandError, match="must be a NumPy array; got list"):
        engine(x.tolist())
    bad = x.copy()
    bad[0, 0, 0, 0] = np.inf
    with pytest.raises(SparselandError, match="1 entries that are NaN or infinite"):
        engine(bad)
    assert np.isfinite(engine(x)).all()


def test_wrong_files(saved: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path = saved[0]
    data = path.read_bytes()
    place = tmp_path / "bad.sland"
    with pytest.raises(DataNotFound, match="no engine file"):
        runtime.load(place)
    for broken, says in [
        (b"", "cannot read|empty"),
        (b"hello", "does not begin with SLENGINE"),
        (data[: len(data) // 2], "bytes and says"),
        (data[:8] + b"\x63\0\0\0" + data[12:], "version 99"),
        (data[:-70] + b"\1" + data[-69:], "damaged"),
        (data[:200] + bytes([data[200] ^ 1]) + data[201:], "damaged"),
    ]:
        place.write_bytes(broken)
        with pytest.raises(SparselandError, match=says):
            runtime.load(place)
    with pytest.raises(SparselandError, match="possible: pass, error"):
        runtime.load(path, nan="no")
    with pytest.raises(SparselandError, match="this machine has no 'neon9'"):
        runtime.load(path, isa="neon9")
    with pytest.raises(SparselandError, match="threads must be at least 1"):
        runtime.load(path, threads=0)


def test_a_token_beyond_the_table() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4)).eval()
    ids = torch.randint(0, 10, (2, 5))
    engine = convert(model, ids)
    right = engine(ids)
    for wrong in (10, -1, 2**40):
        with pytest.raises(SparselandError, match=str(wrong)):
            engine(torch.full((2, 5), wrong))
    assert torch.equal(engine(ids), right)  # it is none the worse for it


def hammer(path: Path, seconds: float) -> None:
    """Two engines, each called by eight threads for some time; every answer must be bit-equal."""
    engines = [runtime.load(path, threads=threads) for threads in (2, 1)]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((2, *IMAGE), dtype=np.float32) for _ in range(8)]
    right = [[engine(x) for x in inputs] for engine in engines]
    assert all(np.array_equal(a, b) for a, b in zip(*right, strict=True))
    wrong: list[str] = []
    calls = [0] * 8
    end = time.monotonic() + seconds

    def work(me: int) -> None:
        turn = me
        while time.monotonic() < end and not wrong:
            engine, i = engines[turn % 2], turn % len(inputs)
            if turn % 97 == 0:  # an exception in between
                with pytest.raises(SparselandError):
                    engine(inputs[i][:1])
            if not np.array_equal(engine(inputs[i]), right[turn % 2][i]):
                wrong.append(f"thread {me}, turn {turn}")
            turn += 1
            calls[me] += 1

    threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and min(calls) > 0


def test_eight_threads_for_a_moment(saved: tuple[Path, np.ndarray, np.ndarray]) -> None:
    hammer(saved[0], 2.0)


@pytest.mark.slow
def test_eight_threads_for_a_minute(saved: tuple[Path, np.ndarray, np.ndarray]) -> None:
    hammer(saved[0], 60.0)


def test_an_exception_in_a_callback_leaves_it_usable(saved: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, x, _ = saved
    engine = runtime.load(path, threads=2)
    right = engine(x)

    def angry(op: int, seconds: float) -> None:
        if op == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run([x], angry)
    assert np.array_equal(engine(x), right)


MUTATE = """
import sys, zlib, struct
import numpy as np
from sparseland.core.errors import SparselandError
from sparseland.deploy import runtime
path, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = open(path, "rb").read()
x = np.load(sys.argv[4])
right = runtime.Engine(data, threads=1)(x)
rng = np.random.default_rng(seed)
words = struct.unpack_from("<Q", data, 40)[0]
refused = ran = 0
for turn in range(count):
    bad = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        where = int(rng.integers(0, len(bad) if turn % 4 == 0 else words + 400))
        kind = int(rng.integers(0, 3))
        if kind == 0:
            bad[where] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            bad[where] = int(rng.integers(0, 256))
        else:
            bad[where // 4 * 4 : where // 4 * 4 + 4] = struct.pack("<i", int(rng.integers(-5, 2000)))
    if turn % 16 == 1:
        bad = bad[: int(rng.integers(0, len(bad)))]
    elif turn % 2 and len(bad) > 64:  # a checksum that fits: everything behind it must hold by itself
        struct.pack_into("<Q", bad, 56, zlib.crc32(memoryview(bad)[64:], zlib.crc32(memoryview(bad)[:56])))
    try:
        made = runtime.Engine(bytes(bad), threads=1)(x)
        ran += 1
    except (SparselandError, MemoryError):
        refused += 1
        continue
    if turn % 2 == 0:
        assert np.array_equal(made, right), turn
print(refused, ran)
"""


def test_mutations_are_refused_or_harmless(tmp_path: Path) -> None:
    model = prepared(sl.zoo.build("mobilenet-v1-0.25", in_shape=(3, 8, 8), classes=3, seed=0), 0.5)
    x = torch.randn(1, 3, 8, 8)
    path = tmp_path / "m.sland"
    convert(model, x).save(path)
    np.save(tmp_path / "x.npy", x.numpy())
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, str(path), "0", "500", str(tmp_path / "x.npy")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    refused, ran = map(int, done.stdout.split())
    assert refused + ran == 500 and refused > 300
