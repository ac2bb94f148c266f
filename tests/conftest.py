"""What every test gets: few threads, fixed seeds, no network, and the folder of real data where there is one."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["RAY_AUTH_MODE"] = "disabled"  # else what a Ray here accepts depends on a token in the home folder

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """As many threads as OMP_NUM_THREADS says, one otherwise: the tensors here are tiny.

    Ctrl-C works in every process a test starts, also when the tests themselves run in the background of a shell, which
    makes them ignore it.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeds() -> Iterator[int]:
    """Seed 0 in every generator before each test; the switches a test may turn are put back after it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may use the global generator
    torch.manual_seed(0)
    deterministic = torch.are_deterministic_algorithms_enabled()
    dtype = torch.get_default_dtype()
    threads = torch.get_num_threads()
    yield 0
    torch.use_deterministic_algorithms(deterministic)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of local data sets: ``SPARSELAND_DATA``, else ``../shared/data`` beside the repository."""
    given = os.environ.get("SPARSELAND_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        if given:
            pytest.fail(f"SPARSELAND_DATA={given} is not a folder")
        pytest.skip(f"no local data: set SPARSELAND_DATA to a folder (looked for {folder})")
    return folder
