"""Which parameters become sparse: defaults, rules, ties, transposed layouts, and errors that name what exists."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import sparseland as sl
from sparseland.core import pattern
from sparseland.core.errors import PatternError, TargetError
from sparseland.weights import eligible
from sparseland.weights.targets import parameters


class Net(nn.Module):
    """One of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 12, 3, groups=2)
        self.attention = nn.MultiheadAttention(12, 3, add_bias_kv=True)
        self.lstm = nn.LSTM(12, 4, num_layers=2)
        self.head = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.up(self.norm(self.conv(self.emb(tokens).transpose(1, 2)))).permute(2, 0, 1)
        return self.head(self.lstm(self.attention(x, x, x)[0])[0]).mean(0)  # type: ignore[no-any-return]


LSTM = [f"lstm.weight_{kind}_l{layer}" for layer in (0, 1) for kind in ("ih", "hh")]
DEFAULT = ["conv.weight", "up.weight", "attention.in_proj_weight", "attention.out_proj.weight", *LSTM, "head.weight"]


def test_defaults_in_network_order() -> None:
    # not the embedding, the norm, any bias (also those of attention, which have three axes), nor a bare parameter
    assert list(eligible(Net())) == DEFAULT


def test_everything_trains_with_these() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    sp = sl.methods.RigL(0.7, every=1, end=5).attach(model, optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randint(10, (2, 9))).square().sum().backward()
        optimizer.step()
    assert sp.masks.kept() == sl.core.kept(sp.masks.numel(), 0.7) and list(sp.masks) == DEFAULT
    assert not any(t.param[~sp.masks[n]].any() for n, t in sp.targets.items())


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ("head.weight", ["head.weight"]),
        ("head", ["head.weight"]),  # a module's name: the weights in it
        ("attention", ["attention.in_proj_weight", "attention.out_proj.weight"]),
        ("lstm.weight_ih*", ["lstm.weight_ih_l0", "lstm.weight_ih_l1"]),
        ("*_proj*weight", ["attention.in_proj_weight", "attention.out_proj.weight"]),
        (["head", "conv"], ["conv.weight", "head.weight"]),  # network order, not the list's
        (nn.Conv1d, ["conv.weight"]),
        (nn.Embedding, ["emb.weight"]),
        ([nn.Conv1d, "head.weight", nn.Conv1d], ["conv.weight", "head.weight"]),
        ("scale", ["scale"]),
        (lambda name, module, p: isinstance(module, nn.Linear) and p.shape[0] == 3, ["head.weight", "head.bias"]),
        (lambda name, module, p: name.startswith("emb"), ["emb.weight"]),
        ("emb", ["emb.weight"]),  # asked for by name, so its weight is meant
    ],
)
def test_rules(rules: object, found: list[str]) -> None:
    assert list(eligible(Net(), rules)) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ignore", "gone"),
    [
        ("head", ["head.weight"]),
        (["lstm", "up"], [*LSTM, "up.weight"]),
        (nn.LSTM, LSTM),
        ("*.weight_h?_l*", [n for n in LSTM if "_ih_" not in n]),
        (lambda name, module, p: p.shape[0] < 8, ["head.weight"]),
        (["emb", "norm", "head"], ["head.weight"]),  # what is dense anyway may be named
    ],
)
def test_ignore(ignore: object, gone: list[str]) -> None:
    assert list(eligible(Net(), ignore=ignore)) == [n for n in DEFAULT if n not in gone]  # type: ignore[arg-type]


def test_targets_and_ignore_together() -> None:
    found = eligible(Net(), "*weight*", ["emb", "norm", nn.LSTM, "attention"])
    assert list(found) == ["conv.weight", "up.weight", "head.weight"]


def test_errors() -> None:
    with pytest.raises(TargetError, match=r"targets='heat.weight' matches no parameter; did you mean 'head.weight'\?"):
        eligible(Net(), "heat.weight")
    with pytest.raises(TargetError, match="ignore='fc' matches no parameter; possible: attention"):
        eligible(Net(), ignore="fc")
    with pytest.raises(TargetError, match="targets='Conv3d' matches no parameter"):
        eligible(Net(), nn.Conv3d)
    with pytest.raises(TargetError, match="Sequential has no eligible layer: 2 parameters in LayerNorm"):
        eligible(nn.Sequential(nn.LayerNorm(4), nn.ReLU()))
    with pytest.raises(TargetError, match="ReLU has no eligible layer: 0 parameters in none"):
        eligible(nn.ReLU())
    with pytest.raises(TargetError, match="no eligible layer"):
        eligible(nn.Linear(2, 2), ignore=nn.Linear)
    with pytest.raises(TargetError, match="no eligible layer"):
        eligible(nn.Linear(2, 2), [])


def test_prefixes_of_wrappers_are_stripped() -> None:
    compiled = torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager")
    assert list(eligible(compiled)) == ["0.weight"]  # type: ignore[arg-type]
    inner = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"), nn.Linear(2, 2))
    assert list(eligible(inner)) == ["0.weight", "1.weight"]


class Named(nn.Module):
    """A user's own attribute is called ``module``, and a name it has inside exists outside as well."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.module = nn.ModuleDict({"fc": nn.Linear(2, 2)})


def test_no_target_is_lost_when_names_meet() -> None:
    assert len(eligible(Named())) == 2


def test_tied_weights_are_one_target() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

    model = Tied()
    assert list(eligible(model)) == ["a.weight", "c.weight"]
    masks = sl.prune_(model, sl.methods.Magnitude(0.5))
    assert masks.numel() == 32 and masks.kept() == 16
    assert model.b.weight is model.a.weight and torch.equal(model.b.weight != 0, masks["a.weight"])


@pytest.mark.parametrize("order", ["embedding first", "linear first"])
def test_a_tied_embedding_counts_once(order: str) -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if order == "embedding first":
                self.emb, self.out = nn.Embedding(12, 4), nn.Linear(4, 12, bias=False)
            else:
                self.out, self.emb = nn.Linear(4, 12, bias=False), nn.Embedding(12, 4)
            self.mid = nn.Linear(4, 4)
            self.emb.weight = self.out.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.mid(self.emb(tokens)))  # type: ignore[no-any-return]

    model = Language()
    assert len(list(parameters(model))) == 3  # shared, mid.weight, mid.bias
    found = eligible(model, [nn.Embedding, nn.Linear])
    assert sum(t.param.numel() for t in found.values() if t.param.ndim > 1) == 12 * 4 + 4 * 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    name = "emb.weight" if order == "embedding first" else "out.weight"
    sp = sl.methods.SET(0.5, every=1, end=5).attach(model, optimizer, targets=[name, "mid.weight"])
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randint(12, (3, 5))).square().mean().backward()
        optimizer.step()
    assert sp.counts()["total"] == 64 and sp.masks.kept() == 32
    assert not model.out.weight[~sp.masks[name]].any() and model.emb.weight is model.out.weight


@pytest.mark.parametrize("name", ["a.weight", "b.weight", "b"])
def test_a_tied_weight_answers_to_all_its_names(name: str) -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    assert list(eligible(model, name)) == ["a.weight"]


def test_transposed_convolutions_are_seen_as_out_in() -> None:
    layer = nn.ConvTranspose2d(8, 6, 3)  # stored (in, out, k, k)
    target = eligible(layer)["weight"]
    assert target.transposed and target.shape == (6, 8, 3, 3)
    assert torch.equal(target.canonical(target.canonical(layer.weight)), layer.weight)
    masks = sl.prune_(layer, sl.methods.Magnitude(0.5, pattern="2:4"))
    assert masks["weight"].shape == (8, 6, 3, 3) and masks["weight"].is_contiguous()
    kept = (layer.weight != 0).view(2, 4, 6, 3, 3).sum(1)  # of every four inputs of one output at one tap
    assert bool((kept == 2).all())
    rows = nn.ConvTranspose2d(8, 6, 3)
    sl.prune_(rows, sl.methods.Magnitude(0.5, pattern="row"))
    alive = (rows.weight != 0).transpose(0, 1).flatten(1).float().mean(1)
    assert sorted(alive.tolist()) == [0, 0, 0, 1, 1, 1]  # whole outputs


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 6, 3), nn.ConvTranspose2d(8, 6, 3), nn.Conv3d(4, 4, 2)])
@pytest.mark.parametrize("allocation", ["global", "lamp", "uniform", "erk"])
def test_memory_formats_do_not_matter(layer: nn.Module, allocation: str) -> None:
    masks = []
    for form in (torch.contiguous_format, torch.channels_last if layer.weight.ndim == 4 else torch.channels_last_3d):
        model = nn.Sequential(type(layer)(*layer.weight.shape[:2][:: 1 if "Transpose" in str(layer) else -1], 2))
        torch.manual_seed(1)
        nn.init.normal_(model[0].weight)
        model = model.to(memory_format=form)
        masks.append(sl.prune_(model, sl.methods.Magnitude(0.7, allocation=allocation)))
        assert model[0].weight.is_contiguous(memory_format=form)
    assert masks[0].digest() == masks[1].digest()


def test_a_pattern_that_does_not_fit_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 10), nn.Linear(10, 4))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(PatternError, match=re.escape("'1.weight' is (4, 10)")):
        sl.methods.Magnitude(0.5, pattern="2:4").attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sp = sl.methods.Magnitude(0.5, pattern="2:4").attach(model, optimizer, ignore="1")
    pattern("2:4").check(sp.masks["0.weight"])
