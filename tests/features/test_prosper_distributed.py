"""EM over several gloo processes: the parameters of one process, on every rank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparseland.features.prosper import sample_bars, shard
from tests.features.prosper_cases import MODELS
from tests.features.prosper_ranks import STEPS, learn

pytestmark = pytest.mark.distributed
SCRIPT = Path(__file__).with_name("prosper_ranks.py")
MIXING = {"MCA": "max", "MMCA": "magnitude", "GSC": "slab"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bars of 3 x 3, 151 pictures (no number of ranks divides them), for every model."""
    points = {}
    for name in MODELS:
        made = sample_bars(151, size=3, mixing=MIXING.get(name, "linear"), noise=1.0, seed=1)
        points[name] = np.abs(made.X) if name == "MCA" else made.X
    path = tmp_path_factory.mktemp("ranks") / "data.npz"
    np.savez(path, **points)
    return path


@pytest.fixture(scope="module")
def alone(data: Path) -> dict[str, np.ndarray]:
    """What one process comes to."""
    loaded, found = np.load(data), {}
    for name in loaded.files:
        found |= learn(name, loaded[name])
    return found


def launch(ranks: int, data: Path, out: Path) -> list[dict[str, np.ndarray]]:
    """torchrun on this machine; what each rank ended with."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [*words, str(SCRIPT), str(data), str(out)], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [dict(np.load(out / f"{rank}.npz")) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_agree_with_one_process(ranks: int, data: Path, alone: dict[str, np.ndarray], tmp_path: Path) -> None:
    found = launch(ranks, data, tmp_path)
    for rank in found:
        assert set(rank) == set(alone)
        for key, value in alone.items():
            scale = max(1.0, float(np.abs(value).max()))
            assert float(np.abs(rank[key] - value).max()) / scale < 1e-8, key
            assert np.array_equal(rank[key], found[0][key]), key  # the ranks' own agreement is to the last bit
    assert all(len(alone[f"{name}.log_likelihoods_"]) == STEPS for name in MODELS)


def test_without_a_group_the_whole_is_the_shard() -> None:
    x = np.arange(14.0).reshape(7, 2)
    assert np.array_equal(shard(x), x)
