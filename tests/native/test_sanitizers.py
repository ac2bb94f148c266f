"""The oracle and the loader's fuzz under AddressSanitizer and UBSan, the pool of threads under ThreadSanitizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.toolchain import oracle, say
from tools import native


def test_pool() -> None:
    say("here", "pool", "50")


@pytest.mark.slow
def test_pool_under_tsan() -> None:
    say("tsan", "pool", "100")


@pytest.mark.slow
def test_oracle_under_asan_and_ubsan() -> None:
    oracle("asan", 100)


def test_fuzz(tmp_path: Path) -> None:
    files = map(str, native.engine_files(tmp_path))
    say("here", "fuzz", *files, "--mutations", "100")


@pytest.mark.slow
def test_fuzz_under_asan_and_ubsan(tmp_path: Path) -> None:
    """5,000 mutated files."""
    files = map(str, native.engine_files(tmp_path))
    say("asan", "fuzz", *files, "--mutations", "1250")
