"""Random small networks: residual sums, concatenations, splits, depthwise, grouped, gates, linear heads."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = (torch.relu, torch.sigmoid, F.gelu, F.hardswish, torch.tanh)


class RandomNet(nn.Module):
    """A network that a seed decides; the same operations in another order each time."""

    def __init__(self, seed: int, steps: int = 7) -> None:
        super().__init__()
        self.dice = random.Random(seed)
        self.layers = nn.ModuleList()
        self.program: list[tuple[object, ...]] = []
        widths = [self.dice.choice((4, 6, 8))]
        self._layer("conv", nn.Conv2d(3, widths[0], 3, padding=1), 0)
        self.live = widths
        for _ in range(steps):
            getattr(self, "_" + self.dice.choice(STEPS))()
        self._head()

    def _layer(self, kind: str, layer: nn.Module, *operands: object) -> None:
        self.layers.append(layer)
        self.program.append((kind, len(self.layers) - 1, *operands))

    def _pick(self) -> int:
        return self.dice.choice((len(self.live) - 1, self.dice.randrange(len(self.live))))

    def _conv(self) -> None:
        i, out = self._pick(), self.dice.choice((4, 6, 8, 12))
        bias = self.dice.random() < 0.5
        self._layer("conv", nn.Conv2d(self.live[i], out, self.dice.choice((1, 3)), padding="same", bias=bias), i)
        self.live.append(out)

    def _depthwise(self) -> None:
        i, times = self._pick(), self.dice.choice((1, 1, 2))
        width = self.live[i]
        self._layer("conv", nn.Conv2d(width, width * times, 3, padding=1, groups=width), i)
        self.live.append(width * times)

    def _grouped(self) -> None:
        i = self._pick()
        groups = self.dice.choice([g for g in (1, 2, 3, 4) if self.live[i] % g == 0])
        out = groups * self.dice.choice((1, 2, 3))
        self._layer("conv", nn.Conv2d(self.live[i], out, 3, padding=1, groups=groups), i)
        self.live.append(out)

    def _norm(self) -> None:
        i = self._pick()
        self._layer("conv", nn.BatchNorm2d(self.live[i]), i)
        self.live.append(self.live[i])

    def _activation(self) -> None:
        i = self._pick()
        self.program.append(("call", self.dice.choice(ACTIVATIONS), i))
        self.live.append(self.live[i])

    def _residual(self) -> None:
        i, j = self._pick(), self._pick()
        if self.live[i] != self.live[j]:
            self._layer("conv", nn.Conv2d(self.live[j], self.live[i], 1), j)
            self.live.append(self.live[i])
            j = len(self.live) - 1
        self.program.append(("add", i, j))
        self.live.append(self.live[i])

    def _concat(self) -> None:
        i, j = self._pick(), self._pick()
        self.program.append(("cat", i, j))
        self.live.append(self.live[i] + self.live[j])

    def _split(self) -> None:
        i = self._pick()
        if self.live[i] % 2:
            return
        half = self.live[i] // 2
        if self.dice.random() < 0.5:
            self.program.append(("chunk", i))
            self.live += [half, half]
        elif half > 1:
            sizes = nn.Module()
            sizes.sizes = [half - 1, half + 1]  # type: ignore[assignment]
            self._layer("split", sizes, i)
            self.live += [half - 1, half + 1]

    def _gate(self) -> None:
        i = self._pick()
        squeeze = nn.Sequential(nn.Linear(self.live[i], 4), nn.ReLU(), nn.Linear(4, self.live[i]), nn.Sigmoid())
        self._layer("gate", squeeze, i)
        self.live.append(self.live[i])

    def _head(self) -> None:
        width = self.live[-1]
        flat = self.dice.random() < 0.5
        hidden = self.dice.choice((5, 8))
        head = nn.Sequential(nn.Linear(width * (16 if flat else 1), hidden), nn.GELU(), nn.Linear(hidden, 3))
        self._layer("flat" if flat else "mean", head, len(self.live) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 4, 4) -> (n, 3)."""
        values: list[Tensor] = []
        for kind, *what in self.program:
            layer = self.layers[what[0]] if kind in ("conv", "split", "gate", "flat", "mean") else None  # type: ignore
            if kind == "conv":
                values.append(layer(values[what[1]] if values else x))  # type: ignore
            elif kind == "call":
                values.append(what[0](values[what[1]]))  # type: ignore
            elif kind == "add":
                values.append(values[what[0]] + values[what[1]])  # type: ignore
            elif kind == "cat":
                values.append(torch.cat([values[what[0]], values[what[1]]], 1))  # type: ignore
            elif kind == "chunk":
                values += values[what[0]].chunk(2, 1)  # type: ignore
            elif kind == "split":
                values += values[what[1]].split(layer.sizes, 1)  # type: ignore
            elif kind == "gate":
                y = values[what[1]]  # type: ignore
                values.append(y * layer(y.mean((2, 3)))[:, :, None, None])  # type: ignore
            else:
                y = values[what[1]]  # type: ignore
                return layer(y.flatten(1) if kind == "flat" else y.mean((2, 3)))  # type: ignore
        raise AssertionError("no head")


STEPS = ("conv", "conv", "depthwise", "grouped", "norm", "activation", "residual", "concat", "split", "gate")


def shake_(net: nn.Module, seed: int) -> nn.Module:
    """No scale is one and no mean zero: what a test compares must depend on everything."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return net.eval()
