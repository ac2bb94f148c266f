"""The Triton kernels against the torch bodies: on a GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from sparseland.kernels import sparse_code as sc

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

CHECK = """
import torch
from sparseland.kernels import sparse_code as sc, sparse_code_triton as st
device = "cuda" if torch.cuda.is_available() else "cpu"
worst = 0.0
for rows, width, d in ((1, 1, 1), (5, 9, 16), (12, 30, 70), (7, 11, 600)):
    g = torch.Generator().manual_seed(rows)
    table = torch.randn(rows, width, generator=g) * (torch.rand(rows, width, generator=g) < 0.4)
    table[rows // 2] = 0
    mask = table != 0
    offsets = torch.zeros(rows + 1, dtype=torch.int64)
    offsets[1:] = mask.sum(1).cumsum(0)
    columns, values = mask.nonzero()[:, 1], table[mask]
    weight, x = torch.randn(width, d, generator=g), torch.randn(rows, d, generator=g)
    o, c, v, w, xs = (t.to(device) for t in (offsets, columns, values, weight, x))
    pairs = (
        (st.spmm(o, c, v, w), sc.spmm_torch(offsets, columns, values, weight)),
        (st.sddmm(o, c, xs, w), sc.sddmm_torch(offsets, columns, x, weight)),
        (st.spmm_t(o, c, v, xs, width), sc.spmm_t_torch(offsets, columns, values, x, width)),
    )
    for found, wanted in pairs:
        assert found.shape == wanted.shape
        worst = max([worst, *(found.cpu() - wanted).abs().flatten().tolist()])
print("worst", worst)
assert worst < 1e-3, worst
"""


def test_kernels_agree_with_torch() -> None:
    """In a process of its own: the interpreter has to be asked for before triton is imported."""
    own = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], capture_output=True, text=True, check=False, env=os.environ | own
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("worst")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_takes_the_triton_road(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparseland.kernels import sparse_code_triton as st

    calls: list[str] = []
    monkeypatch.setattr(st, "spmm", lambda *given: calls.append("spmm") or given[-1])
    one = torch.tensor([0, 1], device="cuda"), torch.tensor([0], device="cuda"), torch.ones(1, device="cuda")
    sc.spmm(*one, torch.ones(1, 4, device="cuda"))
    assert calls == ["spmm"]
