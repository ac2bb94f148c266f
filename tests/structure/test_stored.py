"""A shrunk network comes back from one file, without pickle; damaged files and other networks are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sparseland.core.errors import SparselandError, TargetError
from sparseland.weights import structure
from sparseland.zoo import build

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _whole() -> nn.Module:
    return build("resnet-8", in_shape=(3, 16, 16), classes=10, seed=0).eval()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    """Shrunk twice, trained a little in between, saved."""
    net, plans = _whole(), []
    for _ in range(2):
        graph = structure.trace(net, X)
        plans.append(graph.plan(scores=graph.random(), flops=0.6, scope="layer"))
        plans[-1].apply(net)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.01)
    structure.save(net, plans, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors", net


def test_it_comes_back(saved: tuple[Path, nn.Module]) -> None:
    path, net = saved
    again = structure.load(_whole(), path)
    assert torch.equal(again(X), net(X))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert again.layer1[0].conv1.out_channels == net.layer1[0].conv1.out_channels


def test_other_readers_of_safetensors_read_it(saved: tuple[Path, nn.Module]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path, net = saved
    tensors = safetensors.load_file(path)
    assert all(torch.equal(tensors[name], value) for name, value in net.state_dict().items())


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.back = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9, bias=False)
            self.inner = nn.Linear(6, 6)
            self.back.weight = self.embed.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.back(self.inner(self.mix(self.embed(x)).relu()))

    net, x = Tied(), torch.arange(4)[None]
    graph = structure.trace(net, x)
    plan = graph.plan(scores=graph.random(), ratio=0.5, scope="layer")
    small = plan.apply(copy.deepcopy(net))
    structure.save(small, plan, tmp_path / "tied.safetensors")
    again = structure.load(Tied(), tmp_path / "tied.safetensors")
    assert torch.equal(again(x), small(x))
    assert again.back.weight is again.embed.weight
    assert again.embed.embedding_dim == 3  # a residual-free width goes, through the tied table


def test_another_network_is_refused_and_left_alone(saved: tuple[Path, nn.Module]) -> None:
    path, net = saved
    other = build("resnet-14", in_shape=(3, 16, 16), classes=10, seed=0)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(TargetError, match="another network"):
        structure.load(other, path)
    with pytest.raises(TargetError, match="cuts dimension"):
        structure.load(net, path)  # it is shrunk already
    with pytest.raises(TargetError):
        structure.load(build("resnet-8-w8", in_shape=(3, 16, 16), classes=10, seed=0), path)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_damaged_files_are_refused(saved: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, _ = saved
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    entry = next(name for name in header if name != "__metadata__")

    def written(changed: object, data: bytes = raw[8 + length :]) -> bytes:
        text = json.dumps(changed).encode()
        return len(text).to_bytes(8, "little") + text + data

    broken = {
        "empty": b"",
        "cut": raw[:-5],
        "long header": (2**62).to_bytes(8, "little") + raw[8:],
        "no json": raw[:8] + b"x" * (len(raw) - 8),
        "no plan": written({name: value for name, value in header.items() if name != "__metadata__"}),
        "list": written([1, 2]),
        "shape": written({**header, entry: {**header[entry], "shape": [10**9, 10**9]}}),
        "offset": written({**header, entry: {**header[entry], "data_offsets": [-8, 8]}}),
        "dtype": written({**header, entry: {**header[entry], "dtype": "PICKLE"}}),
    }
    for what, content in broken.items():
        place = tmp_path / "broken.safetensors"
        place.write_bytes(content)
        with pytest.raises(SparselandError, match=r"cannot be loaded"):
            structure.load(_whole(), place)
            pytest.fail(what)
    with pytest.raises(SparselandError, match="cannot be loaded"):
        structure.load(_whole(), tmp_path / "absent")


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None:
            del state

    with pytest.raises(SparselandError, match="_extra_state"):
        structure.save(Extra(2, 2), [], tmp_path / "x")
    assert not list(tmp_path.iterdir())
