"""Where the datasets that are not part of the project lie, if they are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """SPARSELAND_DATA, or the folder ``shared/data`` beside the checkout; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    place = Path(os.environ.get("SPARSELAND_DATA") or beside)
    if not (place / "cifar10-jpeg").is_dir():
        pytest.skip(f"needs the data folder: no cifar10-jpeg in {place} (set SPARSELAND_DATA)")
    return place
