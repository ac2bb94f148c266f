"""EDSR and SwinIR: sizes that were published, shapes, windows that do not leak, and what can be sparse in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparseland.core.errors import SparselandError
from sparseland.pixels.super_resolution import EDSR, SwinIR, imresize
from sparseland.pixels.super_resolution.swinir import Layer, blocked, relative_places


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("scale", "weights"), [(2, 910_152), (3, 918_267), (4, 929_628)])
def test_swinir_light_has_its_published_size(scale: int, weights: int) -> None:
    """910, 918 and 930 thousand in the tables of later papers."""
    assert count(SwinIR(scale)) == weights


def test_edsr_has_its_published_sizes() -> None:
    """1.37 million for the baseline at x2, 1.52 at x4, 43 for EDSR at x4 (arXiv 1707.02921, table 1)."""
    assert count(EDSR(2)) == 1_369_859 and count(EDSR(4)) == 1_517_571
    with torch.device("meta"):
        assert count(EDSR(4, features=256, blocks=32, residual=0.1)) == 43_089_923


SMALL: dict[str, Any] = {"embed": 12, "depths": (2,), "heads": (2,), "window": 4}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_shapes_and_gradients(scale: int, channels: int, skip: str) -> None:
    shared: dict[str, Any] = {"channels": channels, "skip": skip}
    for net in (
        EDSR(scale, features=4, blocks=1, **shared),
        EDSR(scale, features=4, blocks=1, light=True, **shared),
        SwinIR(scale, **SMALL, **shared),
    ):
        low = torch.rand(2, channels, 6, 9)
        answer = net(low)
        assert answer.shape == (2, channels, 6 * scale, 9 * scale)
        answer.sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_the_skip_is_the_bicubic_enlargement() -> None:
    for net in (
        EDSR(2, features=4, blocks=1, channels=1, skip="bicubic"),
        SwinIR(2, channels=1, skip="bicubic", **SMALL),
    ):
        for p in net.parameters():
            nn.init.zeros_(p)
        low = torch.rand(1, 1, 8, 8)
        assert torch.allclose(net(low), imresize(low, 2), atol=1e-6)


def naive(layer: Layer, x: Tensor, shift: int) -> Tensor:
    """Attention place by place: who shares a window after shifting it, and are they neighbours without wrapping?"""
    n, h, w, c = x.shape
    m, heads = layer.window, layer.heads
    tokens = layer.norm1(x)
    q, k, v = layer.qkv(tokens).view(n, h, w, 3, heads, c // heads).unbind(3)
    out = torch.zeros(n, h, w, heads, c // heads)
    for y in range(h):
        for z in range(w):
            box = [((y - shift) % h) // m, ((z - shift) % w) // m]
            near = [
                (a, b)
                for a in range(h)
                for b in range(w)
                if [((a - shift) % h) // m, ((b - shift) % w) // m] == box and max(abs(a - y), abs(b - z)) < m
            ]
            for head in range(heads):
                places = [(y - a + m - 1) * (2 * m - 1) + (z - b + m - 1) for a, b in near]
                logits = torch.stack([(q[:, y, z, head] * k[:, a, b, head]).sum(-1) for a, b in near], 1)
                share = (logits * (c // heads) ** -0.5 + layer.bias[places, head]).softmax(1)
                values = torch.stack([v[:, a, b, head] for a, b in near], 1)
                out[:, y, z, head] = (share[..., None] * values).sum(1)
    x = x + layer.proj(out.view(n, h, w, c))
    return x + layer.mlp(layer.norm2(x))


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_are_those_of_the_definition(shift: int) -> None:
    torch.manual_seed(1)
    layer = Layer(8, 2, 4, shift, 2.0)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 8, 12, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), naive(layer, x, shift), rtol=1e-4, atol=1e-5)


def test_what_is_added_for_whole_windows_is_cut_off_again() -> None:
    """The picture is mirrored to the right and below; a picture mirrored by hand gives the same."""
    net = SwinIR(2, **SMALL).eval()
    low = torch.rand(1, 3, 10, 9)
    wide = torch.nn.functional.pad(low, (0, 3, 0, 2), mode="reflect")
    with torch.no_grad():
        assert torch.equal(net(low), net(wide)[..., :20, :18])


def test_places_and_blocks() -> None:
    places = relative_places(4)
    assert places.shape == (16, 16) and places.diagonal().unique().tolist() == [24] and places.max() == 48
    assert torch.equal(places + places.T, torch.full((16, 16), 48))
    assert bool((blocked(8, 8, 4, 2)[0] == 0).all())  # the first window wraps nowhere


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EDSR(5), r"EDSR: scale 5 \(possible: 2, 3, 4\)"),
        (lambda: EDSR(2, channels=2), r"channels 2 \(possible: 1, 3\)"),
        (lambda: EDSR(2, skip="nearest"), r"skip 'nearest' \(possible: none, bicubic\)"),
        (lambda: EDSR(2, features=0), "features 0"),
        (lambda: SwinIR(2, window=5), r"window 5 \(possible: 2, 4, 6"),
        (lambda: SwinIR(2, embed=10, heads=(3,), depths=(2,)), "heads that divide embed 10"),
        (lambda: SwinIR(2, heads=(6,)), "equal lengths"),
        (lambda: SwinIR(2, **SMALL)(torch.rand(1, 3, 4, 1)), "4x1 is too small for windows of 4"),
    ],
)
def test_what_cannot_be(make: Any, says: str) -> None:
    with pytest.raises(SparselandError, match=says):
        make()
