"""SwinIR (arXiv 2108.10257) in its light form: window attention, residual groups, one pixel shuffle at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import SparselandError
from .edsr import MEAN, check_shape, conv
from .resize import imresize


class SwinIR(nn.Module):
    """conv; groups of shifted-window transformer layers, each closed by a conv and + input; conv, + first; enlarge.

    Parameters:
        scale: 2, 3 or 4. channels: 3 (RGB, DIV2K's mean is taken off) or 1 (Y).
        embed: width, a multiple of every number of heads.
        depths, heads: layers and heads of each group. The defaults with embed=60 are SwinIR-light.
        window: side of a window, even; inputs are mirrored up to a multiple of it.
        mlp_ratio: hidden width over ``embed``.
        skip: "none" as in the paper, or "bicubic": the net learns what is missing in the bicubic enlargement.

    Raises:
        SparselandError: an argument is not possible, or a picture is too small to be mirrored up to one window.

    >>> sum(p.numel() for p in SwinIR(2).parameters())  # SwinIR-light: 910 thousand
    910152
    >>> net = SwinIR(3, embed=12, depths=(2,), heads=(2,), window=4)
    >>> net(torch.rand(1, 3, 10, 5)).shape
    torch.Size([1, 3, 30, 15])
    """

    mean: Tensor

    def __init__(
        self,
        scale: int = 2,
        *,
        channels: int = 3,
        embed: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        heads: Sequence[int] = (6, 6, 6, 6),
        window: int = 8,
        mlp_ratio: float = 2.0,
        skip: str = "none",
    ) -> None:
        super().__init__()
        check_shape("SwinIR", scale, channels, skip)
        if window < 2 or window % 2:
            raise SparselandError(f"SwinIR: window {window!r} (possible: 2, 4, 6, …)")
        if len(depths) != len(heads) or any(h < 1 or embed % h for h in heads):
            raise SparselandError(
                f"SwinIR: depths {tuple(depths)} and heads {tuple(heads)} need equal lengths, "
                f"and heads that divide embed {embed}"
            )
        self.scale, self.window, self.skip = scale, window, skip
        self.register_buffer("mean", torch.tensor(MEAN if channels == 3 else (0.0,)).view(1, -1, 1, 1))
        self.first = conv(channels, embed)
        self.embed_norm = nn.LayerNorm(embed)
        self.groups = nn.ModuleList(
            Group(embed, depth, h, window, mlp_ratio) for depth, h in zip(depths, heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed)
        self.last = conv(embed, embed)
        self.upsample = nn.Sequential(conv(embed, channels * scale**2), nn.PixelShuffle(scale))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, low: Tensor) -> Tensor:
        """[N, C, h, w] in [0, 1] to [N, C, scale h, scale w]."""
        height, width = low.shape[-2:]
        down, right = -height % self.window, -width % self.window
        if down >= height or right >= width:
            raise SparselandError(f"a picture of {height}x{width} is too small for windows of {self.window}")
        x = self.first(F.pad(low, (0, right, 0, down), mode="reflect") - self.mean)
        tokens = self.embed_norm(x.permute(0, 2, 3, 1))  # [N, h, w, embed]
        for group in self.groups:
            tokens = group(tokens)
        x = x + self.last(self.norm(tokens).permute(0, 3, 1, 2))
        answer: Tensor = self.upsample(x) + self.mean
        answer = answer[..., : height * self.scale, : width * self.scale]
        return answer + imresize(low, self.scale) if self.skip == "bicubic" else answer


class Group(nn.Module):
    """``depth`` layers, every second one with shifted windows, a 3x3 conv, + input.

    >>> Group(8, 2, 2, 4, 2.0)(torch.rand(1, 8, 4, 8)).shape
    torch.Size([1, 8, 4, 8])
    """

    def __init__(self, embed: int, depth: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(embed, heads, window, window // 2 if i % 2 else 0, mlp_ratio) for i in range(depth)
        )
        self.conv = conv(embed, embed)

    def forward(self, x: Tensor) -> Tensor:
        """[N, h, w, embed], same shape out; h and w are multiples of the window."""
        y = x
        for layer in self.layers:
            y = layer(y)
        mixed: Tensor = self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + mixed


class Layer(nn.Module):
    """x + attention(norm(x)) within windows, then x + mlp(norm(x)).

    >>> layer = Layer(8, 2, 4, 2, 2.0)
    >>> layer(torch.rand(2, 8, 8, 8)).shape
    torch.Size([2, 8, 8, 8])
    """

    place: Tensor

    def __init__(self, embed: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1, self.norm2 = nn.LayerNorm(embed), nn.LayerNorm(embed)
        self.qkv, self.proj = nn.Linear(embed, 3 * embed), nn.Linear(embed, embed)
        hidden = int(mlp_ratio * embed)
        self.mlp = nn.Sequential(nn.Linear(embed, hidden), nn.GELU(), nn.Linear(hidden, embed))
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))  # one number a head and relative place
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.register_buffer("place", relative_places(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, h, w, embed], same shape out."""
        x = x + self._attend(self.norm1(x))
        mixed: Tensor = self.mlp(self.norm2(x))
        return x + mixed

    def _attend(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        m, s = self.window, self.shift
        if s:
            x = x.roll((-s, -s), (1, 2))
        windows = x.view(n, h // m, m, w // m, m, c).transpose(2, 3).reshape(-1, m * m, c)  # [n windows, m², c]
        q, k, v = self.qkv(windows).view(-1, m * m, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        size = m * m
        bias = self.bias[self.place.view(-1)].view(size, size, self.heads).permute(2, 0, 1)[None]
        if s:
            apart = blocked(h, w, m, s).to(x.device)  # [windows, m², m²]
            bias = (bias + apart[:, None]).repeat(n, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        out = self.proj(out.transpose(1, 2).reshape(-1, size, c))
        answer: Tensor = out.view(n, h // m, w // m, m, m, c).transpose(2, 3).reshape(n, h, w, c)
        return answer.roll((s, s), (1, 2)) if s else answer


def relative_places(window: int) -> Tensor:
    """For each two places of a window, which entry of the bias table is theirs: [window², window²].

    >>> relative_places(2).tolist()
    [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    """
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
    return dy * (2 * window - 1) + dx


def blocked(height: int, width: int, window: int, shift: int) -> Tensor:
    """0 where two places of a shifted window were neighbours in the picture, -100 where the roll brought them together.

    >>> blocked(4, 4, 2, 1)[:, 0, 1].tolist()  # the windows on the right hold both ends of a row
    [0.0, -100.0, 0.0, -100.0]
    """
    zones = []
    for side in (height, width):
        zone = torch.zeros(side)
        zone[side - window : side - shift] = 1
        zone[side - shift :] = 2
        zones.append(zone)
    number = 3 * zones[0][:, None] + zones[1][None]
    cut = number.view(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
    return torch.where(cut[:, :, None] == cut[:, None], 0.0, -100.0)
