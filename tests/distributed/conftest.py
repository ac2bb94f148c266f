"""The two processes, shared by all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.pair import Pair


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """``pair.run(job, …)`` calls ``job(rank, …)`` in two gloo processes."""
    both = Pair()
    both.start()
    yield both
    both.stop()
