"""MaskSet: counts, comparison, packing at one bit a weight, digests."""

import pytest
import torch

from sparseland.core import MaskSet
from sparseland.core.errors import MaskMismatch
from sparseland.core.mask import pack_bits, unpack_bits


def masks(seed=0):
    g = torch.Generator().manual_seed(seed)
    return MaskSet(
        {"a": torch.rand(3, 5, generator=g) > 0.5, "b": torch.rand(17, generator=g) > 0.3, "c": torch.ones(0).bool()}
    )


def test_counts_and_comparison():
    a = MaskSet({"x": torch.tensor([True, True, False, False])})
    b = MaskSet({"x": torch.tensor([True, False, True, False])})
    assert (a.kept(), a.numel(), a.sparsity()) == (2, 4, 0.5)
    assert a.overlap(b) == pytest.approx(1 / 3) and a.churn(b) == 0.5
    assert a.union(b).kept() == 3 and a == a.clone() and a != b
    assert a.counts() == {"x": (2, 4)}


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1000])
def test_packing_round_trip(n):
    mask = torch.rand(n) > 0.5
    bits = pack_bits(mask)
    assert bits.numel() == (n + 7) // 8 and bits.dtype == torch.uint8
    assert torch.equal(unpack_bits(bits, [n]), mask)


def test_set_round_trip_and_digest():
    m = masks()
    assert MaskSet.unpack(m.pack()) == m and list(MaskSet.unpack(m.pack())) == list(m)
    assert m.digest() == m.clone().digest() != masks(1).digest()
    renamed = MaskSet({"z" + n: t for n, t in m.items()})
    reshaped = MaskSet({n: t.reshape(-1) for n, t in m.items()})
    assert len({m.digest(), renamed.digest(), reshaped.digest()}) == 3


def test_errors():
    with pytest.raises(MaskMismatch, match=r"torch.float32"):
        MaskSet({"a": torch.ones(3)})
    with pytest.raises(MaskMismatch, match="'b'"):
        masks().overlap({"a": masks()["a"]})
    with pytest.raises(MaskMismatch, match=r"\(4, 4\)"):
        unpack_bits(torch.zeros(1, dtype=torch.uint8), [4, 4], "fc")
    with pytest.raises(KeyError, match="no mask 'bb'"):
        masks()["bb"]
