"""The oracle here, and on CPUs that are not here: aarch64, x86-64 with AVX2 and without, WebAssembly in Node."""

from __future__ import annotations

import pytest

from tests.native.toolchain import oracle


def test_here() -> None:
    (heard,) = oracle("here", 30)
    assert "plain" in heard


@pytest.mark.slow
def test_here_with_many_cases() -> None:
    oracle("here", 500)


@pytest.mark.slow
def test_aarch64() -> None:
    (heard,) = oracle("aarch64", 50)
    assert "neon" in heard


@pytest.mark.slow
def test_x86_without_avx512_and_without_avx() -> None:
    """Where the linker chose a function compiled for AVX-512 for everybody, this ends with an illegal instruction."""
    haswell, nehalem = oracle("older", 20)
    assert "avx2" in haswell and "avx512" not in haswell
    assert "plain" in nehalem and "avx2" not in nehalem


@pytest.mark.slow
def test_webassembly() -> None:
    (heard,) = oracle("wasm", 50)
    assert "wasm" in heard
